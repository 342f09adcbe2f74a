"""Fine-tuning on classes of genes: folds by gene, scores beside simple models, resuming, and what is refused."""

import json
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

import state_hf
from state_hf.cli import main
from state_hf.inference.classifiers import new_classifier
from state_hf.pipelines import finetune_genes as pipeline
from state_hf.pipelines.finetune_genes import finetune_genes, read_finetuned_genes
from tests.geneformer_models import FOLDER, IDS
from tests.launched import finish
from tests.tiny_models import save_state_embedding

QUICK = {"folds": 2, "device": "cpu", "epochs": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, cells in which every other gene is far above its median, and a table that says which."""
    folder = tmp_path_factory.mktemp("genes")
    state_hf.convert(FOLDER / "v1" / "model", folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    genes = np.array(tokenizer.genes)
    rng = np.random.default_rng(0)
    high = np.arange(len(genes)) % 2 == 1
    counts = rng.poisson(np.where(high, 8.0, 1.0) * 3 * tokenizer.medians, (90, len(genes)))
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=genes))
    cells.obs_names = [f"c{number}" for number in range(90)]
    cells.write_h5ad(folder / "cells.h5ad")
    rows = [f"{gene}\t{'even' if row % 2 == 0 else 'odd'}" for row, gene in enumerate(genes[:40])]
    (folder / "genes.tsv").write_text("\n".join(["gene\tlabel", *rows, "SYM41\teven", "unheard-of\todd"]) + "\n")
    return folder


def test_each_gene_is_predicted_by_a_model_that_has_not_seen_it(files, tmp_path, monkeypatch):
    seen = []
    training = pipeline._one_training

    def watched(work, genes, *arguments, **options):
        found = training(work, genes, *arguments, **options)
        seen.append((set(genes.rows.tolist()), found[0]))
        return found

    monkeypatch.setattr(pipeline, "_one_training", watched)
    tuned = finetune_genes(
        files / "cells.h5ad", tmp_path / "out", model=files / "model", gene_labels=files / "genes.tsv", folds=3,
        epochs=5, learning_rate=0.02, trained="all", device="cpu",
    )  # fmt: skip
    labelled = tuned.predictions[tuned.predictions["label"] != ""]
    assert len(labelled) == 41
    tokenizer = AutoTokenizer.from_pretrained(files / "model")
    for fold in range(3):
        own = labelled.index[labelled["fold"] == fold]
        rows = [tokenizer.genes.index(gene) for gene in own]
        trained_on, found = seen[fold]
        assert not set(rows) & trained_on
        assert len(set(rows) | trained_on) == 41
        np.testing.assert_allclose(labelled.loc[own, "share_odd"], found[rows, 1], rtol=1e-6)
        # Both classes alike in every fold.
        assert abs((labelled.loc[own, "label"] == "odd").mean() - 0.5) < 0.1
    assert len(seen[3][0]) == 41
    # What the folds found, scored.
    right = (labelled["label"] == labelled["predicted"]).mean()
    assert tuned.scores.loc["fine-tuned", "accuracy"] == pytest.approx(right)
    assert right > 0.7 > tuned.scores.loc["majority", "accuracy"]
    assert tuned.scores.loc["fine-tuned", "auroc"] > 0.85
    assert set(tuned.scores.columns) == {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "auroc_sd"}
    assert tuned.scores.loc["expression profile, random forest", "accuracy"] > 0.8
    assert tuned.scores.loc["majority", "auroc"] == 0.5
    # Genes without a label are predicted by the model of all.
    assert len(tuned.predictions) == 47
    others = tuned.predictions[tuned.predictions["label"] == ""]
    assert (others["fold"] == -1).all()
    assert (
        others["predicted"] == ["odd" if gene in tokenizer.genes[1::2] else "even" for gene in others.index]
    ).mean() > 0.6
    audit = " ".join(tuned.record["audit"])
    assert "1 genes of the table are not in the vocabulary, and left out (unheard-of)" in audit
    assert "may be on both sides of the split" in audit


def test_what_is_saved_predicts_the_genes_without_a_label(files, tmp_path):
    tuned = finetune_genes(
        files / "cells.h5ad", tmp_path / "out", model=files / "model", gene_labels=files / "genes.tsv", **QUICK
    )
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == {0: "even", 1: "odd"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    encoding = tokenizer.encode_cells(ad.read_h5ad(files / "cells.h5ad"))
    with torch.inference_mode():
        shares = model(**encoding).logits.softmax(dim=-1)[..., 1]
    gene = tuned.predictions.index[tuned.predictions["label"] == ""][0]
    here = encoding["input_ids"] == tokenizer.convert_tokens_to_ids(gene)
    assert tuned.predictions.loc[gene, "cells"] == here.sum()
    assert tuned.predictions.loc[gene, "share_odd"] == pytest.approx(float(shares[here].mean()), abs=1e-5)
    assert (tmp_path / "out" / "README.md").is_file()
    assert not (tmp_path / "out.partial").exists()


def test_a_head_of_the_model_does_not_know_the_held_out_genes(files, tmp_path):
    """A classifier of genes that is fine-tuned again starts with a new head, as one without."""
    finetune_genes(
        files / "cells.h5ad", tmp_path / "out", model=files / "model", gene_labels=files / "genes.tsv", **QUICK
    )
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    one, same, other = (
        new_classifier(tmp_path / "out", ["even", "odd"], seed=seed, auto_class=AutoModelForTokenClassification)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    for different in (saved, other):
        assert not torch.allclose(one.classifier.weight, different.classifier.weight)
    for name, value in saved.bert.state_dict().items():
        assert torch.equal(value, one.bert.state_dict()[name]), name


def test_families_of_genes_stay_together(files, tmp_path):
    lines = (files / "genes.tsv").read_text().splitlines()[1:41]
    rows = [f"{line}\t{'abcdefgh'[at // 2 % 4 + 4 * (at % 2)]}{at // 8 % 2}" for at, line in enumerate(lines)]
    (tmp_path / "genes.tsv").write_text("\n".join(["gene\tlabel\tgroup", *rows]) + "\n")
    tuned = finetune_genes(
        files / "cells.h5ad", tmp_path / "out", model=files / "model", gene_labels=tmp_path / "genes.tsv", **QUICK
    )
    groups = {row.split("\t")[0]: row.split("\t")[2] for row in rows}
    folds = tuned.predictions["fold"]
    assert all(len({folds[gene] for gene in groups if groups[gene] == group}) == 1 for group in set(groups.values()))
    assert not any("both sides" in sentence for sentence in tuned.record["audit"])


def test_cells_are_drawn_and_runs_go_on(files, tmp_path, monkeypatch):
    options = {"model": files / "model", "gene_labels": files / "genes.tsv", "max_cells": 40, **QUICK}
    whole = finetune_genes(files / "cells.h5ad", tmp_path / "whole", **options)
    assert whole.predictions["cells"].max() <= 40
    assert "40 of 90 cells are used, drawn at random" in whole.record["audit"]
    training, calls = pipeline._one_training, []

    def stop(*arguments, **named):
        calls.append(arguments[3].name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return training(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_one_training", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune_genes(files / "cells.h5ad", tmp_path / "out", **options)
    with pytest.raises(ValueError, match="max_cells was 40 and is 41"):
        finetune_genes(files / "cells.h5ad", tmp_path / "out", **{**options, "max_cells": 41}, resume=True)
    resumed = finetune_genes(files / "cells.h5ad", tmp_path / "out", **options, resume=True)
    pd.testing.assert_frame_equal(resumed.predictions, whole.predictions)
    pd.testing.assert_frame_equal(resumed.scores, whole.scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_the_command(files, tmp_path, capsys):
    words = [
        "finetune-genes",
        str(files / "cells.h5ad"),
        "--model",
        str(files / "model"),
        "--folds",
        "2",
        "--device",
        "cpu",
    ]
    words += ["--gene-labels", str(files / "genes.tsv"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "genes: even 21, odd 20; 2 folds, 90 cells" in printed
    assert "input embedding, support vectors" in printed
    assert printed.endswith(f"Wrote {tmp_path / 'out'}: a classifier of genes, and the predictions of 47\n")
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "gene_finetuning.json").read_text())
    assert record["genes"]["unknown"] == ["unheard-of"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gene\tkind\n", "has the columns gene, kind; it has to have gene and label"),
        ("gene\tlabel\nSYM0\n", "line 2: there are 1 fields for 2 columns"),
        ("gene\tlabel\nSYM0\t\n", "line 2: there is no label"),
        ("gene\tlabel\nSYM0\ta\nSYM0\tb\n", "line 3: SYM0 is b, but a in a line before"),
        ("gene\tlabel\nX1\ta\nX2\tb\n", r"none of the 2 genes of .* \(X1; X2\) is in the vocabulary"),
        ("gene\tlabel\nSYM0\ta\nSYM1\ta\n", "have one label, a; it takes two"),
        (
            "gene\tlabel\nSYM0\ta\nSYM1\ta\nSYM2\tb\n",
            r"5 folds need as many genes of every class.*'b' has 1; choose fewer",
        ),
    ],
)
def test_wrong_tables_are_named(files, tmp_path, text, words):
    (tmp_path / "genes.tsv").write_text(text)
    options = {"model": files / "model", "gene_labels": tmp_path / "genes.tsv"}
    with pytest.raises(ValueError, match=words):
        finetune_genes(files / "cells.h5ad", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_family_without_a_classifier_of_tokens_says_so(tmp_path, files):
    save_state_embedding(tmp_path / "se", IDS)
    with pytest.raises(ValueError, match="TokenClassification"):
        finetune_genes(files / "cells.h5ad", tmp_path / "out", model=tmp_path / "se", gene_labels=files / "genes.tsv")


def test_in_two_processes_every_gene_is_predicted(files, tmp_path):
    words = [
        str(files / "cells.h5ad"), "--model", str(files / "model"), "--gene-labels", str(files / "genes.tsv"),
        "--folds", "2", "--epochs", "1", "--trained", "head", "--device", "cpu", "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "state_hf"]
    finish([*launch, "finetune-genes", *words])
    tuned = read_finetuned_genes(tmp_path / "out")
    labelled = tuned.predictions[tuned.predictions["label"] != ""]
    assert len(labelled) == 41
    assert not list(tmp_path.glob("*.partial"))
    shares = labelled[["share_even", "share_odd"]].sum(axis=1)
    np.testing.assert_allclose(shares, 1, rtol=1e-5)
