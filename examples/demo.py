"""Cell embeddings in two minutes on two cores: train a small State Embedding model, embed real cells, and compare.

make demo                        # 700 blood cells that come with scanpy
make demo DATA=cells.h5ad        # your own file

python examples/demo.py --data cells.h5ad --label_column cell_type --output_dir demo
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import torch
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

import state_hf
from state_hf import StateEmbeddingConfig, StateEmbeddingForMaskedExpression, StateEmbeddingTokenizer
from state_hf.tokenization.input_scale import check_input_type

LABEL_COLUMNS = ("cell_type", "celltype", "bulk_labels", "louvain", "leiden")
EMBEDDINGS = {"PCA": "X_pca", "untrained model": "X_untrained", "State Embedding": "X_state"}
NEIGHBOURS = 15


@dataclass
class DemoArguments:
    """What to run the demo on."""

    data: str | None = field(default=None, metadata={"help": "An .h5ad file. Default: scanpy's pbmc68k_reduced."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column of obs that holds cell types. Default: the first usual name found."}
    )
    output_dir: str = field(default="demo", metadata={"help": "Folder for the results."})
    max_steps: int = field(default=1600, metadata={"help": "Training steps."})
    training_cells: int = field(
        default=5000, metadata={"help": "Cells to train on, at most; the rest is embedded too."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything."})


class MaskedExpression:
    """Collator: the model sees half of a cell's expressed genes, and predicts the others and unexpressed ones."""

    def __init__(self, *, seen: int, targets: int, seed: int) -> None:
        self.seen, self.targets = seen, targets
        self.generator = np.random.default_rng(seed)

    def __call__(self, cells: list[dict]) -> dict[str, torch.Tensor]:
        columns = {name: [] for name in ("input_ids", "expression", "attention_mask", "target_ids", "labels")}
        for cell in cells:
            order = self.generator.permutation(np.arange(1, len(cell["input_ids"])))
            seen = order[: min(self.seen, len(order) // 2)]
            padding = self.seen - len(seen)
            for name in ("input_ids", "expression"):
                tokens = np.concatenate([cell[name][:1], cell[name][seen]])
                columns[name].append(np.pad(tokens, (0, padding)))
            columns["attention_mask"].append(np.pad(np.ones(1 + len(seen), int), (0, padding)))
            hidden = cell["input_ids"][order[len(seen) :]][: self.targets // 2]
            others = self.generator.integers(len(cell["log1p"]), size=self.targets - len(hidden))
            genes = np.concatenate([hidden, others])
            columns["target_ids"].append(genes)
            columns["labels"].append(cell["log1p"][genes])
        return {name: torch.from_numpy(np.stack(values)) for name, values in columns.items()}


class Sentences(torch.utils.data.Dataset):
    """A cell's sentence, and its expression of every gene. Dense one cell at a time."""

    def __init__(self, matrix, tokenizer: StateEmbeddingTokenizer, *, is_counts: bool) -> None:
        self.log1p = matrix.log1p() if is_counts else matrix
        self.encoded = tokenizer.encode_cells(
            matrix, tokenizer.genes, input_type="counts" if is_counts else "log1p", return_tensors="np"
        )

    def __len__(self) -> int:
        return self.log1p.shape[0]

    def __getitem__(self, cell: int) -> dict[str, np.ndarray]:
        present = self.encoded["attention_mask"][cell] == 1
        row = {name: self.encoded[name][cell][present] for name in ("input_ids", "expression")}
        return {**row, "log1p": self.log1p[[cell]].toarray()[0].astype(np.float32)}


def read_cells(arguments: DemoArguments) -> tuple[Path, str]:
    """The file to embed, and its column of cell types."""
    path = Path(arguments.output_dir, "cells.h5ad")
    if arguments.data is not None and arguments.label_column is None:
        columns = ad.read_h5ad(arguments.data, backed="r").obs.columns
        if not any(column in columns for column in LABEL_COLUMNS):
            print(f"{arguments.data} has no cell types that the demo recognises; here are scanpy's blood cells.")
            arguments.data = None
    if arguments.data is None:
        # X holds scaled values there; the log-normalised expression is in raw.
        reduced = sc.datasets.pbmc68k_reduced()
        cells = ad.AnnData(reduced.raw.X.tocsr(), obs=reduced.obs[["bulk_labels"]], var=reduced.raw.var[[]])
        cells.write_h5ad(path)
    else:
        path = Path(arguments.data)
    columns = ad.read_h5ad(path, backed="r").obs.columns
    wanted = [arguments.label_column] if arguments.label_column else LABEL_COLUMNS
    found = [column for column in wanted if column in columns]
    if not found:
        sys.exit(
            f"{path} has no column {' or '.join(wanted)} in obs; it has: {', '.join(columns)}. Use --label_column."
        )
    return path, found[0]


def small_model(genes: int) -> StateEmbeddingForMaskedExpression:
    """A model that two cores train in minutes. Its gene table is learned, as no protein embeddings are at hand."""
    return StateEmbeddingForMaskedExpression(
        StateEmbeddingConfig(
            num_genes=genes,
            gene_embedding_dim=64,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            output_dim=32,
            count_encoder_dim=64,
            max_position_embeddings=256,
            use_dataset_token=False,
            train_gene_table=True,
            hidden_dropout_prob=0.0,
            initializer_range=0.05,
        )
    )


def train(path: Path, folder: Path, arguments: DemoArguments) -> None:
    """Train a model on the cells of `path`; leave it in `folder/model`, and as it began in `folder/untrained`."""
    cells = ad.read_h5ad(path, backed="r")
    chosen = np.random.default_rng(arguments.seed).permutation(cells.n_obs)[: arguments.training_cells]
    matrix = sp.csr_array(cells[np.sort(chosen)].to_memory().X)
    is_counts = check_input_type(matrix, "auto") == "counts"
    tokenizer = StateEmbeddingTokenizer(list(cells.var_names), fill="none", model_max_length=256)
    model = small_model(len(tokenizer.genes))
    model.save_pretrained(folder / "untrained")
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(folder / "training"),
            max_steps=arguments.max_steps,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            warmup_steps=30,
            lr_scheduler_type="cosine",
            logging_steps=200,
            save_strategy="no",
            dataloader_pin_memory=False,
            report_to="none",
            remove_unused_columns=False,
            seed=arguments.seed,
        ),
        train_dataset=Sentences(matrix, tokenizer, is_counts=is_counts),
        data_collator=MaskedExpression(seen=64, targets=96, seed=arguments.seed),
    )
    trainer.train()
    model.save_pretrained(folder / "model")
    for name in ("untrained", "model"):
        tokenizer.save_pretrained(folder / name)


def compare(embedded: ad.AnnData, label_column: str) -> pd.DataFrame:
    """How well cell types separate in each of the embeddings in obsm: rows are embeddings, columns measures."""
    known = embedded.obs[label_column].notna().to_numpy()
    labels = embedded.obs[label_column][known].astype(str)
    # Types with fewer cells than folds cannot be in every fold.
    known[known] = labels.map(labels.value_counts()).to_numpy() >= 5
    labels = embedded.obs[label_column][known].astype(str)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    rows = {}
    for name, key in EMBEDDINGS.items():
        values = embedded.obsm[key][known]
        accuracy = cross_val_score(KNeighborsClassifier(NEIGHBOURS), values, labels, cv=folds)
        rows[name] = {
            "silhouette": silhouette_score(values, labels, sample_size=min(5000, len(labels)), random_state=0),
            f"{NEIGHBOURS}-nearest-neighbour accuracy": accuracy.mean(),
        }
    return pd.DataFrame(rows).T.rename_axis("embedding")


def draw(embedded: ad.AnnData, label_column: str, path: Path) -> None:
    """UMAPs of PCA and of the trained model side by side, coloured by cell type."""
    shown = ("PCA", "State Embedding")
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    labels = embedded.obs[label_column].astype("category")
    colours = plt.get_cmap("tab20" if len(labels.cat.categories) > 10 else "tab10")
    for axis, name in zip(axes, shown, strict=True):
        sc.pp.neighbors(embedded, use_rep=EMBEDDINGS[name], n_neighbors=NEIGHBOURS)
        sc.tl.umap(embedded, random_state=0)
        points = embedded.obsm["X_umap"]
        for number, label in enumerate(labels.cat.categories):
            of_type = (labels == label).to_numpy()
            axis.scatter(*points[of_type].T, s=40000 / (len(labels) + 2000), color=colours(number % 20), label=label)
        axis.set(title=f"UMAP of {name}", xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        axis.set_box_aspect(1)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", title=label_column, frameon=False, markerscale=1.5)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run the demo."""
    (arguments,) = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()
    set_seed(arguments.seed)
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, label_column = read_cells(arguments)
    train(path, folder, arguments)

    embedded_path = folder / "embedded.h5ad"
    for name, key in (("untrained", "X_untrained"), ("model", "X_state")):
        source = path if name == "untrained" else folder / "untrained.h5ad"
        target = folder / "untrained.h5ad" if name == "untrained" else embedded_path
        state_hf.embed(source, folder / name, output=target, key=key, input_type="auto", overwrite=True)
    (folder / "untrained.h5ad").unlink()

    embedded = ad.read_h5ad(embedded_path)
    log1p = ad.AnnData(embedded.X)
    if check_input_type(embedded.X, "auto") == "counts":
        sc.pp.normalize_total(log1p, target_sum=1e4)
        sc.pp.log1p(log1p)
    sc.pp.pca(log1p, n_comps=min(50, *(n - 1 for n in log1p.shape)))
    embedded.obsm["X_pca"] = log1p.obsm["X_pca"]
    table = compare(embedded, label_column)
    table.to_csv(folder / "comparison.csv")
    draw(embedded, label_column, folder / "umap.png")
    print(f"\n{embedded.n_obs:,} cells, cell types from obs[{label_column!r}]:\n\n{table.round(3).to_string()}\n")
    print(
        f"Look at {folder / 'umap.png'} and {folder / 'comparison.csv'}; the embedding is in {embedded_path}, ", end=""
    )
    print("obsm['X_state'].")


if __name__ == "__main__":
    main()
