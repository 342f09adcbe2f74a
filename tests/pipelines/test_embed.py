"""`embed` on objects and files: the same embedding whichever way, and clear refusals."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from transformers import AutoTokenizer

import state_hf
from state_hf import StateEmbeddingForMaskedExpression, StateEmbeddingModel, embed
from state_hf.data.partial_results import PartialResults
from tests.pipelines.conftest import GENES, make_cells

# anndata 0.12 announces its next default whenever it writes a store.
pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v[23]")


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> np.ndarray:
    """The embedding of `make_cells(90)`, by the model and the tokenizer themselves."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = StateEmbeddingModel.from_pretrained(tiny_model)
    encoding = tokenizer.encode_cells(make_cells(90))
    return model(**encoding).embedding.detach().numpy()


def test_object_gets_a_slot_and_its_provenance(tiny_model, adata, expected):
    assert embed(adata, tiny_model, device="cpu") is adata
    np.testing.assert_allclose(adata.obsm["X_state"], expected, atol=1e-5)
    assert adata.obsm["X_state"].dtype == np.float32
    record = adata.uns["X_state"]
    assert record["model"] == str(tiny_model)
    assert record["state_hf_version"] == state_hf.__version__
    assert record["input_type"] == "counts"
    assert record["genes"]["missing"] == ["UNKNOWN1", "UNKNOWN2"]
    assert len(np.unique(expected.round(4), axis=0)) > 80


@pytest.mark.parametrize("suffix", ["h5ad", "zarr", "npy", "parquet"])
def test_file_becomes_a_file(tiny_model, h5ad, expected, small_blocks, tmp_path, suffix):
    output = tmp_path / "out" / f"cells.{suffix}"
    assert embed(h5ad, tiny_model, output=output, key="X_tiny", device="cpu") == output
    if suffix == "npy":
        embedding = np.load(output)
        assert json.loads(output.with_name("cells.npy.json").read_text())["cells"] == 90
    elif suffix == "parquet":
        frame = pd.read_parquet(output)
        assert frame.index[89] == "cell89"
        embedding = frame.to_numpy()
    else:
        written = anndata.read_h5ad(output) if suffix == "h5ad" else anndata.read_zarr(output)
        assert written.uns["X_tiny"]["source"] == "cells.h5ad"
        embedding = written.obsm["X_tiny"]
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert {path.name for path in output.parent.iterdir()} <= {f"cells.{suffix}", "cells.npy.json"}


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (64, 0), ("auto", 2)])
@pytest.mark.parametrize("fill", ["seeded", "original"])
def test_result_depends_on_neither_batches_nor_workers(
    tiny_model, h5ad, small_blocks, tmp_path, batch_size, workers, fill
):
    options = {"fill": fill, "seed": 3, "device": "cpu"}
    reference = embed(make_cells(90), tiny_model, **options).obsm["X_state"]
    output = embed(h5ad, tiny_model, output=tmp_path / "out.npy", batch_size=batch_size, workers=workers, **options)
    np.testing.assert_allclose(np.load(output), reference, atol=1e-5)


def test_sentences_without_fill_are_batched_by_length(tiny_model, adata, small_blocks):
    one_by_one = embed(adata.copy(), tiny_model, fill="none", batch_size=1, device="cpu")
    together = embed(adata.copy(), tiny_model, fill="none", batch_size=64, device="cpu")
    np.testing.assert_allclose(together.obsm["X_state"], one_by_one.obsm["X_state"], atol=1e-5)


@pytest.mark.parametrize("kind", ["backed", "view", "csc", "dense", "raw", "layer", "headed model", "loaded model"])
def test_ways_in_are_equal(tiny_model, adata, h5ad, expected, tmp_path, kind):
    model, options = tiny_model, {"device": "cpu"}
    if kind == "backed":
        adata = anndata.read_h5ad(h5ad, backed="r")
    elif kind == "view":
        adata = adata[:50]
    elif kind == "csc":
        adata.X = sparse.csc_matrix(adata.X)
    elif kind == "dense":
        adata.X = adata.X.toarray()
    elif kind == "raw":
        adata.raw = adata
        adata = adata[:, :5].copy()
        options["layer"] = "raw"
    elif kind == "layer":
        adata.layers["counts"], adata.X = adata.X, adata.X * -1
        options["layer"] = "counts"
    elif kind == "headed model":
        base = StateEmbeddingModel.from_pretrained(tiny_model)
        model, options = StateEmbeddingForMaskedExpression(base.config), {"tokenizer": tiny_model}
        model.state_embedding = base
        model.train()
    else:
        model, options = StateEmbeddingModel.from_pretrained(tiny_model), {}
    output = embed(adata, model, output=tmp_path / "out.npy", **options)
    np.testing.assert_allclose(np.load(output), expected[: adata.n_obs], atol=1e-5)
    if kind == "headed model":
        assert model.training
    if kind == "backed":
        assert Path(adata.filename) == h5ad
        embed(adata, model, output=tmp_path / "copy.h5ad", **options)
        assert Path(adata.filename) == h5ad


