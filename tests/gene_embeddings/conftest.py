"""A tiny random ESM-2 as a model folder."""

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import EsmConfig

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fair_esm.safetensors"


@pytest.fixture(scope="session")
def fair_esm():
    """{"weights", "expected", "proteins", "letters"}: see `tests/fixtures/make_fair_esm.py`."""
    with safe_open(FIXTURE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = {name: text.split() for name, text in file.metadata().items()}
    return {"expected": tensors.pop("expected"), "weights": tensors, **metadata}


@pytest.fixture(scope="session")
def esm_folder(fair_esm, tmp_path_factory):
    """The same model in transformers' format."""
    folder = tmp_path_factory.mktemp("esm")
    config = EsmConfig(
        vocab_size=len(fair_esm["letters"]),
        mask_token_id=fair_esm["letters"].index("<mask>"),
        pad_token_id=fair_esm["letters"].index("<pad>"),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        layer_norm_eps=1e-5,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    config.save_pretrained(folder)
    save_file(fair_esm["weights"], folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(fair_esm["letters"]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    return folder
