"""What `gaussian4d generate` can be told: its flags, their checks, and how they are kept for `--resume`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from gaussian4d.cli.choices import Several, Unset, choices, listed
from gaussian4d.cli.fit import Backend
from gaussian4d.errors import UserError
from gaussian4d.files import read_json, write_json
from gaussian4d.plugins import MOTIONS, PRIORS

PriorName = Annotated[str, arg(metavar=listed(PRIORS, "FOLDER", "HUB/ID"))]
if TYPE_CHECKING:
    MotionName = str
else:
    # Rigid parts are not fitted but given by a prior; what stands still is asked for by --static.
    MotionName = choices(MOTIONS, but=("static", "per-frame"), besides=("rigid-parts",))

FILE = "generate.json"
_SCHEMA = 1
# What a call says for itself, not about the asset: never taken from a saved run.
_OF_THE_CALL = ("out", "resume")
_PRIORS = ("prior", "video_prior", "image_prior")


@dataclasses.dataclass
class Settings:
    """Everything a generation is made from."""

    out: Path
    """Run folder to write; with several inputs, the folder for one run folder each."""
    image: Several[Path] = ()
    """Images of one object each, preferably with alpha."""
    text: Several[str] = ()
    """Descriptions, such as "a red and white striped ball hopping"."""
    video: Several[Path] = ()
    """Videos, animated images or folders of frames, taken by a fixed camera."""
    prior: PriorName = "embedded"
    """Multi-view prior: embedded, one from a plugin, or a folder or hub id of weights (docs/generation.md)."""
    video_prior: PriorName = "embedded"
    """Image-to-video prior, named in the same way."""
    image_prior: PriorName = "embedded"
    """Text-to-image prior, named in the same way."""
    elevation: float = 15.0
    """Degrees above the horizon from which the input was taken."""
    fov: float = 35.0
    """Field of view of the input's camera in degrees."""
    mask: Unset[Path] = None
    """Foreground mask for an input without alpha, white on the object; for a video also a folder of masks."""
    matte: Literal["auto", "color", "rembg"] = "auto"
    """How to cut out an input without alpha: by its uniform background colour, or with rembg; auto tries both."""
    fill: float = 0.8
    """Fraction of the framed image that the object fills."""
    preset: Literal["quick", "balanced"] = "quick"
    """Fitting time: a minute and a half, or about six minutes; seconds if the prior supplies the motion."""
    motion: Unset[MotionName] = None
    """Motion model. Default: rigid-parts if the video prior predicts their motion, else free-time."""
    static: bool = False
    """Make a static asset."""
    feedback: bool = False
    """3D-aware denoising (VideoMV): views pass through a 3D reconstruction while sampled; more consistent, slower."""
    frames: int = 16
    """Number of instants in the clip; a video is sampled evenly at this many frames."""
    max_minutes: Unset[float] = None
    """Time limit for each input, in minutes: the fit gets what the earlier stages leave of it."""
    seed: int = 0
    """Random seed."""
    seeds: int = 1
    """Try this many seeds, show them side by side in previews.png, and continue with the most consistent one."""
    pick: Unset[int] = None
    """Continue with this seed, one of those in previews.png."""
    background: Literal["white", "black"] = "white"
    """Background colour of videos and contact sheets."""
    resume: bool = False
    """Resume the run in --out with its settings; flags given now override them, and only affected stages rerun."""
    device: str = "auto"
    """Where to fit and draw: auto is a GPU where a backend works there, else cpu; also cuda, cuda:1. Published weights
    are loaded there too; the embedded priors compute on the CPU."""
    backend: Backend = "auto"
    """Rasterizer."""

    @property
    def kind(self) -> Literal["image", "text", "video"]:
        """Which of the three inputs was given."""
        return "image" if self.image else "text" if self.text else "video"

    @property
    def inputs(self) -> tuple[Path | str, ...]:
        """The inputs of that kind."""
        return self.image or self.text or self.video

    def check(self) -> None:
        """Raises `UserError` for settings that cannot work, before anything is read."""
        given = [f"--{kind}" for kind in ("image", "text", "video") if getattr(self, kind)]
        if len(given) != 1:
            what = " and ".join(given) or "none of them"
            raise UserError(f"expected one of --image, --text and --video, got {what}; give one kind of input")
        if any(not text.strip() for text in self.text):
            raise UserError('expected a description, got an empty --text; say what to make, such as "a red ball"')
        for name, low, high in (("elevation", -89.0, 89.0), ("fov", 1.0, 120.0), ("fill", 0.05, 1.0)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"--{name} must be {low:g} to {high:g}, got {value:g}")
        for name, least, most in (("frames", 2, 128), ("seeds", 1, 64), ("seed", 0, 2**31)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(f"--{name} must be {least} to {most}, got {value}")
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise UserError(f"--max-minutes must be positive, got {self.max_minutes:g}")
        if self.pick is not None and not self.seed <= self.pick < self.seed + self.seeds:
            last = self.seed + self.seeds - 1
            raise UserError(f"--pick must be one of the seeds {self.seed} to {last}, got {self.pick}; add --seeds")
        if self.mask is not None and self.kind == "text":
            raise UserError("--mask belongs to an image or a video; leave it out with --text")
        if self.mask is not None and len(self.inputs) > 1:
            raise UserError("--mask belongs to one input; give the inputs one by one, or pictures with alpha")
        if self.motion == "rigid-parts" and self.kind == "video":
            raise UserError("--motion rigid-parts is for pictures and words: how a video moves is not known before")
        if self.static and self.motion is not None:
            raise UserError("--static and --motion do not go together; leave one out")
        for name in _PRIORS:
            check_source(getattr(self, name), "--" + name.replace("_", "-"))


def check_source(source: str, flag: str) -> None:
    """Raises `UserError` when `source` is neither a registered prior, nor a folder here, nor looks like a hub id."""
    if source in PRIORS or Path(source).is_dir():
        return
    parts = source.split("/")
    if len(parts) != 2 or not all(parts) or source.startswith((".", "~")) or Path(source).exists():
        raise UserError(
            f"{flag}: expected {', '.join(PRIORS)}, a folder of weights or a hub id such as owner/name, got {source!r};"
            " check the path"
        )


def save(settings: Settings, folder: Path) -> None:
    """Writes RUN/generate.json."""
    values = {
        field.name: _plain(field.name, getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.name not in _OF_THE_CALL
    }
    origins = [origin for name in _PRIORS if (origin := PRIORS.origin(getattr(settings, name)))]
    write_json(folder / FILE, {"schema": _SCHEMA, "settings": values} | ({"needs": origins} if origins else {}))


def resumed(given: Settings) -> Settings:
    """Returns the settings of the run in `given.out`, with those that `given` does not leave at their defaults.

    Raises `UserError` when there is no such run, or another version wrote it.
    """
    file = given.out / FILE
    if not file.is_file():
        raise UserError(f"--resume: {given.out} holds no generation ({FILE}); leave --resume out, or check --out")
    content = read_json(file)
    known = {field.name: field for field in dataclasses.fields(Settings)}
    values = content.get("settings") if isinstance(content, dict) and content.get("schema") == _SCHEMA else None
    if not isinstance(values, dict) or not set(values) <= set(known):
        raise UserError(f"{file} was written by another version; start anew with another --out")
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("image", "video"):
            kept[name] = tuple(Path(item) for item in value)
        elif name == "text":
            kept[name] = tuple(value)
        else:
            kept[name] = Path(value) if name == "mask" and value is not None else value
    anew = {name: getattr(given, name) for name, field in known.items() if getattr(given, name) != field.default}
    if any(name in anew for name in ("image", "text", "video")):
        # Another kind of input takes the place of the old one, it does not join it.
        kept.update(image=(), text=(), video=())
    found = dataclasses.replace(given, **{**kept, **anew})
    needs = content.get("needs")
    for origin in needs if isinstance(needs, list) else []:
        # A prior that was given anew takes the place of the one that may be missing.
        name = origin.get("name") if isinstance(origin, dict) else None
        if name is not None and name in [getattr(found, flag) for flag in _PRIORS]:
            PRIORS.get(name, needed=origin)
    return found


def _plain(name: str, value: Any) -> Any:
    """Returns a setting as JSON; paths are kept whole, so that a run can go on from another folder."""
    if isinstance(value, tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, Path) or (name in _PRIORS and value not in PRIORS and Path(value).is_dir()):
        return str(Path(value).resolve())
    return value
