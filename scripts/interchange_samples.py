"""Files for `check_interchange.sh`: writes ours, compares what other programs made of them, draws files from elsewhere.

python scripts/interchange_samples.py write FOLDER | compare FOLDER | draw FILE PICTURE
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial import cKDTree

from gaussian4d.io.registry import read_model, write_model
from gaussian4d.io.splats import Splats, sigmoid
from gaussian4d.model import DynamicGaussians, load_model, splat_arrays
from gaussian4d.motion import FreeTime, RigidParts, Static
from gaussian4d.motion.rigid_parts import RigidPartsConfig
from gaussian4d.paths import cameras_around
from gaussian4d.rendering import render

_COUNT = 2000


def sample() -> dict[str, torch.Tensor]:
    """Returns seeded Gaussians on a sphere, coloured by their direction."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(_COUNT, 3))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    table = {
        "means": means,
        "quats": rng.normal(size=(_COUNT, 4)),
        "scales": rng.normal(size=(_COUNT, 3)) * 0.3 - 3.0,
        "opacities": rng.normal(size=_COUNT) + 1.0,
        "sh0": means[:, None] * 1.2,
        "shN": rng.normal(size=(_COUNT, 15, 3)) * 0.1,
    }
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in table.items()}


def write(folder: Path) -> None:
    """Writes the sample in every format."""
    folder.mkdir(parents=True, exist_ok=True)
    still = DynamicGaussians(sample(), Static())
    for ending in ("ply", "compressed.ply", "splat", "spz", "sog", "glb"):
        write_model(folder / f"ours.{ending}", still)
    for version in (2, 3):
        write_model(folder / f"ours_v{version}.spz", still, version=version)
    own = {"velocities": still.params["means"], "times": torch.rand(_COUNT), "durations": torch.full((_COUNT,), -1.0)}
    moving = DynamicGaussians({**sample(), **own}, FreeTime(), times=np.linspace(0, 1, 5), fps=4.0)
    for ending in ("4dgs", "splatv", "usda", "usdz"):
        write_model(folder / f"ours.{ending}", moving)
    write_model(folder / "ours_moving.glb", in_parts(), say=print)


def in_parts() -> DynamicGaussians:
    """Returns the sample in three slices: the middle one stands still, one shifts, one turns."""
    table, times = sample(), np.linspace(0.0, 1.0, 5)
    height = table["means"][:, 2]
    angles = torch.linspace(0.0, 1.5, 5)
    turns = torch.zeros(2, 5, 4)
    turns[0, :, 0], turns[1, :, 0], turns[1, :, 3] = 1.0, torch.cos(angles / 2), torch.sin(angles / 2)
    offsets = torch.zeros(2, 5, 3)
    offsets[0, :, 2] = torch.linspace(0.0, 0.5, 5) ** 2
    own = {
        "parts": torch.where(height > 0.4, 0.0, torch.where(height < -0.4, 1.0, -1.0)),
        "shared.pivots": torch.zeros(2, 3),
        "shared.offsets": offsets,
        "shared.turns": turns,
    }
    motion = RigidParts(RigidPartsConfig(times=tuple(times.tolist()), parts=2))
    return DynamicGaussians({**table, **own}, motion, times=times, fps=4.0)


def compare(folder: Path) -> None:
    """Prints the largest differences between two ways through which the same Gaussians came."""
    ways = [
        (f"ours.{ending}", f"they_read_{ending}.ply") for ending in ("ply", "compressed.ply", "splat", "spz", "sog")
    ]
    ways += [(f"ours_v{version}.spz", f"they_read_v{version}.ply") for version in (2, 3)]
    ways += [(f"theirs.{ending}", f"they_read_theirs_{ending}.ply") for ending in ("compressed.ply", "spz", "sog")]
    ways += [("ours.ply", f"theirs.{ending}") for ending in ("glb",)]
    print("file, read by us / by them: largest difference of place, covariance (relative), opacity, colour, harmonics")
    for first, second in ways:
        left, right = (splat_arrays(read_model(folder / name).at(0.0)) for name in (first, second))
        print(f"{first} / {second}: " + ", ".join(f"{value:.2g}" for value in _differences(left, right)))


def draw(source: Path, picture: Path) -> None:
    """Draws a file at the middle of its clip from two sides."""
    model = load_model(source)
    state = model.at(0.5)
    cameras = cameras_around(state.means.double().numpy(), width=320, height=320, count=4)[:2]
    with torch.no_grad():
        views = [render(model, camera, 0.5, ("rgb",), background=(0.2, 0.2, 0.2)).rgb for camera in cameras]
    pixels = np.concatenate([view.clamp(0, 1).numpy() for view in views if view is not None], axis=1)
    Image.fromarray((pixels * 255).astype(np.uint8)).save(picture)
    print(f"{source.name}: {len(model):,} Gaussians, SH degree {model.sh_degree}, drawn to {picture.name}")


def _differences(left: Splats, right: Splats) -> list[float]:
    order = cKDTree(right["means"]).query(left["means"])[1]
    right = {name: value[order] for name, value in right.items()}
    a, b = (_covariances(splats) for splats in (left, right))
    rest = min(left["shN"].shape[1], right["shN"].shape[1])
    return [
        float(np.abs(left["means"] - right["means"]).max()),
        float((np.abs(a - b).max(axis=(1, 2)) / np.abs(a).max(axis=(1, 2))).max()),
        float(np.abs(sigmoid(left["opacities"]) - sigmoid(right["opacities"])).max()),
        float(np.abs(left["sh0"] - right["sh0"]).max()),
        float(np.abs(left["shN"][:, :rest] - right["shN"][:, :rest]).max()) if rest else 0.0,
    ]


def _covariances(splats: Splats) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_quat(splats["quats"][:, [1, 2, 3, 0]].astype(np.float64)).as_matrix()
    return turn @ (np.exp(2.0 * splats["scales"].astype(np.float64))[:, :, None] * turn.transpose(0, 2, 1))


if __name__ == "__main__":
    {"write": write, "compare": compare, "draw": draw}[sys.argv[1]](*(Path(argument) for argument in sys.argv[2:]))
