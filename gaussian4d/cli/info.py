"""`gaussian4d info`: what a scene, a run or a file of Gaussians holds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tyro.conf import Positional

from ..errors import UserError
from ..run_folder import RunFolder
from ..system import check_ordinary
from .choices import Unset

if TYPE_CHECKING:
    import numpy as np

    from ..model import DynamicGaussians
    from ..scene import Problem, Scene


@dataclasses.dataclass
class Info:
    """Show what a scene folder, run folder or Gaussian file contains, and list every problem found."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d info data/fox
        gaussian4d info runs/fox
        gaussian4d info fox.g4d                   (also .ply .splat .spz .sog .ksplat .splatv .4dgs .glb .usda .ckpt)
    """

    path: Positional[Path]
    """Scene folder, run folder, folder of frames, or Gaussian file."""
    downscale: Unset[float] = None
    """For a scene: load it as `fit --downscale` would."""
    frames: Unset[str] = None
    """For a scene: load it as `fit --frames` would."""
    skip_missing: bool = False
    """For a scene: load it as `fit --skip-missing` would."""

    def run(self) -> int:
        """Prints the facts; returns 2 when something is broken."""
        if not self.path.is_dir():
            check_ordinary(self.path, "a scene, a run or a file of Gaussians")
        if self.path.suffix.lower() == ".g4d":
            return _g4d(self.path)
        if self.path.is_file():
            return _file(self.path)
        if RunFolder(self.path).exists:
            return _run(self.path)
        if _is_clip(self.path):
            return _file(self.path)
        if (file := _other_gaussians(self.path)) is not None:
            return _file(file)
        from ..model import runs_in

        for run in runs_in(self.path)[:1]:
            print(f"note       it contains a run: {run}")
        return _scene(self.path, self.downscale, self.frames, self.skip_missing)


def _scene(path: Path, downscale: float | None, frames: str | None, skip_missing: bool) -> int:
    from ..scene import inspect
    from .console import looking_at_files

    with looking_at_files():
        scene, problems = inspect(path, downscale=downscale, frames=frames, skip_missing=skip_missing)
    if scene is not None:
        _print_scene(scene)
    errors = [problem for problem in problems if problem.severity == "error"]
    _print_problems(problems)
    return 2 if errors else 0


def _print_scene(scene: Scene) -> None:
    from .console import print_table

    everything = scene.frames("all")
    poses = {(frame.camera_id, frame.camera.viewmat.tobytes()) for frame in everything}
    print(f"scene      {scene.path}")
    print(f"format     {scene.format}")
    print(f"cameras    {len(scene.cameras)}{_moving(len(poses), len(everything), len(scene.cameras))}")
    print(f"times      {len(scene.times)} instants, {scene.times[0]:.4g} to {scene.times[-1]:.4g} of the clip")
    fps = f"{scene.fps:.4g} frames per second" if scene.fps else "frame rate not known"
    duration = f", {scene.duration:.4g} s" if scene.duration else ""
    print(f"clip       {fps}{duration}")
    counts = Counter(frame.split for frame in everything)
    print(f"frames     {', '.join(f'{count} {split}' for split, count in counts.items())}")
    print(f"split      {scene.split_note}")
    sizes = Counter((frame.camera.width, frame.camera.height) for frame in everything)
    print(f"pictures   {', '.join(f'{width}x{height}' for width, height in sizes)}, alpha {_yes(scene.has_alpha)}")
    covisible = sum(frame.has_covisible for frame in everything)
    if covisible:
        print(f"covisible  {covisible} frames have a covisibility mask: mpsnr and mssim are over its pixels")
    points = "none" if scene.points is None else f"{len(scene.points.xyz):,}"
    print(f"points     {points}")
    if scene.offset.any():
        from ..offsets import text_of

        print(f"offset     {text_of(scene.offset)}: add it to positions to get recorded coordinates")
    for note in scene.notes:
        print(f"note       {note}")
    if len(scene.cameras) <= 64:
        rows = []
        by_camera = Counter((frame.camera_id, frame.split) for frame in everything)
        for id, camera in scene.cameras.items():
            split = "+".join(name for name in counts if by_camera[id, name])
            number = sum(by_camera[id, name] for name in counts)
            place = " ".join(f"{x:.3g}" for x in camera.position)
            rows.append((id, f"{camera.width}x{camera.height}", float(camera.K[0, 0]), place, split, number))
        print_table(("camera", "size", "focal", "position", "split", "frames"), rows)


def _moving(poses: int, frames: int, cameras: int) -> str:
    return " (one camera, moving: a pose per frame)" if poses == frames == cameras and frames > 64 else ""


def _print_problems(problems: list[Problem]) -> None:
    if not problems:
        print("problems   none found")
    for problem in problems:
        print(f"{problem.severity}: {problem.file}: {problem.message}")


def _run(path: Path) -> int:
    from ..files import read_json

    run = RunFolder(path)
    config = run.read()
    fit, scene = config.get("fit", {}), config["scene"]
    print(f"run        {path}")
    print(f"scene      {scene['path']}")
    if run.seems_lost():
        print("note       the scene no longer exists there, nor beside the run; pass its folder with --scene PATH")
    settings = ("preset", "motion", "max_steps", "max_minutes", "seed", "background")
    print(f"settings   {', '.join(f'{name} {fit.get(name)}' for name in settings)}")
    steps = sorted(path.glob("checkpoints/step_*.safetensors"))
    plan = run.windows / "plan.json"
    if plan.exists():
        values = read_json(plan)
        print(f"windows    {len(values.get('windows', []))}, finished {len(values.get('finished', []))}")
    else:
        last, ended = f", last {steps[-1].stem}" if steps else "", ", finished" if run.finished else ""
        print(f"progress   {len(steps)} checkpoints{last}{ended}")
    if (figures := run.evaluation()) is not None:
        from ..figures import report_lines

        for line in report_lines(figures):
            print(line)
    if not run.model_path.exists():
        why = "model.g4d is missing although the fit is finished" if run.finished else "no model.g4d yet"
        print(f"{why}; `gaussian4d fit --out {path} --resume` continues from the newest checkpoint")
        return 0
    return _g4d(run.model_path)


def _g4d(path: Path) -> int:
    from ..io.g4d import load_g4d
    from .console import print_table, size

    arrays, manifest = load_g4d(path)
    motion = manifest.get("motion") or {}
    times = manifest.get("times") or []
    print(f"file       {path}, {size(path.stat().st_size)}")
    print(f"motion     {_motion(motion)}")
    print(f"fitted to  {len(times)} instants, frames per second {manifest.get('fps') or 'not known'}")
    rows = [
        (name, array.dtype.name, "x".join(map(str, array.shape)), size(array.nbytes)) for name, array in arrays.items()
    ]
    print_table(("array", "type", "shape", "size"), rows)
    if "means" in arrays:
        _print_bounds(arrays["means"])
    # Read as every other command reads it, so that what they would say or refuse is said here.
    from ..model import load_model
    from ..plugins import MOTIONS

    if isinstance(motion, dict) and motion.get("origin") and motion.get("name") not in MOTIONS:
        print("note       that package is not installed here: the motion cannot be read, nor checked")
        return 0
    _print_look(load_model(path))
    return 0


def _print_look(model: DynamicGaussians) -> None:
    """Prints how a model wants to be looked at, as far as it says so, and where it stands."""
    from ..framing import name_of
    from ..offsets import offset_of, text_of
    from ..view_block import ViewBlock

    if model.antialiased:
        print("drawn      antialiased, as the file says that it was fitted")
    if (offset := offset_of(model)).any():
        print(f"offset     {text_of(offset)}: to be added to positions for places in the recorded world")
    block = ViewBlock.of(model)
    if block is None:
        return
    said = [f"up is {name_of(block.up)}"] if block.up is not None else []
    said += [f"{len(block.cameras)} recorded cameras"] if block.cameras else []
    said += [f"{block.seconds:.4g} s"] if block.seconds is not None else []
    if said:
        print(f"to look at {', '.join(said)}")


def _motion(motion: object) -> str:
    """Returns the name of the motion model in a manifest, and of the one inside its windows."""
    if not isinstance(motion, dict):
        return str(motion)
    inside, spans = (motion.get("config") or {}).get("motion"), (motion.get("config") or {}).get("spans")
    said = str(motion.get("name"))
    if motion.get("name") == "windows" and isinstance(spans, list):
        said = f"windows: {len(spans)} of {inside}"
    origin = motion.get("origin")
    if isinstance(origin, dict):
        said += f", from the package {origin.get('package')} {origin.get('version') or ''}".rstrip()
    return said


def _other_gaussians(folder: Path) -> Path | None:
    """Returns the file of Gaussians that a folder without a scene stands for; raises where it holds several."""
    from ..data.recognise import recognised
    from ..io.sequence import gaussians_in, why_no_clip

    if recognised(folder):
        return None
    if (file := gaussians_in(folder)) is None and (why := why_no_clip(folder)) is not None:
        raise UserError(why)
    return file


def _is_clip(path: Path) -> bool:
    """Returns whether a folder is a clip of Gaussians, not a scene."""
    from ..io.sequence import find_frames

    return bool(find_frames(path)) and not (path / "sparse").exists()


def _file(path: Path) -> int:
    """Prints what a file of Gaussians in another format than ours, or a folder of frames, holds."""
    from ..io.registry import format_of
    from ..io.sequence import find_frames
    from ..model import load_model
    from .console import size
    from .exporters import check_readable

    check_readable(path)
    frames = find_frames(path) if path.is_dir() else []
    format = format_of(frames[0] if frames else path)
    model = load_model(path)
    total = sum(file.stat().st_size for file in frames or [path])
    print(f"file       {path}, {size(total)}")
    print(f"format     {format.title}{f', {len(frames)} frames' if frames else ''}")
    motion = "no motion" if model.motion.still else f"motion {model.motion.name}"
    if about := model.motion.describe(model.params):
        motion += f" ({about})"
    print(f"Gaussians  {len(model):,}, spherical harmonics of degree {model.sh_degree}, {motion}")
    _print_look(model)
    for comment in model.meta.get("ply_comments", []):
        print(f"comment    {comment}")
    extras = [name.partition(".")[2] for name in model.params if name.startswith("extra.")]
    if extras:
        print(f"besides    {', '.join(extras)}")
    _print_bounds(model.params["means"].numpy())
    return 0


def _print_bounds(means: np.ndarray) -> None:
    """Prints where the Gaussians lie; percentiles, because a few strays say nothing about the scene."""
    import numpy as np

    if len(means) == 0:
        print("bounds     no Gaussians")
        return
    low, middle, high = np.percentile(np.asarray(means, dtype=np.float64), [5, 50, 95], axis=0)
    ranges = ", ".join(f"{axis} {a:.3g} .. {m:.3g} .. {b:.3g}" for axis, a, m, b in zip("xyz", low, middle, high))
    print(f"bounds     {len(means):,} Gaussians, 5th .. 50th .. 95th percentile: {ranges}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
