"""Our moving Gaussians as a nerfstudio model: our motion models, rasterizer and losses under nerfstudio's optimisers.

The number of Gaussians stays what it was at the start: densification is a part of `gaussian4d fit` only, which is
therefore the better fit. Checkpoints keep the Gaussians in `gauss_params`; those of `free-time` are read by
`gaussian4d convert` (in the normalised frame of the dataparser).
"""

# nerfstudio has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from diff_rasterizer import l1_ssim_loss, rasterization

from ...cli.choices import choices
from ...conventions import invert_rigid, opencv_from_opengl
from ...devices import choose_device, uploaded
from ...fitting.config import FitConfig
from ...fitting.initialise import InitialPoints, initial_params
from ...fitting.schedule import sh_degree_at
from ...fitting.terms import penalties
from ...gaussians import Gaussians
from ...metrics import psnr, ssim
from ...motion import MOTIONS, make_motion

if TYPE_CHECKING:
    MotionName = str
else:
    MotionName = choices(MOTIONS, but=("per-frame",))
MAX_STEPS = 8000
MOTION_FACTOR = 3.0
"""On the motion's own learning rates, as the presets of `gaussian4d fit` have it for free-time."""


@dataclass
class Gaussian4DModelConfig(ModelConfig):
    """Settings of the model."""

    _target: type = field(default_factory=lambda: Gaussian4DModel)
    motion: MotionName = "free-time"
    """How Gaussians move."""
    sh_degree: int = 1
    """Degree of the spherical harmonics."""
    background: Literal["random", "white", "black"] = "random"
    """Colour behind pictures with alpha; random trains on a new one every step and shows white."""
    near: float = 0.05
    """Nothing nearer is drawn; cameras stand about 1 from the origin."""
    backend: str = "auto"
    """Of the rasterizer; it must go together with nerfstudio's `--machine.device-type`."""


