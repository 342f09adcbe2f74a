"""Contestants take turns, each in a process and an environment of its own: what every benchmark shares.

A benchmark has one function a contestant, ours first. It imports, makes its data and its model, warms up, and returns
the call that is timed; the call may return how many items it worked through. `main(claim)` runs the benchmark: `claim`
is given a `Contest` and calls `compare` once a case. Every ratio is that of two neighbouring turns. Processor time is
that of all threads and of child processes; peak memory is the process's own (Linux only, from /proc).
"""

import argparse
import inspect
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmark_page import OURS, plain_row
from peers import PEERS, python_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "anndata", "numpy", "scipy", "numba", "scanpy", "polars", *PEERS)
THREADS = ("OMP", "MKL", "OPENBLAS", "NUMBA")

Prepare = Callable[..., Callable[[], int | None]]


def display_name(prepare: Prepare) -> str:
    return prepare.__name__.replace("_", "-")


class Contestant:
    """One function of a benchmark, prepared in a process of its own, that runs its call on demand."""

    def __init__(self, prepare: Prepare, options: dict[str, Any], settings: argparse.Namespace) -> None:
        name, script = prepare.__name__, inspect.getfile(prepare)
        python = python_of(display_name(prepare), settings.peer_python)
        threads = {f"{library}_NUM_THREADS": str(settings.threads) for library in THREADS}
        environment = {**os.environ, **threads, "POLARS_MAX_THREADS": str(settings.threads)}
        if python == sys.executable:
            environment["PYTHONPATH"] = str(ROOT / "src")
        command = [python, "-W", "ignore", script, "--serve", name, "--options", json.dumps(options)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment
        )
        self.versions = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        self.errors.seek(0)
        raise SystemExit(f"A contestant stopped: {self.process.args}\n{self.errors.read()[-3000:]}")

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def serve(prepare: Prepare, options: dict[str, Any]) -> None:
    """Prepare, then time the call once for every line on the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer

    def answer(content: dict[str, Any]) -> None:
        print(f"ANSWER {json.dumps(content)}", file=answers, flush=True)

    call = prepare(**options)
    start_mb = peak_memory()
    answer(installed_versions())
    for _ in sys.stdin:
        wall, used = time.perf_counter(), processor_seconds()
        items = call()
        wait_for_device()
        wall, used = time.perf_counter() - wall, processor_seconds() - used
        peak = {"peak_mb": peak_memory(), "start_mb": start_mb, **device_memory()}
        answer({"wall": wall / (items or 1), "cpu": used / (items or 1), **peak})


def installed_versions() -> dict[str, str]:
    names = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in names}


def processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory() -> float:
    """Peak resident memory of this process or of the largest of its children, in MB."""
    # Linux's own account of the process: that of `resource` begins with the parent's.
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return max(int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e6


def wait_for_device() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def device_memory() -> dict[str, float]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"device_mb": torch.cuda.max_memory_allocated() / 1e6}


def command(*words: str) -> Callable[[], None]:
    """A call that runs a command of this environment; its first word is a program beside the interpreter."""
    program = Path(sys.executable).with_name(words[0])

    def call() -> None:
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")

    return call


class Contest:
    """What a benchmark is given: its settings, and `compare`, which measures one case after another.

    Attributes:
        quick: Whether small sizes are wanted, that show that the benchmark runs rather than what is true.
        device: Where models run.
        threads: Of each contestant. Libraries are told by the environment; what asks the machine is to be told, too.
        rows: What was measured so far.
    """

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.quick: bool = settings.quick
        self.device: str = settings.device
        self.threads: int = settings.threads
        self.claim = (sys.modules["__main__"].__doc__ or "").splitlines()[0]
        self.rows: list[dict[str, Any]] = []
        if settings.resume and settings.results.exists():
            self.rows = json.loads(settings.results.read_text())["rows"]
        self.finished = {row["case"] for row in self.rows}

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for generated data: the one that `--folder` names, where files are kept, or a temporary one."""
        if self.settings.folder:
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            yield self.settings.folder.absolute()
            return
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)

    def compare(
        self,
        case: str,
        contestants: Sequence[Prepare],
        options: dict[str, Any],
        *,
        repeats: int,
        items: str | None = None,
        fresh: bool = False,
        before: Callable[[], None] | None = None,
        warm_up: int = 1,
        note: str = "",
        **labels: Any,
    ) -> None:
        """Let contestants take turns at one case, and print and keep what they took, unless an earlier run did.

        Args:
            case: What is measured, in a few words.
            contestants: Functions of the calling script: `state_hf` first, peers by their names; any other is a
                yardstick, that is neither won nor lost against.
            options: Keyword arguments of all of them, which JSON can hold.
            repeats: Turns of each that count.
            items: What the calls return the number of, in the plural; the rate is shown.
            fresh: Whether every turn gets a process of its own; there is no warm-up turn then.
            before: Called before every turn.
            warm_up: Turns of each that do not count.
            note: What a reader of the number should know.
            labels: What else is kept with the row.
        """
        if case in self.finished:
            return
        measured: dict[str, list[dict[str, float]]] = {display_name(prepare): [] for prepare in contestants}
        versions: dict[str, dict[str, str]] = {}
        running = {} if fresh else {prepare: self._start(prepare, options) for prepare in contestants}
        for number in range(0 if fresh else -warm_up, repeats):
            for prepare in contestants:
                contestant = running.get(prepare) or self._start(prepare, options)
                versions[display_name(prepare)] = contestant.versions
                if before is not None:
                    before()
                taken = contestant.turn()
                if number >= 0:
                    measured[display_name(prepare)].append(taken)
                if fresh:
                    contestant.close()
        for contestant in running.values():
            contestant.close()
        sides = {name: gathered(turns) for name, turns in measured.items()}
        yardsticks = [name for name in sides if name != OURS and name not in PEERS]
        row = {"case": case, "items": items, "note": note, "sides": sides, "yardsticks": yardsticks}
        self.keep({**row, **labels, "versions": versions})

    def _start(self, prepare: Prepare, options: dict[str, Any]) -> Contestant:
        return Contestant(prepare, options, self.settings)

    def keep(self, row: dict[str, Any]) -> None:
        """Print a row and keep it, so that a run that is interrupted goes on from here."""
        date = time.strftime("%Y-%m-%d", time.gmtime())
        self.rows.append({**row, "date": date, "load": os.getloadavg()[0], "threads": self.threads})
        print(plain_row(row), flush=True)
        self.write(complete=False)

    def write(self, *, complete: bool) -> None:
        """Write what was measured so far to the results file, if one was asked for."""
        if not self.settings.results:
            return
        measured = {"claim": self.claim, "complete": complete, "device": self.device, "rows": self.rows}
        temporary = self.settings.results.with_suffix(".part")
        temporary.write_text(json.dumps(measured, indent=1) + "\n")
        temporary.replace(self.settings.results)


