"""An output that exists is kept unless the command is told otherwise, and each command ends with what it wrote."""

import argparse
import importlib

import anndata
import pytest
import torch
from tests.conversion.conftest import STATE_EMBEDDING
from tests.tiny_models import save_state_embedding, state_transition_model

from state_hf import StateEmbeddingForMaskedExpression
from state_hf.cli import _COMMANDS, main

SMALL = ["--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "16"]
# Command -> its words, and those that name an output.
COMMANDS = {
    "embed": (["cells.h5ad", "--model", "se"], ["--output", "out.h5ad"]),
    "preprocess": (["cells.h5ad"], ["--output", "out.h5ad"]),
    "train": (["screen.h5ad", "--test-share", "0.5", "--steps", "1", "--device", "cpu", "--set-size", "8", *SMALL],
              ["--output", "out"]),
    "predict": (["screen.h5ad", "--model", "st"], ["--output", "out.h5ad"]),
    "corpus": (["corpus.csv"], ["--table", "out.csv"]),
    "pretrain": (["corpus.csv", "--steps", "1", "--batch-size", "4", "--device", "cpu", "--held-out", "0", *SMALL,
                  "--output-dim", "8", "--gene-embedding-dim", "8", "--sentence-length", "16"], ["--output", "out"]),
    "tokenize": (["corpus.csv", "--model", "se"], ["--output", "out"]),
    "medians": (["corpus.csv", "--family", "geneformer"], ["--output", "out"]),
    "annotate": (["cells.h5ad", "--model", "se", "--reference", "cells.h5ad", "--neighbours", "3"],
                 ["--output", "out.csv"]),
    "perturb": (["cells.h5ad", "--model", "se", "--max-cells", "3", "--random-genes", "2", "--device", "cpu"],
                ["--output", "out.parquet"]),
    "perturb report": (["cells.h5ad", "--model", "se", "--max-cells", "3", "--random-genes", "0", "--device", "cpu",
                        "--output", "effects.parquet"], ["--report", "out.html"]),
    "network": (["--model", "se", "--nearest", "3", "--device", "cpu"], ["--output", "out.parquet"]),
    "network gene sets": (["--model", "se", "--nearest", "3", "--device", "cpu", "--output", "edges.parquet"],
                          ["--gene-sets", "out.gmt"]),
    "convert": ([str(STATE_EMBEDDING / "small")], ["out"]),
    "genes import": (["names.tsv"], ["--output", "out.tsv"]),
    "evaluate": (["screen.h5ad", "screen.h5ad"], ["--output", "out"]),
    "evaluate report": (["screen.h5ad", "screen.h5ad"], ["--report", "out.html"]),
    "prep": (["screen.h5ad", "--genes", "genes.csv"], ["--output", "out.prep.vcc"]),
}  # fmt: skip
# What has no part here: nothing is written, or the model that it takes is too large for a test; see its own.
OTHERS = {"inspect", "push", "doctor", "finetune", "finetune-genes", "generate", "embed-genes"}
TRAINED = ("train", "pretrain")


def words_of(name):
    command, output = COMMANDS[name]
    return [*name.removesuffix(" report").removesuffix(" gene sets").split(), *command, *output]


@pytest.fixture
def files(tmp_path, monkeypatch, vocabulary, screen_path):
    """A screen, its counts, models and tables, in the working folder."""
    monkeypatch.chdir(tmp_path)
    screen = anndata.read_h5ad(screen_path)
    screen.write_h5ad("screen.h5ad")
    screen.X = screen.layers.pop("counts")
    screen.write_h5ad("cells.h5ad")
    torch.manual_seed(0)
    state_transition_model(vocabulary, nonnegative_output=True).save_pretrained("st")
    genes = list(screen.var_names)
    save_state_embedding(
        "se", genes, model_class=StateEmbeddingForMaskedExpression, hidden_size=16, max_position_embeddings=16
    )
    (tmp_path / "corpus.csv").write_text("path,dataset,scale\ncells.h5ad,one,counts\n")
    (tmp_path / "names.tsv").write_text("symbol\talias\nA\tB\n")
    (tmp_path / "genes.csv").write_text("\n".join(screen.var_names))
    return tmp_path


def test_every_command_is_here():
    assert {name.split()[0] for name in COMMANDS} | OTHERS == set(_COMMANDS)


@pytest.mark.parametrize(
    "command", sorted({name.split()[0] for name in COMMANDS} | {"finetune", "finetune-genes", "embed-genes"})
)
def test_every_command_that_writes_can_overwrite(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"state_hf.cli.{command.replace('-', '_')}").configure(parser)
    inner = [action for action in parser._actions if isinstance(action.choices, dict)]
    for one in inner[0].choices.values() if inner else [parser]:
        assert "--overwrite" in {option for action in one._actions for option in action.option_strings}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_exists_is_kept(name, files, capsys):
    output = files / COMMANDS[name][1][-1]
    if output.suffix:
        output.write_text("mine")
        kept = output
    else:
        output.mkdir()
        # A training keeps what else is in its folder; what it must not lose is another model.
        kept = output / "config.json"
        kept.write_text("mine")
    assert main(words_of(name)) == 2
    assert f"{output.name} exists already" in capsys.readouterr().err
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_wrote_and_overwrites_when_told(name, files, capsys):
    words = words_of(name)
    words[-1] = f"new/folder/{words[-1]}"
    if name == "genes import":  # its table belongs into the folder of a model, which is there
        (files / "new" / "folder").mkdir(parents=True)
    for more in ([], ["--overwrite"]):
        assert main([*words, *more]) == 0
        said = capsys.readouterr()
        ends = [[line for line in text.replace("\r", "\n").splitlines() if line.strip()][-1:] for text in said]
        assert any(COMMANDS[name][1][-1] in line for end in ends for line in end)
        assert (files / words[-1]).exists()
