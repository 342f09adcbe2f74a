"""The files of Cell2Sentence's processor: its settings in one of transformers, its genes and the rest beside it."""

import inspect
from pathlib import Path
from typing import Any

from transformers import ProcessorMixin
from transformers.utils.hub import cached_file

from state_hf.configuration.auto_map import PortableProcessorMixin
from state_hf.model_cards.card import write_model_card
from state_hf.tokenization.cell_prompts import Templates
from state_hf.tokenization.gene_aliases import AliasTable
from state_hf.tokenization.rank_expression import RankExpressionModel

FILES = {
    "genes": "genes.txt",
    "aliases": "gene_aliases.tsv",
    "templates": "cell_prompts.json",
    "expression": RankExpressionModel.FILE_NAME,
}
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class ProcessorWithFiles(PortableProcessorMixin, ProcessorMixin):
    """Loads and saves a processor whose arguments, but the tokenizer, are its attributes."""

    genes: list[str]
    aliases: AliasTable | None
    templates: Templates
    expression: RankExpressionModel | None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor. See `ProcessorMixin.from_pretrained`.

        Args:
            pretrained_model_name_or_path: Folder or hub id.
            *args: Of `ProcessorMixin.from_pretrained`.
            **kwargs: Of the class, to change what was saved; the rest as of `ProcessorMixin.from_pretrained`.
        """
        names = [name for name in inspect.signature(cls.__init__).parameters if name not in ("self", "tokenizer")]
        # Given on, they would be taken for options of the tokenizer, too, and saved with it.
        own = {name: kwargs.pop(name) for name in names if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if not own:
            return loaded
        return cls(loaded.tokenizer, **{**{name: getattr(loaded, name) for name in names}, **own})

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings of a saved processor, the paths of its files among them."""
        hub = {name: value for name, value in kwargs.items() if name in _HUB_ARGUMENTS and value is not None}
        settings, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        for name, file in FILES.items():
            path = cached_file(pretrained_model_name_or_path, file, _raise_exceptions_for_missing_entries=False, **hub)
            if path is not None:
                settings[name] = path
        return settings, rest

    def to_dict(self) -> dict[str, Any]:
        """The settings that `processor_config.json` holds; the rest has files of its own."""
        names = (
            "num_genes", "organism", "labels", "task", "cell_pooling", "response_separator", "upper_case",
            "states_requested", "auto_map",
        )  # fmt: skip
        settings = {name: getattr(self, name, None) for name in names}
        given = {name: value for name, value in settings.items() if value is not None}
        return given | {"processor_class": type(self).__name__}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Save the processor and its tokenizer, and tell the card of a model beside them which genes it knows."""
        paths = list(super().save_pretrained(save_directory, *args, **kwargs))
        texts = {
            "genes": "".join(f"{gene}\n" for gene in self.genes),
            "aliases": self.aliases.text if self.aliases is not None else None,
            "templates": self.templates.text if self.templates.given else None,
            "expression": self.expression.text if self.expression is not None else None,
        }
        for name, text in texts.items():
            if text is not None:
                path = Path(save_directory, FILES[name])
                path.write_text(text, encoding="utf-8", newline="")
                paths.append(str(path))
        write_model_card(save_directory)
        return paths


__all__ = ["FILES", "ProcessorWithFiles"]
