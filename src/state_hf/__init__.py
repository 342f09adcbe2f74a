"""The virtual cell in the Hugging Face ecosystem: Arc Institute's STATE as transformers models.

Importing `state_hf` loads nothing heavy: public names are imported when they are first used, and the Auto classes of
transformers learn of this package's models when they themselves are imported.
"""

from __future__ import annotations

import importlib

from state_hf import _registration
from state_hf._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # Importing `typing` takes longer than all of this module.
    from typing import Any

_EXPORTS = {
    "StateEmbeddingConfig": "state_hf.configuration.state_embedding",
    "StateEmbeddingModel": "state_hf.modeling.state_embedding",
    "StateEmbeddingForMaskedExpression": "state_hf.modeling.state_embedding_pretraining",
    "StateTransitionConfig": "state_hf.configuration.state_transition",
    "StateTransitionVocabulary": "state_hf.configuration.state_transition_vocabulary",
    "StateTransitionModel": "state_hf.modeling.state_transition",
    "StateTransitionForPerturbation": "state_hf.modeling.state_transition",
    "PerturbationBaselineConfig": "state_hf.configuration.perturbation_baseline",
    "PerturbationBaseline": "state_hf.modeling.baselines",
    "StateTransitionTrainer": "state_hf.training.state_transition_trainer",
    "StateTransitionTrainingArguments": "state_hf.training.state_transition_arguments",
    "CellCorpus": "state_hf.data.cell_corpus",
    "ExpressionTargets": "state_hf.training.expression_targets",
    "StateEmbeddingForSequenceClassification": "state_hf.modeling.state_embedding_classification",
    "StateEmbeddingTrainer": "state_hf.training.state_embedding_trainer",
    "StateEmbeddingTrainingArguments": "state_hf.training.state_embedding_arguments",
    "pretrain": "state_hf.pipelines.pretrain",
    "annotate": "state_hf.pipelines.annotate",
    "CellSentenceTokenizer": "state_hf.tokenization.cell_sentence",
    "resolve_genes": "state_hf.tokenization.gene_names",
    "PerturbationDataset": "state_hf.data.perturbation_dataset",
    "PerturbationSplit": "state_hf.data.splits",
    "generate_screen": "state_hf.data.synthetic_screen",
    "open_screens": "state_hf.data.perturbation_screens",
    "convert": "state_hf.conversion.convert",
    "convert_to_arc": "state_hf.conversion.to_arc",
    "inspect": "state_hf.conversion.inspection",
    "predict": "state_hf.pipelines.predict",
    "train": "state_hf.pipelines.train",
    "embed": "state_hf.pipelines.embed",
    "embed_genes": "state_hf.pipelines.embed_genes",
    "GeneTable": "state_hf.gene_embeddings.gene_table",
    "load_gene_table": "state_hf.gene_embeddings.gene_table",
    "extend_gene_table": "state_hf.gene_embeddings.model_tables",
    "differential_expression": "state_hf.pipelines.differential_expression",
    "evaluate_predictions": "state_hf.pipelines.evaluate",
    "push_folder": "state_hf.model_cards.hub",
    "push_metric": "state_hf.metrics.modules",
    "write_model_card": "state_hf.model_cards.card",
    "metric_path": "state_hf.metrics.modules",
    "write_evaluation_report": "state_hf.reporting.evaluation_report",
    "load_profile": "state_hf.metrics.profiles",
    "CellEmbeddingPipeline": "state_hf.pipelines.cell_embedding",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'state_hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_registration.install()
