"""A model from a run folder or a file, with the cameras it was fitted to where they are known."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..paths import cameras_around, rig_from_cameras
from ..run_folder import RunFolder

if TYPE_CHECKING:
    from ..cameras import Camera
    from ..devices import Placement
    from ..io.near_plane import NearSpace
    from ..model import DynamicGaussians
    from ..scene import Scene


@dataclasses.dataclass
class Opened:
    """What a command that shows a model works with."""

    path: Path
    model: DynamicGaussians
    scene: Scene | None
    """None for a file, or when the scene of the run is not where it was."""
    placement: Placement | None = None
    """Where to draw, for exports; the model itself is on the CPU, where files are written."""

    @property
    def is_run(self) -> bool:
        """Whether it is a run folder, which takes files; not a file, nor a folder of frames."""
        return RunFolder(self.path).exists

    @property
    def cameras(self) -> list[Camera]:
        """The recorded cameras, or cameras placed around the Gaussians where none are known."""
        if self.scene is not None:
            return list(self.scene.cameras.values())
        state = self.model.at(0.0)
        return cameras_around(state.means[state.opacities > 0.1].detach().cpu().double().numpy())

    @property
    def near_space(self) -> NearSpace | None:
        """The space before the recorded cameras in which the model draws nothing; None where they are not known."""
        from ..io.near_plane import NearSpace

        return None if self.scene is None else NearSpace.of_scene(self.scene, self.model.near)

    @property
    def background(self) -> tuple[float, float, float] | None:
        """Colour behind the Gaussians: None for the model's own, else white where the scene has alpha, as in `eval`."""
        if self.model.background is not None:
            return None
        return (1.0, 1.0, 1.0) if self.scene is not None and self.scene.has_alpha else (0.0, 0.0, 0.0)

    @property
    def vertical_axis(self) -> str | None:
        """`x`, `y` or `z` when that axis of the world points up for the recorded cameras, else None."""
        if self.scene is None:
            return None
        up = rig_from_cameras(self.scene.cameras.values()).up
        axis = int(np.argmax(np.abs(up)))
        return "xyz"[axis] if up[axis] > 0.94 else None

    @property
    def seconds(self) -> float:
        """Length of a video that plays the clip once: the recorded length, made slower or cut to 4 .. 20 seconds."""
        recorded = self.scene.duration if self.scene is not None else None
        if recorded is None and self.model.fps and self.model.times is not None:
            recorded = (len(self.model.times) - 1) / self.model.fps
        return float(np.clip(recorded or 4.0, 4.0, 20.0))


def open_model(path: Path, newest: bool = False) -> Opened:
    """Returns the model at `path` (run, folder of frames, file) and, for a run, its scene if that can still be read.

    With `newest` a run that is still being fitted gives what its newest checkpoint holds.
    """
    from ..model import load_model

    scene = None
    if RunFolder(path).exists:
        try:
            scene = RunFolder(path).scene()
        except UserError as error:
            print(f"warning: the scene of {path} cannot be read, cameras are guessed: {error}", file=sys.stderr)
    if newest and scene is not None:
        from ..fitting.snapshot import snapshot

        return Opened(path, snapshot(path, scene), scene)
    return Opened(path, load_model(path), scene)
