"""Submission archives, evaluation caches and unfinished runs of any content."""

import io
import json
import tarfile

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from state_hf.data.partial_results import PartialResults
from state_hf.data.screens.evaluation_cache import load_summary, load_values, store_values
from state_hf.data.screens.vcc_archive import H5AD_MEMBER, WATERMARK, WATERMARK_MEMBER, pack, unpack
from tests.fuzz.cases import fuzzed, one_case
from tests.fuzz.damaged_bytes import byte_damages, damaged
from tests.pipelines.screen_cells import as_cells, counts

CONTENT = b"not really HDF5, which nobody here reads " * 20
WORDS = [WATERMARK, b"../", b"/etc/passwd", b"\x00", b"0000000", b"7777777", b"ustar", b"2", b"L", b"x", b"S"]


@pytest.fixture(scope="module")
def archive(folder):
    (folder / "pred.h5ad").write_bytes(CONTENT)
    pack(folder / "pred.h5ad", folder / "whole.vcc")
    return (folder / "whole.vcc").read_bytes()


@fuzzed
@given(damages=byte_damages(WORDS))
def test_submission(folder, archive, damages):
    path, output = folder / "damaged.vcc", folder / "out.h5ad"
    path.write_bytes(damaged(archive, damages))
    before = {entry.name for entry in folder.iterdir()} | {output.name}
    with one_case(path.name):
        unpack(path, output)
        assert output.read_bytes() == CONTENT
    assert {entry.name for entry in folder.iterdir()} <= before


def archive_of(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for member, value in members:
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../out.txt", tarfile.REGTYPE), (H5AD_MEMBER, tarfile.SYMTYPE), (H5AD_MEMBER, tarfile.FIFOTYPE)],
)
def test_no_member_leads_out_of_an_archive(folder, name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    path = folder / "hostile.vcc"
    path.write_bytes(archive_of([(member, b""), (tarfile.TarInfo(WATERMARK_MEMBER), WATERMARK)]))
    with pytest.raises(ValueError, match=r"hostile\.vcc"):
        unpack(path, folder / "out.h5ad")


def test_an_archive_that_unpacks_to_more_than_the_disk_is_refused(folder, monkeypatch):
    packed = zstandard.ZstdCompressor().compress(bytes(2**24))
    members = [(tarfile.TarInfo(H5AD_MEMBER), packed), (tarfile.TarInfo(WATERMARK_MEMBER), WATERMARK)]
    (folder / "bomb.vcc").write_bytes(archive_of(members))
    usage = type("Usage", (), {"free": 2**28 + 2**22})
    monkeypatch.setattr("state_hf.data.screens.vcc_archive.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="more than the disk holds"):
        unpack(folder / "bomb.vcc", folder / "bomb.h5ad")
    assert not list(folder.glob("*bomb.h5ad*"))


@pytest.fixture(scope="module")
def summary(folder):
    """What an evaluation keeps of its real side."""
    from state_hf import evaluate_predictions

    cells = as_cells(*counts("reference"))
    evaluate_predictions(cells, cells, "vcc2026", cache_dir=folder / "cache")
    (path,) = (folder / "cache").rglob("summary.npz")
    return path.read_bytes()


@fuzzed
@given(damages=byte_damages([b"PK\x01\x02", b"PK\x03\x04", b"|O", b"<f8", b"shape", b"(", b"True"]))
def test_cached_summary(folder, summary, damages):
    (folder / "summary.npz").write_bytes(damaged(summary, damages))
    with one_case():
        found = load_summary(folder, "summary")
        assert found is None or len(found) == 2


@fuzzed
@given(damages=byte_damages([b"null", b"NaN", b"{", b"}", b"[", b"]", b'"', b"1e999"]))
def test_cached_values(folder, damages):
    store_values(folder, "values", {"mae": 0.25, "pds": np.nan})
    path = folder / "values.json"
    path.write_bytes(damaged(path.read_bytes(), damages))
    with one_case():
        found = load_values(folder, "values")
        assert found is None or all(isinstance(value, float) for value in found.values())


@fuzzed
@given(damages=byte_damages([b"\x93NUMPY", b"|O", b"<f4", b"(", b")", b"True"]), of_settings=st.booleans())
def test_unfinished_run(folder, damages, of_settings):
    target = folder / "run.partial"
    if not target.exists():
        PartialResults.start(target, {"seed": 0}, num_rows=4, block_rows=2)
    content = json.dumps({"num_rows": 4, "block_rows": 2, "settings": {"seed": 0}}).encode()
    (target / "settings.json").write_bytes(damaged(content, damages) if of_settings else content)
    whole = PartialResults(target, 4, 2)
    for block in range(2):
        whole.write(block, np.ones((2, 3), dtype=np.float32))
    path = target / "block_00000001.npy"
    path.write_bytes(path.read_bytes() if of_settings else damaged(path.read_bytes(), damages))
    with one_case("run.partial"):
        for start, rows in PartialResults.resume(target, {"seed": 0}).blocks():
            assert rows.dtype == np.float32
            assert len(rows) == min(start + 2, 4) - start
