import importlib.metadata
import re
import tomllib
from pathlib import Path

from state_hf.cli import doctor, main


def test_says_what_is_there(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"torch            {importlib.metadata.version('torch')}\n" in printed
    assert "cpu  " in printed
    assert "GiB free" in printed


def test_says_how_to_get_what_is_missing(capsys, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("anndata", "peft"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "missing: pip install anndata\n" in printed
    assert "missing: pip install 'state-hf[peft]'" in printed
    assert printed.endswith("Not ready: anndata missing.\n")


def test_the_optional_parts_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(doctor._EXTRAS) == extras.keys() - {"all", "dev"}
    for extra, (packages, _) in doctor._EXTRAS.items():
        assert [re.split("[^A-Za-z0-9-]", requirement)[0] for requirement in extras[extra]] == list(packages)
    (everything,) = extras["all"]
    assert set(re.findall(r"[\w-]+", everything.removeprefix("state-hf"))) == doctor._EXTRAS.keys() - doctor._NOT_IN_ALL
