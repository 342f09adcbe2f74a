"""Annotate cells by their nearest neighbours among labelled cells, in the embedding of a State Embedding model.

python examples/annotate_cells.py --reference labelled.h5ad --label_column cell_type --query new.h5ad \
    --model_name_or_path model --output annotated.h5ad

The new columns of obs are the label that most neighbours have, and the share of them that have it: look at the cells
with a small share before you believe their label. With labels in the query, too, the accuracy is printed.
"""

from dataclasses import dataclass, field

import anndata as ad
from sklearn.neighbors import KNeighborsClassifier
from transformers import HfArgumentParser

import state_hf


@dataclass
class AnnotateArguments:
    """Labelled cells, new cells, and the model."""

    reference: str = field(metadata={"help": "An .h5ad file of labelled cells."})
    query: str = field(metadata={"help": "An .h5ad file of cells to annotate."})
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of a State Embedding model."})
    label_column: str = field(default="cell_type", metadata={"help": "Column of obs with the labels."})
    neighbours: int = field(default=15, metadata={"help": "Neighbours that vote."})
    input_type: str = field(default="counts", metadata={"help": "counts, log1p, or auto: by the values."})
    output: str = field(default="annotated.h5ad", metadata={"help": "File to write."})


def main() -> None:
    """Embed both, let the neighbours vote, and save."""
    (arguments,) = HfArgumentParser(AnnotateArguments).parse_args_into_dataclasses()
    reference, query = ad.read_h5ad(arguments.reference), ad.read_h5ad(arguments.query)
    for cells in (reference, query):
        state_hf.embed(cells, arguments.model_name_or_path, input_type=arguments.input_type, overwrite=True)
    reference = reference[reference.obs[arguments.label_column].notna()]
    labels = reference.obs[arguments.label_column].astype(str).to_numpy()

    votes = KNeighborsClassifier(arguments.neighbours).fit(reference.obsm["X_state"], labels)
    shares = votes.predict_proba(query.obsm["X_state"])
    query.obs["state_label"] = votes.classes_[shares.argmax(axis=1)]
    query.obs["state_label_share"] = shares.max(axis=1)
    query.write_h5ad(arguments.output)

    print(query.obs["state_label"].value_counts().to_string())
    if arguments.label_column in query.obs:
        known = query.obs[query.obs[arguments.label_column].notna()]
        accuracy = (known["state_label"] == known[arguments.label_column].astype(str)).mean()
        print(f"accuracy on the {len(known):,} labelled cells of the query: {accuracy:.3f}")


if __name__ == "__main__":
    main()
