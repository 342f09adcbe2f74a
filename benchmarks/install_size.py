"""What an installation holds: packages and their files, against arc-state

    python benchmarks/install_size.py

The packages that the requirements lead to, without extras, and the files that each says it installed.
"""

import importlib.metadata as metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

from peers import python_of
from turns import ROOT, Contest, installed_versions, main


def closure(requirements: list[str]) -> dict[str, int]:
    """Bytes of every installed package that requirements lead to, by its name."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sizes: dict[str, int] = {}
    waiting = [(Requirement(text), "") for text in requirements]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            package = metadata.distribution(name)
            places = {Path(str(package.locate_file(file))).resolve() for file in package.files or ()}
            sizes[name] = sum(place.stat().st_size for place in places if place.is_file())
            waiting += [(Requirement(text), wanted) for text in package.requires or ()]
    return sizes


def package_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")


def claim(contest: Contest) -> None:
    ours = closure(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    ours["state-hf"] = package_size(ROOT / "src" / "state_hf")
    python = python_of("arc-state", contest.settings.peer_python)
    measured = subprocess.run([python, __file__, "--closure"], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(measured)
    sides = {"state-hf": ours, "arc-state": theirs["sizes"]}
    versions = {"state-hf": installed_versions(), "arc-state": theirs["versions"]}
    without_torch = {name: {k: v for k, v in sizes.items() if k != "torch"} for name, sizes in sides.items()}
    note = "torch is its CPU build in both." if contest.device == "cpu" else ""
    for case, items, amounts in (
        ("Installed packages", "packages", {name: float(len(sizes)) for name, sizes in sides.items()}),
        ("Installed files", "MB", {name: sum(sizes.values()) / 1e6 for name, sizes in sides.items()}),
        (
            "Installed files without torch",
            "MB",
            {name: sum(sizes.values()) / 1e6 for name, sizes in without_torch.items()},
        ),
    ):
        amount = {name: {"amount": value} for name, value in amounts.items()}
        contest.keep({"case": case, "items": items, "note": note, "sides": amount, "versions": versions})
        note = ""


if __name__ == "__main__":
    if "--closure" in sys.argv:
        print(json.dumps({"sizes": closure(["arc-state"]), "versions": installed_versions()}))
    else:
        main(claim)
