"""What is on the hub is inspected by its configuration, names and headers alone."""

import huggingface_hub
import pytest
from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from safetensors import safe_open

from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.inspection import inspect
from tests.conversion.conftest import STATE_TRANSITION


@pytest.fixture
def repository(converted, monkeypatch):
    """The hub has a converted model; downloads of its weights fail the test."""
    folder = converted(STATE_TRANSITION / "decoder")

    def download(repository, name, *, revision=None):
        assert not name.endswith(".safetensors")
        return str(folder / name)

    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {
            name: TensorInfo("F32", file.get_slice(name).get_shape(), (0, 0))
            for name in file.keys()  # noqa: SIM118
        }
    header = SafetensorsFileMetadata({}, tensors)
    metadata = SafetensorsRepoMetadata({}, False, {}, {"model.safetensors": header})
    files = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repository, *, revision=None: files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda repository, *, revision=None: metadata)
    return files


def test_a_model(repository, converted):
    here, there = inspect(converted(STATE_TRANSITION / "decoder")), inspect("owner/model")
    assert there.missing == []
    assert {k: v for k, v in there.facts.items() if k != "weights"} == {
        k: v for k, v in here.facts.items() if k != "weights"
    }
    assert there.facts["weights"] == "52 tensors, 6,122 numbers (F32)"


def test_a_repository_of_the_originals(repository):
    repository[:] = ["se600m_epoch16.ckpt", "protein_embeddings.pt"]
    with pytest.raises(CheckpointError, match=r"no config\.json.*se600m_epoch16\.ckpt.*hf download owner/model"):
        inspect("owner/model")
