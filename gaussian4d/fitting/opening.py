"""The first room of a fit: from what was asked for to checked settings, a run folder and a plan of windows."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..devices import choose_device
from ..errors import UserError
from ..motion import MotionModel
from ..plugins import MOTIONS, OWN_PACKAGE, STRATEGIES, TERMS, Registry
from ..run_folder import RunFolder
from ..scene import Frame, Scene
from .config import FLAT_NAMES, FitConfig
from .parallel import Team, own_device
from .presets import preset_config
from .windows import Plan, plan_windows, scene_options


@dataclasses.dataclass
class OpenFit:
    """A fit whose settings are checked and whose folder is there."""

    scene: Scene
    frames: Sequence[Frame]
    config: FitConfig
    run: RunFolder
    plan: Plan | None
    """How the clip is cut into windows; None when it is not."""
    team: Team
    resume: bool
    device: torch.device
    """Where the tensors of the fit live."""
    notes: list[str]
    """What there is to say before the fit begins: where it is fitted, and settings that a resumed run ignores."""

    def discard(self) -> None:
        """Removes what a fit that could not begin has written, and the folder when nothing else is in it."""
        if self.resume or not self.team.leads:
            return
        for path in (self.run.config_path, self.run.log):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.run.windows, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.run.path.rmdir()


def open_fit(
    scene: Scene,
    out: Path,
    preset: str,
    given: Mapping[str, Any],
    *,
    resume: bool,
    window: str | int | None = None,
    overlap: str | int | None = None,
    jobs: int = 1,
) -> OpenFit:
    """Returns a fit ready to be trained.

    Args:
        scene: What to fit.
        out: Run folder; it must not hold another fit, unless `resume`.
        preset: Name of the preset.
        given: Settings that differ from it, by path.
        resume: Go on with the run in `out`, with the settings saved there.
        window: See `windows.plan_windows`.
        overlap: See there.
        jobs: See there.

    Raises:
        UserError: for impossible settings, a scene without usable frames, or a run folder in the wrong state. Nothing
            is left behind then.
    """
    frames = _training_frames(scene)
    run = RunFolder(out)
    given = {FLAT_NAMES.get(path, path): value for path, value in given.items()}
    config = run.config() if resume else None
    device, notes = _placed(given, config)
    team = Team.join(device)
    if config is not None:
        options = run.scene_options()
        _check_same_frames(scene, options)
        if options.get("part") and "part" not in scene.options:
            scene = scene.part(*options["part"])
            frames = _training_frames(scene)
        plan = Plan.load(out, scene)
        run.check_scene(scene)
        cut = {"window": window, "overlap": overlap} if window is not None or overlap is not None else {}
        # Where a run is resumed is this machine's business.
        here = {path: given[path] for path in ("device", "backend") if given.get(path) not in (None, "auto")}
        ignored = [path for path, value in given.items() if path not in here and _differs(config, path, value)]
        if names := [*ignored, *cut]:
            notes.append(f"--resume keeps the settings of the run; ignored: {', '.join(names)}")
        if team.leads and scene.has_files and options["path"] != scene_options(scene)["path"]:
            # The scene was moved; from now on it is where it is.
            run.write(config, {**options, "path": scene_options(scene)["path"]})
        return OpenFit(scene, frames, config.replace(here), run, plan, team, True, device, notes)
    config = preset_config(preset, scene, {"batch": team.size, **given})
    _check_background(config, scene)
    team.check_batch(config.batch)
    plan = _planned(scene, config, window, overlap, jobs, "max_steps" in given, team)
    if team.leads:
        if run.exists:
            raise UserError(f"{out} already holds a fit; add --resume to go on with it, or choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        run.write(config, scene_options(scene), scene)
        if plan is not None:
            plan.save(out)
    return OpenFit(scene, frames, config, run, plan, team, False, device, notes)


def register_objects(
    motion: str | MotionModel | None, terms: Sequence[Any] | Mapping[str, Any], strategy: Any
) -> dict[str, Any]:
    """Returns the settings that mean these objects; what is no name yet is registered under its own.

    A term's weight is its attribute `weight`, 1 without; in a table of terms, a number is the weight of a known one.
    """
    given: dict[str, Any] = {}
    if isinstance(motion, MotionModel):
        name = motion.name
        if name not in MOTIONS:
            _register(MOTIONS, name, type(motion))
        given |= {"motion": name, "motion_config": motion.config_dict()}
    elif motion is not None:
        given["motion"] = motion
    listed = terms.items() if isinstance(terms, Mapping) else ((_name_of(term), term) for term in terms)
    for name, term in listed:
        if isinstance(term, str):
            given[f"loss.{name}"] = 1.0
        elif isinstance(term, int | float | tuple | list):
            given[f"loss.{name}"] = term
        else:
            _register(TERMS, name, term)
            given[f"loss.{name}"] = getattr(term, "weight", 1.0)
    if isinstance(strategy, str):
        given["densify.strategy"] = strategy
    elif strategy is not None:
        name = _name_of(strategy)
        made = strategy if isinstance(strategy, type) else lambda: strategy
        _register(STRATEGIES, name, made, brought_by=strategy)
        given["densify.strategy"] = name
    return given


def _register(registry: Registry[Any], name: str, thing: Any, brought_by: Any = None) -> None:
    """Registers `thing` for the package that defines it (or `brought_by`), so that a run can say whose it was."""
    module = getattr(thing if brought_by is None else brought_by, "__module__", None) or "__main__"
    package = module.split(".")[0]
    # An object of one of our own classes is the program's all the same.
    registry.register(name, package="__main__" if package == OWN_PACKAGE else package)(thing)


def _placed(given: Mapping[str, Any], resumed: FitConfig | None) -> tuple[torch.device, list[str]]:
    """Returns where to fit, and the line about it; refused before anything is written."""
    here = {path: given.get(path) or "auto" for path in ("device", "backend")}
    if resumed is not None:
        here = {path: resumed.get(path) if value == "auto" else value for path, value in here.items()}
    notes: list[str] = []
    placement = choose_device(here["device"], here["backend"], notes.append)
    return own_device(placement.device), notes


def _name_of(thing: Any) -> str:
    """Returns the name under which an object is registered: its own, that of the function, or that of its class."""
    if isinstance(thing, str):
        return thing
    name = getattr(thing, "name", None) or getattr(thing, "__name__", None) or type(thing).__name__
    return str(name).replace("_", "-")


def _training_frames(scene: Scene) -> Sequence[Frame]:
    frames = scene.frames("train")
    if not frames:
        raise UserError(f"{scene.path} has no training frames; check the scene with `gaussian4d info`")
    return frames


def _check_same_frames(scene: Scene, options: Mapping[str, Any]) -> None:
    """Raises `UserError` when a run of frames given in Python is resumed with others."""
    fitted = options.get("fingerprint")
    if fitted is not None and scene.fingerprint() != fitted:
        raise UserError(
            "this run was fitted to frames given in Python, and these are not the same (cameras, times, sizes or splits"
            " differ); resume it with the frames that it began with"
        )


def _differs(config: FitConfig, path: str, value: Any) -> bool:
    try:
        return config.replace({path: value}).get(path) != config.get(path)
    except UserError:
        return True


def _check_background(config: FitConfig, scene: Scene) -> None:
    if config.background == "random" and not scene.has_alpha:
        raise UserError(
            f"background random needs pictures with alpha, {scene.path} has none; use model, white or black"
        )


def _planned(
    scene: Scene,
    config: FitConfig,
    window: str | int | None,
    overlap: str | int | None,
    jobs: int,
    share_steps: bool,
    team: Team,
) -> Plan | None:
    """Returns how the clip is cut into windows, None when it is not; processes of a team do not fit windows."""
    if jobs > 1 and not scene.has_files:
        raise UserError("--jobs starts processes that read the scene from files; frames given in Python lie in none")
    if team.size > 1:
        if window is not None and str(window) != "none":
            raise UserError("--window and torchrun do not go together; use --jobs for windows, or leave --window out")
        return None
    plan = plan_windows(scene, config, window, overlap, jobs, share_steps)
    if plan is None and (overlap is not None or jobs > 1):
        raise UserError("--overlap and --jobs are for clips cut into windows, and this one is not; add --window")
    return plan
