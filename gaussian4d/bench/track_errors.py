"""How far the tracks of a model are from true ones, as a share of the object's size."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import UserError
from ..model import DynamicGaussians
from ..tracks import track_points

FILE = "gt_tracks.npz"
# A file with more numbers than this is not read: it would be 2 GB.
_MOST = 250_000_000


@dataclasses.dataclass
class TrackErrors:
    """Distances between followed points and the truth, in shares of the object's size."""

    start: int
    """Instant at which the points were handed over."""
    tracks: Float[np.ndarray, "T P 3"]
    median: Float[np.ndarray, " T"]
    """Over the points, at every instant; 0 at the start."""
    percentile_90: Float[np.ndarray, " T"]
    still: Float[np.ndarray, " T"]
    """Median error of points that stay where they were."""
    summary: dict[str, float]
    """`median` and `percentile_90` over all points and all instants but the start, the same of points that stay."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the errors as JSON values, without the tracks."""
        lists = {name: getattr(self, name).tolist() for name in ("median", "percentile_90", "still")}
        return {"start": self.start, **self.summary, "per_instant": lists}


def load_true_tracks(scene: str | Path) -> Float[np.ndarray, "T P 3"] | None:
    """Returns the true tracks [T, P, 3] that lie with the scene, world units, float64; None without any.

    Raises:
        UserError: when the file is not what it should be.
    """
    path = Path(scene) / FILE
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive, archive.open("xyz.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape = read_header(member)[0]
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or int(np.prod(shape, dtype=object)) > _MOST:
            raise ValueError(f"xyz has shape {shape}")
        with np.load(path, allow_pickle=False) as arrays:
            xyz = arrays["xyz"].astype(np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected an array xyz [instants, points, 3] ({error}); restore the file") from None
    if not np.isfinite(xyz).all():
        raise UserError(f"{path}: expected finite positions in xyz, got NaN or infinity; restore the file")
    return xyz


def object_size(truth: Float[np.ndarray, "T P 3"]) -> float:
    """Returns the diagonal of the box around the true points at the first instant, world units."""
    return float(np.linalg.norm(np.ptp(truth[0], axis=0)))


def track_errors(
    model: DynamicGaussians, truth: Float[np.ndarray, "T P 3"], times: np.ndarray, start: int = 0
) -> TrackErrors:
    """Returns the errors of the points of instant `start`, followed through all `times` [T] by `track_points`.

    Raises:
        UserError: when the truth has other instants than `times`, or the model cannot be followed.
    """
    if len(truth) != len(times):
        raise UserError(f"expected true tracks at the scene's {len(times)} instants, got {len(truth)}")
    tracks = track_points(model, truth[start], float(times[start]), times).numpy()
    size = object_size(truth)
    errors = np.linalg.norm(tracks - truth, axis=-1) / size
    still = np.linalg.norm(truth[start] - truth, axis=-1) / size
    others = np.arange(len(times)) != start
    summary = {
        "median": float(np.median(errors[others])),
        "percentile_90": float(np.quantile(errors[others], 0.9)),
        "still_median": float(np.median(still[others])),
        "still_percentile_90": float(np.quantile(still[others], 0.9)),
    }
    return TrackErrors(
        start, tracks, np.median(errors, axis=1), np.quantile(errors, 0.9, axis=1), np.median(still, axis=1), summary
    )
