"""What can be read can be written: nullable text and numbers go through every command and into every format."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from state_hf import embed
from state_hf.cli import main
from state_hf.data.cells.anndata_files import open_store
from tests.corpus_files import small_embedding_model, tokenizer
from tests.fixtures.make_nullable_strings import nullable_screen, write

# anndata 0.12 announces its next default whenever it writes a store.
pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v[23]")

# Written by anndata 0.13 with pandas 3, where all text is nullable.
OF_PANDAS_3 = Path(__file__).parents[1] / "fixtures" / "nullable_strings.h5ad"
SMALL = [
    "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "16",
    "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "se"
    small_embedding_model(hidden_dropout_prob=0.0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["here", "here.zarr", "pandas 3"])
def source(request, tmp_path_factory) -> Path:
    if request.param == "pandas 3":
        return OF_PANDAS_3
    path = tmp_path_factory.mktemp("source") / f"nullable.{'zarr' if 'zarr' in request.param else 'h5ad'}"
    write(nullable_screen(), path)
    return path


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preprocessed") / "screen.h5ad"
    words = [str(OF_PANDAS_3), "--output", str(path), "--num-variable-genes", "20", "--keep-counts"]
    assert main(["preprocess", *words]) == 0
    return path


@pytest.fixture(scope="module")
def trained(preprocessed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "st"
    words = ["--output", str(folder), "--test-cell-types", "type_1", "--set-size", "4", "--steps", "2"]
    assert main(["train", str(preprocessed), *words, *SMALL]) == 0
    return folder


def nullable_text(path: Path) -> list[str]:
    """The nullable text in a file or store of which nothing is missing, so that it had no need to be that."""
    found = []
    with open_store(path, "r") as store:
        waiting = [("", store)]
        while waiting:
            place, group = waiting.pop()
            for name in group:
                member = group[name]
                if member.attrs.get("encoding-type") == "nullable-string-array" and not member["mask"][...].any():
                    found.append(f"{place}/{name}")
                elif isinstance(member, h5py.Group | zarr.Group):
                    waiting.append((f"{place}/{name}", member))
    return found


def read(path: Path) -> anndata.AnnData:
    return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def as_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells of a frame as Python's own objects, with `None` where there is none, whatever holds them."""
    table = {str(name): [None if pd.isna(cell) else cell for cell in column] for name, column in frame.items()}
    return pd.DataFrame(table, index=list(map(str, frame.index)), dtype=object)


def check_same_frames(found: anndata.AnnData, expected: anndata.AnnData, *, added: tuple[str, ...] = ()) -> None:
    for slot in ("obs", "var"):
        columns = getattr(found, slot).drop(columns=list(added), errors="ignore")
        pd.testing.assert_frame_equal(as_objects(columns), as_objects(getattr(expected, slot)))
    assert found.obs["age"].dtype == "Int64"
    assert found.obs["smoker"].dtype == "boolean"
    assert found.obs["stage"].cat.ordered
    assert found.obs["donor"].isna().any()
    assert list(found.obs["cell_type"].cat.categories) == ["type_1", "type_2"]


def check_whole(folder: Path, *names: str) -> None:
    """These files are there and nothing else, as a temporary one."""
    assert {path.name for path in folder.iterdir()} == set(names)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "npy", "parquet"])
def test_embed(source, model, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    assert main(["embed", str(source), "--model", str(model), "--output", str(output), "--device", "cpu"]) == 0
    check_whole(tmp_path, output.name, *([f"{output.name}.json"] if suffix == "npy" else []))
    if suffix in ("h5ad", "zarr"):
        written, expected = read(output), read(source)
        check_same_frames(written, expected)
        assert written.obsm["X_state"].shape[0] == expected.n_obs
        assert list(written.uns["colours"]) == ["red", "blue"]
        pd.testing.assert_frame_equal(as_objects(written.obsm["clinic"]), as_objects(expected.obsm["clinic"]))
        np.testing.assert_array_equal(written.raw.X.toarray(), expected.raw.X.toarray())
        # A copy in the format of its source is the source's own bytes.
        assert output.suffix == source.suffix or not nullable_text(output)
    elif suffix == "parquet":
        assert pd.read_parquet(output).index.tolist()[:2] == ["cell 0", "cell 1"]


def test_embed_a_folder(model, tmp_path):
    (tmp_path / "in").mkdir()
    write(nullable_screen(), tmp_path / "in" / "cells.h5ad")
    words = [str(tmp_path / "in"), "--model", str(model), "--output", str(tmp_path / "out"), "--format", "zarr"]
    assert main(["embed", *words, "--device", "cpu"]) == 0
    check_whole(tmp_path / "out", "cells.zarr")


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "npy", "parquet"])
def test_embed_an_object(source, model, tmp_path, suffix):
    adata = read(source)
    before = adata.copy()
    embed(adata, model, output=tmp_path / f"out.{suffix}", device="cpu")
    check_same_frames(adata, before)
    assert adata.obs.dtypes.astype(str).tolist() == before.obs.dtypes.astype(str).tolist()
    if suffix in ("h5ad", "zarr"):
        check_same_frames(read(tmp_path / f"out.{suffix}"), before)
        assert not nullable_text(tmp_path / f"out.{suffix}")


