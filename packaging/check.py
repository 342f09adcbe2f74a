"""Build the wheel and the sdist, install the wheel into an empty environment, and run the installed command.

    python packaging/check.py                                  # this interpreter, the newest versions
    python packaging/check.py --python python3.13 --pins lowest
    python packaging/check.py --pins lowest --torch 2.13.0     # where only this torch has a build for your machine

The wheel from the sdist has to be that from the tree, byte by byte, and holds every tracked file of the package. What
runs in the environment is `smoke.py`. Needs nothing but the standard library, git, and a package index.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lowest_pins(pyproject: Path) -> list[str]:
    """Every requirement of the project at its lower bound: `torch>=2.9` gives `torch==2.9`.

    Raises:
        ValueError: A requirement has no lower bound.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    pins = []
    for requirement in project["dependencies"]:
        bound = re.fullmatch(r"([\w-]+)>=([\w.]+)(,<[\w.]+)?", requirement)
        if bound is None:
            raise ValueError(f"the requirement {requirement!r} has no lower bound")
        pins.append(f"{bound[1]}=={bound[2]}")
    return pins


def constraints(pins: str, torch: str | None) -> list[str]:
    """The lines of pip's constraint file for `--pins` and `--torch`."""
    if pins == "lowest":
        lines = lowest_pins(ROOT / "pyproject.toml")
    elif pins == "pinned":
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    else:
        lines = []
    if torch is None:
        return lines
    return [line for line in lines if not line.startswith("torch==")] + [f"torch=={torch}"]


def pip(python: Path, *arguments: str, constraint: Path | None = None) -> None:
    """Run pip of an environment, with a constraint file or none, whatever the caller's environment says."""
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    if constraint is not None:
        environment["PIP_CONSTRAINT"] = str(constraint)
    subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True, env=environment)


def make_environment(interpreter: str, folder: Path) -> Path:
    """A new virtual environment; its interpreter."""
    subprocess.run([interpreter, "-m", "venv", folder], check=True)
    return folder / "bin" / "python"


def build(folder: Path) -> tuple[Path, Path]:
    """Build from the tree, and the wheel once more from the sdist; the wheel and the sdist.

    Raises:
        ValueError: The two wheels differ, or files are missing in them.
    """
    python = make_environment(sys.executable, folder / "builder")
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    pip(python, "install", *backend)
    dist, again = folder / "dist", folder / "again"
    subprocess.run([python, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", dist], check=True, cwd=ROOT)
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    shutil.unpack_archive(sdist, folder / "unpacked", filter="data")
    (tree,) = (folder / "unpacked").iterdir()
    subprocess.run([python, "-m", "hatchling", "build", "-t", "wheel", "-d", again], check=True, cwd=tree)
    (second,) = again.glob("*.whl")
    members = contents(wheel)
    differing = sorted(name for name, _ in members.items() ^ contents(second).items())
    if differing:
        raise ValueError(f"the wheels from the tree and from the sdist differ: {', '.join(differing[:5])}")
    tracked = subprocess.run(["git", "ls-files", "src"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    missing = sorted({name.removeprefix("src/") for name in tracked.split()} - members.keys())
    if missing:
        raise ValueError(f"{len(missing)} tracked files are not in the wheel: {', '.join(missing[:5])}")
    print(f"built {wheel.name} ({len(members)} files, {wheel.stat().st_size / 1e6:.1f} MB) and {sdist.name}")
    print("the wheel from the sdist is the same, and every tracked file is in it")
    return wheel, sdist


def contents(wheel: Path) -> dict[str, str]:
    """The members of a wheel and their digests."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def main(argv: Sequence[str] | None = None) -> int:
    """Build, install, smoke-test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter to install for (default: this one)")
    parser.add_argument(
        "--pins",
        choices=("newest", "pinned", "lowest"),
        default="newest",
        help="versions: what pip takes by itself, those of constraints.txt, or the lower bounds of pyproject.toml",
    )
    parser.add_argument("--torch", metavar="VERSION", help="torch to install instead of the pins' choice")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="state-hf-") as name:
        folder = Path(name)
        wheel, _ = build(folder)
        python = make_environment(arguments.python, folder / "environment")
        lines = constraints(arguments.pins, arguments.torch)
        constraint = folder / "constraints.txt"
        constraint.write_text("\n".join(lines) + "\n", encoding="utf-8")
        # First and by itself: a build of torch for this machine is found by its exact version only.
        torch = next((line for line in lines if line.startswith("torch==")), "torch")
        pip(python, "install", torch, constraint=constraint)
        pip(python, "install", str(wheel), constraint=constraint)
        pip(python, "check")
        work = folder / "work"
        work.mkdir()
        # -I: nothing of the caller's folder or PYTHONPATH is importable.
        return subprocess.run([python, "-I", Path(__file__).with_name("smoke.py")], cwd=work, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
