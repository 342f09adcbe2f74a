"""Pretrain a small State Embedding model on real cells, on one CPU thread, and hold it against baselines.

    python benchmarks/state_embedding_science.py --data ../shared/data --output FOLDER [--steps 2000]

Five files train together; a tenth of the cells, in runs of 16, is held out. A FOLDER with a trained model is measured
again. Printed and written to it:
- decoded expression: 200 genes that vary most are hidden from the model as if the file did not have them, then decoded
  for held-out cells. Beside it the two baselines: each gene's mean over the file's training cells, and over those of
  the cell's type (which is told the label);
- embeddings of all cells: silhouette and 15-nearest-neighbour accuracy (2 folds) by cell type, and mixing of batches
  among the neighbours of the same type (1 is as by chance, 0 is none), for PCA, the untrained and the trained model;
- curves.png: losses and correlations against steps.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from sklearn.metrics import silhouette_score
from transformers import AutoTokenizer

from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.data.corpus.cell_corpus import CellCorpus
from state_hf.data.corpus.corpus_manifest import CorpusFile
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.embedding_task import embed_whole
from state_hf.modeling.state_embedding_pretraining import StateEmbeddingForMaskedExpression
from state_hf.pipelines.pretrain import PretrainedModel, pretrain
from state_hf.tokenization.gene_names import GeneReport
from state_hf.training.decoded_expression import (
    RunningCorrelation,
    expression_of_genes,
    variable_genes,
)
from state_hf.training.expression_targets import ExpressionTargets
from state_hf.training.state_embedding_arguments import StateEmbeddingTrainingArguments

FILES = {
    "pbmc3k": "scrna_pbmc3k_hvg2000_labelled",
    "pbmc10k": "cite_pbmc10k_10x_hvg4000",
    "kang": "stim_kang2018_pbmc_ifnb_2k",
    "kang_labelled": "stim_kang2018_pbmc_ifnb_muscat_labelled",
    "scmixology": "scrna_tian2019_scmixology_lung_cell_lines",
}
LABELS = {
    "pbmc3k": ("cell_type", None),
    "kang_labelled": ("cell_type", "donor_id"),
    "scmixology": ("cell_type", "batch"),
}
CONFIG = {
    "gene_embedding_dim": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128, "output_dim": 32, "count_encoder_dim": 32, "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0, "initializer_range": 0.05,
}  # fmt: skip
CORPUS = {"block_cells": 16, "window_cells": 256, "lanes": 16, "lane_run": 4}
NEIGHBOURS, HIDDEN_GENES = 15, 200


def train(files: list[CorpusFile], arguments: argparse.Namespace):
    training = StateEmbeddingTrainingArguments(
        output_dir="-",
        max_steps=arguments.steps,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        average_decay=0.99,
        # In the proportions of the defaults. Fewer unexpressed ones say less of what tells cells apart.
        expressed_targets=48,
        unexpressed_targets=48,
        shared_targets=16,
        logging_steps=25,
        eval_strategy="steps",
        eval_steps=max(1, arguments.steps // 5),
        save_strategy="no",
        eval_on_start=True,
        use_cpu=True,
        report_to="none",
        seed=0,
    )
    loss = {"expression_loss": arguments.loss}
    return pretrain(
        files, arguments.output / "model", training=training, config=CONFIG | loss, corpus=CORPUS, held_out=0.1
    )


def without(report: GeneReport, hidden: np.ndarray) -> GeneReport:
    """The genes of a file without some, as if it did not have them."""
    return replace(report, columns=np.where(np.isin(report.columns, hidden), -1, report.columns))


def batches_of(corpus: CellCorpus, file: str, size: int = 64):
    """The cells of one file among those of a corpus."""
    for start in range(0, len(corpus), size):
        for cells in corpus.__getitems__(range(start, min(start + size, len(corpus)))):
            if cells.source.file.dataset == file:
                yield [cells]


def decoded(trained, file: str, labels: np.ndarray) -> pd.DataFrame:
    """Correlations of decoded and of baseline expression with that of the file's held-out cells."""
    tokenizer = trained.tokenizer
    files = [CorpusFile(str(path), name) for name, path in trained_files.items()]
    training, held = CellCorpus(files, tokenizer, **CORPUS, seed=0).split(0.1, seed=0)
    genes = variable_genes(batches_of(training, file), tokenizer.vocab_size, HIDDEN_GENES)
    collator = ExpressionTargets(tokenizer, shared=0, sentence_length=CONFIG["max_position_embeddings"])

    def unseen():
        for (cells,) in batches_of(held, file):
            yield [replace(cells, source=replace(cells.source, genes=without(cells.source.genes, genes)))]

    # Decoding compares with the file's genes, of which the model is shown those without the hidden ones.
    model = trained.model.eval()
    sums = {"gene mean": RunningCorrelation(len(genes)), "mean of the type": RunningCorrelation(len(genes)),
            "State Embedding": RunningCorrelation(len(genes))}  # fmt: skip
    along_genes = {name: [] for name in sums}
    rows = [(expression_of_genes(part, genes)[0], labels[part[0].cells]) for part in batches_of(training, file)]
    values, types = np.concatenate([row for row, _ in rows]), np.concatenate([label for _, label in rows])
    mean = values.mean(axis=0)
    by_type = {label: values[types == label].mean(axis=0) for label in set(types)}
    gene_ids = torch.from_numpy(genes)
    for shown, (cells,) in zip(unseen(), batches_of(held, file), strict=True):
        truth, known = expression_of_genes([cells], genes)
        batch = collator(shown)
        with torch.no_grad():
            encoded = model.state_embedding(
                **{name: batch[name] for name in ("input_ids", "attention_mask", "expression")}, output_genes=False
            )
            depth = batch["labels"].mul(batch["labels"] > 0).sum(1) / (batch["labels"] > 0).sum(1).clamp(min=1)
            predicted = model.decode_expression(
                encoded.cell_embedding, gene_ids, read_depth=depth, dataset_embedding=encoded.dataset_embedding
            ).numpy()
        tables = {
            "gene mean": np.tile(mean, (len(truth), 1)),
            "mean of the type": np.stack([by_type.get(label, mean) for label in labels[cells.cells]]),
            "State Embedding": predicted,
        }
        for name, table in tables.items():
            sums[name].add(table, truth, known)
            cellwise = RunningCorrelation(len(table))
            cellwise.add(table.T, truth.T, known.T)
            along_genes[name].append(cellwise.value())
    return pd.DataFrame(
        {
            name: {
                "along cells, a gene": np.nan_to_num(sums[name].value()).mean(),
                "along genes, a cell": np.nanmean(np.concatenate(along_genes[name])),
            }
            for name in sums
        }
    ).T


