"""Start-up: importing a model class, and the help of the command, against arc-state

    python benchmarks/import_time.py [--quick]

Each in a new interpreter, with the files in the page cache.
"""

from turns import Contest, command, main

CODE = {
    "the package": ("import state_hf", "import state"),
    "the State Embedding model": (
        "from state_hf import StateEmbeddingModel",
        "from state.emb.nn.model import StateEmbeddingModel",
    ),
    "the State Transition model": (
        "from state_hf import StateTransitionForPerturbation",
        "from state.tx.models.state_transition import StateTransitionPerturbationModel",
    ),
}


def state_hf(what: str):
    if what == "help":
        return command("python", "-m", "state_hf", "--help")
    return command("python", "-c", CODE[what][0])


def arc_state(what: str):
    return command("state", "--help") if what == "help" else command("python", "-c", CODE[what][1])


def claim(contest: Contest) -> None:
    cases = {what: f"Import {what}" for what in CODE} | {"help": "`--help` of the command"}
    for what, case in cases.items():
        contest.compare(case, (state_hf, arc_state), {"what": what}, repeats=1 if contest.quick else 3)


if __name__ == "__main__":
    main(claim)
