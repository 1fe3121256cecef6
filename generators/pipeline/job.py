"""One object on its way from input to asset: the stages, what each is made from, and what each keeps."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, read_json, write_json
from gaussian4d.run_folder import RunFolder

from ..cameras import orbit_camera, orbit_cameras
from ..inputs.recentre import recentre
from ..priors.base import CleanViewsHook, DistillationPrior, Fusion, MotionPrior, StepCallback
from ..stag4d.anchors import APART
from ..stag4d.config import RIGID
from . import parts, results
from .detail import sharpened
from .estimate import Speed, sampling_seconds, spoken
from .previews import Preview, consistency, write_sheet
from .stages import Stages

if TYPE_CHECKING:
    from gaussian4d.cameras import Camera
    from gaussian4d.devices import Placement
    from gaussian4d.model import DynamicGaussians

    from ..inputs import Subject
    from ..models.pieces import Moves
    from .settings import Settings

T = TypeVar("T")

VIEWS = 8
"""Cameras of the anchors around the object."""
STATIC_MINUTES = 0.5
"""Of the fit of the static asset, which comes first when the input is a picture or words."""
MOTION_DRAWS = 4
"""From a picture alone motion is drawn so often at most, until something moves."""
LEAST_FIT_SECONDS = 15.0
"""The fit gets this much even where a limit of time leaves less."""

# What the fit writes into the run folder; another fit takes its place as a whole.
_RUN = RunFolder("")
_OF_THE_FIT = (
    *(path.name for path in (_RUN.config_path, _RUN.progress_path)),
    *("log.txt", "metrics.jsonl", "checkpoints", "model.g4d", "eval"),
)


class Job:
    """The stages of one input. `plan` first, then `estimate`, then `run`."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        priors: parts.Priors,
        placement: Placement,
        *,
        subject: Subject | None = None,
        caption: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Takes either a subject or a caption; fits and draws where `placement` says."""
        self.placement = placement
        self.folder, self.settings, self.priors = folder, settings, priors
        self.subject, self.caption, self.say = subject, caption, say
        self.stages = Stages(folder, say)
        self.seed = settings.seed if settings.pick is None else settings.pick
        self.moving = not settings.static and (subject is None or len(subject.frames) == 1)
        """Whether a video prior has to make the picture move."""
        self.rigid = self.moving and settings.motion in (None, RIGID) and isinstance(priors.video, MotionPrior)
        """Whether the motion is known before the fit: one asset at rest is moved, and no later anchors are needed."""
        if settings.motion == RIGID and self.moving and not self.rigid:
            raise UserError(f"--motion {RIGID} needs a video prior that says how things move; leave it out")
        self.still = settings.static
        self._left: dict[str, float] = {}
        self._began = time.monotonic()

    @property
    def name(self) -> str:
        """For messages."""
        return self.caption if self.subject is None else self.subject.name  # type: ignore[return-value]

    def plan(self) -> list[str]:
        """Returns the names of the stages in their order, and binds each to what it is made from."""
        own = self.settings
        camera = {"elevation": own.elevation, "fov": own.fov}
        seed, feedback = {"seed": self.seed}, {"feedback": own.feedback}
        order: list[str] = []

        def add(name: str, made_from: Any, *after: str) -> None:
            self.stages.plan(name, made_from, after)
            order.append(name)

        source: dict[str, Any] = {"text": self.caption, "prior": own.image_prior, "fill": own.fill, **camera}
        if self.subject is not None:
            shape = list(self.subject.frames.shape)
            source = {"file": self.subject.fingerprint, "shape": shape, "matte": own.matte, "fill": own.fill}
            add("input", source)
        if own.seeds > 1:
            tried = {
                "seeds": [own.seed, own.seeds],
                "prior": own.prior,
                "background": own.background,
                **feedback,
                **camera,
            }
            add("previews", {**tried, **(source if self.subject is None else {})}, *order)
        if self.subject is None:
            add("input", {**source, **seed})
        if self.moving:
            add("static", {"prior": own.prior, "preset": own.preset, **feedback, **camera, **seed}, "input")
            add("video", {"prior": own.video_prior, "frames": own.frames, **camera, **seed}, "input")
        fit = {"preset": own.preset, "motion": own.motion, "minutes": own.max_minutes, "backend": own.backend}
        if self.rigid:
            add("asset", {**fit, "rigid": True, **seed}, "static", "video")
        else:
            last = "video" if self.moving else "input"
            made = {"prior": own.prior, "views": VIEWS, "still": self.still}
            add("anchors", {**made, **feedback, **camera, **seed}, last)
            add("asset", {**fit, "still": self.still, **seed}, "anchors")
        add("results", {"background": own.background, **camera}, "asset")
        return order

    def run(self) -> None:
        """Runs all stages and leaves the run folder; stages that are kept are only read."""
        self._began = time.monotonic()
        if self.subject is None:
            self._choose(None)
            frames = self._stage("input", self._make_image, load_frames)
        else:
            frames = self._stage("input", self._keep_input, load_frames)
            self._choose(frames[0])
            if self.still:
                frames = frames[:1]
        moves = None
        if self.moving:
            self._stage("static", lambda folder: self._make_static(folder, frames[0]), lambda folder: None)
            frames, moves = self._stage("video", lambda folder: self._make_video(folder, frames[0]), self._load_video)
        times = clip_times(len(frames))
        camera = self._camera(frames.shape[-1])
        if self.rigid:
            anchors = parts.load_anchors(self._at_rest / "anchors")
        else:
            anchors = self._stage(
                "anchors",
                lambda folder: self._make_anchors(folder, frames, times),
                lambda folder: parts.load_anchors(folder),
            )
        model = self._stage(
            "asset",
            lambda _: self._make_asset(frames, times, camera, anchors, moves),
            lambda _: load_asset(self.folder),
        )
        self._stage("results", lambda _: self._make_results(model, frames, times), lambda _: self._check_results())

    def estimate(self, order: list[str], speed: Speed) -> dict[str, float]:
        """Returns the seconds that each stage still to be done will take, by a short measurement of the priors."""
        own, todo = self.settings, [name for name in order if not self.stages.kept(name)]
        image = None if self.subject is None else torch.from_numpy(self.subject.frames[0])
        picture = torch.zeros(4, 64, 64) if image is None else image
        camera, cameras = self._camera(picture.shape[-1]), self._view_cameras()
        frames = own.frames if self.moving else 1 if self.still or self.subject is None else len(self.subject.frames)
        seconds = {name: 0.5 for name in todo}
        made = 0.0
        if self.caption is not None and {"input", "previews"} & set(todo):
            prior, caption = self._image_prior(), self.caption
            made = sampling_seconds(lambda note: prior.sample_image(caption, camera, seed=self.seed, progress=note))
        views = sampling_seconds(
            lambda note: self.priors.views.sample_views(
                picture[None], camera, cameras, seed=self.seed, hook=self._feedback(), progress=note
            )
        )
        anchors = views * self.priors.views.info.samples
        each = {
            "input": made,
            "previews": own.seeds * (made + views),
            "static": anchors + self._fit_seconds(speed, solid=True, limit=60.0 * STATIC_MINUTES),
            "anchors": frames * anchors,
            "asset": self._fit_seconds(speed, solid=self.still or self.rigid),
            "results": speed.draw * (results.ORBIT_SIZE / 128) ** 2 * 130 + 0.1 * frames,
        }
        seconds |= {name: each[name] for name in todo if each.get(name)}
        if "video" in todo:
            mover = self._video_prior()
            seconds["video"] = sampling_seconds(
                lambda note: mover.sample_video(
                    picture, camera, own.frames, caption=self.caption, seed=self.seed, progress=note
                )
            )
        if own.max_minutes is not None and "asset" in todo and not self._solid(self.still or self.rigid):
            others = sum(value for name, value in seconds.items() if name != "asset")
            seconds["asset"] = max(60.0 * own.max_minutes - others, LEAST_FIT_SECONDS)
        self._left = dict(seconds)
        return seconds

    # The stages, in their order.

    def _keep_input(self, folder: Path) -> Float[Tensor, "T 4 S S"]:
        assert self.subject is not None
        frames = torch.from_numpy(self.subject.frames)
        save_frames(folder, frames)
        write_json(folder / "input.json", {"name": self.subject.name, "notes": list(self.subject.notes)})
        return load_frames(folder)

    def _choose(self, image: Float[Tensor, "4 S S"] | None) -> None:
        """Sets the seed to go on with, from previews where several are tried, and plans what follows anew."""
        if self.settings.seeds == 1:
            return
        best = self._stage("previews", lambda folder: self._make_previews(folder, image), self._load_previews)
        if self.settings.pick is None:
            self.seed = best
            self.say(f"  going on with seed {self.seed}; --resume --pick SEED takes another from {self._previews}")
        self.plan()

    @property
    def _previews(self) -> Path:
        return self.folder / "previews.png"

    def _make_previews(self, folder: Path, image: Float[Tensor, "4 S S"] | None) -> int:
        own, cameras, made = self.settings, self._view_cameras(), []
        with self._progress("previews", own.seeds) as progress:
            for seed in range(own.seed, own.seed + own.seeds):
                picture = self._sample_image(seed) if image is None else image
                views = (
                    self.priors.views.sample_views(
                        picture[None],
                        self._camera(picture.shape[-1]),
                        cameras,
                        caption=self.caption,
                        seed=seed,
                        hook=self._feedback(),
                    )[0]
                    .float()
                    .cpu()
                )
                score = consistency(picture, views, cameras, self.priors.reconstructor, self.placement)
                made.append(Preview(seed, picture, views, score))
                progress.update(len(made))
        write_sheet(self._previews, made, results.BACKGROUNDS[own.background])
        write_json(folder / "scores.json", {str(preview.seed): round(preview.score, 3) for preview in made})
        self.say(f"  {self._previews}: " + ", ".join(f"seed {one.seed} {one.score:.1f} dB" for one in made))
        return self._load_previews(folder)

    def _load_previews(self, folder: Path) -> int:
        scores = read_json(folder / "scores.json")
        if not self._previews.is_file():
            raise UserError(f"{self._previews} is missing")
        return int(max(scores, key=lambda seed: scores[seed]))

    def _make_image(self, folder: Path) -> Float[Tensor, "1 4 S S"]:
        with self._progress("input", 1) as progress:
            image = self._sample_image(self.seed, callback(progress))
        save_frames(folder, image[None])
        self._warn_of_domain(image)
        return load_frames(folder)

    def _make_static(self, folder: Path, image: Float[Tensor, "4 S S"]) -> None:
        """Makes an asset of the picture alone, so that there is something to look at within a minute."""
        run = folder / "run"
        resume = RunFolder(run).exists
        anchors = self._sample_anchors(folder / "anchors", image[None], [0.0], "static")
        config = self._fit_config("static", STATIC_MINUTES, minutes_only=False)
        camera = self._camera(image.shape[-1])
        model = parts.fit_asset(
            image[None], [0.0], camera, self.priors.views, run, config,
            anchors=anchors, reconstructor=self.priors.reconstructor, resume=resume,
            fps=None if self.subject is None else self.subject.fps, caption=self.caption,
        )  # fmt: skip
        if not self.stages.kept("asset") and not self.stages.begun("asset"):
            model.save(self.folder / "model.g4d")
        self.say(f"  a static asset is ready: gaussian4d view {run}")

    @property
    def _at_rest(self) -> Path:
        """The stage with the asset of the picture alone, and the views it was made of."""
        return self.stages.folder / "static"

    def _make_video(self, folder: Path, image: Float[Tensor, "4 S S"]) -> tuple[Float[Tensor, "T 4 S S"], Moves | None]:
        own, camera = self.settings, self._camera(image.shape[-1])
        told: dict[str, Any] = {"caption": self.caption, "seed": self.seed}
        moves = None
        with self._progress("video", 1) as progress:
            if isinstance(self._video_prior(), MotionPrior):
                moves = self._sample_moves(image, camera)
                parts.save_moves(folder / MOVES, moves)
                told["moves"] = moves
            video = self._video_prior().sample_video(image, camera, own.frames, progress=callback(progress), **told)
        frames = sharpened(video.float().cpu(), image)
        save_frames(folder, frames)
        return load_frames(folder), moves

    def _sample_moves(self, image: Float[Tensor, "4 S S"], camera: Camera) -> Moves:
        """Returns how the picture moves; where no words say that it stands still, it is drawn again if it does."""
        for draw in range(MOTION_DRAWS if self.caption is None else 1):
            moves = self._video_prior().sample_moves(
                image, camera, clip_times(self.settings.frames), caption=self.caption, seed=self.seed + draw * APART
            )
            if not moves.still:
                return moves
        self.say(f"  with seed {self.seed} nothing moves; another --seed, or words, may")
        return moves

    def _load_video(self, folder: Path) -> tuple[Float[Tensor, "T 4 S S"], Moves | None]:
        known = isinstance(self._video_prior(), MotionPrior)
        return load_frames(folder), parts.load_moves(folder / MOVES) if known else None

    def _make_anchors(self, folder: Path, frames: Float[Tensor, "T 4 S S"], times: list[float]) -> Any:
        return self._sample_anchors(folder, frames, times, "anchors")

    def _make_asset(
        self, frames: Float[Tensor, "T 4 S S"], times: list[float], camera: Camera, anchors: Any, moves: Moves | None
    ) -> Any:
        # The record says that the stage was begun; the fit's own files say how far it came, and with what settings.
        begun = self.folder / "stages" / "asset" / "fit_began"
        resume = begun.is_file() and RunFolder(self.folder).exists
        if not resume:
            for name in _OF_THE_FIT:
                path = self.folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                elif name != "model.g4d":
                    path.unlink(missing_ok=True)
            begun.touch()
        minutes = self._minutes_left()
        config = self._fit_config("static" if self.still else RIGID if self.rigid else self.settings.motion, minutes)
        known = {"moves": moves, "rest": load_asset(self._at_rest / "run")} if self.rigid else {}
        return parts.fit_asset(
            frames, times, camera, self.priors.views, self.folder, config,
            anchors=anchors, reconstructor=self.priors.reconstructor, resume=resume,
            fps=None if self.subject is None else self.subject.fps, caption=self.caption, **known,
        )  # fmt: skip

    def _minutes_left(self) -> float | None:
        """Returns what the user's limit leaves for the fit, None without one."""
        if self.settings.max_minutes is None:
            return None
        spent = time.monotonic() - self._began + self._left.get("results", 0.0)
        return max(60.0 * self.settings.max_minutes - spent, LEAST_FIT_SECONDS) / 60.0

    def _make_results(self, model: DynamicGaussians, frames: Float[Tensor, "T 4 S S"], times: list[float]) -> None:
        own = self.settings
        look = {
            "elevation": own.elevation, "fov": own.fov, "background": own.background, "backend": self.placement.backend,
        }  # fmt: skip
        model = model.to(self.placement.device)
        video, plys, sheet = self._results
        results.write_orbit(video, model, **look)
        results.write_plys(plys, model)
        results.write_sheet(sheet, model, frames, times, **look)

    @property
    def _results(self) -> tuple[Path, Path, Path]:
        return self.folder / "renders/orbit.mp4", self.folder / "exports/ply", self.folder / "renders/sheet.png"

    def _check_results(self) -> None:
        for path in self._results:
            if not path.exists():
                raise UserError(f"{path} is missing")

    # What stages share.

    def _stage(self, name: str, compute: Callable[[Path], T], load: Callable[[Path], T]) -> T:
        """Returns what a stage gives; says what it is doing and how long the rest will take."""

        def timed(folder: Path) -> T:
            self.say(f"{name}: {_DOING[name]}")
            start = time.monotonic()
            value = compute(folder)
            self._left.pop(name, None)
            left = sum(self._left.values())
            rest = f", about {spoken(left)} left" if left >= 1 else ""
            self.say(f"{name}: done in {spoken(time.monotonic() - start)}{rest}")
            return value

        value = self.stages.run(name, timed, load)
        self._left.pop(name, None)
        return value

    def _progress(self, label: str, total: int) -> Any:
        from gaussian4d.cli.console import Progress

        return Progress(label, total)

    def _camera(self, size: int) -> Camera:
        return orbit_camera(0.0, self.settings.elevation, fov=self.settings.fov, size=size, id="input")

    def _view_cameras(self) -> list[Camera]:
        info, own = self.priors.views.info, self.settings
        if info.fixed_cameras is None:
            return orbit_cameras(VIEWS, elevation=own.elevation, fov=own.fov, size=info.size)
        own_cameras: Callable[[], list[Camera]] | None = getattr(self.priors.views, "cameras", None)
        if own_cameras is not None:
            # With the field of view they were trained with, whatever the picture's own is.
            return own_cameras()
        return [orbit_camera(azimuth, height, fov=own.fov, size=info.size) for azimuth, height in info.fixed_cameras]

    def _sample_anchors(self, folder: Path, frames: Float[Tensor, "T 4 S S"], times: list[float], label: str) -> Any:
        with self._progress(label, 1) as progress:
            return parts.make_anchors(
                frames, times, self._camera(frames.shape[-1]), self.priors.views, self._view_cameras(),
                fusion=Fusion() if len(frames) > 1 else None, seed=self.seed, caption=self.caption, folder=folder,
                progress=callback(progress), hook=self._feedback(),
            )  # fmt: skip

    def _feedback(self) -> CleanViewsHook | None:
        return parts.feedback(self.priors.reconstructor) if self.settings.feedback else None

    def _sample_image(self, seed: int, progress: StepCallback | None = None) -> Float[Tensor, "4 S S"]:
        """Returns a picture of the caption; what an external prior makes is framed as the other priors expect."""
        prior, own = self._image_prior(), self.settings
        assert self.caption is not None
        image = prior.sample_image(self.caption, self._camera(prior.info.size), seed=seed, progress=progress)
        image = image.float().cpu()
        if own.image_prior == "embedded":
            return image
        framed = recentre([image.permute(1, 2, 0).numpy()], share=own.fill)
        return torch.from_numpy(framed.frames[0])

    def _fit_config(self, motion: str | None, minutes: float | None, *, minutes_only: bool = True) -> Any:
        own = self.settings
        solid = self._solid(motion in ("static", RIGID))
        # Distillation asks about each instant for itself, what moves as a solid is the same at all; and the embedded
        # prior knows no more than the views it made (docs/generation.md).
        teacher = own.prior != "embedded" and isinstance(self.priors.views, DistillationPrior)
        sds = teacher and not solid and motion != RIGID
        return parts.fit_config(
            own.preset, motion=motion, seed=self.seed, backend=own.backend, device=str(self.placement.device), sds=sds,
            solid=solid, max_minutes=minutes, minutes_only=minutes_only,
        )  # fmt: skip

    def _solid(self, at_rest: bool) -> bool:
        """Returns whether a fit is that of one object at rest, begun from the reconstructor (`stag4d.solid`)."""
        return at_rest and self.priors.reconstructor is not None

    def _fit_seconds(self, speed: Speed, solid: bool, limit: float | None = None) -> float:
        """Returns what a fit takes: the presets end after their steps or their time, whichever is first."""
        preset = self.settings.preset
        most = PRESET_SECONDS[preset]
        # Few steps, see `stag4d.solid`, where a reconstructor gives the start.
        share = 0.13 if self._solid(solid) else 1.0
        return min(most if limit is None else limit, share * max(speed.factor, 0.2) * most)

    def _warn_of_domain(self, image: Float[Tensor, "4 S S"]) -> None:
        if self.settings.prior == "embedded":
            warn_of_domain(self.name, image, self.say)

    def _image_prior(self) -> Any:
        assert self.priors.image is not None
        return self.priors.image

    def _video_prior(self) -> Any:
        assert self.priors.video is not None
        return self.priors.video


