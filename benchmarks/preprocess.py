"""Preprocessing a file of raw counts, command against command: ours and arc-state's

    python benchmarks/preprocess.py [--quick]

`state-hf preprocess` and `state tx preprocess_train`: normalise, log1p, 2,000 variable genes, a new file. Start-up of
the programs is part of it.
"""

from pathlib import Path

from perturbation_screens import SIZES, in_words, write_pair
from turns import Contest, command, main


def state_hf(source: str, folder: str):
    output = str(Path(folder, "ours.h5ad"))
    return command("python", "-m", "state_hf", "preprocess", source, "--output", output, "--overwrite")


def arc_state(source: str, folder: str):
    output = str(Path(folder, "theirs.h5ad"))
    return command("state", "tx", "preprocess_train", "--adata", source, "--output", output, "--num_hvgs", "2000")


def claim(contest: Contest) -> None:
    with contest.folder() as folder:
        for name in ("a",) if contest.quick else ("a", "b"):
            source = write_pair(folder, name, lognorm=False)[1]
            contest.compare(
                f"Preprocess, {in_words(SIZES[name])}",
                (state_hf, arc_state),
                {"source": str(source), "folder": str(folder)},
                repeats=1 if contest.quick else 2,
                warm_up=1 if name == "a" else 0,
            )


if __name__ == "__main__":
    main(claim)
