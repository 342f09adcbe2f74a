"""The turns of contestants, of a benchmark that takes no time, and what interpreters they get."""

import json
import subprocess
import sys

import pytest
from peers import python_of

SCRIPT = """
\"\"\"Doing nothing\"\"\"

import sys

sys.path.insert(0, {folder!r})
from turns import main


def state_hf(items):
    print("what is printed is no answer")
    return lambda: items


def other_way(items):
    return lambda: items


def claim(contest):
    for case in ("first", "second"):
        contest.compare(case, (state_hf, other_way), {{"items": 3}}, repeats=2, items="cells", fresh=case == "second")


if __name__ == "__main__":
    main(claim)
"""


def test_turns_are_kept_and_resumed(tmp_path):
    import turns

    script, results = tmp_path / "nothing.py", tmp_path / "nothing.json"
    script.write_text(SCRIPT.format(folder=str(turns.ROOT / "benchmarks")))
    command = [sys.executable, str(script), "--results", str(results)]
    subprocess.run(command, check=True)
    measured = json.loads(results.read_text())
    assert measured["claim"] == "Doing nothing"
    assert measured["complete"]
    assert [row["case"] for row in measured["rows"]] == ["first", "second"]
    assert [len(side["wall"]) for side in measured["rows"][0]["sides"].values()] == [2, 2]
    assert measured["rows"][0]["yardsticks"] == ["other-way"]
    first = measured["rows"][0]
    results.write_text(json.dumps({**measured, "complete": False, "rows": [first]}))
    subprocess.run([*command, "--resume"], check=True)
    resumed = json.loads(results.read_text())
    assert resumed["rows"][0] == first
    assert [row["case"] for row in resumed["rows"]] == ["first", "second"]


def test_interpreters(monkeypatch):
    monkeypatch.delenv("STATE_HF_PEERS", raising=False)
    assert python_of("state-hf") == sys.executable
    assert python_of("pdex", ["arc-state=/elsewhere/python"]) == "/elsewhere/python"
    monkeypatch.setenv("STATE_HF_PEERS", "cell-eval2=/a/python arc-state=/b/python")
    assert python_of("cell-eval2") == "/a/python"
    assert python_of("geomloss", ["arc-state=/c/python"]) == "/c/python"
    with pytest.raises(SystemExit, match="is not ENVIRONMENT=PYTHON"):
        python_of("pdex", ["pdex=/a/python"])
