"""Cells that a language model writes: whole files, the same for the same seed, and what they say of themselves."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from state_hf import Cell2SentenceProcessor, RankExpressionModel, annotate, generate
from state_hf.cli import main
from state_hf.data.partial_results import PartialResults
from tests.cell2sentence_models import COUNTS, MODEL, NAMES, TYPES, adata, processor
from tests.geneformer_models import FOLDER as GENEFORMER


def train(model, examples: list[dict], steps: int) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    longest = max(len(example["input_ids"]) for example in examples)
    padded = {
        name: torch.tensor([example[name] + [pad] * (longest - len(example[name])) for example in examples])
        for name, pad in (("input_ids", 0), ("attention_mask", 0), ("labels", -100))
    }
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        model(**padded).loss.backward()
        optimiser.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that has learnt a few cells by heart, in both directions, and the cells."""
    folder = tmp_path_factory.mktemp("generate")
    torch.manual_seed(0)
    line = RankExpressionModel.fit(COUNTS)
    made = processor(labels=["B cell", "T cell", "monocyte"], expression=line, task="cell_type_prediction")
    sentences = made.sentences(COUNTS[:9], NAMES)
    pairs = made.examples("cell_type_prediction", sentences, cell_type=TYPES[:9])
    # One sentence of every type.
    pairs += made.examples("cell_type_generation", sentences[:3], cell_type=TYPES[:3], num_genes=made.num_genes) * 3
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    train(model, made.encode_training(pairs), 60)
    model.save_pretrained(folder / "model")
    made.save_pretrained(folder / "model")
    adata()[:9].copy().write_h5ad(folder / "cells.h5ad")
    return folder


def sentences_of(path) -> list[str]:
    return anndata.read_h5ad(path).obs["cell_sentence"].astype(str).tolist()


def test_cells_are_genes_with_the_levels_of_the_line(folder, tmp_path):
    output = generate(folder / "model", tmp_path / "out.h5ad", cell_type=["T cell", "monocyte"], cells=[3, 2])
    made, found = Cell2SentenceProcessor.from_pretrained(folder / "model"), anndata.read_h5ad(output)
    assert found.var_names.tolist() == made.genes
    assert found.obs["cell_type"].tolist() == ["T cell"] * 3 + ["monocyte"] * 2
    for cell, text in enumerate(sentences_of(output)):
        genes = made.parse_genes(text)
        wanted = np.zeros(len(made.genes))
        wanted[genes.rows[:7]] = made.expression.levels(7)[: len(genes.rows[:7])] * np.log(10)
        np.testing.assert_allclose(found.X[[cell]].toarray()[0], wanted, rtol=1e-6)
        row = found.obs.iloc[cell]
        assert (row["genes"], row["unknown_words"], row["repeated_genes"]) == (
            len(genes.rows[:7]), len(genes.unknown), genes.repeated
        )  # fmt: skip
    assert found.obs["genes"].mean() > 3
    record = found.uns["generation"]
    assert json.loads(record["cells"]) == {"T cell": 3, "monocyte": 2}
    assert json.loads(record["line"])["slope"] == made.expression.slope
    assert record["scale"] == "log1p"


def test_the_most_likely_cell_is_the_one_learnt_by_heart(folder, tmp_path):
    output = generate(folder / "model", tmp_path / "out.h5ad", cell_type="T cell", cells=1, temperature=0)
    learnt = Cell2SentenceProcessor.from_pretrained(folder / "model").sentences(COUNTS[:1], NAMES)[0]
    written = sentences_of(output)[0].strip().removesuffix(".").split()
    assert written[:3] == learnt.split()[:3]


def test_the_seed_makes_the_cells_and_not_the_batch(folder, tmp_path):
    options = {"model": folder / "model", "cell_type": "B cell", "cells": 9, "top_p": 1.0, "temperature": 1.3}
    texts = {}
    for name, more in (("one", {"batch_size": 1}), ("four", {"batch_size": 4}), ("auto", {}), ("seed", {"seed": 1})):
        texts[name] = sentences_of(generate(output=tmp_path / f"{name}.h5ad", **options, **more))
    assert texts["one"] == texts["four"] == texts["auto"]
    assert texts["seed"] != texts["auto"]
    assert len(set(texts["auto"])) > 1


