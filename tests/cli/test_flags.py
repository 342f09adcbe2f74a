"""An option is written once: the command's flag is the function's argument, with its default."""

import argparse
import importlib
import inspect

import pytest

# Verb -> (module and name of its function, flags that are no argument, arguments that no flag can give). What is read,
# and what the command makes of the result, have names of their own; a training's arguments are one object in Python.
VERBS = {
    "embed": ("embed:embed", {"input", "fill"}, {"data", "tokenizer"}),
    "annotate": ("annotate:annotate", {"fill"}, set()),
    "perturb": ("perturb:perturb", {"report", "fill"}, {"tokenizer"}),
    "generate": ("generate:generate", set(), set()),
    "network": ("network:network", {"report", "fill"}, {"tokenizer"}),
    "finetune": ("finetune:finetune", {"report"}, {"training"}),
    "finetune_genes": ("finetune_genes:finetune_genes", set(), {"training"}),
    "predict": ("predict:predict", {"input", "all_perturbations", "table"}, {"data"}),
    "preprocess": (
        "preprocess:preprocess",
        {"input", "filter_knockdown", "residual_expression", "cell_residual_expression", "min_cells"},
        {"source", "knockdown"},
    ),
    "evaluate": ("evaluate:evaluate_predictions", {"output", "report", "overwrite"}, {"device", "target_genes"}),
    "tokenize": ("tokenize:tokenize", {"manifest", "model"}, {"files", "tokenizer"}),
    "medians": ("medians:fit_medians", set(), set()),
    "embed_genes": ("embed_genes:embed_genes", set(), set()),
    "train": ("train:train", None, {"data", "training", "callbacks", "compute_prediction_metrics"}),
    "pretrain": ("pretrain:pretrain", None, {"corpus", "config", "training", "callbacks"}),
}
# (verb, flag) whose default is another, and why.
OTHER_DEFAULTS = {
    ("train", "config"),  # a list of NAME=VALUE
    ("pretrain", "held_out"),  # the command validates by default, as its curves are all that one sees of it
}


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_the_arguments(verb):
    place, own_flags, own_arguments = VERBS[verb]
    module, name = place.split(":")
    function = getattr(importlib.import_module(f"state_hf.pipelines.{module}"), name)
    arguments = {
        argument.name: argument.default
        for argument in inspect.signature(function).parameters.values()
        if argument.kind is not argument.VAR_KEYWORD
    }
    parser = argparse.ArgumentParser()
    importlib.import_module(f"state_hf.cli.{verb}").configure(parser)
    flags = {action.dest: action.default for action in parser._actions if action.dest != "help"}
    assert set(arguments) - set(flags) == own_arguments
    if own_flags is not None:
        assert set(flags) - set(arguments) == own_flags
    other = {
        (verb, flag)
        for flag, default in flags.items()
        if arguments.get(flag, inspect.Parameter.empty) is not inspect.Parameter.empty and arguments[flag] != default
    }
    assert other == {pair for pair in OTHER_DEFAULTS if pair[0] == verb}
