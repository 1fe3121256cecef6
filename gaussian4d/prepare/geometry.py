"""Two views, many views: epipolar distance, triangulation, and the similarity between two sets of cameras."""

from __future__ import annotations

import numpy as np

from ..conventions import invert_rigid


def sampson_distance(K_a: np.ndarray, K_b: np.ndarray, T_b_a: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns how many pixels [n] matches miss their epipolar lines by, to first order.

    Args:
        K_a: [3, 3].
        K_b: [3, 3].
        T_b_a: [4, 4] rigid, from camera a's axes to camera b's.
        a: [n, 2] pixels.
        b: [n, 2] pixels.

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd edition, eq. 11.9.
    """
    t = T_b_a[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = np.linalg.inv(K_b).T @ cross @ T_b_a[:3, :3] @ np.linalg.inv(K_a)
    x, y = _homogeneous(a), _homogeneous(b)
    line_b, line_a = x @ F.T, y @ F
    residual = np.einsum("ij,ij->i", y, line_b)
    slope = line_b[:, 0] ** 2 + line_b[:, 1] ** 2 + line_a[:, 0] ** 2 + line_a[:, 1] ** 2
    return np.abs(residual) / np.sqrt(np.maximum(slope, 1e-24))


def ransac_fundamental(x: np.ndarray, y: np.ndarray, tolerance: float, rng: np.random.Generator) -> np.ndarray:
    """Returns which matches [n] the best fundamental matrix of random eight of them explains (normalised 8 points).

    Source: Hartley, "In defense of the eight-point algorithm", 1997; RANSAC by Fischler and Bolles, 1981.
    """
    best = np.zeros(len(x), dtype=bool)
    if len(x) < 8:
        return best
    shift, scale = 0.5 * (x.mean(0) + y.mean(0)), max(float(x.std()), float(y.std()), 1e-9)
    u = np.concatenate([(x - shift) / scale, np.ones((len(x), 1))], axis=1)
    v = np.concatenate([(y - shift) / scale, np.ones((len(y), 1))], axis=1)
    rows = (v[:, :, None] * u[:, None, :]).reshape(len(x), 9)
    for _ in range(400):
        chosen = rng.choice(len(x), 8, replace=False)
        F = np.linalg.svd(rows[chosen])[2][-1].reshape(3, 3)
        U, S, Vt = np.linalg.svd(F)
        F = U @ np.diag([S[0], S[1], 0.0]) @ Vt
        line_v, line_u = u @ F.T, v @ F
        slope = (line_v[:, :2] ** 2).sum(1) + (line_u[:, :2] ** 2).sum(1)
        miss = np.abs(np.einsum("ij,ij->i", v, line_v)) / np.sqrt(np.maximum(slope, 1e-24))
        explained = miss * scale <= tolerance
        if explained.sum() > best.sum():
            best = explained
    return best


def triangulate(P: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Returns the point [3] seen at `pixels` [v, 2] by cameras with projections `P` [v, 3, 4]: linear least squares.

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd edition, section 12.2.
    """
    rows = np.concatenate([pixels[:, :1] * P[:, 2] - P[:, 0], pixels[:, 1:] * P[:, 2] - P[:, 1]])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    X = np.linalg.svd(rows)[2][-1]
    return X[:3] / X[3] if abs(X[3]) > 1e-12 else np.full(3, np.nan)


def align_cameras(from_poses: np.ndarray, to_poses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how much two solutions of the same cameras differ after the best similarity between them.

    Args:
        from_poses: [c, 4, 4] world-to-camera, at least two.
        to_poses: [c, 4, 4] world-to-camera of the same cameras in another frame and scale.

    Returns:
        Degrees [c] between the viewing frames, and distances [c] between the centres as shares of the cameras' spread.

    The rotation is the mean of the cameras' own (chordal mean), because the centres of few cameras leave it open
    (two centres fix no roll); scale and shift then follow from the centres.
    """
    turns = np.swapaxes(to_poses[:, :3, :3], 1, 2) @ from_poses[:, :3, :3]
    U, _, Vt = np.linalg.svd(turns.sum(axis=0))
    R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    off = np.swapaxes(R[None], 1, 2) @ turns
    degrees = np.degrees(np.arccos(np.clip((np.trace(off, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    a = invert_rigid(from_poses)[:, :3, 3] @ R.T
    b = invert_rigid(to_poses)[:, :3, 3]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = float((a * b).sum() / max((a * a).sum(), 1e-12))
    spread = float(np.sqrt((b * b).sum(axis=1).mean()))
    return degrees, np.linalg.norm(scale * a - b, axis=1) / max(spread, 1e-12)


def _homogeneous(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
