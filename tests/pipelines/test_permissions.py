"""Whatever is written can be read by whom the umask allows; whatever may not be read is called that."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from state_hf.cli import main
from tests.corpus_files import small_embedding_model, tokenizer
from tests.file_modes import mode, unreadable
from tests.fixtures.make_nullable_strings import nullable_screen, write

pytestmark = pytest.mark.filterwarnings("ignore:.*zarr v[23]")

SMALL = [
    "--hidden-size", "16", "--num-hidden-layers", "1", "--num-attention-heads", "2", "--intermediate-size", "16",
    "--device", "cpu",
]  # fmt: skip
PRETRAINING = [
    "--sentence-length", "16", "--expressed", "4", "--unexpressed", "4", "--shared", "4", "--batch-size", "16",
    "--held-out", "0.3", "--steps", "2", "--average-decay", "0.9",
]  # fmt: skip
# What no usual umask leaves, so that it is nobody's habit.
UMASK = 0o026


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A model, cells in both formats, a list of genes and a manifest."""
    folder = tmp_path_factory.mktemp("files")
    small_embedding_model(hidden_dropout_prob=0.0).save_pretrained(folder / "se")
    tokenizer().save_pretrained(folder / "se")
    screen = nullable_screen()
    for suffix in ("h5ad", "zarr"):
        write(screen, folder / f"cells.{suffix}")
    (folder / "genes.csv").write_text("\n".join(screen.var_names) + "\n")
    (folder / "manifest.csv").write_text("path,dataset\ncells.h5ad,one\n")
    return folder


def written(files: Path, folder: Path) -> None:
    """Run every command that writes."""
    cells, model = str(files / "cells.h5ad"), str(files / "se")
    screen, st = str(folder / "screen.h5ad"), str(folder / "st")
    out = {name: ["--output", str(folder / name)] for name in ("screen.h5ad", "st", "scores", "se", "tokens", "run")}
    commands = [
        *(["embed", cells, "--model", model, "--output", str(folder / f"e.{suffix}"), "--device", "cpu"]
          for suffix in ("h5ad", "zarr", "npy", "parquet")),
        ["annotate", cells, "--model", model, "--reference", cells, "--output", str(folder / "a.h5ad")],
        ["annotate", cells, "--model", model, "--reference", cells, "--output", str(folder / "a.csv"),
         "--fit-head", str(folder / "head")],
        ["finetune", cells, "--model", model, "--output", str(folder / "tuned"), "--trained", "lora", "--epochs", "1",
         "--report", str(folder / "tuned.html"), "--device", "cpu"],
        ["preprocess", cells, *out["screen.h5ad"], "--num-variable-genes", "20"],
        ["train", screen, *out["st"], "--test-cell-types", "type_1", "--set-size", "4", "--steps", "2",
         "--config", "use_perturbation_offsets=false", *SMALL],
        ["predict", screen, "--model", st, "--output", str(folder / "p.h5ad")],
        ["predict", screen, "--model", st, "--output", str(folder / "p.npy")],
        ["evaluate", cells, cells, *out["scores"], "--report", str(folder / "report.html"),
         "--cache-dir", str(folder / "cache"), "--baseline", "mean"],
        ["corpus", str(files / "manifest.csv"), "--model", model, "--table", str(folder / "corpus.csv")],
        ["tokenize", str(files / "manifest.csv"), "--model", model, *out["tokens"]],
        ["pretrain", str(files / "manifest.csv"), *out["se"], *PRETRAINING, *SMALL],
        ["convert", st, str(folder / "run"), "--to", "arc"],
        ["convert", str(folder / "run"), str(folder / "st-again")],
        ["convert", model, str(folder / "se.ckpt"), "--to", "arc"],
    ]  # fmt: skip
    for command in commands:
        assert main(command) == 0, command


