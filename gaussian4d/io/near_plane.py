"""What stands nearer to a recorded camera than the near plane: we draw none of it, a file for other programs holds it.

A fit draws nothing nearer to a camera than the model's `near`, so whatever came to stand there stayed. Other programs
begin to draw much nearer, and a Gaussian just before the lens covers the picture. `emptied` returns a model without it.

What counts as standing there is what would be seen: a Gaussian beside the view that reaches into it too, one so faint
or so small that no pixel changes not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from diff_rasterizer import rasterization

from ..cameras import Camera
from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..motion import MotionModel, Params, is_shared
from .cubic import own_instants

if TYPE_CHECKING:
    from ..scene import Scene

COLUMN = "shown"

_LONGEST_SIDE = 160
_FAINTEST = 2e-6
"""Of a picture's area: less is not seen."""
_NEAREST = 0.01
"""Of the near plane: where other programs begin to draw."""
_ROUNDS = 8
_VISIBLE = 1.0 / 255.0


@dataclasses.dataclass(frozen=True)
class NearSpace:
    """The space right before recorded cameras."""

    near: float
    """How far from the cameras it ends, along their axes, world units."""
    cameras: tuple[Camera, ...]
    """Those that look from one place for the whole clip."""
    moving: tuple[tuple[float, Camera], ...] = ()
    """(clip time, camera) of those that move, in the order of time."""

    @classmethod
    def of_scene(cls, scene: Scene, near: float) -> NearSpace:
        """Returns the space before the cameras of all splits of `scene`."""
        poses: dict[bytes, list[tuple[float, Camera]]] = {}
        for frame in scene.frames("all"):
            poses.setdefault(frame.camera.viewmat.tobytes(), []).append((float(frame.time), frame.camera))
        several = len(scene.times) > 1
        still = [seen[0][1] for seen in poses.values() if len(seen) > 1 or not several]
        moving = [seen[0] for seen in poses.values() if len(seen) == 1 and several]
        return cls(near, tuple(map(_small, still)), tuple((t, _small(c)) for t, c in sorted(moving, key=lambda m: m[0])))

    @classmethod
    def of_cameras(cls, cameras: Iterable[Camera], near: float) -> NearSpace:
        """Returns the space before cameras that stand still."""
        return cls(near, tuple(map(_small, cameras)))

    def cameras_at(self, time: float | None) -> list[Camera]:
        """Returns the cameras that look at clip time `time`, of moving ones those just before and after; None: all."""
        if time is None:
            return [*self.cameras, *(camera for _, camera in self.moving)]
        times = np.array([moment for moment, _ in self.moving])
        if not len(times):
            return list(self.cameras)
        before, after = times[times <= time].max(initial=-np.inf), times[times >= time].min(initial=np.inf)
        return [*self.cameras, *(camera for moment, camera in self.moving if moment in (before, after))]

    @torch.no_grad()
    def holds(self, state: Gaussians, time: float | None) -> Bool[Tensor, " N"]:
        """Returns which Gaussians would be seen there by the cameras of clip time `time`, None of any time."""
        found = torch.zeros(len(state), dtype=torch.bool, device=state.means.device)
        faint = state.opacities < _VISIBLE
        for camera in self.cameras_at(time):
            viewmat = torch.as_tensor(camera.viewmat, dtype=torch.float32, device=state.means.device)
            depth = state.means @ viewmat[2, :3] + viewmat[2, 3]
            rows = ((depth > _NEAREST * self.near) & (depth < self.near) & ~found & ~faint).nonzero()[:, 0]
            # Those behind are seen when those before are gone.
            for _ in range(_ROUNDS):
                seen = self._coverage(state.select(rows), camera) > _FAINTEST if len(rows) else rows.bool()
                if not bool(seen.any()):
                    break
                found[rows[seen]] = True
                rows = rows[~seen]
        return found

    def _coverage(self, state: Gaussians, camera: Camera) -> Tensor:
        """Returns [N] the share of the picture that each Gaussian makes up, by the weights of the blending."""
        device = state.means.device
        with torch.enable_grad():
            unit = torch.zeros(len(state), 1, device=device, requires_grad=True)
            rendered, _, _ = rasterization(
                means=state.means,
                quats=state.quats,
                scales=state.scales,
                opacities=state.opacities,
                colors=unit,
                sh_degree=None,
                viewmats=torch.as_tensor(camera.viewmat, dtype=torch.float32, device=device)[None],
                Ks=torch.as_tensor(camera.K, dtype=torch.float32, device=device)[None],
                width=camera.width,
                height=camera.height,
                near_plane=_NEAREST * self.near,
                camera_model=camera.model,  # type: ignore[arg-type]
            )
            rendered.sum().backward()
        assert unit.grad is not None
        return unit.grad[:, 0] / (camera.width * camera.height)


