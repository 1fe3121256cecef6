"""3D-aware denoising: a sampler's clean prediction goes through a 3D reconstruction before the sampler goes on.

VideoMV (Zuo et al., 2024, section 3.3): at chosen steps the predicted clean views are reconstructed as Gaussians, drawn
by all cameras, and put in the prediction's place; then all views show one object. Here the renderings are blended in by
their alpha, so that what the reconstruction does not cover keeps its detail. `with_feedback` does it in any diffusers
pipeline without touching it: the scheduler is the only place that sees every step. Ouroboros3D (Wen et al., 2025) hands
the renderings to the next step as a condition instead: `rendered_conditions`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians

from .models.view_transformer import DRAWINGS
from .priors.base import GaussianReconstructor
from .views import render_rgba, render_xyz

Feedback = Callable[[Tensor, int, int], Tensor]
"""Called with the clean prediction x0 in the sampler's space, the step's index and the number of steps."""

VIDEOMV_STEPS = (0.4, 0.6, 0.8)
"""VideoMV's steps 20, 30 and 40 of 50."""


def with_feedback(scheduler: Any, feedback: Feedback, steps: Sequence[int | float] | None = VIDEOMV_STEPS) -> Any:
    """Returns a copy of a diffusers scheduler that replaces its clean predictions by `feedback`'s.

    It is an instance of the scheduler's own class, saves itself as that class, and works in unmodified pipelines:
    `pipe.scheduler = with_feedback(pipe.scheduler, feedback)`. The feedback sees the prediction after guidance.

    Args:
        scheduler: Predicting epsilon, v, the sample or a flow; of the DDIM, DDPM, Euler, flow-matching, DPM-Solver or
            UniPC families.
        steps: Indices, or shares of the number of steps (floats); None is all.

    Raises:
        UserError: a scheduler of another family.
    """
    _family(scheduler)
    # Wrapped before, it gets another feedback, not a second one.
    own = next(base for base in type(scheduler).__mro__ if not issubclass(base, _X0Feedback))
    combined = type(own.__name__, (_X0Feedback, own), {"__module__": own.__module__})
    wrapped = copy.deepcopy(scheduler)
    wrapped.__class__ = combined
    wrapped._feedback, wrapped._feedback_steps = feedback, None if steps is None else tuple(steps)
    return wrapped


def chosen_step(index: int, count: int, steps: Sequence[int | float] | None) -> bool:
    """Returns whether step `index` of `count` is among `steps`, as `with_feedback` reads them."""
    if steps is None:
        return True
    return index in {round(step * count) if isinstance(step, float) else step for step in steps}


class _X0Feedback:
    """Goes before a scheduler class: edits the model output so that the clean prediction in it is the feedback's."""

    _feedback: Feedback
    _feedback_steps: tuple[int | float, ...] | None

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        scheduler: Any = self
        index, count = _index(scheduler, timestep), len(scheduler.timesteps)
        if chosen_step(index, count, self._feedback_steps):
            kind = _prediction(scheduler)
            a, s, x = _coefficients(scheduler, index, timestep, sample)
            x0 = _to_clean(kind, model_output, a, s, x)
            fed = self._feedback(x0, index, count).to(x0)
            model_output = _from_clean(kind, fed, a, s, x).to(model_output.dtype)
        return super().step(model_output, timestep, sample, *args, **kwargs)  # type: ignore[misc]


def _family(scheduler: Any) -> str:
    """Returns how a scheduler mixes: `cumulative` alphas, `sigmas` of unscaled samples, `solver`, or `flow`."""
    names = {base.__name__ for base in type(scheduler).__mro__}
    families = {
        "flow": ("FlowMatchEulerDiscreteScheduler",),
        "solver": ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
        "sigmas": ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
        "cumulative": ("DDIMScheduler", "DDPMScheduler"),
    }
    for family, members in families.items():
        if names & set(members):
            return family
    known = ", ".join(name for members in families.values() for name in members)
    raise UserError(f"3D-aware feedback knows the schedulers {known}; got {type(scheduler).__name__}")


def _prediction(scheduler: Any) -> str:
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    kind = "flow_prediction" if _family(scheduler) == "flow" else kind
    return "sample" if kind == "original_sample" else kind


def _index(scheduler: Any, timestep: Any) -> int:
    if getattr(scheduler, "step_index", None) is not None:
        return int(scheduler.step_index)
    value = float(timestep)
    return int(torch.argmin((scheduler.timesteps.double().cpu() - value).abs()))


