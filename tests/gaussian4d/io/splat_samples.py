"""Small seeded Gaussians for the tests of file formats, and how two sets are compared whatever their order."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from gaussian4d.io.splats import Splats, sigmoid


def sample(count: int = 300, degree: int = 3, seed: int = 0) -> Splats:
    """Returns Gaussians of ordinary sizes, colours and opacities, with all directions among their rotations."""
    rng = np.random.default_rng(seed)
    table = {
        "means": rng.normal(size=(count, 3)),
        "quats": rng.normal(size=(count, 4)),
        "scales": rng.normal(size=(count, 3)) * 0.5 - 3.0,
        "opacities": rng.normal(size=count) * 2.0,
        "sh0": rng.normal(size=(count, 1, 3)) * 0.5,
        "shN": rng.normal(size=(count, (degree + 1) ** 2 - 1, 3)) * 0.1,
    }
    table["quats"] /= np.linalg.norm(table["quats"], axis=1, keepdims=True)
    return {name: value.astype(np.float32) for name, value in table.items()}


def covariances(splats: Splats) -> np.ndarray:
    """Returns [N, 3, 3] covariances: what rotation and scale describe together, without a sign."""
    turn = Rotation.from_quat(splats["quats"][:, [1, 2, 3, 0]].astype(np.float64)).as_matrix()
    return turn @ (np.exp(2.0 * splats["scales"].astype(np.float64))[:, :, None] * turn.transpose(0, 2, 1))


def errors(expected: Splats, found: Splats) -> dict[str, float]:
    """Returns the largest difference of each attribute, once each Gaussian is matched with the one at its place."""
    assert len(found["means"]) == len(expected["means"])
    order = cKDTree(found["means"]).query(expected["means"])[1]
    assert len(set(order.tolist())) == len(order)
    matched = {name: value[order] for name, value in found.items()}
    wanted, got = covariances(expected), covariances(matched)
    rest = min(expected["shN"].shape[1], matched["shN"].shape[1])
    return {
        "means": float(np.abs(expected["means"] - matched["means"]).max()),
        "shape": float((np.abs(wanted - got).max(axis=(1, 2)) / np.abs(wanted).max(axis=(1, 2))).max()),
        "opacities": float(np.abs(sigmoid(expected["opacities"]) - sigmoid(matched["opacities"])).max()),
        "sh0": float(np.abs(expected["sh0"] - matched["sh0"]).max()),
        "shN": float(np.abs(expected["shN"][:, :rest] - matched["shN"][:, :rest]).max()) if rest else 0.0,
        "rest": float(matched["shN"].shape[1]),
    }
