"""Cell types for unlabelled cells: from the nearest cells of a labelled reference, or from a trained head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from anndata.io import read_elem, write_elem
from transformers import AutoConfig

from state_hf.analysis.nearest_cells import nearest_neighbours, vote
from state_hf.configuration.model_folders import loading_from
from state_hf.configuration.state_embedding import StateEmbeddingConfig
from state_hf.data.anndata_files import copy_store, open_store, read_labels
from state_hf.data.cell_blocks import open_cells
from state_hf.data.whole_files import written_whole
from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.embedding_task import embed_whole
from state_hf.inference.loading import load_model, load_tokenizer, refuse_missing_weights
from state_hf.modeling.state_embedding_classification import StateEmbeddingForSequenceClassification, predict_classes

InputScale = Literal["counts", "log1p", "auto"]
UNKNOWN = "unknown"
_HEAD_STEPS, _HEAD_RATE = 500, 0.05


@dataclass(frozen=True)
class _Encoder:
    """A model that embeds files, always in the same way."""

    model: Any
    tokenizer: Any
    input_type: InputScale

    def embed(self, path: str | Path) -> np.ndarray:
        """(cells, output_dim) cell embeddings, without what names the dataset."""
        return embed_whole(
            path,
            CellEncoder(self.model, self.tokenizer),
            input_type=self.input_type,
            part="cell",
            other_values="give a file with counts or log1p values in X",
        )


def annotate(
    data: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    reference: str | Path | None = None,
    label_key: str = "cell_type",
    neighbours: int = 15,
    unknown_threshold: float | None = None,
    distance_quantile: float = 0.999,
    fit_head: str | Path | None = None,
    input_type: InputScale = "counts",
) -> pd.DataFrame:
    """Label the cells of a file.

    With a reference, labels are those of the nearest of its cells in the model's embedding, or, with `fit_head`, of a
    head that is trained on them. Without one, the model must be a `StateEmbeddingForSequenceClassification`. The labels
    compare cells by the cell embedding alone, which says less of the dataset.

    Args:
        data: An .h5ad file or .zarr store.
        output: A .csv for the table; an .h5ad or .zarr for a copy of `data` with the table's columns in obs.
        model: Folder or hub id.
        reference: A labelled file.
        label_key: Its column of obs; cells without a label are left out.
        neighbours: Reference cells that vote.
        unknown_threshold: Share of the votes, or probability, below which a cell is "unknown". Default: 0.5, or what
            the classifier's configuration says.
        distance_quantile: A cell whose nearest reference cell is farther than this quantile of the reference cells'
            own nearest is "unknown" too; 1 for no such limit. Of no meaning to a head.
        fit_head: Folder for a classifier that is trained on the reference's embeddings, the encoder left as it is.
        input_type: "counts", "log1p", or "auto" to decide by a sample.

    Returns:
        One row a cell: `predicted_LABEL`, `predicted_LABEL_share` (votes or probability) and, by neighbours,
        `predicted_LABEL_distance`.

    Raises:
        ValueError: The options do not fit each other, or the files the model.
    """
    path = Path(output)
    if path.suffix not in (".csv", ".h5ad", ".zarr"):
        raise ValueError(f"{path} has to end in .csv, .h5ad or .zarr")
    if reference is None:
        table = _by_head(data, model, label_key, unknown_threshold, input_type)
    else:
        loaded = load_model(str(model))
        encoder = _Encoder(loaded, load_tokenizer(None, loaded), input_type)
        labels = read_labels(reference, label_key)
        if not (labels != "").any():
            raise ValueError(f"No cell of {reference} has a label in obs[{label_key!r}].")
        embedded = encoder.embed(reference)[labels != ""]
        labels = labels[labels != ""]
        if fit_head is not None:
            fit_classifier(encoder, embedded, labels, fit_head, unknown_threshold=unknown_threshold or 0.5)
            table = _by_head(data, fit_head, label_key, unknown_threshold, input_type)
        else:
            threshold = 0.5 if unknown_threshold is None else unknown_threshold
            table = _by_neighbours(
                encoder.embed(data), embedded, labels, label_key, neighbours, threshold, distance_quantile
            )
    with open_cells(data) as cells:
        table.index = pd.Index(cells.cell_names(), name="cell")
    _write(table, data, path)
    return table


def _by_neighbours(
    cells: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray,
    label_key: str,
    neighbours: int,
    threshold: float,
    quantile: float,
) -> pd.DataFrame:
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    near, distances = nearest_neighbours(cells, reference, neighbours)
    shares = vote(numbers, near, len(names))
    chosen, share = shares.argmax(axis=1), shares.max(axis=1)
    accepted = share >= threshold
    if quantile < 1 and len(reference) > 1:
        # The nearest of a reference cell is itself.
        own = nearest_neighbours(reference, reference, 2)[1][:, 1]
        accepted &= distances[:, 0] <= np.quantile(own, quantile)
    prefix = f"predicted_{label_key}"
    return pd.DataFrame(
        {
            prefix: np.where(accepted, names[chosen].astype(object), UNKNOWN),
            f"{prefix}_share": share,
            f"{prefix}_distance": distances[:, 0],
        }
    )


def _by_head(
    data: str | Path,
    model: str | Path,
    label_key: str,
    threshold: float | None,
    input_type: InputScale,
) -> pd.DataFrame:
    with loading_from(model):
        config = AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    if "StateEmbeddingForSequenceClassification" not in (config.architectures or ()):
        raise ValueError(f"{model} is no classifier: give a reference to take labels from (and fit_head to train one).")
    with loading_from(model):
        classifier, info = StateEmbeddingForSequenceClassification.from_pretrained(str(model), output_loading_info=True)
    refuse_missing_weights(model, info["missing_keys"])
    classifier.eval()
    encoder = _Encoder(classifier.state_embedding, load_tokenizer(str(model), classifier.state_embedding), input_type)
    embedded = torch.from_numpy(encoder.embed(data))
    with torch.inference_mode():
        logits = classifier.classifier(classifier.class_norm(embedded))
    limit = classifier.config.unknown_threshold if threshold is None else threshold
    numbers, probability = predict_classes(logits, limit)
    names = [*(classifier.config.id2label[number] for number in range(classifier.config.num_labels)), UNKNOWN]
    prefix = f"predicted_{label_key}"
    return pd.DataFrame(
        {prefix: [names[number] for number in numbers.tolist()], f"{prefix}_share": probability.numpy()}
    )


def fit_classifier(
    encoder: _Encoder, embedded: np.ndarray, labels: np.ndarray, output: str | Path, *, unknown_threshold: float
) -> StateEmbeddingForSequenceClassification:
    """Train a head on embeddings, with classes weighted by the inverse of their size, and save the classifier.

    Args:
        encoder: What the embeddings are from.
        embedded: (cells, output_dim).
        labels: (cells,) text.
        output: Folder.
        unknown_threshold: Kept in the configuration.
    """
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    counts = np.bincount(numbers)
    weights = (len(numbers) / (len(names) * counts)).round(6).tolist()
    fields: dict[str, Any] = {name: value for name, value in encoder.model.config.to_dict().items() if name not in (
        "id2label", "label2id", "architectures", "num_labels", "class_weights", "unknown_threshold", "dtype")}  # fmt: skip  # noqa: E501
    config = StateEmbeddingConfig(
        **fields, id2label=dict(enumerate(names.tolist())), label2id={name: n for n, name in enumerate(names.tolist())},
        class_weights=weights, unknown_threshold=unknown_threshold,
    )  # fmt: skip
    torch.manual_seed(0)
    classifier = StateEmbeddingForSequenceClassification(config)
    classifier.state_embedding.load_state_dict(encoder.model.state_dict())
    head = torch.nn.Sequential(classifier.class_norm, classifier.classifier)
    optimizer = torch.optim.AdamW(head.parameters(), lr=_HEAD_RATE, weight_decay=0.01)
    cells, targets = torch.from_numpy(embedded), torch.from_numpy(numbers)
    weight = torch.tensor(weights, dtype=torch.float32)
    for _ in range(_HEAD_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(head(cells), targets, weight=weight).backward()
        optimizer.step()
    classifier.eval().save_pretrained(output)
    encoder.tokenizer.save_pretrained(output)
    return classifier


def _write(table: pd.DataFrame, data: str | Path, path: Path) -> None:
    if path.suffix == ".csv":
        with written_whole(path) as temporary:
            table.to_csv(temporary)
        return
    if path.exists():
        raise FileExistsError(f"{path} exists already: choose another output")
    temporary = path.with_name(f".writing-{path.name}")
    copy_store(Path(data), temporary)
    with open_store(temporary, "r+") as store:
        obs = read_elem(store["obs"])
        for column in table:
            obs[column] = table[column].to_numpy()
        del store["obs"]
        write_elem(store, "obs", obs)
    temporary.replace(path)


__all__ = ["UNKNOWN", "annotate", "fit_classifier"]
