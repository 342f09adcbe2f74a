"""A search for the settings of a fine-tuning, in the ranges that Geneformer's authors search in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from state_hf.data.whole_files import written_whole

_RESULT = "trials.json"


def search_settings(folder: Path, make_trainer: Callable[[], Trainer], trials: int) -> dict[str, Any]:
    """Train some times with drawn settings, and set those of the best trial in the trainer's arguments.

    Drawn are the learning rate from 1e-6 to 1e-3 (its logarithm evenly), the weight decay from 0 to 0.3, a linear,
    cosine or polynomial schedule, and 100 to 2,000 steps of warm-up, though at most half of the steps. The first ten
    trials are independent, the others near the good ones (optuna's tree-structured Parzen estimator, with the
    arguments' seed). A trial is worth what `metric_for_best_model` is at its last evaluation.

    Args:
        folder: Where the trials are kept: a search that is complete is not made again.
        make_trainer: Makes a trainer with `model_init`, whose arguments are those of the training to come.
        trials: How many.

    Returns:
        The settings of the best trial, by their names in `TrainingArguments`.

    Raises:
        ImportError: optuna is missing.
    """
    trainer = make_trainer()
    arguments: Any = trainer.args
    if not (folder / _RESULT).exists():
        _search(folder, trainer, arguments, trials)
    best = max(trials_of(folder), key=lambda trial: trial["value"] * (1 if arguments.greater_is_better else -1))
    for name, value in best["settings"].items():
        setattr(arguments, name, value)
    return best["settings"]


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """The trials of a search by number: `settings` and `value`; none where there was no search."""
    path = folder / _RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _search(folder: Path, trainer: Trainer, arguments: TrainingArguments, trials: int) -> None:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("a search for settings needs optuna: pip install 'state-hf[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = {name: getattr(arguments, name) for name in ("output_dir", "save_strategy", "load_best_model_at_end")}
    arguments.output_dir, arguments.load_best_model_at_end = str(folder / "runs"), False
    arguments.save_strategy = "no"
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = int(arguments.num_train_epochs * len(trainer.train_dataset) / batch)  # type: ignore[arg-type]

    def space(trial: optuna.Trial) -> dict[str, Any]:
        most = min(2000, steps // 2)
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3),
            "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine", "polynomial"]),
            "warmup_steps": trial.suggest_int("warmup_steps", min(100, most), most),
        }

    storage = optuna.storages.InMemoryStorage()

    def worth(metrics: dict[str, float]) -> float:
        return metrics[f"eval_{arguments.metric_for_best_model}"]

    trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=worth,
        n_trials=trials,
        direction="maximize" if arguments.greater_is_better else "minimize",
        backend="optuna",
        sampler=optuna.samplers.TPESampler(seed=arguments.seed),
        # Which trials end early would depend on how long the others were.
        pruner=optuna.pruners.NopPruner(),
        study_name=_RESULT,
        storage=storage,
    )
    study = optuna.load_study(study_name=_RESULT, storage=storage)
    found = [{"settings": trial.params, "value": trial.value} for trial in study.trials]
    for name, value in kept.items():
        setattr(arguments, name, value)
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / _RESULT) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


__all__ = ["search_settings", "trials_of"]