def test_log_values_give_the_embedding_of_their_counts(tiny_model, adata, expected):
    adata.X = adata.X.log1p()
    embed(adata, tiny_model, input_type="auto", device="cpu")
    np.testing.assert_allclose(adata.obsm["X_state"], expected, atol=1e-4)


def test_several_files_go_to_a_folder(tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, number in (("a", 5), ("b", 7)):
        make_cells(number, seed=number).write_h5ad(folder / f"{name}.h5ad")
    assert embed(folder, tiny_model, output=tmp_path / "out", device="cpu") == [
        tmp_path / "out" / "a.h5ad",
        tmp_path / "out" / "b.h5ad",
    ]
    assert anndata.read_h5ad(tmp_path / "out" / "b.h5ad").obsm["X_state"].shape == (7, 18)
    paths = [folder / "b.h5ad", folder / "a.h5ad"]
    written = embed(paths, tiny_model, output=tmp_path / "arrays", format="npy", device="cpu")
    assert [len(np.load(path)) for path in written] == [7, 5]


def test_broken_file_is_found_before_the_first_is_embedded(tiny_model, h5ad, tmp_path):
    broken = make_cells(5)
    broken.var_names = [f"MOUSE{number}" for number in range(55)]
    broken.write_h5ad(tmp_path / "mouse.h5ad")
    with pytest.raises(ValueError, match=r"mouse\.h5ad: Only 0 of the dataset's 55 genes"):
        embed([h5ad, tmp_path / "mouse.h5ad"], tiny_model, output=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def fail_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end with a full disk after some blocks."""
    write = PartialResults.write

    def failing(self, block, rows):
        if self.num_blocks - len(self.missing()) >= blocks:
            raise OSError(28, "No space left on device")
        write(self, block, rows)

    monkeypatch.setattr(PartialResults, "write", failing)


@pytest.fixture
def interrupted(tiny_model, h5ad, small_blocks, tmp_path, monkeypatch) -> Path:
    """The output of a run that ended after 4 blocks."""
    output = tmp_path / "out.h5ad"
    with monkeypatch.context() as patch:
        fail_after(4, patch)
        with pytest.raises(OSError, match=r"disk is full; finished blocks are kept in .*out\.h5ad\.partial; make room"):
            embed(h5ad, tiny_model, output=output, device="cpu")
    assert not output.exists()
    assert len(list((tmp_path / "out.h5ad.partial").glob("block_*.npy"))) == 4
    return output


def test_interrupted_run_goes_on(tiny_model, h5ad, interrupted, expected, monkeypatch):
    computed = []
    write = PartialResults.write
    monkeypatch.setattr(
        PartialResults, "write", lambda self, block, rows: computed.append(block) or write(self, block, rows)
    )
    embed(h5ad, tiny_model, output=interrupted, resume=True, device="cpu")
    assert computed[0] == 4
    np.testing.assert_allclose(anndata.read_h5ad(interrupted).obsm["X_state"], expected, atol=1e-5)
    assert not interrupted.with_name("out.h5ad.partial").exists()
    # Once more: nothing is left to do but to clear away what a kill at the very end would leave.
    interrupted.with_name("out.h5ad.partial").mkdir()
    changed = interrupted.stat().st_mtime_ns
    embed(h5ad, tiny_model, output=interrupted, resume=True, device="cpu")
    assert interrupted.stat().st_mtime_ns == changed
    assert not interrupted.with_name("out.h5ad.partial").exists()


def test_interrupted_run_is_not_mixed_with_another(tiny_model, h5ad, adata, interrupted):
    with pytest.raises(FileExistsError, match=r"an unfinished run lies in .*resume=True.*overwrite=True"):
        embed(h5ad, tiny_model, output=interrupted, device="cpu")
    with pytest.raises(ValueError, match="seed was 0 and is 1"):
        embed(h5ad, tiny_model, output=interrupted, seed=1, resume=True, device="cpu")
    adata[:80].copy().write_h5ad(h5ad)
    with pytest.raises(ValueError, match=r"input was '.* bytes, changed at"):
        embed(h5ad, tiny_model, output=interrupted, resume=True, device="cpu")
    embed(h5ad, tiny_model, output=interrupted, overwrite=True, device="cpu")
    assert anndata.read_h5ad(interrupted).n_obs == 80


def test_complete_output_is_neither_lost_nor_taken_for_another(tiny_model, h5ad, tmp_path):
    output = embed(h5ad, tiny_model, output=tmp_path / "out.parquet", device="cpu")
    with pytest.raises(FileExistsError, match=r"out\.parquet exists already"):
        embed(h5ad, tiny_model, output=output, device="cpu")
    with pytest.raises(ValueError, match=r"is complete, but was made with other settings: fill was 'seeded'"):
        embed(h5ad, tiny_model, output=output, fill="none", resume=True, device="cpu")
    embed(h5ad, tiny_model, output=output, fill="none", overwrite=True, device="cpu")


def test_key_that_exists_is_refused_unless_it_is_to_be_replaced(tiny_model, h5ad, tmp_path):
    embed(h5ad, tiny_model, output=tmp_path / "once.h5ad", device="cpu")
    once = tmp_path / "once.h5ad"
    with pytest.raises(ValueError, match=r"once\.h5ad already has 'X_state'; choose another key"):
        embed(once, tiny_model, output=tmp_path / "twice.h5ad", device="cpu")
    embed(once, tiny_model, output=tmp_path / "array.npy", device="cpu")
    embed(once, tiny_model, output=tmp_path / "two.h5ad", key="X_again", device="cpu")
    embed(once, tiny_model, output=tmp_path / "twice.h5ad", overwrite=True, device="cpu")
    assert set(anndata.read_h5ad(tmp_path / "two.h5ad").obsm) == {"X_state", "X_again"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": None}, "Files need an output"),
        ({"output": "{input}"}, "is an input, which is never changed"),
        ({"output": "{folder}/out.csv"}, "its name must end in"),
        ({"format": "npy"}, "format is for an output folder"),
        ({"key": "a/b"}, "key must be a name without '/'"),
        ({"layer": "log"}, r"cells\.h5ad has no layer 'log' \(it has no layers and no raw\)"),
        ({"gene_column": "symbol"}, r"X of .*cells\.h5ad: var has no column 'symbol'"),
        ({"input_type": "log1p"}, r"X of .*cells\.h5ad: The values are said to be log1p"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16"),
        ({"workers": -1}, "workers must be a whole number from 0 on"),
        ({"resume": True, "overwrite": True}, "choose one of them"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(tiny_model, h5ad, tmp_path, options, message):
    arguments = {"output": "{folder}/out.h5ad", "device": "cpu", **options}
    if arguments["output"] is not None:
        arguments["output"] = arguments["output"].format(input=h5ad, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        embed(h5ad, tiny_model, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]


def test_tokenizer_of_another_model_is_refused(tiny_model, adata):
    from state_hf import StateEmbeddingTokenizer

    with pytest.raises(ValueError, match="knows 50 genes, but the model's gene table has 60"):
        embed(adata, tiny_model, tokenizer=StateEmbeddingTokenizer(GENES[:50]), device="cpu")


def test_loaded_model_stays_where_it_is(tiny_model, adata):
    model = StateEmbeddingModel.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match="A loaded model stays where it is"):
        embed(adata, model, device="cpu")
    with pytest.raises(ValueError, match=r"convert it with model\.to\(torch\.bfloat16\)"):
        embed(adata, model, dtype="bfloat16")


def test_disk_that_is_too_small_is_found_before_the_work(tiny_model, h5ad, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(OSError, match=r"The output needs about 0\.\d\d GB, but 0\.00 GB are free"):
        embed(h5ad, tiny_model, output=tmp_path / "out.h5ad", device="cpu")
    assert not (tmp_path / "out.h5ad.partial").exists()


def test_half_precision_is_close(tiny_model, adata, expected):
    embed(adata, tiny_model, dtype="bfloat16", device="cpu")
    assert adata.uns["X_state"]["dtype"] == "bfloat16"
    assert np.abs(adata.obsm["X_state"][:, :8] - expected[:, :8]).mean() < 0.05
