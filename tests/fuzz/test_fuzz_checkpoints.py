"""Foreign checkpoints of any content: pickles byte by byte and instruction by instruction, archives, run folders."""

import io
import pickletools
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from state_hf.conversion.convert import convert
from state_hf.conversion.lazy_tensor import LazyTensor
from state_hf.conversion.pickled_types import plain
from state_hf.conversion.torch_file import read_pickled
from tests.fuzz.cases import fuzzed, one_case
from tests.fuzz.damaged_bytes import byte_damages, damaged
from tests.fuzz.damaged_values import value_damages

CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "conversion"
RUN = CHECKPOINTS / "state_transition" / "all_genes"
WORDS = [
    b"(", b".", b"}", b"]", b")", b"u", b"s", b"a", b"e", b"t", b"R", b"b", b"\x81", b"\x93", b"Q", b"P0\n",
    b"h\x00", b"2", b"cbuiltins\neval\n", b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff", b"cnumpy\ndtype\n", b"0", b"1", b"cbuiltins\nbytearray\n", b"M\xff\xff",
    b"J\xff\xff\xff\xff", b"\x88", b"N", b"\x85", b"\x86", b"\x87", b"\x95",
]  # fmt: skip


def tensors_in(value, found):
    if isinstance(value, LazyTensor):
        found.append(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        if len(found) < 20:
            tensors_in(inner, found)
    return found


def read_all(path):
    content = read_pickled(path)
    plain(content, str(path))
    for tensor in tensors_in(content, []):
        assert tuple(tensor.load().shape) == tensor.shape


def instructions(pickled):
    """The bytes of every instruction of a pickle."""
    starts = [start for _, _, start in pickletools.genops(pickled)]
    return [pickled[start:stop] for start, stop in zip(starts, [*starts[1:], len(pickled)], strict=True)]


@pytest.fixture(scope="module")
def archive():
    """The entries of a file of torch.save."""
    with zipfile.ZipFile(RUN / "pert_onehot_map.pt") as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(entries, method=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as file:
        for name, value in entries.items():
            file.writestr(name, value)
    return content.getvalue()


@pytest.mark.parametrize("source", ["var_dims.pkl", "pert_onehot_map.pt", "checkpoints/final.ckpt"])
@fuzzed
@given(damages=byte_damages(WORDS))
def test_bytes(folder, source, damages):
    path = folder / "damaged.pt"
    path.write_bytes(damaged((RUN / source).read_bytes(), damages))
    with one_case(path.name):
        read_all(path)


@fuzzed
@given(damages=byte_damages(WORDS))
def test_the_pickle_of_an_archive(folder, archive, damages):
    entries = {name: damaged(value, damages) if name.endswith("data.pkl") else value for name, value in archive.items()}
    path = folder / "damaged.pt"
    path.write_bytes(packed(entries))
    with one_case(path.name):
        read_all(path)


_place = st.integers(0, 200)


@fuzzed
@given(
    in_archive=st.booleans(),
    moves=st.lists(
        st.tuples(st.sampled_from(["drop", "repeat", "swap", "put"]), _place, _place), min_size=1, max_size=8
    ),
)
def test_instructions(folder, archive, in_archive, moves):
    name = next(name for name in archive if name.endswith("data.pkl"))
    steps = instructions(archive[name] if in_archive else (RUN / "var_dims.pkl").read_bytes())
    for kind, first, second in moves:
        one, other = first % len(steps), second % len(steps)
        if kind == "drop" and len(steps) > 1:
            del steps[one]
        elif kind == "repeat":
            steps[other:other] = [steps[one]] * 3
        elif kind == "swap":
            steps[one], steps[other] = steps[other], steps[one]
        elif kind == "put":
            steps.insert(one, WORDS[second % len(WORDS)])
    path = folder / "damaged.pt"
    pickled = b"".join(steps)
    path.write_bytes(packed({**archive, name: pickled}) if in_archive else pickled)
    with one_case(path.name):
        read_all(path)


@fuzzed
@given(
    file=st.sampled_from(["config.yaml", "var_dims.pkl", "pert_onehot_map.pt", "checkpoints/final.ckpt"]),
    damages=byte_damages(WORDS),
    values=value_damages(["kwargs", "cell_set_len", "hidden_dim", "transformer_backbone_kwargs", "output_space"]),
)
def test_run_folder(folder, file, damages, values):
    source, output = folder / "run", folder / "model"
    for old in (source, output):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(RUN, source)
    path = source / file
    if file == "config.yaml":
        path.write_text(yaml.safe_dump(damaged(yaml.safe_load(path.read_text()), values)))
    else:
        path.write_bytes(damaged(path.read_bytes(), damages))
    with one_case():
        convert(source, output, unnamed_genes=True)
        assert (output / "model.safetensors").is_file()


def test_an_archive_that_unpacks_to_gigabytes_is_refused(folder, archive):
    entries = {name: bytes(2**26) if "/data/" in name else value for name, value in archive.items()}
    path = folder / "bomb.pt"
    path.write_bytes(packed(entries, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match=r"bomb\.pt is refused: its entry .* is compressed"):
        read_pickled(path)
