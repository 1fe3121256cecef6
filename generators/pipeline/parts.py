"""The one place that builds what the pipeline is made of: priors, reconstructor, anchors, fit, domain, words.

Everything heavy is imported inside the functions, so that inputs and settings are checked before it loads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaussian4d.errors import UserError
from gaussian4d.plugins import PRIORS

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from gaussian4d.cameras import Camera
    from gaussian4d.devices import Placement
    from gaussian4d.gaussians import Gaussians
    from gaussian4d.model import DynamicGaussians

    from ..models.pieces import Moves
    from ..priors.base import (
        CleanViewsHook,
        Fusion,
        GaussianReconstructor,
        ImagePrior,
        MultiViewPrior,
        Role,
        StepCallback,
        VideoPrior,
    )


def check_installed() -> None:
    """Raises `UserError` with the install line when the packages of the extra `generators` are missing."""
    from gaussian4d.optional import OPTIONAL

    for module in ("diffusers", "transformers", "accelerate"):
        package = OPTIONAL[module]
        if package.version is None:
            raise UserError(f"{package.purpose} needs {module}, which is not installed; run: {package.install}")


def embedded_prior() -> Any:
    """Returns the prior that comes with the package: multi-view, video, image and distillation in one."""
    return PRIORS.get("embedded")("multi-view")


def named_prior(name: str, role: Role) -> Any:
    """Returns the prior that an installed package registered as `name`."""
    return PRIORS.get(name)(role)


def external_prior(source: str, role: Role, device: str = "auto") -> Any:
    """Returns the prior in a folder or hub id; raises `UserError` when it is not there or not of this role."""
    from ..external.loading import open_external

    return open_external(source, role, device=device)


def reconstructor() -> GaussianReconstructor | None:
    """Returns the embedded feed-forward reconstructor, None where the package came without weights for it."""
    from ..priors.reconstructor import WEIGHTS, EmbeddedReconstructor

    return EmbeddedReconstructor.load() if (WEIGHTS / "reconstructor.safetensors").is_file() else None


def check_domain(image: Float[Tensor, "4 64 64"]) -> tuple[bool, str]:
    """Returns whether a picture is one the embedded prior has learnt to continue, and a sentence that says so."""
    from ..domain import check

    report = check(image)
    return bool(report.inside), str(report.message)


def unknown_words(text: str) -> tuple[list[str], bool]:
    """Returns the words that say nothing to the embedded prior, and whether any of the others does."""
    from gaussian4d.toys import captions

    return captions.unknown_words(text), captions.says_something(text)


def check_motion(motion: str) -> None:
    """Raises `UserError` for a motion model that no asset is fitted with."""
    fit_config("quick", motion=motion, seed=0, backend="auto", sds=False)


def fit_config(
    preset: str,
    *,
    motion: str | None,
    seed: int,
    backend: str,
    device: str = "auto",
    sds: bool,
    solid: bool = False,
    max_minutes: float | None = None,
    minutes_only: bool = False,
) -> Any:
    """Returns the `StagConfig` of a preset with what the user chose.

    `solid`: see `stag4d.solid`. `max_minutes` is a limit beside the steps; with `minutes_only` it takes their place,
    except for what is solid, which longer fits make worse.
    """
    from .. import stag4d

    chosen: dict[str, Any] = {"seed": seed, "device": device, "backend": backend}
    if motion is not None:
        chosen["motion"] = motion
    if max_minutes is not None:
        chosen["max_minutes"] = max_minutes
        if minutes_only and not solid:
            chosen["max_steps"] = None
    if not sds:
        chosen["sds"] = False
    config = stag4d.preset(preset)
    return (stag4d.solid(config) if solid else config).replace(**chosen)


def make_anchors(
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    camera: Camera,
    prior: MultiViewPrior,
    cameras: Sequence[Camera],
    *,
    fusion: Fusion | None,
    seed: int,
    caption: str | None,
    folder: Path,
    progress: StepCallback | None = None,
    hook: CleanViewsHook | None = None,
) -> Any:
    """Returns what the prior sees from `cameras` at every instant, kept in `folder` as it is made."""
    from .. import stag4d

    return stag4d.make_anchors(
        frames,
        times,
        camera,
        prior,
        cameras,
        fusion,
        seed,
        progress,
        caption=caption,
        folder=folder,
        chunk=8,
        hook=hook,
    )


def feedback(reconstructor: GaussianReconstructor | None) -> CleanViewsHook | None:
    """Returns what sends clean views through a 3D reconstruction while they are sampled; None without one."""
    if reconstructor is None:
        return None
    from ..feedback import RenderFeedback

    return RenderFeedback(reconstructor)


def load_anchors(folder: Path) -> Any:
    """Returns the anchors kept in `folder`."""
    from .. import stag4d

    return stag4d.load_anchors(folder)


def save_moves(path: Path, moves: Moves) -> None:
    """Writes how the pieces of a picture move."""
    from safetensors.torch import save_file

    from gaussian4d.files import atomic_write

    assert moves.points is not None
    with atomic_write(path) as temporary:
        save_file({name: value.contiguous() for name, value in vars(moves).items()}, temporary)


def load_moves(path: Path) -> Moves:
    """Returns what `save_moves` wrote; raises `UserError` when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..models.pieces import Moves

    try:
        return Moves(**load_file(path))
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None


