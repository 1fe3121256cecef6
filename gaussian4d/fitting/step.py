"""One picture of a training step, as the terms of the loss see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..motion import MotionModel, Params
from ..rendering import RenderOutput, differentiable_buffers
from .config import FitConfig
from .drawing import Drawing, draw
from .exposure import Exposure
from .targets import Target, compose

T = TypeVar("T")


class Step:
    """What a term may look at: a training picture, the Gaussians at its time, and what is drawn of them.

    Everything is in the fit's frame (see `normalise`) and on the fit's device. Pictures are drawn when a term first
    asks for them, and once however many terms ask.
    """

    def __init__(
        self,
        config: FitConfig,
        number: int,
        progress: float,
        target: Target,
        state: Gaussians,
        motion: MotionModel,
        params: Params,
        *,
        near: float,
        backend: str,
        background: Tensor,
        frame_interval: float,
        exposure: Exposure | None = None,
        scale: float = 1.0,
        absgrad: bool = False,
        depth: bool = False,
    ) -> None:
        self.config = config
        self.number = number
        """Steps taken before this one."""
        self.progress = progress
        """How much of the fit is done, 0..1."""
        self.target = target
        """The training picture and its camera."""
        self.state = state
        """The Gaussians at the picture's time."""
        self.motion = motion
        """The motion model; `static` in the first stage of a fit that begins at rest (`optim.coarse`)."""
        self.params = params
        """The parameter table."""
        self.background = background
        """[3] colour behind the Gaussians."""
        self.near, self.backend = near, backend
        self.drawings: list[Drawing] = []
        """Everything drawn so far."""
        self._frame_interval, self._exposure = frame_interval, exposure
        self._scale, self._absgrad, self._depth = scale, absgrad, depth
        self._once: dict[str, Any] = {}

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Returns what `make` returns, made at the first call with this `key`: terms share what they have in common."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    @property
    def seed(self) -> int:
        """A seed of this picture's own: neither resuming nor the number of processes changes it."""
        return hash((self.config.seed, self.number, self.target.camera_index, self.target.time))

    @property
    def generator(self) -> torch.Generator:
        """A generator (of the CPU) with that seed, shared by the terms of this picture."""
        return self.once("generator", lambda: torch.Generator().manual_seed(self.seed))

    @property
    def picture(self) -> Drawing:
        """What the camera sees, over the background, before the exposure of the camera."""
        return self.once("picture", self._picture)

    @property
    def meta(self) -> dict[str, Any]:
        """What the rasterizer says of the picture (gsplat's keys)."""
        return self.picture.meta

    @property
    def rgb(self) -> Float[Tensor, "H W 3"]:
        """The rendered picture as the camera would record it."""
        return self.once("rgb", self._rgb)

    @property
    def alpha(self) -> Float[Tensor, "H W 1"]:
        """Opacity of the Gaussians together."""
        return self.picture.alpha[0]

    @property
    def composed(self) -> Tensor:
        """[H, W, 3] the picture to match: the training picture, over the background where it has alpha; uint8, or
        float in 0..1."""
        return self.once("composed", lambda: compose(self.target, self.background.detach()))

    def render(self, *buffers: str) -> RenderOutput:
        """Returns differentiable buffers [H, W, C] of the picture by name: rgb, alpha, depth, normal, flow, xyz, ...

        Those of `gaussian4d.render`, in the fit's frame: depth, xyz and velocity in its units, flow until one frame
        later. Buffers are drawn once; a term that lists what it needs in an attribute `needs` saves a pass, since
        depth is then drawn with the picture.
        """
        output = RenderOutput()
        missing = []
        for name in buffers:
            if name in ("rgb", "alpha"):
                setattr(output, name, getattr(self, name))
            elif name == "depth" and self.picture.depth is not None:
                output.depth = self.picture.depth[0]
            elif f"buffer {name}" in self._once:
                setattr(output, name, self._once[f"buffer {name}"])
            else:
                missing.append(name)
        if missing:
            drawn = differentiable_buffers(
                self._model(),
                self.target.camera,
                self.target.time,
                missing,
                backend=self.backend,
                state=self.state,
            )
            for name in missing:
                self._once[f"buffer {name}"] = getattr(drawn, name)
                setattr(output, name, getattr(drawn, name))
        return output

    def draw(
        self,
        viewmats: Float[Tensor, "C 4 4"],
        Ks: Float[Tensor, "C 3 3"],
        width: int,
        height: int,
        *,
        background: Tensor | None = None,
        state: Gaussians | None = None,
    ) -> Drawing:
        """Returns what other cameras see of the Gaussians (or of `state`); the strategy looks at it as well.

        All C pictures together count as one in a term that takes their mean.
        """
        drawing = draw(
            self.state if state is None else state,
            viewmats,
            Ks,
            width,
            height,
            near=self.near,
            backend=self.backend,
            background=background,
            absgrad=self._absgrad,
            scale=len(viewmats) * self._scale,
        )
        self.drawings.append(drawing)
        return drawing

    def _picture(self) -> Drawing:
        target = self.target
        drawing = draw(
            self.state,
            target.viewmat[None],
            target.K[None],
            target.width,
            target.height,
            near=self.near,
            backend=self.backend,
            background=self.background,
            depth=self._depth,
            absgrad=self._absgrad,
            scale=self._scale,
        )
        self.drawings.append(drawing)
        return drawing

    def _rgb(self) -> Tensor:
        rgb = self.picture.rgb[0]
        if self._exposure is None or self.target.camera_index < 0:
            return rgb
        return self._exposure.apply(rgb, self.target.camera_index)

    def _model(self) -> DynamicGaussians:
        """Returns the Gaussians as a model in the fit's frame."""
        times = np.array([0.0, self._frame_interval])
        return DynamicGaussians(self.params, self.motion, times=times, meta={"near": self.near})
