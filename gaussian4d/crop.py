"""A box that cuts a part out of a model: drawn in the viewer, kept as JSON, honoured by `render` and `export`."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .files import read_json, write_json
from .gaussians import rotation_matrices
from .io.cubic import written_instants
from .model import DynamicGaussians
from .motion import is_shared
from .offsets import KEY, between, offset_of

_MOST_INSTANTS = 48


@dataclasses.dataclass(frozen=True)
class CropBox:
    """A box in the world."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    """Edge lengths along the box's own axes, world units."""
    wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """Rotation from the box's axes to the world's."""
    offset: tuple[float, float, float] | None = None
    """Place of the recorded world that `center` is relative to (`gaussian4d.offsets`); None: `center` is a place of the
    recorded world itself."""

    def contains(self, points: Tensor) -> Tensor:
        """Returns [N] which of `points` [N, 3] lie in the box."""
        R = rotation_matrices(torch.tensor(self.wxyz, dtype=torch.float64)).to(points)
        local = (points - torch.tensor(self.center).to(points)) @ R
        return (local.abs() <= 0.5 * torch.tensor(self.size).to(points)).all(dim=1)

    def relative_to(self, offset: np.ndarray) -> CropBox:
        """Returns the box relative to an offset [3]; raises `UserError` when it can only be meant relative already."""
        stated = None if self.offset is None else np.array(self.offset)
        x, y, z = np.array(self.center) + between(stated, offset, np.array(self.center), "the crop box")
        return dataclasses.replace(self, center=(x, y, z), offset=(offset[0], offset[1], offset[2]))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes `{"center", "size", "wxyz"}`, and "offset" where there is one."""
        values = dataclasses.asdict(self)
        if not self.offset or not any(self.offset):
            del values["offset"]
        write_json(file, values)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> CropBox:
        """Returns the box of a file; raises `UserError` naming what is wrong in it."""
        data = read_json(file)
        if not isinstance(data, dict):
            raise UserError(f'{file} must be {{"center", "size", "wxyz"}}, got {type(data).__name__}')
        return cls(
            _numbers(data.get("center"), 3, f"{file}: center"),  # type: ignore[arg-type]
            _numbers(data.get("size"), 3, f"{file}: size", positive=True),  # type: ignore[arg-type]
            _numbers(data.get("wxyz", [1, 0, 0, 0]), 4, f"{file}: wxyz", nonzero=True),  # type: ignore[arg-type]
            None if data.get(KEY) is None else _numbers(data[KEY], 3, f"{file}: {KEY}"),  # type: ignore[arg-type]
        )


def crop_model(model: DynamicGaussians, box: CropBox) -> DynamicGaussians:
    """Returns the model with the Gaussians whose centre is in the box at any recorded instant.

    Where none are recorded, those count that files are written of. A whole Gaussian stays or goes, so the same ones are
    left in pictures of any time and in exported files. Raises `UserError` when none is left.
    """
    box = box.relative_to(offset_of(model))
    times = written_instants(model)
    picks = np.unique(np.linspace(0, len(times) - 1, min(len(times), _MOST_INSTANTS)).round().astype(int))
    kept = torch.zeros(len(model), dtype=torch.bool, device=model.params["means"].device)
    with torch.no_grad():
        for time in times[picks].tolist():
            rows = model.motion.rows_at(model.params, time)
            kept[rows] |= box.contains(model.at(time).means)
    if not bool(kept.any()):
        raise UserError(f"the crop box around {box.center} of size {box.size} holds no Gaussian; move or enlarge it")
    rows = kept.nonzero()[:, 0]
    params = {name: value if is_shared(name) else value[rows] for name, value in model.params.items()}
    return dataclasses.replace(model, params=params)


def _numbers(value: object, count: int, where: str, positive: bool = False, nonzero: bool = False) -> tuple[float, ...]:
    good = isinstance(value, list) and len(value) == count
    numbers = tuple(float(x) for x in value if isinstance(x, (int, float))) if isinstance(value, list) else ()
    if not good or len(numbers) != count or not np.isfinite(numbers).all():
        raise UserError(f"{where} must be {count} finite numbers, got {str(value)[:80]}")
    if (positive and min(numbers) <= 0) or (nonzero and not any(numbers)):
        raise UserError(f"{where} must be {'positive' if positive else 'not all zero'}, got {value}")
    return numbers
