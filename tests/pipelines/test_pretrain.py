"""Pretraining as a user runs it: commands, continued training, the corpus' report and its copy."""

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer, BertTokenizer

import state_hf
from state_hf import StateEmbeddingModel
from state_hf.cli import main
from state_hf.data.cells.cell_copies import copy_store
from state_hf.data.corpus.corpus_manifest import CorpusFile
from tests.corpus_files import GENES, SIZES, cells, write_corpus
from tests.geneformer_models import FOLDER, IDS
from tests.screen_models import lose_a_weight

SMALL = [
    "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "16",
    "--output-dim", "8", "--gene-embedding-dim", "8", "--sentence-length", "20", "--expressed", "6", "--unexpressed",
    "4", "--shared", "4", "--dataset-token",
]  # fmt: skip
TRAINING = ["--steps", "4", "--evaluate-every", "2", "--batch-size", "16", "--device", "cpu", "--average-decay", "0.9"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def pretrained(manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    assert main(["pretrain", str(manifest), "--output", str(folder), "--held-out", "0.3", *SMALL, *TRAINING]) == 0
    return folder


def test_the_folder_is_a_model_that_embeds(pretrained, manifest, tmp_path):
    model = AutoModelForPreTraining.from_pretrained(pretrained)
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    assert model.config.dataset_classes == {"one": 0, "two": 1, "three": 2}
    assert tokenizer.fill == "none"
    assert tokenizer.vocab_size == model.config.num_genes == len(GENES) + 1
    assert {path.name for path in pretrained.glob("*.*")} >= {"config.json", "genes.txt", "model.safetensors"}
    state_hf.embed(manifest.parent / "one.h5ad", pretrained, output=tmp_path / "one.npy")
    assert np.load(tmp_path / "one.npy").shape == (SIZES["one"], 8 + 10)


def test_an_output_is_not_overwritten_but_resumed(pretrained, manifest, capsys):
    command = ["pretrain", str(manifest), "--output", str(pretrained), "--held-out", "0.3", *SMALL, *TRAINING]
    assert main(command) == 2
    assert "exists already, and holds a training" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_going_on_with_a_model_on_a_new_dataset(pretrained, tmp_path, capsys):
    cells(7, 40, GENES).write_h5ad(tmp_path / "new.h5ad")
    (tmp_path / "new.csv").write_text("path\nnew.h5ad\n")
    output = tmp_path / "model"
    words = ["--initial-model", str(pretrained), "--held-out", "0", "--expressed", "6", *TRAINING]
    assert main(["pretrain", str(tmp_path / "new.csv"), "--output", str(output), *words]) == 0
    config = AutoModelForPreTraining.from_pretrained(output).config
    assert config.dataset_classes["new"] == 3
    assert config.num_datasets == 4
    lose_a_weight(output, "layers.0")
    words[1] = str(output)
    assert main(["pretrain", str(tmp_path / "new.csv"), "--output", str(tmp_path / "another"), *words]) == 2
    assert "is incomplete: 1 of its model's weights are missing" in capsys.readouterr().err
    StateEmbeddingModel.from_pretrained(pretrained).save_pretrained(tmp_path / "body")
    AutoTokenizer.from_pretrained(pretrained).save_pretrained(tmp_path / "body")
    words[1] = str(tmp_path / "body")
    assert main(["pretrain", str(tmp_path / "new.csv"), "--output", str(tmp_path / "another"), *words]) == 0


def test_given_gene_embeddings_stay_as_they_are(manifest, tmp_path):
    table = torch.randn(len(GENES), 12)
    save_file({"gene_embeddings": table}, tmp_path / "table.safetensors")
    (tmp_path / "genes.txt").write_text("\n".join(GENES) + "\n")
    words = ["--genes", str(tmp_path / "genes.txt"), "--gene-embeddings", str(tmp_path / "table.safetensors")]
    output = tmp_path / "model"
    assert main(["pretrain", str(manifest), "--output", str(output), "--held-out", "0", *words, *SMALL, *TRAINING]) == 0
    trained = AutoModelForPreTraining.from_pretrained(output)
    assert torch.equal(trained.state_embedding.gene_table.weight, table)
    assert not trained.state_embedding.gene_table.weight.requires_grad


def test_the_corpus_is_checked(manifest, tmp_path, capsys):
    assert main(["corpus", str(manifest), "--table", str(tmp_path / "table.csv")]) == 0
    assert "216 cells, 0 of them empty, 0 twice" in capsys.readouterr().out
    data = ad.read_h5ad(manifest.parent / "one.h5ad")
    dense = data.X.toarray()
    dense[0], dense[1] = 0, dense[2]
    data.X = sp.csr_matrix(dense)
    data.write_h5ad(tmp_path / "bad.h5ad")
    (tmp_path / "m.csv").write_text(f"path,scale\nbad.h5ad,counts\n{manifest.parent / 'three.h5ad'},counts\n")
    assert main(["corpus", str(tmp_path / "m.csv")]) == 2
    shown = capsys.readouterr().out
    assert "70 cells, 1 of them empty, 1 twice" in shown
    assert "three.h5ad cannot be trained on: The values are said to be counts" in shown


def test_the_tokenised_copy_holds_every_cell(pretrained, manifest, tmp_path):
    import datasets

    assert main(["tokenize", str(manifest), "--model", str(pretrained), "--output", str(tmp_path / "copy")]) == 0
    files = sorted(map(str, (tmp_path / "copy").glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == sum(SIZES.values())
    genes = (tmp_path / "copy" / "genes.txt").read_text().split()
    row = rows[75]
    data = ad.read_h5ad(row["file"])
    cell = dict(zip([genes[gene] for gene in row["gene_ids"]], row["values"], strict=True))
    expected = {
        name: value for name, value in zip(data.var_names, data.X[row["cell"]].toarray()[0], strict=True) if value
    }
    assert cell == expected


def test_the_tokenised_copy_is_a_corpus_of_the_same_cells(pretrained, manifest, tmp_path):
    copy, tokenizer = tmp_path / "copy", AutoTokenizer.from_pretrained(pretrained)
    assert main(["tokenize", str(manifest), "--model", str(pretrained), "--output", str(copy)]) == 0
    order = {"block_cells": 24, "window_cells": 24, "lane_run": 4, "lanes": 4}
    corpora = [state_hf.CellCorpus(path, tokenizer, **order) for path in (manifest, copy / "corpus.csv")]
    for parts in zip(*(corpus.__getitems__(range(50)) for corpus in corpora), strict=True):
        original, copied = ({gene: part.counts[:, [column]].toarray()
                             for column, gene in enumerate(part.source.genes.columns.tolist())
                             if gene >= 0} for part in parts)  # fmt: skip
        assert all((copied[gene] == values).all() for gene, values in original.items())
        assert all((values == 0).all() for gene, values in copied.items() if gene not in original)
    words = [*SMALL, *TRAINING, "--held-out", "0", "--genes", str(copy / "genes.txt"), "--group-by-length"]
    assert main(["pretrain", str(copy / "corpus.csv"), "--output", str(tmp_path / "model"), *words]) == 0
    (copy / "00000-one.parquet").write_bytes(b"PAR1")
    assert main(["corpus", str(copy / "corpus.csv")]) == 2


def test_files_are_read_from_urls(pretrained, manifest, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/corpus/one.h5ad", (manifest.parent / "one.h5ad").read_bytes())
    copy_store(manifest.parent / "two.h5ad", tmp_path / "two.zarr")
    urls = ["memory://corpus/one.h5ad", f"file://{tmp_path}/two.zarr"]
    (tmp_path / "urls.csv").write_text("path\n" + "\n".join(urls) + "\n")
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    corpus = state_hf.CellCorpus(tmp_path / "urls.csv", tokenizer, window_cells=64, cache=tmp_path / "cache")
    state_hf.CellCorpus(tmp_path / "urls.csv", tokenizer, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    expected = ad.read_h5ad(manifest.parent / "one.h5ad").X.toarray()
    (cells,) = (part for part in corpus.__getitems__(range(len(corpus))) if part.source.file.dataset == "one")
    np.testing.assert_array_equal(cells.counts.toarray(), expected[cells.cells])
    with pytest.raises(FileNotFoundError, match=r"memory://corpus/none.h5ad"):
        state_hf.CellCorpus([CorpusFile("memory://corpus/none.h5ad", "none")], tokenizer)


def test_the_example_runs(manifest, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import run_state_embedding

    words = ["--manifest", manifest, "--output_dir", tmp_path / "model", "--use_cpu", "--max_steps", 2,
             "--per_device_train_batch_size", 16, "--hidden_size", 16, "--num_hidden_layers", 1, "--held_out", 0.3,
             "--num_attention_heads", 2, "--max_position_embeddings", 20, "--report_to", "none",
             "--expressed_targets", 4, "--unexpressed_targets", 4, "--shared_targets", 4,
             "--save_strategy", "no"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["run_state_embedding.py", *map(str, words)])
    run_state_embedding.main()
    assert (tmp_path / "model" / "config.json").exists()


# A family on a stock model


@pytest.fixture(scope="module")
def ranks(manifest, tmp_path_factory):
    """A tokenizer with the medians of the files."""
    folder = tmp_path_factory.mktemp("ranks") / "tokenizer"
    assert (
        main(["medians", str(manifest), "--family", "geneformer", "--max-length", "20", "--output", str(folder)]) == 0
    )
    return folder


TINY = SMALL[:8]


def test_a_masked_gene_model_of_ones_own_cells(manifest, ranks, tmp_path, capsys):
    words = [
        "--tokenizer",
        str(ranks),
        "--held-out",
        "0.3",
        "--group-by-length",
        "--mask-share",
        "0.2",
        *TINY,
        *TRAINING,
    ]
    assert main(["pretrain", str(manifest), "--output", str(tmp_path / "model"), *words]) == 0
    printed = capsys.readouterr().out
    assert "eval_loss" in printed
    assert f"Wrote {tmp_path / 'model'}: the model, " in printed
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert (type(model).__name__, model.config.hidden_act, model.config.max_position_embeddings) == (
        "BertForMaskedLM", "relu", 20,
    )  # fmt: skip
    assert len(AutoTokenizer.from_pretrained(tmp_path / "model")) == model.config.vocab_size == len(GENES) + 1 + 4
    state_hf.embed(manifest.parent / "one.h5ad", tmp_path / "model", output=tmp_path / "one.npy")
    assert np.load(tmp_path / "one.npy").shape == (SIZES["one"], 16)
    # And on with it, on other files.
    more = ["--initial-model", str(tmp_path / "model"), "--held-out", "0", *TRAINING]
    assert main(["pretrain", str(manifest), "--output", str(tmp_path / "more"), *more]) == 0
    after = AutoModelForMaskedLM.from_pretrained(tmp_path / "more")
    assert not torch.equal(after.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)


def test_a_converted_model_goes_on(tmp_path):
    counts = np.random.default_rng(0).poisson(2.0, (64, len(IDS))).astype(np.float32)
    data = ad.AnnData(sp.csr_matrix(counts))
    data.var_names = IDS
    data.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "corpus.csv").write_text("path\ncells.h5ad\n")
    state_hf.convert(FOLDER / "v2" / "model", tmp_path / "model")
    words = ["--initial-model", str(tmp_path / "model"), "--held-out", "0", *TRAINING]
    assert main(["pretrain", str(tmp_path / "corpus.csv"), "--output", str(tmp_path / "more"), *words]) == 0
    config = AutoModelForMaskedLM.from_pretrained(tmp_path / "more").config
    assert config.converted_from["original"] == {"file": "model.safetensors"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--expressed", "4"], "--expressed is of another family's objective: leave it out"),
        (["--views", "2", "--hidden-share", "0", "0"], "--hidden-share, --views is of another family's objective"),
        (["--output-dim", "4"], "A BERT has no output_dim: leave it out"),
        (["--loss", "mse"], "A BERT has no expression_loss"),
        (["--genes", "genes.txt"], "The tokenizer has its genes"),
        (["--mask-share", "1.5"], "mask_share is 1.5"),
    ],
)
def test_options_of_another_objective_are_refused(manifest, ranks, tmp_path, capsys, words, message):
    command = ["pretrain", str(manifest), "--output", str(tmp_path / "model"), "--tokenizer", str(ranks), *words]
    assert main([*command, *TRAINING]) == 2
    assert message in capsys.readouterr().err
    assert main(["pretrain", str(manifest), "--output", str(tmp_path / "model"), "--mask-share", "0.1"]) == 2
    assert "--mask-share is of another family's objective" in capsys.readouterr().err


def test_a_tokenizer_of_text_has_no_objective(manifest, tmp_path, capsys):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "text")
    assert (
        main(["pretrain", str(manifest), "--output", str(tmp_path / "model"), "--tokenizer", str(tmp_path / "text")])
        == 2
    )
    assert "families that are pretrained here are state_embedding, geneformer" in capsys.readouterr().err