def gathered(turns: list[dict[str, float]]) -> dict[str, Any]:
    """The turns of one contestant as columns: seconds an item, and the largest of the peaks."""
    peaks = {name: max(turn[name] for turn in turns) for name in turns[0] if name.endswith("_mb")}
    return {"wall": [turn["wall"] for turn in turns], "cpu": [turn["cpu"] for turn in turns], **peaks}


def arguments_of(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats")
    parser.add_argument("--threads", type=int, default=1, help="of each contestant")
    parser.add_argument("--device", default="cpu", help="cuda, for the benchmarks that run a model")
    parser.add_argument("--peer-python", action="append", default=[], metavar="ENVIRONMENT=PYTHON")
    parser.add_argument("--folder", type=Path, help="where generated data are kept (default: a temporary folder)")
    parser.add_argument("--results", type=Path, help="JSON file to write what was measured to")
    parser.add_argument("--resume", action="store_true", help="leave out the cases that the results file has")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main(claim: Callable[[Contest], None]) -> None:
    """Run the benchmark whose script calls this."""
    script = sys.modules["__main__"]
    settings = arguments_of(script.__doc__)
    if settings.serve:
        serve(getattr(script, settings.serve), settings.options)
        return
    contest = Contest(settings)
    claim(contest)
    contest.write(complete=True)