def test_an_interrupted_run_goes_on(folder, tmp_path, monkeypatch):
    options = {"model": folder / "model", "cell_type": "B cell", "cells": 130}
    whole = sentences_of(generate(output=tmp_path / "whole.h5ad", **options))
    write = PartialResults.write

    def killed(self, block, rows):
        if block == 1:
            raise KeyboardInterrupt
        write(self, block, rows)

    with monkeypatch.context() as patched:
        patched.setattr(PartialResults, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(output=tmp_path / "out.h5ad", **options)
    assert not (tmp_path / "out.h5ad").exists()
    with pytest.raises(FileExistsError, match="an unfinished run lies in"):
        generate(output=tmp_path / "out.h5ad", **options)
    with pytest.raises(ValueError, match="seed was 0 and is 3"):
        generate(output=tmp_path / "out.h5ad", **options, seed=3, resume=True)
    assert sentences_of(generate(output=tmp_path / "out.h5ad", **options, resume=True)) == whole
    assert not (tmp_path / "out.h5ad.partial").exists()
    generate(output=tmp_path / "out.h5ad", **options, resume=True)
    with pytest.raises(ValueError, match="is complete, but was made with other settings: top_k was"):
        generate(output=tmp_path / "out.h5ad", **options, top_k=5, resume=True)


def test_a_line_of_other_cells(folder, tmp_path):
    made = Cell2SentenceProcessor.from_pretrained(folder / "model")
    made.expression = None
    made.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "rank_expression.json").unlink(missing_ok=True)
    AutoModelForCausalLM.from_pretrained(folder / "model").save_pretrained(tmp_path / "model")
    options = {"model": tmp_path / "model", "output": tmp_path / "out.h5ad", "cell_type": "B cell", "cells": 2}
    with pytest.raises(ValueError, match=r"has no line that turns ranks into expression; fit one .*reference=\.\.\."):
        generate(**options)
    generate(**options, reference=folder / "cells.h5ad")
    line = json.loads(anndata.read_h5ad(tmp_path / "out.h5ad").uns["generation"]["line"])
    assert line["slope"] == RankExpressionModel.fit(COUNTS[:9]).slope


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output": "out.csv"}, r"the output must end in \.h5ad"),
        ({"cells": 0}, "cells is one number from 1 on"),
        ({"cells": [1, 2, 3]}, "or one for each of 1 types"),
        ({"cell_type": ["a", "a"]}, "names types, each once"),
        ({"num_genes": 0}, "num_genes is 0"),
        ({"max_new_tokens": 1000}, r"max_new_tokens is 1000; the model reads 256 tokens, of which the prompt has"),
        ({"top_p": 2}, r"top_p in \(0, 1\]"),
    ],
)
def test_options_that_are_none(folder, tmp_path, options, said):
    given = {"model": folder / "model", "output": tmp_path / "out.h5ad", "cell_type": "B cell", "cells": 1, **options}
    with pytest.raises(ValueError, match=said):
        generate(**given)
    assert list(tmp_path.iterdir()) == []


def test_the_command(folder, tmp_path, capsys):
    words = ["generate", "--model", str(folder / "model"), "--cell-type", "B cell", "T cell", "--cells", "2", "1"]
    assert main([*words, "--output", str(tmp_path / "out.h5ad")]) == 0
    assert f"Wrote {tmp_path / 'out.h5ad'}: 3 cells of B cell, T cell; " in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "out.h5ad")]) == 2
    assert "exists already; choose another name, or replace it (--overwrite)" in capsys.readouterr().err


def test_answers_are_labels(folder, tmp_path, capsys):
    data, output = folder / "cells.h5ad", tmp_path / "labels.csv"
    table = annotate(data, output, model=folder / "model")
    assert list(table) == [f"predicted_cell_type{part}" for part in ("", "_share", "_answer")]
    assert (table["predicted_cell_type"] == TYPES[:9]).mean() >= 7 / 9
    assert table["predicted_cell_type_share"].between(0, 1).all()
    alone = annotate(data, tmp_path / "alone.h5ad", model=folder / "model", batch_size=1)
    assert alone["predicted_cell_type_answer"].tolist() == table["predicted_cell_type_answer"].tolist()
    written = anndata.read_h5ad(tmp_path / "alone.h5ad").obs
    assert written["predicted_cell_type"].tolist() == table["predicted_cell_type"].tolist()
    (tmp_path / "types.txt").write_text("B cell\nneuron\n")
    words = ["annotate", str(data), "--model", str(folder / "model"), "--labels", str(tmp_path / "types.txt")]
    assert main([*words, "--output", str(tmp_path / "two.csv")]) == 0
    assert "unknown" in capsys.readouterr().out
    two = pd.read_csv(tmp_path / "two.csv", index_col=0)["predicted_cell_type"]
    assert set(two) <= {"B cell", "unknown"}
    sure = annotate(data, tmp_path / "sure.csv", model=folder / "model", unknown_threshold=1.0)
    assert (sure["predicted_cell_type"] == "unknown").all()


def test_labels_without_a_use(folder, tmp_path):
    data = folder / "cells.h5ad"
    with pytest.raises(ValueError, match="labels are what answers are taken for"):
        annotate(data, tmp_path / "out.csv", model=folder / "model", reference=data, labels=["B cell"])
    with pytest.raises(ValueError, match="there is no label to look for; name them"):
        annotate(data, tmp_path / "out.csv", model=folder / "model", labels=[])
    with pytest.raises(ValueError, match="is no classifier: give a reference"):
        annotate(data, tmp_path / "out.csv", model=GENEFORMER / "v1" / "model")
