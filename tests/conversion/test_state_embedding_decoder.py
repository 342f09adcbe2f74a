"""A run of arc-state whose genes are decoded by a State Embedding model (`finetune_vci_decoder`)."""

import pytest
import torch
from safetensors.torch import load_file

from state_hf import StateTransitionForPerturbation
from state_hf.cli import main
from state_hf.conversion.arc_state.to_arc import convert_to_arc
from state_hf.conversion.convert import convert
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.inspection import inspect
from tests.conversion.conftest import FIXTURES, STATE_EMBEDDING, STATE_TRANSITION

FOLDER = FIXTURES / "conversion" / "state_embedding_decoder"
RUN, SE = FOLDER / "run", FOLDER / "se.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("decoder") / "st"
    convert(RUN, output, state_embedding=SE)
    return output


def test_against_arc_state(folder):
    """Two of the seven genes have learned encodings."""
    reference = load_file(FOLDER / "expected.safetensors")
    model, info = StateTransitionForPerturbation.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"] | info["mismatched_keys"]
    assert list(model.config.gene_decoder_learned_genes) == [1, 4]
    assert model.vocabulary.genes == tuple(f"GENE{number}" for number in range(7))
    with torch.no_grad():
        output = model(reference["control"], reference["perturbation_ids"])
    for name in ("predicted_cells", "predicted_expression"):
        # float32 sums in another order.
        torch.testing.assert_close(output[name], reference[f"expected.{name}"], rtol=0, atol=1e-5)


def test_saved_and_loaded(folder, tmp_path):
    model = StateTransitionForPerturbation.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    again = StateTransitionForPerturbation.from_pretrained(tmp_path).state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_the_model_may_be_a_converted_one(folder, tmp_path, capsys):
    convert(SE, tmp_path / "se")
    assert main(["convert", str(RUN), str(tmp_path / "st"), "--state-embedding", str(tmp_path / "se")]) == 0
    said = capsys.readouterr().out
    assert f"The embeddings of the 7 decoded genes are from {tmp_path / 'se'}" in said
    assert "the State Embedding model of the gene decoder, but its gene encoder and decoder" in said
    one, two = load_file(folder / "model.safetensors"), load_file(tmp_path / "st" / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], value) for name, value in two.items())


def test_it_is_asked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"decodes genes by a State Embedding model.*state_embedding="):
        convert(RUN, tmp_path / "out")
    assert "state_embedding=" in inspect(RUN).missing[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_embedding": STATE_EMBEDDING / "small"}, "was trained with another State Embedding model"),
        ({"state_embedding": RUN}, "is a State Transition, not a State Embedding model"),
        ({"state_embedding": "nowhere"}, "no file or folder nowhere"),
        ({"state_embedding": SE, "genes": "others.txt"}, "does not know 7 of the 7 genes.*learned encodings of 2"),
    ],
)
def test_another_model(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "others.txt").write_text("".join(f"X{number}\n" for number in range(7)))
    with pytest.raises((CheckpointError, FileNotFoundError), match=message):
        convert(RUN, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_runs_that_need_none(tmp_path):
    with pytest.raises(ValueError, match="does not decode genes by a State Embedding model"):
        convert(STATE_TRANSITION / "decoder", tmp_path / "out", state_embedding=SE)
    with pytest.raises(ValueError, match=r"state_embedding=\.\.\. has no meaning"):
        convert(SE, tmp_path / "out", state_embedding=SE)


def test_arc_state_finds_it_nowhere_else(folder, tmp_path):
    with pytest.raises(CheckpointError, match="has the gene decoder 'state_embedding'"):
        convert_to_arc(folder, tmp_path / "run")
