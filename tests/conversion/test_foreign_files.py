"""Files that lie where a checkpoint should: each is named for what it is."""

import gzip
import json
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from state_hf.conversion.convert import convert
from state_hf.conversion.errors import CheckpointError
from state_hf.conversion.torch_file import read_pickled
from tests.conversion.conftest import FIXTURES, STATE_EMBEDDING, STATE_TRANSITION

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2485760\n"
SE, ST = STATE_EMBEDDING / "small", STATE_TRANSITION / "decoder"
KINDS = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "pointer": (POINTER, r"is a pointer of Git LFS \(72 bytes of text\) .* which has 2,485,760 bytes.*git lfs pull"),
    "page": (b"<!DOCTYPE html>\n<html><title> Sign\nin </title>", r"is a web page \('Sign in'\)"),
    "page without a title": (b"\n<html><body>", "is a web page: its address"),
    "refusal of a store": (
        b'<?xml version="1.0"?><Error><Message>Access denied</Message>',
        r"page \('Access denied'\)",
    ),
    "answer": (b'{"error":"Repository not found"}', "is a server's answer and not the file: .*Repository not found"),
    "gzip": (gzip.compress(b"x"), "is compressed with gzip. Unpack it with gunzip"),
    "zstd": (b"\x28\xb5\x2f\xfd1234", "is compressed with Zstandard"),
    "zeros": (bytes(10_000), r"holds zeros where it should begin \(10,000 bytes\)"),
    "tar": (b"run/".ljust(257, b"\0") + b"ustar\x0000" + bytes(400), "is a tar archive"),
    "text": (b"not a checkpoint", "is neither a file of torch.save nor a pickle"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind, tmp_path):
    content, message = KINDS[kind]
    for name in ("se.ckpt", "se.pt"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            convert(tmp_path / name, tmp_path / "out")
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "pointer", "page", "answer", "zeros"])
@pytest.mark.parametrize("file", ["config.yaml", "var_dims.pkl", "pert_onehot_map.pt", "batch_onehot_map.torch"])
def test_files_beside_a_checkpoint(file, kind, tmp_path):
    run = shutil.copytree(ST, tmp_path / "run")
    (run / file).write_bytes(KINDS[kind][0])
    with pytest.raises(CheckpointError, match=KINDS[kind][1]) as caught:
        convert(run, tmp_path / "out")
    assert str(run / file) in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "pointer", "page", "answer", "zeros"])
def test_weights_of_safetensors(kind, tmp_path):
    port = shutil.copytree(FIXTURES / "state_embedding" / "small", tmp_path / "port")
    (port / "model.safetensors").write_bytes(KINDS[kind][0])
    with pytest.raises(CheckpointError, match=KINDS[kind][1]):
        convert(port, tmp_path / "out")


def test_other_formats_of_models_and_data(tmp_path):
    with h5py.File(tmp_path / "a.ckpt", "w") as file:
        file["X"] = np.ones(3)
    save_file({"a": torch.ones(3)}, tmp_path / "b.ckpt")
    np.save(tmp_path / "c.npy", np.ones(3))
    np.savez(tmp_path / "d.npz", a=np.ones(3))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "e.ckpt")
    shutil.make_archive(str(tmp_path / "f"), "zip", ST, "checkpoints")
    for name, message in {
        "a.ckpt": "is an HDF5 file",
        "b.ckpt": "is a safetensors file under another name. Rename it",
        "c.npy": "is an array of NumPy",
        "d.npz": r"is an archive of NumPy arrays \(\.npz\)",
        "e.ckpt": "is a program of TorchScript",
        "f.zip": r"is a zip archive of something else \(checkpoints/.*unpack it first",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_pickled(tmp_path / name)


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_what_is_cut_off_is_said_to_be(save, tmp_path):
    whole = torch.load(SE / "se.ckpt", weights_only=False)  # a fixture of this repository
    path = tmp_path / "se.ckpt"
    if save == "pickle":
        path.write_bytes(b"\x80\x02]q\x00(X\x05\x00\x00\x00hello" + 50 * b"K\x01")
    else:
        torch.save(whole, path, _use_new_zipfile_serialization=save == "zip")
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match="cut off"):
            read_pickled(path)


def test_damage_within_is_not_called_cut_off(tmp_path):
    content = bytearray((SE / "se.ckpt").read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory : directory + 4] = b"XXXX"
    (tmp_path / "se.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match="it is damaged"):
        read_pickled(tmp_path / "se.ckpt")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new_format", [True, False])
def test_every_protocol_and_format_converts(protocol, new_format, converted, tmp_path):
    """Also PyTorch's format before 1.6, which has modules (the loss) apart."""
    run = shutil.copytree(ST, tmp_path / "run")
    path = run / "checkpoints" / "final.ckpt"
    content = torch.load(path, weights_only=False)  # a fixture of this repository
    assert isinstance(content["hyper_parameters"]["loss_fn"], torch.nn.Module)
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format)
    convert(run, tmp_path / "out")
    expected = (converted(ST) / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


class TestPlainStateDicts:
    """`torch.save(model.state_dict())`, which records nothing else."""

    def test_of_state_transition(self, tmp_path):
        run = shutil.copytree(ST, tmp_path / "run")
        path = run / "checkpoints" / "final.ckpt"
        content = torch.load(path, weights_only=False)  # a fixture of this repository
        torch.save(content["state_dict"], path)
        (run / "config.yaml").unlink()
        with pytest.raises(CheckpointError, match=r"holds weights alone.*Put the run's config\.yaml there"):
            convert(run, tmp_path / "out")

    @pytest.mark.parametrize("name", ["decoder", "residual_decoder", "llama_bidirectional"])
    def test_of_state_transition_with_its_configuration(self, name, converted, tmp_path):
        """The run's config.yaml and sizes say all that the weights do not."""
        run = shutil.copytree(STATE_TRANSITION / name, tmp_path / "run")
        path = run / "checkpoints" / "final.ckpt"
        content = torch.load(path, weights_only=False)  # a fixture of this repository
        torch.save(content["state_dict"], path)
        arguments = content["hyper_parameters"]
        kept = (str, bool, int, float, dict)
        kwargs = {key: value for key, value in arguments.items() if type(value) in kept and key != "decoder_cfg"}
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"]["kwargs"] = kwargs
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        convert(run, tmp_path / "out")
        places = (tmp_path / "out", converted(STATE_TRANSITION / name))
        found, expected = (json.loads((place / "config.json").read_text()) for place in places)
        assert found == expected

    def test_of_state_embedding(self, tmp_path):
        content = torch.load(SE / "se.ckpt", weights_only=False)  # a fixture of this repository
        torch.save(content["state_dict"], tmp_path / "se.pt")
        with pytest.raises(CheckpointError, match=r"does not say how many attention heads.*put its config\.yaml into"):
            convert(tmp_path / "se.pt", tmp_path / "out", unnamed_genes=True)
        (tmp_path / "config.yaml").write_text(content["cfg_yaml"])
        model = convert(tmp_path / "se.pt", tmp_path / "out", unnamed_genes=True)
        assert model.config.num_attention_heads == 4
