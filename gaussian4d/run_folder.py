"""A run folder: where each of its files lies, and what they say. The one place that knows the layout.

    RUN/config.json  log.txt  metrics.jsonl  checkpoints/  model.g4d  progress.json  eval/metrics.json  report.html
        windows/  stages/

`config.json` holds the settings, under `fit` for a fit and under another key for what a generator made, how the scene
was loaded, under `scene`, and what finds it again where one of the two was moved, under `place`. `progress.json`
says whether the fit has come to its end; no file's date does, as a copy has dates of its own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import read_json, write_json

if TYPE_CHECKING:
    from .fitting.config import FitConfig
    from .model import DynamicGaussians
    from .scene import Scene


class RunFolder:
    """The paths of a run folder and the content of its files. Making one neither reads nor writes anything."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.log = self.path / "log.txt"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model_path = self.path / "model.g4d"
        self.progress_path = self.path / "progress.json"
        self.eval = self.path / "eval"
        self.report = self.path / "report.html"
        self.windows = self.path / "windows"
        self.instants = self.path / "instants"
        self.stages = self.path / "stages"

    def __repr__(self) -> str:
        state = "" if self.exists else ", no run yet"
        return f"RunFolder({str(self.path)!r}{state})"

    @property
    def exists(self) -> bool:
        """Whether there is a run: a folder with settings."""
        return self.config_path.is_file()

    def read(self) -> dict[str, Any]:
        """Returns the content of config.json; raises `UserError` when there is no run here."""
        if not self.exists:
            raise UserError(f"expected {self.path} to be a run folder with a {self.config_path.name}, found none")
        values = read_json(self.config_path)
        if not isinstance(values, dict) or not isinstance(values.get("scene"), dict) or "path" not in values["scene"]:
            raise UserError(f"{self.config_path} is not the settings of a run; expected the key scene with a path")
        return values

    def config(self) -> FitConfig:
        """Returns the settings of the fit.

        Raises:
            UserError: when something else than a fit made the run, or a plugin that it needs is not installed.
        """
        from .fitting.config import FitConfig

        values = self.read().get("fit")
        if not isinstance(values, dict):
            raise UserError(f"{self.config_path} is not the settings of a fit; expected the key fit")
        return FitConfig.from_dict(values)

    def scene_options(self) -> dict[str, Any]:
        """Returns the arguments with which `load_scene` gives the run's scene, `path` among them."""
        return dict(self.read()["scene"])

    def scene(self, given: str | Path | None = None, **changed: Any) -> Scene:
        """Returns the scene that the run was made from; `changed` are other arguments of `load_scene`.

        Where it is no longer at its old place it is looked for beside the run (see `scene_place`), or taken from
        `given`.

        Raises:
            UserError: when it cannot be read or found, `given` is another scene, or the frames were given in Python.
        """
        from .scene_place import load_placed

        given = None if given is None else Path(given)
        return load_placed(self.path, self.scene_options(), self._place(), given, changed)

    def seems_lost(self) -> bool:
        """Returns whether nothing lies where the scene was, nor where it is looked for then; nothing is read."""
        from .scene_place import candidates

        options = self.scene_options()
        if options.get("python"):
            return False
        return not any(os.path.lexists(path) for path in candidates(self.path, options, self._place()))

    def check_scene(self, scene: Scene) -> None:
        """Raises `UserError` when `scene` is not the one that the run was made from, as far as that is known."""
        from .scene_place import check_same_scene

        if scene.has_files:
            check_same_scene(scene, self._place(), self.scene_options(), scene.path, self.path)

    def write(self, config: FitConfig, options: dict[str, Any], scene: Scene | None = None) -> None:
        """Writes the settings of a fit and how its scene is loaded; `scene` itself tells it from others later."""
        self.write_values("fit", config.to_dict(), options, scene)

    def write_values(
        self, key: str, settings: dict[str, Any], options: dict[str, Any], scene: Scene | None = None
    ) -> None:
        """Writes the settings of whatever makes the run under `key`; see `write`."""
        from .scene_place import place_of

        # What told the scene from others when the run began does so until another one is named.
        before = self._place() if scene is None and self.exists else {}
        place = {**before, **place_of(self.path, scene, options)}
        write_json(self.config_path, {key: settings, "scene": options, **({"place": place} if place else {})})

    def _place(self) -> dict[str, Any]:
        place = self.read().get("place")
        return dict(place) if isinstance(place, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether the fit has come to its end, not only to a stop.

        A run of before this was written down is finished when it was evaluated or reported on, which comes last.
        """
        try:
            values = read_json(self.progress_path)
        except UserError:
            # Not there, or cut short.
            values = None
        if isinstance(values, dict) and isinstance(values.get("finished"), bool):
            return values["finished"]
        return self.model_path.is_file() and (self.report.is_file() or (self.eval / "metrics.json").is_file())

    def mark(self, finished: bool, steps: int) -> None:
        """Writes whether the fit has come to its end, and after how many steps."""
        write_json(self.progress_path, {"finished": finished, "steps": int(steps)})

    def model(self, scene: Scene | None = None) -> DynamicGaussians:
        """Returns the newest model, that of a checkpoint when it is newer than model.g4d; see `fitting.snapshot`."""
        from .fitting.snapshot import snapshot

        return snapshot(self.path, scene or self.scene())

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl; one that is only half written is left out."""
        lines = []
        if self.metrics_path.is_file():
            for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
                try:
                    lines.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return lines

    def evaluation(self) -> dict[str, Any] | None:
        """Returns the content of eval/metrics.json, None before an evaluation."""
        path = self.eval / "metrics.json"
        return read_json(path) if path.is_file() else None
