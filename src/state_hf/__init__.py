"""The virtual cell in the Hugging Face ecosystem: Arc Institute's STATE as transformers models.

Importing `state_hf` loads nothing heavy: public names are imported when they are first used, and the Auto classes of
transformers learn of this package's models when they themselves are imported.
"""

from __future__ import annotations

import importlib

from state_hf import _registration
from state_hf._version import __version__
from state_hf.families import FAMILIES, FORMER_NAMES, public_classes

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` takes longer than all of this module. What type checkers and editors see:
    from typing import Any

    from state_hf.configuration.perturbation_vocabulary import PerturbationVocabulary as PerturbationVocabulary
    from state_hf.conversion.arc_state.to_arc import convert_to_arc as convert_to_arc
    from state_hf.conversion.convert import convert as convert
    from state_hf.conversion.inspection import inspect as inspect
    from state_hf.data.corpus.cell_corpus import CellCorpus as CellCorpus
    from state_hf.data.screens.perturbation_dataset import PerturbationDataset as PerturbationDataset
    from state_hf.data.screens.perturbation_screens import open_screens as open_screens
    from state_hf.data.screens.splits import PerturbationSplit as PerturbationSplit
    from state_hf.data.screens.synthetic_screen import generate_screen as generate_screen
    from state_hf.evaluate_modules.modules import metric_path as metric_path
    from state_hf.evaluate_modules.modules import push_metric as push_metric
    from state_hf.families import *  # noqa: F403
    from state_hf.gene_embeddings.gene_table import GeneTable as GeneTable
    from state_hf.gene_embeddings.gene_table import load_gene_table as load_gene_table
    from state_hf.gene_embeddings.model_tables import extend_gene_table as extend_gene_table
    from state_hf.inference.cell_encoder import CellEncoder as CellEncoder
    from state_hf.metrics.profiles import load_profile as load_profile
    from state_hf.model_cards.card import write_model_card as write_model_card
    from state_hf.model_cards.pushing import push_folder as push_folder
    from state_hf.pipelines.annotate import annotate as annotate
    from state_hf.pipelines.cell_embedding import CellEmbeddingPipeline as CellEmbeddingPipeline
    from state_hf.pipelines.differential_expression import differential_expression as differential_expression
    from state_hf.pipelines.embed import embed as embed
    from state_hf.pipelines.embed_genes import embed_genes as embed_genes
    from state_hf.pipelines.evaluate import evaluate_predictions as evaluate_predictions
    from state_hf.pipelines.finetune import finetune as finetune
    from state_hf.pipelines.finetune_genes import finetune_genes as finetune_genes
    from state_hf.pipelines.generate import generate as generate
    from state_hf.pipelines.medians import fit_medians as fit_medians
    from state_hf.pipelines.network import network as network
    from state_hf.pipelines.perturb import perturb as perturb
    from state_hf.pipelines.predict import predict as predict
    from state_hf.pipelines.pretrain import pretrain as pretrain
    from state_hf.pipelines.train import train as train
    from state_hf.reporting.evaluation_report import write_evaluation_report as write_evaluation_report
    from state_hf.reporting.network_report import write_network_report as write_network_report
    from state_hf.reporting.perturbation_report import write_perturbation_report as write_perturbation_report
    from state_hf.tokenization.gene_names import resolve_genes as resolve_genes
    from state_hf.tokenization.rank_expression import RankExpressionModel as RankExpressionModel
    from state_hf.training.expression_targets import ExpressionTargets as ExpressionTargets

# Verbs and parts of no family, and where they are: `tests/test_public_names.py` holds them against the block above.
_EXPORTS = {
    "CellCorpus": "state_hf.data.corpus.cell_corpus",
    "CellEncoder": "state_hf.inference.cell_encoder",
    "CellEmbeddingPipeline": "state_hf.pipelines.cell_embedding",
    "ExpressionTargets": "state_hf.training.expression_targets",
    "GeneTable": "state_hf.gene_embeddings.gene_table",
    "PerturbationDataset": "state_hf.data.screens.perturbation_dataset",
    "PerturbationSplit": "state_hf.data.screens.splits",
    "PerturbationVocabulary": "state_hf.configuration.perturbation_vocabulary",
    "RankExpressionModel": "state_hf.tokenization.rank_expression",
    "annotate": "state_hf.pipelines.annotate",
    "convert": "state_hf.conversion.convert",
    "convert_to_arc": "state_hf.conversion.arc_state.to_arc",
    "differential_expression": "state_hf.pipelines.differential_expression",
    "embed": "state_hf.pipelines.embed",
    "embed_genes": "state_hf.pipelines.embed_genes",
    "evaluate_predictions": "state_hf.pipelines.evaluate",
    "extend_gene_table": "state_hf.gene_embeddings.model_tables",
    "finetune": "state_hf.pipelines.finetune",
    "finetune_genes": "state_hf.pipelines.finetune_genes",
    "fit_medians": "state_hf.pipelines.medians",
    "generate": "state_hf.pipelines.generate",
    "generate_screen": "state_hf.data.screens.synthetic_screen",
    "inspect": "state_hf.conversion.inspection",
    "load_gene_table": "state_hf.gene_embeddings.gene_table",
    "load_profile": "state_hf.metrics.profiles",
    "metric_path": "state_hf.evaluate_modules.modules",
    "network": "state_hf.pipelines.network",
    "open_screens": "state_hf.data.screens.perturbation_screens",
    "perturb": "state_hf.pipelines.perturb",
    "predict": "state_hf.pipelines.predict",
    "pretrain": "state_hf.pipelines.pretrain",
    "push_folder": "state_hf.model_cards.pushing",
    "push_metric": "state_hf.evaluate_modules.modules",
    "resolve_genes": "state_hf.tokenization.gene_names",
    "train": "state_hf.pipelines.train",
    "write_evaluation_report": "state_hf.reporting.evaluation_report",
    "write_model_card": "state_hf.model_cards.card",
    "write_network_report": "state_hf.reporting.network_report",
    "write_perturbation_report": "state_hf.reporting.perturbation_report",
}
for _model_type in FAMILIES:
    _EXPORTS.update(public_classes(_model_type))

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    # A saved model of an earlier version asks for its classes under their former names.
    wanted = FORMER_NAMES.get(name, name)
    if wanted not in _EXPORTS:
        raise AttributeError(f"module 'state_hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[wanted]), wanted)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_registration.install()
