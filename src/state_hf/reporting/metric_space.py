"""The web page of a metric module: two .h5ad files in, values and the report out. Runs as a Space or at home."""

import tempfile
from pathlib import Path
from typing import Any

import evaluate

from state_hf.metrics.profiles import profile_names
from state_hf.reporting.evaluation_report import write_evaluation_report


def build_space(script: str | Path) -> Any:
    """The Gradio page of an `evaluate` module.

    Args:
        script: The module's script; its card, `README.md`, lies beside it.

    Returns:
        A `gradio.Blocks`, to be launched.

    Raises:
        ImportError: If `gradio` is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The web page of a metric needs gradio: pip install 'state-hf[space]'") from error
    card = Path(script).with_name("README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    with gradio.Blocks(title=Path(script).stem) as page:
        with gradio.Row():
            prediction = gradio.File(label="Predicted cells (.h5ad)", file_types=[".h5ad"])
            reference = gradio.File(label="Measured cells (.h5ad)", file_types=[".h5ad"])
        with gradio.Row():
            profile = gradio.Dropdown(profile_names(), value="vcc2025", label="Profile")
            perturbation_key = gradio.Textbox("perturbation", label="obs column of the perturbations")
            control = gradio.Textbox("non-targeting", label="Label of the control cells")
            baseline = gradio.Checkbox(True, label="Score against the mean baseline")
        start = gradio.Button("Evaluate", variant="primary")
        values = gradio.JSON(label="Values")
        report = gradio.File(label="Report")

        def score(predicted: str, measured: str, rule: str, column: str, label: str, scaled: bool) -> tuple[dict, str]:  # noqa: FBT001
            try:
                return score_files(
                    script, predicted, measured, rule, column, label, baseline="mean" if scaled else None
                )
            except ValueError as error:
                raise gradio.Error(str(error)) from error

        start.click(score, [prediction, reference, profile, perturbation_key, control, baseline], [values, report])
        gradio.Markdown(card)
    return page


def score_files(
    script: str | Path,
    prediction: str | None,
    reference: str | None,
    profile: str,
    perturbation_key: str,
    control: str,
    *,
    baseline: str | None,
) -> tuple[dict[str, float], str]:
    """Score one uploaded file against another.

    Returns:
        The values, and the path of the HTML report.

    Raises:
        ValueError: If a file is missing or the two cannot be scored.
    """
    if not prediction or not reference:
        raise ValueError("Give both files: the predicted and the measured cells.")
    module = evaluate.load(str(script), profile, perturbation_key=perturbation_key, control=control)
    values = module.compute(predictions=prediction, references=reference, baseline=baseline)
    report = write_evaluation_report(module.result, Path(tempfile.mkdtemp(), "report.html"))
    return values, str(report)