MOVES = "moves.safetensors"

PRESET_SECONDS = {"quick": 90.0, "balanced": 360.0}
"""What the presets of the fit take, and at most take, on the machine for which they are stated."""

_DOING = {
    "input": "the picture that everything follows from",
    "previews": "what each seed would become",
    "static": "an asset of the picture alone",
    "video": "how it moves",
    "anchors": "what other cameras see at every instant",
    "asset": "Gaussians fitted to pictures and anchors",
    "results": "orbit video, a .ply for each instant, contact sheet",
}


def warn_of_domain(name: str, image: Float[Tensor, "4 S S"], say: Callable[[str], None]) -> None:
    """Says so when a picture is not of the kind that the embedded prior was trained on."""
    from .detail import resized

    inside, message = parts.check_domain(resized(image[None], 64)[0])
    if not inside:
        say(f"warning: {name}: {message}")


def clip_times(count: int) -> list[float]:
    """Returns even clip times, 0 alone for one frame."""
    return np.linspace(0.0, 1.0, count).tolist() if count > 1 else [0.0]


def callback(progress: Any) -> StepCallback:
    """Returns what tells a progress display how far a sampler is."""

    def note(done: int, total: int) -> None:
        progress.total = total
        progress.update(done)

    return note


def load_asset(run: Path) -> DynamicGaussians:
    """Returns the asset of a run folder."""
    from gaussian4d.model import load_model

    return load_model(run / "model.g4d")


def save_frames(folder: Path, frames: Float[Tensor, "T 4 S S"]) -> None:
    """Writes frames.safetensors (float16, premultiplied) and, to look at, frames.png.

    What follows works with the frames as they are read again, so that a resumed run sees the same.
    """
    from PIL import Image
    from safetensors.torch import save_file

    from gaussian4d.io.pictures import contact_sheet

    with atomic_write(folder / "frames.safetensors") as temporary:
        save_file({"frames": frames.half().contiguous()}, temporary)
    shown = [results.over(frame, (1.0, 1.0, 1.0)) for frame in frames]
    with atomic_write(folder / "frames.png") as temporary:
        Image.fromarray(contact_sheet([shown[k : k + 8] for k in range(0, len(shown), 8)])).save(temporary)


def load_frames(folder: Path) -> Float[Tensor, "T 4 S S"]:
    """Returns what `save_frames` wrote; raises `UserError` when it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "frames.safetensors")["frames"].float()
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{folder / 'frames.safetensors'}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    name: str
    folder: Path
    error: str | None = None
