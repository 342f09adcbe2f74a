"""Geneformer's folders: a stock BERT, of any version of transformers, and dictionaries of genes beside it."""

from pathlib import Path
from typing import Any

from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME

from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.gene_dictionaries import MAPPING, MEDIANS, NAMES, GeneDictionaries, ordered_tokens
from state_hf.conversion.inspection import Inspection, describe, weights_text
from state_hf.conversion.model_folder import ConvertedModel, stated_licence
from state_hf.conversion.stock_checkpoint import (
    StockCheckpoint,
    account_for_stock,
    file_digest,
    open_stock_checkpoint,
    read_json_object,
    weight_file,
)
from state_hf.conversion.weight_accounting import IgnoreRule
from state_hf.model_cards.geneformer import LICENCE_NOTE
from state_hf.tokenization.gene_aliases import AliasTable, GeneAlias, is_ensembl_id
from state_hf.tokenization.geneformer import GeneformerTokenizer

_STAGES: dict[type[PreTrainedModel], str] = {
    BertForMaskedLM: "pretrained",
    BertForSequenceClassification: "fine-tuned to classify cells",
    BertForTokenClassification: "fine-tuned to classify genes",
    BertModel: "without a head",
}
_RULES = (IgnoreRule(r"bert\.embeddings\.position_ids", "numbers of the positions, which are no weights"),)
# What a BERT that reads text has beside it.
_TEXT_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")


class _Geneformer:
    """The format of Geneformer: a folder of transformers, and pickles or JSON files of tokens, medians and names."""

    name = "Geneformer"

    def recognises(self, source: Path) -> bool:
        """Whether this is the folder of a BERT that reads no text."""
        if not (source / CONFIG_NAME).is_file() or weight_file(source) is None:
            return False
        try:
            is_bert = read_json_object(source / CONFIG_NAME).get("model_type") == "bert"
        except (CheckpointError, OSError):
            # Beside a stock model's weights, what is wrong with its configuration is to be said.
            return True
        return is_bert and not any((source / name).exists() for name in _TEXT_FILES)

    def plan(
        self,
        source: Path,
        *,
        checkpoint: str | None = None,
        dictionaries: str | Path | None = None,
        read_weights: bool = True,
    ) -> ConvertedModel:
        """The model that a Geneformer folder becomes: the same stock BERT, with a tokenizer.

        Args:
            source: The folder.
            checkpoint: Not for this format, which has one.
            dictionaries: Folder with the dictionaries of tokens, medians, names and other ids. By default they are
                looked for in `source`, the folder above, and the folder `geneformer` beside it.
            read_weights: Whether to read weights, to compare second copies with their originals, and for digests.

        Raises:
            CheckpointError: If something is missing or broken, or the dictionaries are not the model's.
            UnsafeCheckpointError: If a pickle names code.
        """
        if checkpoint is not None:
            raise CheckpointError(
                f"checkpoint={checkpoint!r} has no meaning for a checkpoint of {self.name}, of which it has one."
            )
        opened = open_stock_checkpoint(source)
        model_class = _model_class(opened)
        account = account_for_stock(opened, model_class, _RULES, compare_tied=read_weights)
        found = GeneDictionaries(
            source, None if dictionaries is None else Path(dictionaries), vocab_size=opened.config.vocab_size
        )
        tokenizer, notes = _tokenizer(found, opened)
        stage = _STAGES[model_class]
        origin: dict[str, Any] = {"file": opened.file.name, "stage": stage, "release": _release(tokenizer)}
        if read_weights:
            origin["sha256"] = {path.name: file_digest(path) for path in [*opened.files, *found.files]}
        licence = stated_licence(source)
        stated = f"The README.md of the source says: {licence}." if licence else LICENCE_NOTE
        return ConvertedModel(
            model_class,
            opened.config,
            account,
            source_folders=[source],
            licence_note=stated,
            tokenizer=tokenizer,
            notes=[f"stage: {stage}", *notes],
            origin=origin,
        )

    def inspect(self, source: Path, *, checkpoint: str | None = None) -> Inspection:
        """What a Geneformer folder is."""
        opened = open_stock_checkpoint(source)
        model_class = _model_class(opened)
        found = Inspection()
        found.facts["kind"] = f"Geneformer checkpoint of transformers ({model_class.__name__}, {_STAGES[model_class]})"
        found.facts["weights"] = weights_text(opened.weights)
        try:
            model = self.plan(source, checkpoint=checkpoint, read_weights=False)
        except UnsafeCheckpointError:
            raise
        except CheckpointError as error:
            found.missing.append(str(error))
            return found
        found.facts["release"] = str(model.origin["release"])
        genes = getattr(model.tokenizer, "genes", None)
        describe(found, model.config, family="geneformer", genes=genes, vocabulary=None)
        return found