def test_annotate(source, model, tmp_path):
    words = [str(source), "--model", str(model), "--reference", str(source)]
    for suffix in ("csv", "h5ad", "zarr"):
        assert main(["annotate", *words, "--output", str(tmp_path / f"out.{suffix}")]) == 0
    check_whole(tmp_path, "out.csv", "out.csv.json", "out.h5ad", "out.zarr")
    labels = pd.read_csv(tmp_path / "out.csv")["predicted_cell_type"].tolist()
    for suffix in ("h5ad", "zarr"):
        written = read(tmp_path / f"out.{suffix}")
        added = tuple(name for name in written.obs if name.startswith("predicted_"))
        check_same_frames(written, read(source), added=added)
        assert written.obs["predicted_cell_type"].tolist() == labels


def test_preprocess(source, tmp_path):
    output = tmp_path / "out.h5ad"
    words = [str(source), "--output", str(output), "--num-variable-genes", "20", "--keep-counts"]
    filtered = [
        "--filter-knockdown",
        "--residual-expression",
        "2",
        "--cell-residual-expression",
        "2",
        "--min-cells",
        "1",
    ]
    assert main(["preprocess", *words, *filtered]) == 0
    assert main(["preprocess", *words, "--overwrite"]) == 0
    check_whole(tmp_path, "out.h5ad")
    assert not nullable_text(output)
    ranking = ("highly_variable", "means", "dispersions", "dispersions_norm")
    check_same_frames(read(output), read(source), added=ranking)
    # But for text that is missing, anndata writes it again as it is set by default.
    complete = read(output)
    del complete.obs["donor"], complete.var["ensembl"], complete.obsm["clinic"], complete.uns["names"]
    complete.write_h5ad(tmp_path / "again.h5ad")


def test_predict_and_evaluate(trained, preprocessed, tmp_path, capsys):
    for suffix in ("h5ad", "npy"):
        words = [str(preprocessed), "--model", str(trained), "--output", str(tmp_path / f"out.{suffix}")]
        assert main(["predict", *words]) == 0
    check_whole(tmp_path, "out.h5ad", "out.npy", "out.obs.csv")
    assert not nullable_text(tmp_path / "out.h5ad")


def test_evaluate_nullable_names_against_plain_ones(preprocessed, tmp_path):
    nullable = anndata.read_h5ad(preprocessed)
    nullable.obs_names, nullable.var_names = nullable.obs_names.astype("string"), nullable.var_names.astype("string")
    nullable.obs["perturbation"] = nullable.obs["perturbation"].astype("string")
    write(nullable, tmp_path / "nullable.h5ad")
    both = [str(preprocessed), str(tmp_path / "nullable.h5ad")]
    for pair in (both, both[::-1]):
        assert (
            main(
                ["evaluate", *pair, "--cell-type-key", "cell_type", "--output", str(tmp_path / "scores"), "--overwrite"]
            )
            == 0
        )


def test_corpus_tokenize_and_pretrain(source, model, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"path,dataset\n{source},one\n")
    assert main(["corpus", str(manifest), "--model", str(model), "--table", str(tmp_path / "table.csv")]) == 0
    assert main(["tokenize", str(manifest), "--model", str(model), "--output", str(tmp_path / "tokens")]) == 0
    words = "--sentence-length 16 --expressed 4 --unexpressed 4 --shared 4 --batch-size 16 --steps 2 --held-out 0.3"
    assert main(["pretrain", str(manifest), "--output", str(tmp_path / "se"), *words.split(), *SMALL]) == 0
    check_whole(tmp_path, "manifest.csv", "table.csv", "tokens", "se")


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_what_no_file_can_hold_is_refused_before_the_work(model, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("state_hf.pipelines.embed._embed_file", lambda *arguments: pytest.fail("work was begun"))
    adata = nullable_screen()
    adata.obs["visit"] = pd.to_datetime(["2026-01-01"] * adata.n_obs)
    with pytest.raises(
        ValueError, match=rf"the AnnData object has something that .*out\.{suffix} cannot hold: .*visit"
    ):
        embed(adata, model, output=tmp_path / f"out.{suffix}", device="cpu")
    check_whole(tmp_path)