def _coefficients(scheduler: Any, index: int, timestep: Any, sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a, s and x with x = a x0 + s noise; except for flows a^2 + s^2 = 1."""
    family = _family(scheduler)
    number = torch.float64 if sample.dtype == torch.float64 else torch.float32
    x = sample.to(number)
    if family == "cumulative":
        cumulative = scheduler.alphas_cumprod[int(timestep)].to(x)
        return cumulative.sqrt(), (1 - cumulative).sqrt(), x
    sigma = scheduler.sigmas[index].to(x)
    if family == "sigmas":
        a = (1 + sigma.square()).rsqrt()
        return a, sigma * a, x * a
    if family == "flow":
        return 1 - sigma, sigma, x
    a, s = scheduler._sigma_to_alpha_sigma_t(sigma)
    return torch.as_tensor(a).to(x), torch.as_tensor(s).to(x), x


def _to_clean(kind: str, output: Tensor, a: Tensor, s: Tensor, x: Tensor) -> Tensor:
    output = output.to(x.dtype)
    if kind == "sample":
        return output
    if kind == "epsilon":
        return (x - s * output) / a
    if kind == "v_prediction":
        return a * x - s * output
    if kind == "flow_prediction":
        return x - s * output
    raise UserError(f"expected a scheduler that predicts epsilon, v, the sample or a flow; got {kind}")


def _from_clean(kind: str, clean: Tensor, a: Tensor, s: Tensor, x: Tensor) -> Tensor:
    if kind == "sample":
        return clean
    if kind == "epsilon":
        return (x - a * clean) / s
    if kind == "v_prediction":
        return (a * x - clean) / s
    return (x - clean) / s


class RenderFeedback:
    """Clean views -> reconstruction -> renderings -> blended by alpha: a `CleanViewsHook` for pixel priors.

    `latents` is the same for a sampler of latents, as the feedback of `with_feedback`.
    """

    def __init__(
        self,
        reconstructor: GaussianReconstructor,
        *,
        views: int = 4,
        weight: float = 1.0,
        steps: Sequence[int | float] | None = VIDEOMV_STEPS,
    ) -> None:
        """Args: `views` evenly spread ones are reconstructed from; `weight` of the renderings where they are opaque."""
        if not 0.0 <= weight <= 1.0:
            raise UserError(f"expected a weight of 0 to 1, got {weight:g}")
        self.reconstructor, self.views, self.weight, self.steps = reconstructor, views, weight, steps
        self.gaussians: Gaussians | None = None
        """Of the last step that was fed back."""

    def __str__(self) -> str:
        """Returns what it does, for records of how views were made."""
        steps = "all" if self.steps is None else list(self.steps)
        source = self.reconstructor.info.source
        return f"feedback of {self.views} views by {source}, weight {self.weight:g}, steps {steps}"

    @torch.no_grad()
    def __call__(
        self, views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera], step: int, steps: int
    ) -> Float[Tensor, "V 4 H W"]:
        if not chosen_step(step, steps, self.steps):
            return views
        return self.blended(views, cameras)

    @torch.no_grad()
    def blended(self, views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera]) -> Float[Tensor, "V 4 H W"]:
        """Returns `views` with the renderings of their reconstruction blended in."""
        rendered = self.rendered(views, cameras)
        share = self.weight * rendered[:, 3:].clamp(0, 1)
        return torch.lerp(views, rendered, share)

    def rendered(self, views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera]) -> Float[Tensor, "V 4 H W"]:
        """Returns the renderings by all cameras of what the reconstructor makes of some of the views."""
        count = min(self.views, len(cameras))
        chosen = [k * len(cameras) // count for k in range(count)]
        found = self.reconstructor.reconstruct(views[chosen].clamp(0, 1), [cameras[k] for k in chosen])
        self.gaussians = found
        return render_rgba(found, cameras, views.shape[-1]).to(views)

    def latents(
        self,
        decode: Callable[[Tensor], Float[Tensor, "V 4 H W"]],
        encode: Callable[[Float[Tensor, "V 4 H W"]], Tensor],
        cameras: Sequence[Camera],
    ) -> Feedback:
        """Returns the feedback for a scheduler over latents; `decode` and `encode` lead to pictures and back."""

        @torch.no_grad()
        def feedback(x0: Tensor, index: int, steps: int) -> Tensor:
            return encode(self.blended(decode(x0), cameras)).view_as(x0)

        return feedback


def rendered_conditions(gaussians: Gaussians, cameras: Sequence[Camera], size: int) -> Float[Tensor, "V 24 H W"]:
    """Returns rgb, alpha, canonical xyz and facing of a reconstruction, as the view transformer takes them.

    All are premultiplied, and 0 where nothing is; xyz is in 0..1 (see `views.render_xyz`). A whole object shows every
    camera its outside: facing is alpha, and there is nothing to guess (compare `models.surface`).
    """
    with torch.no_grad():
        rgba, xyz = render_rgba(gaussians, cameras, size), render_xyz(gaussians, cameras, size)
    drawn = torch.cat([rgba, xyz[:, :3], rgba[:, 3:]], dim=1)
    return torch.cat([drawn, torch.zeros_like(drawn).repeat(1, DRAWINGS - 1, 1, 1)], dim=1)
