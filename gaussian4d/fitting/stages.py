"""What runs between the fits of one run: stages, which read and write folders and may send the fit on.

A stage is called when training is done. It may render, repair and write what it likes under `stage.folder`, and returns
the settings with which training goes on, by path, or None when it has nothing to add:

    def more(stage: Stage) -> dict | None:
        repaired = repair(stage.model, stage.scene, stage.folder)      # a folder that load_scene reads
        return {"extra.frames": str(repaired), "max_steps": stage.config.max_steps + 500}

The settings are saved with the run before training goes on, so that `fit --resume` goes on where a stopped stage or fit
left off; a stage that has finished is not run again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json
from ..model import DynamicGaussians
from ..plugins import FIT_STAGES
from ..run_folder import RunFolder
from ..scene import Scene
from .config import FitConfig
from .hooks import FitHook
from .opening import OpenFit
from .progress import Reporter, Silence
from .training import Trained, train
from .windows import scene_options


@dataclasses.dataclass
class Stage:
    """What a stage is given."""

    run: RunFolder
    folder: Path
    """RUN/stages/NAME, for what the stage keeps."""
    scene: Scene
    model: DynamicGaussians
    """The model as trained so far, in world coordinates."""
    config: FitConfig
    say: Callable[[str], None]


FitStage = Callable[[Stage], dict[str, Any] | None]


def stage_names(stages: Sequence[FitStage | str]) -> tuple[list[str], dict[str, FitStage]]:
    """Returns the names of stages and the functions among them, which nobody needs to register."""
    names, functions = [], {}
    for stage in stages:
        name = stage if isinstance(stage, str) else getattr(stage, "__name__", type(stage).__name__)
        names.append(name)
        if not isinstance(stage, str):
            functions[name] = stage
    return names, functions


def check_stages(functions: Mapping[str, FitStage], opened: OpenFit) -> None:
    """Raises `UserError` before any work for a stage that nobody knows, or a fit of several parts or processes."""
    if not opened.config.stages:
        return
    try:
        if opened.plan is not None or opened.team.size > 1 or opened.config.motion == "per-frame":
            raise UserError(
                "stages are for a fit in one piece by one process; leave --window, per-frame and torchrun out"
            )
        finished = finished_stages(opened.run)
        for name in opened.config.stages:
            if name not in functions and name not in finished:
                FIT_STAGES.get(name, needed=opened.config.needed(FIT_STAGES, name))
    except UserError:
        opened.discard()
        raise


def run_stages(
    functions: Mapping[str, FitStage],
    opened: OpenFit,
    trained: Trained,
    reporter: Reporter | Silence,
    hooks: Sequence[FitHook],
) -> tuple[OpenFit, Trained]:
    """Returns the fit after all stages of its settings, or where one of the fits between them was stopped.

    `functions` are those that no package registers. `check_stages` comes first.

    Raises:
        UserError: for a stage that returns no settings, or none that can be.
    """
    for name in opened.config.stages:
        folder = opened.run.stages / name
        done = folder / "stage.json"
        if done.exists():
            reporter.say(f"stage {name}: done before")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        reporter.say(f"stage {name}")
        call: Any = functions.get(name) or FIT_STAGES.get(name, needed=opened.config.needed(FIT_STAGES, name))
        context = Stage(opened.run, folder, opened.scene, trained.model, opened.config, reporter.say)
        changed = call(context)
        if changed is not None and not isinstance(changed, dict):
            raise UserError(f"the stage {name} must return settings by path or None, got {changed!r}")
        if changed:
            config = opened.config.replace(changed)
            opened.run.write(config, scene_options(opened.scene))
            opened = dataclasses.replace(opened, config=config, resume=True)
        write_json(done, {"settings": changed or {}})
        if changed:
            trained = train(opened, reporter, hooks, time.monotonic())
            if trained.progress < 1.0:
                break
    return opened, trained


def finished_stages(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Returns the settings that each finished stage of a run has changed, by its name."""
    return {path.parent.name: read_json(path)["settings"] for path in sorted(run.stages.glob("*/stage.json"))}
