"""Ridge regression of effects on features of perturbations."""

import numpy as np

from state_hf.training.screen_effects import ScreenEffects


def ridge_coefficients(screen: ScreenEffects, features: np.ndarray, penalty: float) -> np.ndarray:
    """(features + 1, genes): slopes and, in the last row, the intercept, which is not penalised; in closed form.

    Args:
        screen: Means of the training cells.
        features: (perturbations, features) of the vocabulary.
        penalty: On the squared slopes, above 0.
    """
    inputs, outputs = features[screen.perturbation], screen.effects
    input_mean, output_mean = inputs.mean(axis=0), outputs.mean(axis=0)
    centred = inputs - input_mean
    # The dual form: there are fewer pairs than features, or about as many.
    gram = centred @ centred.T + penalty * np.eye(len(outputs))
    slopes = centred.T @ np.linalg.solve(gram, outputs - output_mean)
    return np.concatenate([slopes, (output_mean - input_mean @ slopes)[None]])


__all__ = ["ridge_coefficients"]
