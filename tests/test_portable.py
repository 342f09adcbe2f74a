"""The settings of `make test-portable`."""

import numpy as np
import pytest

from tests import portable


def test_settings_change_what_the_libraries_see():
    known = np.show_config(mode="dicts")["SIMD Extensions"]
    for setting in portable.SETTINGS.values():
        variables = setting.variables()
        assert set(variables.get("NPY_DISABLE_CPU_FEATURES", "").split()) <= set(known.get("found", []))
        assert variables["TEST_THREADS"] in ("1", "2")


def test_a_setting_that_the_processor_cannot_take_is_named(monkeypatch, capsys):
    monkeypatch.setattr(portable, "_level", lambda: "AVX2")
    monkeypatch.setattr(portable.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(portable.sys, "argv", ["portable", "tests/nothing", "--settings", "avx512", "numpy"])
    assert portable.main() == 0
    said = capsys.readouterr().out
    assert "avx512" in said
    assert said.count("skipped: this processor has no AVX512 (torch finds AVX2)") == 2
    monkeypatch.setattr(portable.platform, "machine", lambda: "aarch64")
    assert "no x86" in portable.lacking(portable.SETTINGS["baseline"])


def test_a_failure_is_the_failure_of_the_whole(monkeypatch, capsys, tmp_path):
    (tmp_path / "test_one.py").write_text("def test_one():\n    assert False\n")
    monkeypatch.setattr(portable.sys, "argv", ["portable", str(tmp_path), "--settings", "native", "--processes", "0"])
    assert portable.main() == 1
    assert "native     the processor as it is" in (said := capsys.readouterr().out)
    assert "FAILED" in said


@pytest.mark.parametrize("folder", portable.NUMERIC)
def test_the_folders_are_there(folder):
    assert (portable.ROOT / folder).is_dir()
