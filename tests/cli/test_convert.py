import pytest
from tests.conversion.conftest import STATE_EMBEDDING, STATE_TRANSITION

from state_hf.cli import main


def test_convert_inspect_and_back(tmp_path, capsys):
    model, run = tmp_path / "model", tmp_path / "run"
    assert main(["convert", str(STATE_TRANSITION / "decoder"), str(model)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("attention: bidirectional (the checkpoint sets bidirectional_attention)")
    assert said[1] == (
        "ignored 1 weights: the backbone's token and position tables (transformer_backbone.embed_tokens.weight)"
    )
    assert said[-1] == f"Wrote {model}: StateTransitionForPerturbation, 52 weights, 6,122 parameters"
    assert main(["inspect", str(model)]) == 0
    assert "decoded to 7 genes (mlp)" in capsys.readouterr().out
    assert main(["convert", str(model), str(run), "--to", "arc"]) == 0
    assert capsys.readouterr().out == (
        f"Wrote {run / 'checkpoints' / 'final.ckpt'}, a checkpoint for arc-state 0.11.1\n"
    )


def test_shards(tmp_path, capsys):
    output = tmp_path / "se"
    assert main(["convert", str(STATE_EMBEDDING / "small"), str(output), "--max-shard-size", "60KB"]) == 0
    assert (output / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file", "out"], "There is no file or folder no-such-file"),
        ([str(STATE_TRANSITION / "llama_causal_rotary"), "out"], "(--genes)"),
        ([str(STATE_TRANSITION / "decoder" / "config.yaml"), "out"], "config.yaml is not a checkpoint, which ends in"),
        ([str(STATE_EMBEDDING), "out"], "has no checkpoint: no .ckpt or .safetensors"),
        ([str(STATE_EMBEDDING), "out"], "There are some in its folders "),
        ([str(STATE_EMBEDDING / "small"), "out", "--subfolder", "x"], "--subfolder x is for a repository on the Hub"),
        ([str(STATE_EMBEDDING / "small"), "out", "--revision", "x", "--to", "arc"], "no meaning with --to arc"),
        ([str(STATE_EMBEDDING / "small"), "out", "--to", "arc", "--attention", "causal"], "no meaning with --to arc"),
    ],
)
def test_wrong_input_is_explained(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_a_model_already(tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["convert", str(STATE_EMBEDDING / "small"), str(model)]) == 0
    assert main(["convert", str(model), str(tmp_path / "again")]) == 2
    assert f"{model} is a model of this package already" in capsys.readouterr().err
    assert main(["convert", str(STATE_EMBEDDING / "small"), str(model)]) == 2
    assert "exists already; choose another name, or replace it (--overwrite)" in capsys.readouterr().err


def test_a_size_that_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a", "b", "--max-shard-size", "many"])
    assert "not a size such as 5GB" in capsys.readouterr().err