@torch.no_grad()
def emptied(model: DynamicGaussians, space: NearSpace, times: Sequence[float]) -> tuple[DynamicGaussians, int]:
    """Returns (model without what stands in `space` at the clip times `times`, number of Gaussians this concerns).

    A Gaussian that stands there whenever it is seen is left out. One that does at some of the times only fades out for
    them: the model then has the motion `Emptied`.
    """
    params = model.params
    count = len(model)
    shown = torch.ones(len(times), count, device=params["means"].device)
    seen = torch.zeros(count, dtype=torch.bool, device=shown.device)
    for index, time in enumerate(times):
        rows, state = model.motion.rows_at(params, float(time)), model.at(float(time))
        there = space.holds(state, None if model.motion.still else float(time))
        shown[index, rows[there]] = 0.0
        seen[rows[~there & (state.opacities >= _VISIBLE)]] = True
    touched = (shown == 0.0).any(dim=0)
    number = int(touched.sum())
    if number == 0:
        return model, 0
    kept = (~touched | seen).nonzero()[:, 0]
    rest = {name: value if is_shared(name) else value[kept] for name, value in params.items()}
    if not bool((touched & seen).any()):
        return dataclasses.replace(model, params=rest), number
    rest[COLUMN] = shown.T[kept].contiguous()
    motion = Emptied(model.motion, tuple(float(time) for time in times))
    recorded = model.times if own_instants(model) is not None else np.asarray(times, np.float64)
    return dataclasses.replace(model, params=rest, motion=motion, times=recorded), number


class Emptied(MotionModel):
    """A motion whose Gaussians fade out while they stand where nothing may be seen; made by `emptied`, never saved."""

    fitted = False

    def __init__(self, inner: MotionModel, times: tuple[float, ...]) -> None:
        super().__init__(None)
        self.inner, self.times = inner, times
        self.name = inner.name  # type: ignore[misc]
        self.connected = inner.connected  # type: ignore[misc]

    @property
    def windowed(self) -> bool:
        return self.inner.windowed

    @property
    def replaces_gaussians(self) -> bool:
        return True

    @property
    def instants(self) -> tuple[float, ...] | None:
        return self.inner.instants

    def describe(self, params: Params) -> str:
        return self.inner.describe(params)

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        state = self.inner.at(params, time, sh_degree)
        return self._faded(state, params[COLUMN][self.inner.rows_at(params, time)], time)

    def of_rows(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        return self._faded(self.inner.of_rows(params, time, sh_degree), params[COLUMN], time)

    def follow(self, params: Params, of: float, time: float) -> Tensor:
        return self.inner.follow(params, of, time)

    def rows_at(self, params: Params, time: float) -> Tensor:
        return self.inner.rows_at(params, time)

    def peak_opacities(self, params: Params) -> Tensor:
        return self.inner.peak_opacities(params)

    def lifetimes(self, params: Params, of: float) -> Tensor:
        return self.inner.lifetimes(params, of)

    def apart(self, model: DynamicGaussians) -> tuple[DynamicGaussians, DynamicGaussians]:
        """Returns (the rows that never fade here, with their own motion; the others)."""
        touched = (model.params[COLUMN] < 1.0).any(dim=1)

        def part(rows: Tensor) -> dict[str, Any]:
            chosen = rows.nonzero()[:, 0]
            return {name: value if is_shared(name) else value[chosen] for name, value in model.params.items()}

        whole = {name: value for name, value in part(~touched).items() if name != COLUMN}
        return (
            dataclasses.replace(model, params=whole, motion=self.inner),
            dataclasses.replace(model, params=part(touched)),
        )

    def _faded(self, state: Gaussians, shown: Tensor, time: float) -> Gaussians:
        """Returns `state` with opacities times `shown` [N, T], between whose times it is interpolated."""
        times = np.asarray(self.times)
        after = int(np.clip(np.searchsorted(times, time), 1, max(len(times) - 1, 1)))
        if len(times) == 1:
            share = shown[:, 0]
        else:
            first, last = float(times[after - 1]), float(times[after])
            part = float(np.clip((time - first) / (last - first), 0.0, 1.0))
            share = torch.lerp(shown[:, after - 1], shown[:, after], part)
        return dataclasses.replace(state, opacities=state.opacities * share)


def _small(camera: Camera) -> Camera:
    """Returns the camera with a picture of at most `_LONGEST_SIDE` pixels."""
    share = min(1.0, _LONGEST_SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * share)), max(1, round(camera.height * share)))