def test_everything_that_is_written_follows_the_umask(files, tmp_path):
    before = os.umask(UMASK)
    try:
        (tmp_path / "out").mkdir()
        written(files, tmp_path / "out")
    finally:
        os.umask(before)
    paths = sorted((tmp_path / "out").rglob("*"))
    names = {path.name for path in paths}
    assert {"model.safetensors", "weight_average.safetensors", "trainer_state.json", "evaluation.json"} <= names
    assert {"genes.txt", "report.html", "labels.parquet", "final.ckpt"} & names
    other = {str(path.relative_to(tmp_path)): oct(mode(path)) for path in paths
             if mode(path) != ((0o777 if path.is_dir() else 0o666) & ~UMASK)}  # fmt: skip
    assert not other


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("output", ["h5ad", "zarr"])
def test_outputs_of_a_read_only_input_can_be_changed(files, tmp_path, suffix, output):
    source = tmp_path / f"cells.{suffix}"
    (shutil.copytree if suffix == "zarr" else shutil.copyfile)(files / source.name, source)
    inside = [*source.rglob("*"), source]
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    words = [str(source), "--model", str(files / "se"), "--output"]
    try:
        assert main(["embed", *words, str(tmp_path / f"embedded.{output}"), "--device", "cpu"]) == 0
        reference = ["--reference", str(source)]
        assert main(["annotate", *words, str(tmp_path / f"annotated.{output}"), *reference]) == 0
    finally:
        for path in inside:
            path.chmod(0o755)
    for name in ("embedded", "annotated"):
        made = tmp_path / f"{name}.{output}"
        assert all(mode(path) & 0o200 for path in [made, *made.rglob("*")])


@pytest.fixture(scope="module")
def shelf(files):
    """A copy of the files where other users come to: temporary folders of tests are their owner's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copytree(files, folder / "files")
        (folder / "files").chmod(0o755)
        yield folder / "files"


EMBED = "embed {0}/cells.h5ad --model {0}/se --output {0}/../e.npy --device cpu"
DENIED = {
    "embed": ("cells.h5ad", EMBED),
    "embed a store": ("cells.zarr", EMBED.replace("h5ad", "zarr")),
    "a store's inside": ("cells.zarr/X", EMBED.replace("h5ad", "zarr")),
    "weights": ("se/model.safetensors", EMBED),
    "configuration": ("se/config.json", EMBED),
    "gene names": ("se/genes.txt", EMBED),
    "a model's folder": ("se", EMBED),
    "annotate": (
        "cells.h5ad",
        "annotate {0}/cells.zarr --reference {0}/cells.h5ad --model {0}/se --output {0}/../a.csv --device cpu",
    ),
    "preprocess": ("cells.h5ad", "preprocess {0}/cells.h5ad --output {0}/../p.h5ad"),
    "train": ("cells.h5ad", "train {0}/cells.h5ad --output {0}/../st --test-cell-types type_1 --steps 1"),
    "evaluate": ("cells.h5ad", "evaluate {0}/cells.h5ad {0}/cells.h5ad"),
    "corpus": ("cells.h5ad", "corpus {0}/manifest.csv"),
    "manifest": ("manifest.csv", "corpus {0}/manifest.csv"),
    "inspect": ("se", "inspect {0}/se"),
    "convert": ("se/model.safetensors", "convert {0}/se {0}/../se.ckpt --to arc"),
}


@pytest.mark.parametrize("case", DENIED)
def test_what_may_not_be_read_is_not_called_missing_or_damaged(shelf, case, capsys):
    closed, words = DENIED[case]
    command = words.format(shelf).split()
    # Once as it is, so that all that the command imports is imported, which somebody else may not do.
    main(command)
    for left in shelf.parent.iterdir():
        if left != shelf:
            (shutil.rmtree if left.is_dir() else os.remove)(left)
    capsys.readouterr()
    with unreadable(shelf / closed):
        assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1].lower()
    assert "permission denied" in said
    assert str(shelf / closed).lower() in said
    assert not any(wrong in said for wrong in ("no such file", "there is no", "damaged", "not an .h5ad", "hub"))
