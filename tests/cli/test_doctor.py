import importlib.metadata

from state_hf.cli import main


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
