"""Annotate cells by their nearest neighbours among labelled cells, in the embedding of a model of any family.

python examples/annotate_cells.py --reference labelled.h5ad --label_column cell_type --query new.h5ad \
    --model_name_or_path model --output annotated.h5ad

The new columns of obs are the label that most neighbours have, and the share of them that have it: look at the cells
with a small share before you believe their label. With labels in the query, too, the accuracy is printed.
"""

from dataclasses import dataclass, field

import anndata as ad
from sklearn.neighbors import KNeighborsClassifier
from transformers import HfArgumentParser

from state_hf.inference.cell_encoder import CellEncoder
from state_hf.inference.embedding_task import embed_whole


@dataclass
class AnnotateArguments:
    """Labelled cells, new cells, and the model."""

    reference: str = field(metadata={"help": "An .h5ad file of labelled cells."})
    query: str = field(metadata={"help": "An .h5ad file of cells to annotate."})
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a model that reads cells."})
    label_column: str = field(default="cell_type", metadata={"help": "Column of obs with the labels."})
    neighbours: int = field(default=15, metadata={"help": "Neighbours that vote."})
    input_type: str = field(default="counts", metadata={"help": "counts, log1p, or auto: by the values."})
    output: str = field(default="annotated.h5ad", metadata={"help": "File to write."})


def main() -> None:
    """Embed both, let the neighbours vote, and save."""
    (arguments,) = HfArgumentParser(AnnotateArguments).parse_args_into_dataclasses()
    encoder = CellEncoder.from_pretrained(arguments.model_name_or_path)
    reference, query = ad.read_h5ad(arguments.reference), ad.read_h5ad(arguments.query)
    # What cells are compared by: the cell's own embedding, without what the model says of its dataset.
    known, new = (
        embed_whole(cells, encoder, input_type=arguments.input_type, part="cell") for cells in (reference, query)
    )
    labelled = reference.obs[arguments.label_column].notna().to_numpy()
    labels = reference.obs[arguments.label_column].astype(str).to_numpy()[labelled]

    votes = KNeighborsClassifier(arguments.neighbours).fit(known[labelled], labels)
    shares = votes.predict_proba(new)
    query.obs["model_label"] = votes.classes_[shares.argmax(axis=1)]
    query.obs["model_label_share"] = shares.max(axis=1)
    query.write_h5ad(arguments.output)

    print(query.obs["model_label"].value_counts().to_string())
    if arguments.label_column in query.obs:
        checked = query.obs[query.obs[arguments.label_column].notna()]
        accuracy = (checked["model_label"] == checked[arguments.label_column].astype(str)).mean()
        print(f"accuracy on the {len(checked):,} labelled cells of the query: {accuracy:.3f}")


if __name__ == "__main__":
    main()
