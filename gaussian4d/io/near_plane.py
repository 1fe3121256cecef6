"""What stands nearer to a recorded camera than the near plane: we draw none of it, a file for other programs holds it.

A fit draws nothing nearer to a camera than the model's `near`, so whatever came to stand there stayed. Other programs
begin to draw much nearer, and a Gaussian just before the lens covers the picture. `emptied` returns a model without it:
other cameras may see such a Gaussian, often as part of what the camera is mounted on, so it is moved back along the
axis of the camera until it is behind the lens, where no program draws it; it is left out where that does not help.

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
_BEHIND = 0.05
"""Of the near plane: so far behind the lens a Gaussian is put."""
_ROUNDS = 8
_OFTEN = 0.25
"""Of the times at which a Gaussian is seen: one that stands there less often, and travels, fades out meanwhile."""
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
        return cls(
            near, tuple(map(_small, still)), tuple((t, _small(c)) for t, c in sorted(moving, key=lambda m: m[0]))
        )

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

    def holds(self, state: Gaussians, time: float | None) -> Bool[Tensor, " N"]:
        """Returns which Gaussians would be seen there by the cameras of clip time `time`, None of any time."""
        return self.seen(state, self.cameras_at(time))

    @torch.no_grad()
    def seen(self, state: Gaussians, cameras: Iterable[Camera]) -> Bool[Tensor, " N"]:
        """Returns which Gaussians would be seen there by any of `cameras`."""
        found = torch.zeros(len(state), dtype=torch.bool, device=state.means.device)
        there = state.opacities >= _VISIBLE
        for camera in cameras:
            depth = _depth(state.means, camera)
            rows = ((depth > _NEAREST * self.near) & (depth < self.near) & ~found & there).nonzero()[:, 0]
            # Those behind are seen when those before are gone.
            for _ in range(_ROUNDS):
                visible = self._coverage(state.select(rows), camera) > _FAINTEST if len(rows) else rows.bool()
                if not bool(visible.any()):
                    break
                found[rows[visible]] = True
                rows = rows[~visible]
        return found

    @torch.no_grad()
    def moved_back(self, state: Gaussians) -> Tensor:
        """Returns [N, 3] by how much to move the Gaussians so that no camera that stands still sees them there."""
        moved = torch.zeros_like(state.means)
        for camera in self.cameras:
            here = dataclasses.replace(state, means=state.means + moved)
            visible = self.seen(here, [camera])
            axis = torch.as_tensor(camera.forward, dtype=moved.dtype, device=moved.device)
            back = (_depth(here.means, camera) + _BEHIND * self.near)[:, None] * axis
            moved -= torch.where(visible[:, None], back, torch.zeros_like(back))
        return moved

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


@dataclasses.dataclass(frozen=True)
class Found:
    """What `emptied` did: numbers of Gaussians."""

    moved: int = 0
    """Put behind the lens."""
    distance: float = 0.0
    """By how much these were moved, mean, world units."""
    removed: int = 0
    """Left out, or faded out at some of the times."""

    @property
    def total(self) -> int:
        return self.moved + self.removed


@torch.no_grad()
def emptied(model: DynamicGaussians, space: NearSpace, times: Sequence[float]) -> tuple[DynamicGaussians, Found]:
    """Returns (model of which nothing is seen in `space` at the clip times `times`, what had to be done).

    A Gaussian that stands before a camera which stands still is put behind it, for the whole clip; one that only
    passes by, or that a moving camera passes, fades out at those times: the model then has the motion `Emptied`.
    """
    params, device = model.params, model.params["means"].device
    there = torch.zeros(len(times), len(model), dtype=torch.bool, device=device)
    visible = there.clone()
    low, high = torch.full_like(params["means"], torch.inf), torch.full_like(params["means"], -torch.inf)
    for index, time in enumerate(times):
        rows, state = model.motion.rows_at(params, float(time)), model.at(float(time))
        there[index, rows] = space.holds(state, None if model.motion.still else float(time))
        visible[index, rows] = state.opacities >= _VISIBLE
        low[rows], high[rows] = torch.minimum(low[rows], state.means), torch.maximum(high[rows], state.means)
    touched = there.any(dim=0)
    if not bool(touched.any()):
        return model, Found()
    often = there.sum(dim=0) >= _OFTEN * visible.sum(dim=0)
    stays = touched & (often | ((high - low).norm(dim=1) < space.near))
    shift = torch.zeros_like(params["means"])
    for time in times:
        rows = model.motion.rows_at(params, float(time))
        chosen = stays[rows].nonzero()[:, 0]
        part = model.at(float(time)).select(chosen)
        shift[rows[chosen]] += space.moved_back(dataclasses.replace(part, means=part.means + shift[rows[chosen]]))
    params = {**params, "means": params["means"] + shift}
    # Motion may depend on the place, and cameras stand behind others: what is seen there all the same has to go.
    there[:] = False
    for index, time in enumerate(times):
        rows, state = model.motion.rows_at(params, float(time)), model.motion.at(params, float(time))
        chosen = touched[rows].nonzero()[:, 0]
        there[index, rows[chosen]] = space.holds(state.select(chosen), None if model.motion.still else float(time))
    gone, moved = there.any(dim=0), (shift != 0.0).any(dim=1)
    found = Found(
        moved=int((moved & ~gone).sum()),
        distance=float(shift[moved].norm(dim=1).mean()) if bool(moved.any()) else 0.0,
        removed=int(gone.sum()),
    )
    kept = (~gone | (visible & ~there).any(dim=0)).nonzero()[:, 0]
    rest = {name: value if is_shared(name) else value[kept] for name, value in params.items()}
    if not bool(there[:, kept].any()):
        return dataclasses.replace(model, params=rest), found
    rest[COLUMN] = (~there[:, kept]).T.to(rest["means"].dtype).contiguous()
    motion = Emptied(model.motion, tuple(float(time) for time in times))
    recorded = model.times if own_instants(model) is not None else np.asarray(times, np.float64)
    return dataclasses.replace(model, params=rest, motion=motion, times=recorded), found


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


def _depth(means: Tensor, camera: Camera) -> Tensor:
    """Returns [N] how far before the camera places [N, 3] are, along its axis."""
    viewmat = torch.as_tensor(camera.viewmat, dtype=means.dtype, device=means.device)
    return means @ viewmat[2, :3] + viewmat[2, 3]


def _small(camera: Camera) -> Camera:
    """Returns the camera with a picture of at most `_LONGEST_SIDE` pixels."""
    share = min(1.0, _LONGEST_SIDE / max(camera.width, camera.height))
    return camera.resized(max(1, round(camera.width * share)), max(1, round(camera.height * share)))