def fit_asset(
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    camera: Camera,
    prior: Any,
    out: Path,
    config: Any,
    *,
    anchors: Any,
    reconstructor: GaussianReconstructor | None,
    resume: bool,
    fps: float | None = None,
    caption: str | None = None,
    moves: Moves | None = None,
    rest: DynamicGaussians | None = None,
) -> DynamicGaussians:
    """Returns the asset fitted to frames and anchors; `out` is left as a run folder. For `moves` and `rest` see
    `stag4d.fit_asset`.

    Raises `KeyboardInterrupt` after saving when the user stopped it.
    """
    from .. import stag4d

    try:
        return stag4d.fit_asset(
            frames, times, camera, prior, out, config,
            reconstructor=reconstructor, anchors=anchors, resume=resume, fps=fps, caption=caption,
            moves=moves, rest=rest,
        )  # fmt: skip
    except stag4d.Interrupted:
        raise KeyboardInterrupt from None


def render_rgba(gaussians: Gaussians, cameras: Sequence[Camera], placement: Placement) -> Float[Tensor, "V 4 H W"]:
    """Returns premultiplied pictures of Gaussians, drawn where `placement` says."""
    from ..views import render_rgba as render

    return render(gaussians.to(placement.device), cameras, backend=placement.backend)


@dataclasses.dataclass
class Priors:
    """The priors a run works with; those it does not need are None."""

    views: MultiViewPrior
    video: VideoPrior | None = None
    image: ImagePrior | None = None
    reconstructor: GaussianReconstructor | None = None


def _opened(source: str, role: Role, device: str) -> Any:
    if source == "embedded":
        return embedded_prior()
    return named_prior(source, role) if source in PRIORS else external_prior(source, role, device)


def open_priors(
    views: str, video: str | None, image: str | None, say: Callable[[str], None] = print, device: str = "auto"
) -> Priors:
    """Returns the priors named; None names none. Says what each is, its licence, and what its notice says.

    Those of published weights are loaded to `device`.

    Raises `UserError` before any work when one of them is missing or cannot do what it is asked for.
    """
    from ..priors.base import ImagePrior, MultiViewPrior, VideoPrior

    opened: dict[str, Any] = {}
    found: dict[str, Any] = {}
    roles: tuple[tuple[Role, str | None, type], ...] = (
        ("multi-view", views, MultiViewPrior),
        ("video", video, VideoPrior),
        ("image", image, ImagePrior),
    )
    for role, source, protocol in roles:
        if source is None:
            found[role] = None
            continue
        # A prior with a name may serve several roles, as the embedded one does, which is one set of weights.
        if source not in PRIORS or not isinstance(opened.get(source), protocol):
            opened[source] = _opened(source, role, device)
            if not isinstance(opened[source], protocol):
                raise UserError(f"{source} is no {role} prior; name weights that are one (docs/generation.md)")
            info = opened[source].info
            say(f"{role} prior: {info.name} ({info.source}), licence {info.licence}")
            if info.notice:
                say(f"  note: {info.notice}")
        found[role] = opened[source]
    return Priors(found["multi-view"], found["video"], found["image"], reconstructor() if views == "embedded" else None)
