"""Protein language models behind one call: token ids in, the last layer's output out."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.models.esm.modeling_esm import EsmModel

from state_hf.configuration.model_folders import require_found
from state_hf.conversion.pickle_reader import Record
from state_hf.conversion.torch_file import read_pickled
from state_hf.gene_embeddings.protein_fasta import RESIDUES

_REMEDY_FAIR_ESM = "Weights in the original's format (.pt) need the package fair-esm: pip install 'state-hf[fair-esm]'"
# ESM-2 was trained on crops of 1,024 tokens, two of them special.
_ESM_WINDOW = 1022


class ProteinModel:
    """A loaded protein language model.

    Args:
        network: The model, in evaluation mode.
        letters: {residue: token id}.
        cls: Id of the token before a sequence.
        eos: Id of the token after it.
        pad: Id of padding.
        width: Width of the output.
        window: Most residues that it was trained to read at once.
        longest: Most residues that it can read at once; None if there is no limit.
        name: Where it is from.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        letters: dict[str, int],
        cls: int,
        eos: int,
        pad: int,
        width: int,
        window: int,
        longest: int | None,
        name: str,
    ) -> None:
        self.network = network
        self.letters, self.cls, self.eos, self.pad = letters, cls, eos, pad
        self.width, self.window, self.longest, self.name = width, window, longest, name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.network.parameters()).device

    def tokens(self, sequences: list[str]) -> torch.Tensor:
        """(sequences, longest + 2). Ids of the sequences between their special tokens, padded on the right."""
        rows = [[self.cls, *(self.letters[residue] for residue in text), self.eos] for text in sequences]
        length = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (length - len(row)) for row in rows], device=self.device)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """(sequences, tokens, width). The last layer's output."""
        return self.network(input_ids=tokens, attention_mask=(tokens != self.pad).long()).last_hidden_state


class FairEsmModel(ProteinModel):
    """A model of the package fair-esm."""

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        last: Any = self.network.num_layers
        return self.network(tokens, repr_layers=[last])["representations"][last]


def load_protein_model(
    model: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    revision: str = "main",
) -> ProteinModel:
    """Load a protein language model.

    Args:
        model: A folder or hub id of an ESM-2 (or ESM-1b, ESM-1v) or ESMC model in transformers' format; or an
            `esm2_*.pt` file in the original's, for which the package fair-esm must be installed.
        dtype: Of the weights.
        device: Where it goes. Default: the CPU.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ImportError: fair-esm is missing.
        ValueError: It is no such model.
    """
    name = str(model)
    loaded = _load_fair_esm(Path(name)) if name.endswith(".pt") else _load_transformers(name, revision)
    loaded.network.eval().requires_grad_(False).to(device or "cpu", dtype)
    return loaded


def _load_transformers(name: str, revision: str) -> ProteinModel:
    require_found(name, revision=revision)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except ValueError as error:
        raise ValueError(
            f"{name} is no model that the installed transformers knows; ESMC needs a recent one "
            f"(pip install -U transformers): {error}"
        ) from error
    if config.model_type == "esm":
        network: nn.Module = EsmModel.from_pretrained(name, revision=revision, add_pooling_layer=False)
        # It predicts contacts, and starts at random where a checkpoint lacks it.
        del network.contact_head
        # Learned positions start behind that of padding.
        learned = config.position_embedding_type == "absolute"
        longest = config.max_position_embeddings - config.pad_token_id - 3 if learned else None
        window = min(_ESM_WINDOW, longest or _ESM_WINDOW)
    elif config.model_type == "esmc":
        from transformers import EsmcModel

        network = EsmcModel.from_pretrained(name, revision=revision)
        longest, window = None, config.max_position_embeddings - 2
    else:
        raise ValueError(f"{name} is a {config.model_type!r} model, not a protein language model (esm or esmc).")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    vocabulary = tokenizer.get_vocab()
    missing = [letter for letter in RESIDUES if letter not in vocabulary]
    if missing:
        raise ValueError(f"The tokenizer of {name} lacks the residues {', '.join(missing)}.")
    return ProteinModel(
        network,
        letters={letter: vocabulary[letter] for letter in RESIDUES},
        cls=tokenizer.cls_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        width=config.hidden_size,
        window=window,
        longest=longest,
        name=name,
    )


def _load_fair_esm(path: Path) -> ProteinModel:
    try:
        from esm.data import Alphabet
        from esm.model.esm2 import ESM2
    except ImportError as error:
        raise ImportError(_REMEDY_FAIR_ESM) from error
    saved = read_pickled(path)
    # The training's options lie in an argparse.Namespace.
    record = saved.get("cfg", {}).get("model") if isinstance(saved, dict) else None
    if not isinstance(record, Record) or not isinstance(record.state, dict) or "model" not in saved:
        raise ValueError(f"{path} does not hold an ESM-2 model of fair-esm: it has no 'cfg' and 'model'.")
    options = argparse.Namespace(**record.state)
    alphabet = Alphabet.from_architecture("ESM-1b")
    network = ESM2(
        num_layers=options.encoder_layers,
        embed_dim=options.encoder_embed_dim,
        attention_heads=options.encoder_attention_heads,
        alphabet=alphabet,
        token_dropout=options.token_dropout,
    )
    weights = {
        name.removeprefix("encoder.").removeprefix("sentence_encoder."): tensor.load()
        for name, tensor in saved["model"].items()
    }
    loaded = network.load_state_dict(weights, strict=False)
    # The contact head lies in a file of its own, and nothing here needs it.
    missing = [name for name in loaded.missing_keys if not name.startswith("contact_head.")]
    if missing or loaded.unexpected_keys:
        raise ValueError(
            f"The weights in {path} do not fit the model that it describes: missing {missing[:5]}, "
            f"unexpected {loaded.unexpected_keys[:5]}."
        )
    return FairEsmModel(
        network,
        letters={letter: alphabet.get_idx(letter) for letter in RESIDUES},
        cls=alphabet.cls_idx,
        eos=alphabet.eos_idx,
        pad=alphabet.padding_idx,
        width=options.encoder_embed_dim,
        window=_ESM_WINDOW,
        longest=None,
        name=path.stem,
    )


__all__ = ["FairEsmModel", "ProteinModel", "load_protein_model"]