class Gaussian4DModel(Model):
    """Gaussians that move by one of our motion models."""

    config: Gaussian4DModelConfig

    def populate_modules(self) -> None:
        """Makes the parameter table from the dataparser's points, or from random ones."""
        self.fit = FitConfig(max_steps=MAX_STEPS, motion=self.config.motion, sh_degree=self.config.sh_degree)
        self.motion = make_motion(self.config.motion)
        params = initial_params(_starting_points(self.kwargs.get("metadata") or {}), self.motion, self.fit)
        self.gauss_params = torch.nn.ParameterDict({_key(name): value for name, value in params.items()})
        self._names = list(params)
        self.step = 0

    @property
    def params(self) -> dict[str, Tensor]:
        """The parameter table under our names."""
        return {name: self.gauss_params[_key(name)] for name in self._names}

    def load_state_dict(self, state_dict: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Takes as many Gaussians as the checkpoint has."""
        for name in self.gauss_params:
            saved = state_dict.get(f"gauss_params.{name}")
            if saved is not None and saved.shape != self.gauss_params[name].shape:
                self.gauss_params[name] = torch.nn.Parameter(torch.empty_like(saved, device=self.device))
        self.step = MAX_STEPS
        return super().load_state_dict(state_dict, **kwargs)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Tells the model which step it is; raises `UserError` for a backend that does not draw on its device."""
        choose_device(self.device, self.config.backend, CONSOLE.print)
        return [TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._set_step)]

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Returns a group per column, with the columns' names."""
        return {key: [value] for key, value in self.gauss_params.items() if value.numel()}

    def get_outputs(self, camera: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Returns rgb [H, W, 3], depth and accumulation [H, W, 1] of one camera at its time."""
        T = np.eye(4)
        T[:3] = camera.camera_to_worlds[0].detach().cpu().double().numpy()
        viewmat = uploaded(invert_rigid(opencv_from_opengl(T)), self.device)
        K = camera.get_intrinsics_matrices()[0].float().to(self.device)
        time = 0.0 if camera.times is None else float(camera.times.reshape(-1)[0])
        progress = min(self.step / MAX_STEPS, 1.0)
        degree = sh_degree_at(self.config.sh_degree, self.fit.optim.sh_start, progress)
        state: Gaussians = self.motion.at(self.params, time, degree)
        background = self._background()
        renders, alphas, _ = rasterization(
            **state.to_rasterizer(),
            viewmats=viewmat[None],
            Ks=K[None],
            width=int(camera.width.reshape(-1)[0]),
            height=int(camera.height.reshape(-1)[0]),
            near_plane=self.config.near,
            packed=False,
            render_mode="RGB+ED",
            backend=self.config.backend,
        )
        rgb = renders[0, ..., :3] + (1.0 - alphas[0]) * background
        outputs = {"rgb": rgb, "depth": renders[0, ..., 3:], "accumulation": alphas[0], "background": background}
        if self.training:
            outputs["penalty"] = penalties(self.fit, self.motion, self.params, state)
        return outputs

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Any, obb_box: Any = None) -> dict[str, Tensor]:
        """Returns the same for a camera of the viewer or of an evaluation."""
        outputs = self.get_outputs(camera.to(self.device))
        return {**outputs, "rgb": outputs["rgb"].clamp(0.0, 1.0)}

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the PSNR of a training picture and the number of Gaussians."""
        picture = self._composed(batch["image"], outputs["background"])
        error = (outputs["rgb"].detach() - picture).square().mean()
        return {"psnr": -10.0 * torch.log10(error), "gaussian_count": torch.tensor(float(len(self.params["means"])))}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: Any = None
    ) -> dict[str, Tensor]:
        """Returns the terms of the loss of `gaussian4d fit`."""
        picture = self._composed(batch["image"], outputs["background"])
        loss = {"main_loss": l1_ssim_loss(outputs["rgb"], picture, ssim_weight=self.fit.loss.ssim)}
        if batch["image"].shape[-1] == 4:
            alpha = self._floats(batch["image"])[..., 3:]
            loss["alpha_loss"] = self.fit.get("loss.alpha") * (outputs["accumulation"] - alpha).abs().mean()
        return {**loss, "penalty": outputs["penalty"]} if "penalty" in outputs else loss

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Returns PSNR and SSIM, and the given and the rendered picture side by side."""
        picture = self._composed(batch["image"], outputs["background"])
        rgb = outputs["rgb"].clamp(0.0, 1.0)
        figures = {"psnr": psnr(rgb.cpu(), picture.cpu()) or 0.0, "ssim": ssim(rgb.cpu(), picture.cpu()) or 0.0}
        return figures, {"img": torch.cat([picture, rgb], dim=1), "accumulation": outputs["accumulation"]}

    def _set_step(self, step: int) -> None:
        self.step = step

    def _background(self) -> Tensor:
        if self.config.background == "random" and self.training:
            return torch.rand(3, device=self.device)
        return torch.full((3,), 0.0 if self.config.background == "black" else 1.0, device=self.device)

    def _composed(self, image: Tensor, background: Tensor) -> Tensor:
        """Returns the picture to match [H, W, 3], put over `background` where it has alpha."""
        values = self._floats(image)
        if values.shape[-1] == 3:
            return values
        return torch.lerp(background.expand_as(values[..., :3]), values[..., :3], values[..., 3:])

    def _floats(self, image: Tensor) -> Tensor:
        values = image.to(self.device)
        return values.float() / 255.0 if values.dtype == torch.uint8 else values


def _key(name: str) -> str:
    """Returns a name that a torch module may have: shared tensors' names have dots."""
    return name.replace(".", "_")


def _starting_points(metadata: dict[str, Any]) -> InitialPoints:
    """Returns the dataparser's points; random grey ones around the origin where it has none."""
    if "points3D_xyz" not in metadata:
        rng = np.random.default_rng(0)
        xyz = rng.normal(size=(10_000, 3)) * 0.3
        return InitialPoints(xyz, np.full(xyz.shape, 0.5), np.full(len(xyz), np.nan), 1.0)
    xyz = np.asarray(metadata["points3D_xyz"].cpu(), np.float64)
    rgb = np.asarray(metadata["points3D_rgb"].cpu(), np.float64) / 255.0
    times = metadata.get("points3D_times")
    return InitialPoints(
        xyz,
        rgb,
        np.full(len(xyz), np.nan) if times is None else np.asarray(times.cpu(), np.float64),
        float(metadata.get("points3D_spacing", 1.0)),
    )