def quality(values: np.ndarray, labels: np.ndarray, batches: np.ndarray | None) -> dict[str, float]:
    names, numbers = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(values))
    right = []
    for reference, cells in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        near, _ = nearest_neighbours(values[cells], values[reference], NEIGHBOURS)
        right.append((vote(numbers[reference], near, len(names)).argmax(1) == numbers[cells]).mean())
    row = {"silhouette": silhouette_score(values, labels), "kNN accuracy": np.mean(right), "batch mixing": np.nan}
    if batches is not None:
        mixing = []
        for number in range(len(names)):
            own = np.flatnonzero(numbers == number)
            counts = pd.Series(batches[own]).value_counts(normalize=True)
            if len(counts) > 1 and len(own) > 2 * NEIGHBOURS:
                near, _ = nearest_neighbours(values[own], values[own], NEIGHBOURS + 1)
                others = batches[own][near[:, 1:]] != batches[own][:, None]
                mixing.append((others.mean() / (1 - (counts**2).sum()), len(own)))
        row["batch mixing"] = np.average([value for value, _ in mixing], weights=[size for _, size in mixing])
    return row


def embeddings(trained, untrained, file: str, path: Path) -> pd.DataFrame:
    label_key, batch_key = LABELS[file]
    cells = ad.read_h5ad(path)
    log1p = ad.AnnData(cells.X.astype(np.float32))
    sc.pp.normalize_total(log1p, target_sum=1e4)
    sc.pp.log1p(log1p)
    sc.pp.pca(log1p, n_comps=50)
    tables = {"PCA (50)": log1p.obsm["X_pca"]}
    for name, model in (("untrained", untrained), ("trained", trained.model)):
        encoder = CellEncoder(model.state_embedding, trained.tokenizer)
        tables[f"State Embedding, {name}"] = embed_whole(path, encoder, input_type="counts", part="cell")
    labels = cells.obs[label_key].astype(str).to_numpy()
    batches = None if batch_key is None else cells.obs[batch_key].astype(str).to_numpy()
    return pd.DataFrame({name: quality(values, labels, batches) for name, values in tables.items()}).T


def draw(history: list[dict], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    curves = [
        (axes[0], "expression loss", {"training": "expression_loss", "held out": "eval_expression_loss"}),
        (axes[1], "Pearson, decoded held-out cells",
         {"along cells, a gene": "eval_pearson_genes", "along genes, a cell": "eval_pearson_cells"}),
    ]  # fmt: skip
    for axis, title, lines in curves:
        for name, key in lines.items():
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            axis.plot(*zip(*points, strict=True), label=name, marker="o" if key.startswith("eval") else None, ms=3)
        axis.set(title=title, xlabel="step")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--loss", default="mse")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    trained_files.update({name: arguments.data / f"{stem}.h5ad" for name, stem in FILES.items()})
    history, folder = arguments.output / "history.json", arguments.output / "model"
    if history.exists():
        model = StateEmbeddingForMaskedExpression.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trained = PretrainedModel(model, tokenizer, {}, json.loads(history.read_text()), folder)
    else:
        trained = train([CorpusFile(str(path), name) for name, path in trained_files.items()], arguments)
        history.write_text(json.dumps(trained.history))
    draw(trained.history, arguments.output / "curves.png")
    torch.manual_seed(0)
    untrained = StateEmbeddingForMaskedExpression(trained.model.config).eval()
    report = []
    for file, (label_key, _) in LABELS.items():
        labels = ad.read_h5ad(trained_files[file], backed="r").obs[label_key].astype(str).to_numpy()
        report += [
            f"{file}: decoded expression of held-out cells, hidden genes\n{decoded(trained, file, labels).round(3)}"
        ]
        report += [f"{file}: embeddings\n{embeddings(trained, untrained, file, trained_files[file]).round(3)}"]
        print("\n\n".join(report[-2:]), "\n", flush=True)
    (arguments.output / "tables.txt").write_text("\n\n".join(report) + "\n")


trained_files: dict[str, Path] = {}

if __name__ == "__main__":
    main()