def _model_class(opened: StockCheckpoint) -> type[PreTrainedModel]:
    named = next(iter(opened.config.architectures or []), None)
    known = {model_class.__name__: model_class for model_class in _STAGES}
    if named is None and any(name.startswith("cls.predictions.") for name in opened.weights):
        return BertForMaskedLM
    if named not in known:
        raise CheckpointError(
            f"{opened.folder / CONFIG_NAME} names the class {named or 'of no model'}; known are {', '.join(known)}."
        )
    return known[named]


def _release(tokenizer: GeneformerTokenizer) -> str:
    return "V2" if "<cls>" in tokenizer.special_ids else "V1"


def _tokenizer(found: GeneDictionaries, opened: StockCheckpoint) -> tuple[GeneformerTokenizer, list[str]]:
    genes, special = ordered_tokens(found.tokens, str(found.chosen))
    pad = special.get("<pad>")
    if pad != opened.config.pad_token_id:
        raise CheckpointError(
            f"{found.chosen}: <pad> is {pad}, but it is {opened.config.pad_token_id} in {opened.folder / CONFIG_NAME}."
        )
    medians = found.required(MEDIANS)
    foreign = sorted(medians.keys() - set(genes))
    if foreign:
        raise CheckpointError(
            f"{found.files[-1]} has medians of {len(foreign):,} genes without a token in {found.chosen} ({foreign[0]} "
            "is the first): they are of different releases of the model."
        )
    notes = [f"dictionaries: {found.chosen.name} and {found.files[-1].name}"]
    if len(medians) < len(genes):
        notes.append(f"{len(genes) - len(medians):,} genes have no median, so they are never read, as in the original")
    names, mapping = found.optional(NAMES), found.optional(MAPPING)
    for kind, dictionary, lost in (
        (NAMES, names, "genes are known by Ensembl id alone"),
        (MAPPING, mapping if "<cls>" in special else {}, "former Ensembl ids of a gene are not known"),
    ):
        if dictionary is None:
            notes.append(f"there is no {kind.stem}{found.release}, so {lost}")
    differing = [name for name, gene in (names or {}).items() if (mapping or {}).get(name, gene) != gene]
    if differing:
        notes.append(
            f"{len(differing):,} names are of other genes in {MAPPING.stem}, which is followed ({differing[0]})"
        )
    tokenizer = GeneformerTokenizer(
        genes,
        medians,
        _aliases(genes, names or {}, mapping or {}),
        special_ids=special,
        model_max_length=opened.config.max_position_embeddings,
    )
    return tokenizer, notes


def _aliases(genes: list[str], names: dict[str, str], mapping: dict[str, str]) -> AliasTable | None:
    """The other names of the vocabulary's genes: symbols, and ids that stand for one of them."""
    known = set(genes)
    symbols: dict[str, str] = {}
    rows: set[GeneAlias] = set()
    for name, gene in {**names, **mapping}.items():
        if gene in known and name not in known and not is_ensembl_id(name):
            rows.add(GeneAlias(gene, name, "ensembl_id"))
            symbols[gene] = name
    for name, gene in mapping.items():
        if gene in known and name not in known and is_ensembl_id(name):
            rows.add(GeneAlias(name, symbols.get(gene, gene), "ensembl_id"))
    if not rows:
        return None
    lines = ["\t".join(GeneAlias._fields), *("\t".join(row) for row in sorted(rows))]
    return AliasTable("\n".join(lines) + "\n")


GENEFORMER = _Geneformer()

__all__ = ["GENEFORMER"]
