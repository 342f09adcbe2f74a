"""The settings of `make test-portable`."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests import portable

SEEN = """
import numba.core.registry, torch
from numpy._core._multiarray_umath import __cpu_features__ as features
print(torch.backends.cpu.get_cpu_capability(), features.get("X86_V3", features["AVX2"]),
      numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[1])
"""


@pytest.mark.parametrize(("name", "seen"), [("baseline", "DEFAULT False nehalem"), ("avx2", "AVX2 True haswell")])
def test_settings_change_what_the_libraries_see(name, seen):
    setting = portable.SETTINGS[name]
    if reason := portable.lacking(setting):
        pytest.skip(reason)
    environment = {**os.environ, **setting.variables()}
    done = subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == seen.split()


def test_settings_are_named_as_the_libraries_spell_them():
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
