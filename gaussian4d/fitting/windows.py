"""Long clips as overlapping windows: how a clip is cut, what is kept of that, and one model of all windows.

A window is a run of instants of the clip. It is fitted like a clip of its own, in a run folder of its own under
RUN/windows; see `windows_trainer` (one after the other) and `windows_processes` (several at a time).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json, write_json
from ..model import DynamicGaussians
from ..motion import PerFrame, Static, Windows, WindowsConfig
from ..run_folder import RunFolder
from ..scene import Scene
from ..view_block import with_view
from .config import FitConfig

SCHEMA_VERSION = 1
AUTO_ABOVE = 100
"""Instants up to which a clip is fitted as one unless a window is asked for."""
AUTO_INSTANTS = 50
"""Instants of a window nobody chose: those of the models that Spacetime Gaussians (CVPR 2024) publishes."""
_TOGETHER = 3.0
_AUTO_MINUTES = 2.0
_LEAST = 6
_MOST_ARRAYS = 1000


@dataclasses.dataclass
class Plan:
    """How a clip is cut, and how far its windows are; RUN/windows/plan.json."""

    instants: int
    """Of the whole clip."""
    windows: list[tuple[int, int]]
    """First instant and the one behind the last, of each window."""
    jobs: int = 1
    """Processes at a time."""
    finished: list[int] = dataclasses.field(default_factory=list)
    """Windows whose fit is done."""
    share_steps: bool = False
    """Whether the windows share out the steps; else each takes all."""

    def spans(self, times: np.ndarray) -> list[tuple[float, float]]:
        """Returns the clip times of the first and last instant of each window."""
        return [(float(times[start]), float(times[stop - 1])) for start, stop in self.windows]

    def save(self, out: Path) -> None:
        """Writes the plan into the run folder `out`."""
        write_json(plan_path(out), {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, out: Path, scene: Scene) -> Plan | None:
        """Returns the plan of the run folder `out`, None when its clip is not cut; raises `UserError` for a bad one."""
        path = plan_path(out)
        if not path.exists():
            return None
        values = read_json(path)
        if not isinstance(values, dict) or values.pop("schema_version", None) != SCHEMA_VERSION:
            raise UserError(f"expected {path} to be of schema version {SCHEMA_VERSION}; fit the scene anew")
        try:
            plan = cls(**values)
            plan.windows = [(int(start), int(stop)) for start, stop in plan.windows]
        except (TypeError, ValueError):
            raise UserError(f"{path} is damaged; fit the scene anew") from None
        if plan.instants != len(scene.times):
            raise UserError(
                f"the windows of {out} cut a clip of {plan.instants} instants, {scene.path} now has"
                f" {len(scene.times)}; give the --frames that the fit began with"
            )
        return plan


def plan_path(out: Path) -> Path:
    """Returns the file that holds the plan of a run."""
    return RunFolder(out).windows / "plan.json"


def window_folder(out: Path, index: int) -> Path:
    """Returns the run folder of one window."""
    return RunFolder(out).windows / f"{index:03d}"


def scene_options(scene: Scene) -> dict[str, Any]:
    """Returns the JSON values with which `load_scene` gives the same scene again."""
    if not scene.has_files:
        # In place of the pixels, which lie in no file: whoever resumes gives the same frames again.
        return {**scene.options, "fingerprint": scene.fingerprint()}
    return {"path": str(Path(scene.path).resolve()), **scene.options}


def plan_windows(
    scene: Scene, config: FitConfig, window: str | int | None, overlap: str | int | None, jobs: int, share_steps: bool
) -> Plan | None:
    """Returns how the clip of `scene` is cut, or None when one window holds all of it.

    Args:
        scene: The whole clip.
        config: Settings of the whole fit.
        window: Longest window, instants or seconds ("2s"); "none" for one; None chooses by the clip.
        overlap: Least instants (or seconds) that neighbours share; None takes an eighth of a window.
        jobs: Processes at a time.
        share_steps: See `Plan`.

    Raises:
        UserError: for lengths that do not fit the clip or each other, or a motion model that has no windows.
    """
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {jobs}")
    count = len(scene.times)
    moves = config.motion not in (Static.name, PerFrame.name)
    if window is None:
        pictures = len(scene.frames("train")) / max(len({frame.time for frame in scene.frames("train")}), 1)
        if count <= AUTO_ABOVE or pictures < _TOGETHER or not moves:
            return None
        # Every window searches its own start: in a short fit that would be all there is time for.
        if config.max_minutes is not None and config.max_minutes * AUTO_INSTANTS / count < _AUTO_MINUTES:
            return None
        window = AUTO_INSTANTS
    elif str(window) == "none":
        return None
    elif not moves:
        raise UserError(f"--window cuts what moves; motion {config.motion} has no use for it; leave --window out")
    length = _instants(scene, window, "--window")
    if length >= count:
        return None
    shared = max(3, round(length / 8)) if overlap is None else _instants(scene, overlap, "--overlap")
    if length < _LEAST:
        raise UserError(f"--window must be at least {_LEAST} instants, got {length}; choose a longer one")
    if not 2 <= shared <= length // 3:
        raise UserError(
            f"--overlap must be at least 2 instants and at most a third of the window's {length}, got {shared}"
        )
    plan = Plan(count, cut(count, length, shared), jobs, share_steps=share_steps)
    _check(scene, config, plan)
    return plan


def cut(count: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """Returns windows [start, stop) over `count` instants: as few and as short as they can be, equally long.

    None is longer than `length`; neighbours share at least `overlap` instants, and never three an instant.
    """
    windows = math.ceil((count - overlap) / (length - overlap))
    equal = math.ceil((count + (windows - 1) * overlap) / windows)
    starts = np.floor(np.linspace(0, count - equal, windows)).astype(int)
    return [(int(start), int(start) + equal) for start in starts]


def window_config(config: FitConfig, plan: Plan, index: int, scene: Scene, normalisation: dict[str, Any]) -> FitConfig:
    """Returns the settings of the fit of window `index`; `scene` is the whole clip."""
    n = len(plan.windows)
    steps, minutes = config.max_steps, config.max_minutes
    if steps is not None and plan.share_steps:
        share, more = divmod(steps, n)
        steps = share + (index < more)
    if minutes is not None:
        # Windows that are fitted at the same time each take all of it.
        minutes /= math.ceil(n / plan.jobs)
    settings = dict(config.motion_config)
    start, stop = plan.windows[index]
    if "time_resolution" in settings:
        # Grid points over the clip become grid points over a part of it.
        settings["time_resolution"] = max(round(settings["time_resolution"] * (stop - start) / plan.instants), 3)
    inside = {
        "motion": config.motion,
        "motion_configs": [settings],
        "spans": [list(plan.spans(scene.times)[index])],
    }
    return config.replace(
        motion=Windows.name,
        motion_config=inside,
        max_steps=steps,
        max_minutes=minutes,
        normalisation=normalisation,
    )


def joined(models: Sequence[DynamicGaussians], scene: Scene) -> DynamicGaussians:
    """Returns one model of those of successive windows, for clip times of the whole `scene`."""
    motions = [model.motion for model in models]
    assert all(isinstance(motion, Windows) and len(motion) == 1 for motion in motions)
    motion = Windows(
        WindowsConfig(
            motion=motions[0].config.motion,
            motion_configs=tuple(motion.config.motion_configs[0] for motion in motions),
            spans=tuple(motion.config.spans[0] for motion in motions),
        )
    )
    fits = [model.meta["fit"] for model in models]
    backgrounds = [model.background for model in models if model.background is not None]
    times = np.unique(np.concatenate([model.times for model in models if model.times is not None]))
    model = DynamicGaussians(
        params=motion.joined([model.params for model in models]),
        motion=motion,
        background=sum(backgrounds[1:], backgrounds[0]) / len(backgrounds) if backgrounds else None,
        fps=scene.fps,
        times=times,
        meta={
            **models[0].meta,
            "fit": {
                **fits[0],
                "steps": sum(fit["steps"] for fit in fits),
                "seconds": round(sum(fit["seconds"] for fit in fits), 2),
            },
            "near": min(model.near for model in models),
        },
    )
    return with_view(model, scene)


def describe(plan: Plan) -> str:
    """Returns one sentence on how a clip is cut."""
    lengths = sorted({stop - start for start, stop in plan.windows})
    shared = sorted({plan.windows[k][1] - plan.windows[k + 1][0] for k in range(len(plan.windows) - 1)})
    at_a_time = f", {plan.jobs} at a time" if plan.jobs > 1 else ""
    return (
        f"{plan.instants} instants are fitted as {len(plan.windows)} windows of {_range(lengths)} instants, neighbours"
        f" share {_range(shared)}{at_a_time}; --window none fits them as one"
    )


def _range(values: list[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _instants(scene: Scene, length: str | int, flag: str) -> int:
    """Returns a number of instants from one, or from seconds such as "1.5s"."""
    match = re.fullmatch(r"(\d+)|(\d*\.?\d+)\s*s", str(length).strip())
    if match is None:
        raise UserError(f'{flag} must be a number of instants, such as 50, or of seconds, such as "2s", got {length!r}')
    if match[1]:
        return int(match[1])
    whole = scene.seconds(float(scene.times[-1] - scene.times[0]))
    if not whole:
        raise UserError(f"{scene.path} does not say how long its clip is; give {flag} as a number of instants")
    return round(float(match[2]) / whole * (len(scene.times) - 1))


def _check(scene: Scene, config: FitConfig, plan: Plan) -> None:
    """Raises `UserError` when a window could not be fitted, or all of them not be joined."""
    for start, stop in plan.windows:
        seen = {frame.time for frame in scene.part(start, stop).frames("train")}
        if len(seen) < 2:
            raise UserError(
                f"instants {start} to {stop - 1} hold training pictures of {len(seen)} instants only; choose a longer"
                " --window"
            )
    if plan.share_steps and config.max_steps is not None and config.max_steps < len(plan.windows):
        raise UserError(f"{len(plan.windows)} windows need at least one step each, got {config.max_steps} steps")
    shared = len(Windows(WindowsConfig(config.motion, (config.motion_config,))).shared_shapes()) * len(plan.windows)
    if shared > _MOST_ARRAYS:
        raise UserError(
            f"a model of {len(plan.windows)} windows of motion {config.motion} would have {shared} shared tensors, more"
            f" than a .g4d file holds; choose a longer --window or another --motion"
        )
