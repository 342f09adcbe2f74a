"""Cell2Sentence's folders: a stock causal language model with its tokenizer, and no list of genes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from state_hf.configuration.advice import Advised
from state_hf.configuration.model_folders import loading_from
from state_hf.conversion.errors import CheckpointError, UnsafeCheckpointError
from state_hf.conversion.inspection import Inspection, describe, weights_text
from state_hf.conversion.model_folder import ConvertedModel, stated_licence
from state_hf.conversion.name_lists import is_name_list, read_names
from state_hf.conversion.stock_checkpoint import (
    StockCheckpoint,
    account_for_stock,
    file_digest,
    open_stock_checkpoint,
    read_json_object,
    weight_file,
)
from state_hf.conversion.weight_accounting import IgnoreRule
from state_hf.data.cells.open_cells import open_cells
from state_hf.model_cards.cell2sentence import LICENCE_NOTE
from state_hf.tokenization.cell2sentence import Cell2SentenceProcessor
from state_hf.tokenization.cell_prompts import CELL_TYPE
from state_hf.tokenization.gene_aliases import AliasTable, GeneAlias, is_ensembl_id, without_version

_RULES = (
    IgnoreRule(
        r".*\.(attention\.(bias|masked_bias)|attn\.(bias|masked_bias)|rotary_emb\.inv_freq)",
        "tables that the library computes itself",
    ),
)


class _Cell2Sentence:
    """The format of Cell2Sentence: a folder of transformers with a causal language model."""

    name = "Cell2Sentence"

    def recognises(self, source: Path) -> bool:
        """Whether this is the folder of a causal language model with a tokenizer."""
        if not (source / CONFIG_NAME).is_file() or weight_file(source) is None:
            return False
        try:
            config = read_json_object(source / CONFIG_NAME)
        except (CheckpointError, OSError):
            return False
        known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(config.get("model_type")), ())
        return any(name in known for name in config.get("architectures") or ())

    def plan(
        self,
        source: Path,
        *,
        checkpoint: str | None = None,
        genes: str | Path | None = None,
        templates: str | Path | None = None,
        labels: str | Path | None = None,
        read_weights: bool = True,
    ) -> ConvertedModel:
        """The model that a folder becomes: the same language model, with a processor of cells.

        Args:
            source: The folder.
            checkpoint: Not for this format, which has one.
            genes: What sentences are made of: a list of symbols, one a line, or a file of cells.
            templates: Prompts by task, as JSON. Default: ours.
            labels: The cell types that the model was trained to answer with, one a line.
            read_weights: Whether to read weights, to compare second copies with their originals, and for digests.

        Raises:
            CheckpointError: If something is missing or broken.
            UnsafeCheckpointError: If a pickle names code.
        """
        if checkpoint is not None:
            raise CheckpointError(
                f"checkpoint={checkpoint!r} has no meaning for a checkpoint of {self.name}, of which it has one."
            )
        opened = open_stock_checkpoint(source)
        model_class = _model_class(opened)
        account = account_for_stock(opened, model_class, _RULES, compare_tied=read_weights)
        if genes is None:
            raise CheckpointError(
                Advised(
                    f"{source} is a language model, which has no list of the genes that it is to read",
                    "name a file of their symbols, or of cells (genes=...)",
                )
            )
        names, aliases, notes = _genes(Path(genes))
        with loading_from(source, holds=None):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        _check_tokenizer(tokenizer, names, source)
        processor = Cell2SentenceProcessor(
            tokenizer,
            names,
            aliases,
            templates,
            labels=None if labels is None else read_names(Path(labels), "labels"),
            task=CELL_TYPE,
            # As the published models were trained.
            response_separator="",
            states_requested=True,
        )
        processor.check_model(opened.config)
        if opened.config.pad_token_id is None:
            opened.config.pad_token_id = tokenizer.pad_token_id
        notes.append("a response follows its prompt without a space, and prompts name as many genes as are asked for")
        origin: dict[str, Any] = {
            "file": opened.file.name,
            "stage": "fine-tuned",
            "model_type": opened.config.model_type,
        }
        if read_weights:
            origin["sha256"] = {path.name: file_digest(path) for path in opened.files}
        licence = stated_licence(source)
        own = source / GENERATION_CONFIG_NAME
        return ConvertedModel(
            model_class,
            opened.config,
            account,
            source_folders=[source],
            licence_note=f"The README.md of the source says: {licence}." if licence else LICENCE_NOTE,
            tokenizer=processor,
            notes=notes,
            origin=origin,
            copied=[own] if own.is_file() else [],
        )

    def inspect(self, source: Path, *, checkpoint: str | None = None) -> Inspection:
        """What a folder is."""
        opened = open_stock_checkpoint(source)
        found = Inspection()
        found.facts["kind"] = f"causal language model of transformers ({_model_class(opened).__name__})"
        found.facts["weights"] = weights_text(opened.weights)
        try:
            account_for_stock(opened, _model_class(opened), _RULES, compare_tied=False)
        except UnsafeCheckpointError:
            raise
        except CheckpointError as error:
            found.missing.append(str(error))
        describe(found, opened.config, family="cell2sentence", genes=None, vocabulary=None)
        return found


def _model_class(opened: StockCheckpoint) -> type[PreTrainedModel]:
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(opened.config)]
    return found


def _check_tokenizer(tokenizer: Any, names: Sequence[str], source: Path) -> None:
    """Refuse what is no tokenizer of text: without its files, the library makes an empty one."""
    text = " ".join(names[:100])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() != text:
        raise CheckpointError(
            f"The tokenizer in {source} does not give the names of genes back: are its files there (tokenizer.json)?"
        )


def _genes(path: Path) -> tuple[list[str], AliasTable | None, list[str]]:
    """Symbols, their Ensembl ids where a file of cells has them, and what was decided."""
    ids: dict[str, str] = {}
    if is_name_list(path):
        found, place = read_names(path, "genes"), path.name
    else:
        with open_cells(path) as cells:
            var = cells.frame("var")
        columns = _name_columns(var)
        place = next((column for column, names in columns.items() if not _are_ids(names)), "index")
        found = columns[place]
        by_id = next((names for names in columns.values() if _are_ids(names)), None)
        ids = {} if by_id is None else dict(zip(map(without_version, by_id), found, strict=True))
        place = f"the index of var of {path.name}" if place == "index" else f"var[{place!r}] of {path.name}"
    if _are_ids(found):
        raise CheckpointError(f"{path} names genes by Ensembl id; a sentence is made of symbols.")
    kept: dict[str, str] = {}
    for name in found:
        kept.setdefault(name.upper(), name)
    notes = [f"genes: {len(kept):,} symbols from {place}"]
    if len(kept) < len(found):
        notes.append(f"{len(found) - len(kept):,} names occur again, or differ in case only, and are written alike")
    rows = sorted(
        {GeneAlias(name, symbol.upper(), "ensembl_id") for name, symbol in ids.items() if is_ensembl_id(name)}
    )
    lines = ["\t".join(GeneAlias._fields), *("\t".join(row) for row in rows)]
    return list(kept), AliasTable("\n".join(lines) + "\n") if rows else None, notes


def _name_columns(var: pd.DataFrame) -> dict[str, list[str]]:
    """Columns of `var` that may be names, the index first."""
    columns = {"index": var.index.astype(str).tolist()}
    for name in var.columns:
        values = var[name]
        if not pd.api.types.is_numeric_dtype(values) and not values.isna().any() and values.nunique() > len(values) / 2:
            columns[str(name)] = values.astype(str).tolist()
    return columns


def _are_ids(names: Sequence[str]) -> bool:
    return sum(map(is_ensembl_id, names)) > len(names) / 2


CELL2SENTENCE = _Cell2Sentence()

__all__ = ["CELL2SENTENCE"]
