"""Print constraints.txt: the versions of every package that the project leads to, as some environments hold them.

    python packaging/pins.py py311/bin/python py312/bin/python py313/bin/python > constraints.txt

Make the environments with plain pip (`pip install -e '.[dev]'` without constraints, one a Python version), run the
whole suite in each, and print what passed. Where the versions differ, a marker says for which Python each is. Builds of
one machine (`+cpu`), and the CUDA packages that a build of torch brings, are left out.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

# Runs in each environment, whose packages say what they require there.
LIST = """
import importlib.metadata, json, re, sys
from packaging.requirements import Requirement

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

waiting, seen, versions = [("state-hf", "dev")], set(), {}
while waiting:
    name, extra = waiting.pop()
    if (name, extra) in seen or name.startswith(("nvidia-", "cuda-", "triton")):
        continue
    seen.add((name, extra))
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{sys.executable} lacks {name}")
    if name != "state-hf":
        versions[name] = found.version.partition("+")[0]
    for text in found.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
            waiting += [(plain(wanted.name), part) for part in {"", *wanted.extras}]
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "versions": versions}))
"""


def lines_of(name: str, versions: dict[str, str]) -> list[str]:
    """The lines of one package, from its version by Python: one, or one for each stretch of Pythons that share one."""
    if len(set(versions.values())) == 1:
        return [f"{name}=={next(iter(versions.values()))}"]
    pythons = list(versions)
    starts = [python for i, python in enumerate(pythons) if i == 0 or versions[python] != versions[pythons[i - 1]]]
    lines = []
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        bounds = [f'python_version >= "{start}"'] if start != pythons[0] else []
        bounds += [f'python_version < "{stop}"'] if stop is not None else []
        lines.append(f"{name}=={versions[start]} ; {' and '.join(bounds)}")
    return lines


def main(interpreters: Sequence[str]) -> None:
    """Print the file."""
    packages: dict[str, dict[str, str]] = {}
    for interpreter in interpreters:
        done = subprocess.run([interpreter, "-I", "-c", LIST], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        for name, version in found["versions"].items():
            packages.setdefault(name, {})[found["python"]] = version
    print(
        "# The exact versions that CI runs, on every package that an environment of ours holds (see packaging/pins.py)."
    )
    for name in sorted(packages):
        print("\n".join(lines_of(name, packages[name])))


if __name__ == "__main__":
    main(sys.argv[1:])
