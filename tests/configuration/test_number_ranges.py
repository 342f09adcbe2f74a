"""Numbers that would make a model fail late, or predict NaN, are refused by its configuration."""

import math

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError

from state_hf import PerturbationBaselineConfig, StateEmbeddingConfig, StateTransitionConfig


@pytest.mark.parametrize(
    ("config_class", "field", "value", "message"),
    [
        (StateEmbeddingConfig, "hidden_size", 0, "must be at least 1, but is 0"),
        (StateEmbeddingConfig, "num_hidden_layers", 2**31, "must be at most 1,000, but is 2,147,483,648"),
        (StateTransitionConfig, "num_encoder_layers", 1001, "must be at most 1,000, but is 1,001"),
        (StateTransitionConfig, "input_dim", -3, "must be at least 1, but is -3"),
        (PerturbationBaselineConfig, "num_cell_types", 0, "must be at least 1, but is 0"),
        (PerturbationBaselineConfig, "perturbation_dim", -1, "must be at least 0, but is -1"),
        (StateEmbeddingConfig, "layer_norm_eps", -0.5, "must be between 0 and 1, but is -0.5"),
        (StateTransitionConfig, "layer_norm_eps", 1.0, "must be between 0 and 1, but is 1.0"),
        (StateTransitionConfig, "rms_norm_eps", 0.0, "must be between 0 and 1, but is 0.0"),
        (StateEmbeddingConfig, "attention_dropout", math.nan, "must be at least 0 and below 1, but is nan"),
        (StateEmbeddingConfig, "hidden_dropout_prob", 1.0, "must be at least 0 and below 1, but is 1.0"),
        (StateTransitionConfig, "backbone_dropout", -0.1, "must be at least 0 and below 1, but is -0.1"),
        (StateEmbeddingConfig, "class_weights", [1.0, math.inf], "must hold finite numbers"),
        (StateTransitionConfig, "effect_scale", math.nan, "must hold finite numbers, but is nan"),
        (StateTransitionConfig, "loss_kwargs", {"blur": math.nan}, "must hold finite numbers"),
        (PerturbationBaselineConfig, "target_sum", math.inf, "must hold finite numbers, but is inf"),
    ],
)
def test_numbers_out_of_range_are_refused(config_class, field, value, message):
    with pytest.raises(StrictDataclassClassValidationError, match=f"{field} {message}"):
        config_class(**{field: value})
