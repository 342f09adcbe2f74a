"""Prompts about cells: templates with slots, and the answers that a language model is to learn.

A file of templates has the published form: {task: {"model_input": [prompts], "response": [answers]}}, in which a slot
is a name in braces, as `{cell_sentence}`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Self

import numpy as np

from state_hf.configuration.advice import Advised
from state_hf.configuration.near_names import nearest

EMBEDDING, CELL_TYPE, CONDITIONAL, PERTURBATION = (
    "embedding",
    "cell_type_prediction",
    "cell_type_generation",
    "perturbation_prediction",
)
SENTENCE, NUM_GENES = "cell_sentence", "num_genes"

_OWN = {
    EMBEDDING: {"model_input": ["{cell_sentence}"], "response": [""]},
    CELL_TYPE: {
        "model_input": [
            "Below stand {num_genes} genes of a single {organism} cell, from the highest expression to the lowest.\n"
            "Cell sentence: {cell_sentence}.\nThis cell is a",
            "A {organism} cell was sequenced. Sorted by falling expression, its first {num_genes} genes are:\n"
            "Cell sentence: {cell_sentence}.\nWhich type of cell is it?",
            "{num_genes} gene symbols, highest expression first, describe one cell ({organism}).\n"
            "Cell sentence: {cell_sentence}.\nAnnotation of the cell:",
            "Decide which cell type has such a profile: the top {num_genes} genes of one {organism} cell in "
            "descending order.\nCell sentence: {cell_sentence}.\nCell type:",
        ],
        "response": ["{cell_type}."],
    },
    CONDITIONAL: {
        "model_input": [
            "Make up one {organism} cell of the type {cell_type}: its {num_genes} most expressed genes, highest "
            "first.\nCell sentence:",
            "Which {num_genes} genes does a {cell_type} ({organism}) express most? Sort them by falling expression.\n"
            "Cell sentence:",
            "Simulate a single-cell measurement of a {organism} {cell_type} as {num_genes} genes in descending "
            "order.\nCell sentence:",
        ],
        "response": ["{cell_sentence}."],
    },
    PERTURBATION: {
        "model_input": [
            "An unperturbed {organism} cell, as its {num_genes} most expressed genes, highest first:\n"
            "Control cell sentence: {cell_sentence}.\nThe cell is treated with {perturbation}. Sort its genes again.\n"
            "Perturbed cell sentence:",
            "Given are the top {num_genes} genes of a {organism} control cell in descending order, and a "
            "perturbation, {perturbation}.\nControl cell sentence: {cell_sentence}.\nPerturbed cell sentence:",
        ],
        "response": ["{perturbed_sentence}."],
    },
}


def _slots(text: str) -> list[str]:
    """The names in braces, in order.

    Raises:
        ValueError: The text is no template.
    """
    names = []
    for _, name, spec, conversion in Formatter().parse(text):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(
                f"the template {text!r} has {{{name}}}: a slot is a name in braces; write {{{{ for a brace"
            )
        names.append(name)
    return names


@dataclass(frozen=True)
class Template:
    """One way to ask.

    Args:
        prompt: What the model reads.
        response: What it is to answer.
    """

    prompt: str
    response: str

    @property
    def slots(self) -> set[str]:
        """What has to be said of a cell to fill the prompt."""
        return set(_slots(self.prompt))

    def fill(self, values: Mapping[str, Any]) -> str:
        """The prompt of a cell.

        Raises:
            ValueError: A slot has no value.
        """
        return _filled(self.prompt, values)

    def answer(self, values: Mapping[str, Any]) -> str:
        """The response of a cell. Raises as `fill` does."""
        return _filled(self.response, values)


def _filled(text: str, values: Mapping[str, Any]) -> str:
    missing = [name for name in _slots(text) if name not in values]
    if missing:
        raise ValueError(
            f"the template {text!r} needs {missing[0]!r}, which is not given: pass {missing[0]}=... for all cells or "
            "one each"
        )
    return text.format_map(values)


class Templates:
    """Templates by task.

    Args:
        tasks: {task: {"model_input": prompts, "response": responses}}; a prompt goes with the response of its number,
            or with the only one. Tasks that are not in it are ours.

    Raises:
        ValueError: It is not of this form.
    """

    def __init__(self, tasks: Mapping[str, Mapping[str, Sequence[str]]] | None = None) -> None:
        self.given = {
            task: {part: list(texts) for part, texts in parts.items()} for task, parts in (tasks or {}).items()
        }
        self.tasks: dict[str, list[Template]] = {}
        for task, parts in {**_OWN, **self.given}.items():
            if set(parts) != {"model_input", "response"} or not all(parts.values()):
                raise ValueError(
                    f"the task {task!r} has {', '.join(parts)}; it needs texts in model_input and response"
                )
            prompts, responses = parts["model_input"], parts["response"]
            if len(responses) not in (1, len(prompts)):
                raise ValueError(
                    f"the task {task!r} has {len(prompts)} prompts and {len(responses)} responses; there is one for "
                    "all, or one for each"
                )
            answers = responses * len(prompts) if len(responses) == 1 else responses
            self.tasks[task] = [Template(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
            for template in self.tasks[task]:
                _slots(template.prompt), _slots(template.response)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a JSON file.

        Raises:
            ValueError: It is not of the form.
        """
        return cls(_read_tasks(Path(path).read_text(encoding="utf-8"), str(path)))

    @property
    def text(self) -> str:
        """The given templates as the content of a file."""
        return json.dumps(self.given, indent=1, ensure_ascii=False) + "\n"

    def of(self, task: str) -> list[Template]:
        """The templates of a task.

        Raises:
            ValueError: There is no such task.
        """
        if task not in self.tasks:
            raise ValueError(
                Advised(f"there is no task {task!r}: {nearest(task, list(self.tasks))}", "add it (templates=...)")
            )
        return self.tasks[task]

    def draw(self, task: str, *, number: int, seed: int, first_cell: int = 0) -> list[Template]:
        """A template of a task for each of some cells, by the seed and the cell's number alone."""
        known = self.of(task)
        cells = range(first_cell, first_cell + number)
        return [known[int(np.random.default_rng([seed, cell]).integers(len(known)))] for cell in cells]


def _read_tasks(text: str, place: str) -> dict[str, dict[str, list[str]]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is no JSON: {error}") from error
    is_tasks = isinstance(content, dict) and all(
        isinstance(parts, dict) and all(isinstance(texts, list) and all(isinstance(text, str) for text in texts)
                                        for texts in parts.values())
        for parts in content.values()
    )  # fmt: skip
    if not is_tasks:
        raise ValueError(f'{place} is not of the form {{task: {{"model_input": [texts], "response": [texts]}}}}')
    return content


def few_shot(examples: Sequence[tuple[str, str]], prompt: str, *, separator: str = " ") -> str:
    """A prompt behind solved examples of the same kind.

    Args:
        examples: (prompt, response) of each.
        prompt: The one to answer.
        separator: Between a prompt and its response.
    """
    solved = [f"{question}{separator}{answer}" for question, answer in examples]
    return "\n\n".join([*solved, prompt])


__all__ = [
    "CELL_TYPE",
    "CONDITIONAL",
    "EMBEDDING",
    "NUM_GENES",
    "PERTURBATION",
    "SENTENCE",
    "Template",
    "Templates",
    "few_shot",
]
