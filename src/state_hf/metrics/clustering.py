"""Do predicted perturbation profiles fall into the same clusters as the real ones?"""

import warnings

import numpy as np

_NEIGHBOURS = 15
_REFERENCE_RESOLUTION = 1.0
_RESOLUTIONS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)


def clustering_agreement(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Best adjusted mutual information between Leiden clusters of predicted and real profiles.

    The real profiles are clustered once at resolution 1, the predicted ones over resolutions 0.2 to 2; both on 15
    nearest neighbours.

    Args:
        prediction: P x G.
        reference: P x G, the same perturbations.

    Returns:
        In [0, 1], best 1.

    Raises:
        ImportError: If scanpy is not installed.
        ValueError: If there are fewer than three perturbations.
    """
    try:
        from sklearn.metrics import adjusted_mutual_info_score
    except ImportError as error:
        raise ImportError(
            "clustering_agreement needs scanpy and Leiden; install them with: pip install 'state-hf[scanpy]'"
        ) from error
    if len(prediction) < 3:
        raise ValueError(f"clusters need at least 3 perturbations, there are {len(prediction)}")
    real = _leiden(reference, (_REFERENCE_RESOLUTION,))[0]
    scores = [adjusted_mutual_info_score(real, labels) for labels in _leiden(prediction, _RESOLUTIONS)]
    return float(max(0.0, *scores))


def _leiden(profiles: np.ndarray, resolutions: tuple[float, ...]) -> list[np.ndarray]:
    try:
        import igraph  # noqa: F401
        import scanpy
    except ImportError as error:
        raise ImportError(
            "clustering_agreement needs scanpy and Leiden; install them with: pip install 'state-hf[scanpy]'"
        ) from error
    cells = scanpy.AnnData(X=profiles.astype(np.float64))
    with warnings.catch_warnings():
        # scanpy imports and calls libraries whose deprecations are not the user's concern.
        warnings.simplefilter("ignore")
        scanpy.pp.neighbors(cells, n_neighbors=min(_NEIGHBOURS, len(profiles) - 1), use_rep="X")
        for resolution in resolutions:
            scanpy.tl.leiden(cells, resolution=resolution, key_added=str(resolution), flavor="igraph", n_iterations=2)
    return [cells.obs[str(resolution)].to_numpy() for resolution in resolutions]
