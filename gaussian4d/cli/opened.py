"""A model from a run folder or a file, with the cameras it was fitted to where they are known."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..clip_length import LEAST_SECONDS, ClipLength, clip_length
from ..errors import UserError
from ..framing import Framing, framing_of
from ..offsets import aligned
from ..run_folder import RunFolder
from ..view_block import ViewBlock, with_view

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

    @functools.cached_property
    def framing(self) -> Framing:
        """Where to look from: the same for a run and for the file that it wrote."""
        return framing_of(self.model)

    @property
    def recorded(self) -> list[Camera]:
        """The recorded cameras: all where the scene is there, else those that the model keeps; may be none."""
        return list(self.scene.cameras.values()) if self.scene is not None else list(self.framing.view.cameras)

    @property
    def cameras(self) -> list[Camera]:
        """Cameras that see the Gaussians, for meshes and comparisons: recorded ones, a ring where none are known."""
        return self.recorded or list(self.framing.around)

    @property
    def near_space(self) -> NearSpace | None:
        """The space before the recorded cameras in which the model draws nothing; None where they are not known."""
        from ..io.near_plane import NearSpace

        if self.scene is not None:
            return NearSpace.of_scene(self.scene, self.model.near)
        return NearSpace.of_cameras(self.recorded, self.model.near) if self.recorded else None

    @property
    def background(self) -> tuple[float, float, float] | None:
        """Colour behind the Gaussians: None for the model's own, else white where the scene has alpha, as in `eval`."""
        if self.model.background is not None:
            return None
        if self.scene is not None:
            return (1.0, 1.0, 1.0) if self.scene.has_alpha else (0.0, 0.0, 0.0)
        return self.framing.view.background or (0.0, 0.0, 0.0)

    @property
    def vertical_axis(self) -> str | None:
        """`x`, `y` or `z` when that axis of the world points up and it is no guess, else None."""
        if self.framing.guessed:
            return None
        axis = int(np.argmax(np.abs(self.framing.up)))
        return "xyz"[axis] if self.framing.up[axis] > 0.94 else None

    @functools.cached_property
    def length(self) -> ClipLength:
        """How long the clip lasts."""
        return clip_length(self.model)

    @property
    def seconds(self) -> float:
        """Length of a video that plays the clip once; four seconds of what does not move."""
        return self.length.played or LEAST_SECONDS

    @property
    def notes(self) -> list[str]:
        """What was guessed of how to look at it, one sentence each."""
        return [note for note in (self.framing.note, self.length.note) if note is not None]


def open_model(path: Path, newest: bool = False, *, scene: Path | None = None, up: str | None = None) -> Opened:
    """Returns the model at `path` (run, folder of frames, file) and, for a run, its scene if that can still be read.

    Args:
        path: Run folder, folder of frames, or file.
        newest: A run that is still being fitted gives what its newest checkpoint holds.
        scene: Where the scene lies, when it is not where the run says and not beside it; also for a file.
        up: Which way is up, one of `framing.UPS`.
    """
    from ..model import load_model

    found, gone = scene_of(path, scene)
    if newest and found is not None and RunFolder(path).exists:
        from ..fitting.snapshot import snapshot

        model = snapshot(path, found)
    else:
        model = load_model(path)
    if found is not None:
        model = aligned(model, found.offset)
        known = ViewBlock.of(model)
        if known is None:
            # An older run: what its scene says is what a fit would write today.
            model = with_view(model, found)
        elif scene is not None and not RunFolder(path).exists:
            _check_cameras(known, found, path)
    elif gone is not None:
        instead = "cameras are guessed" if ViewBlock.of(model) is None else "the cameras stored in the model are used"
        print(f"warning: the scene of {path} cannot be read, so {instead}: {gone}", file=sys.stderr)
    if up is not None:
        # What the user says goes into what is written, too.
        model = framing_of(model, up).view.written_to(model)
    return Opened(path, model, found)


def scene_of(path: Path, given: Path | None = None) -> tuple[Scene | None, UserError | None]:
    """Returns the scene of a run, or the one `given` for a file, or None; and why that of a run is not there.

    Raises:
        UserError: when `given` cannot be read or is another scene.
    """
    run = RunFolder(path)
    if given is None:
        if not run.exists:
            return None, None
        try:
            return run.scene(), None
        except UserError as error:
            return None, error
    if run.exists:
        return run.scene(given), None
    from ..scene import load_scene

    return load_scene(given), None


def _check_cameras(known: ViewBlock, scene: Scene, path: Path) -> None:
    """Raises `UserError` when not all cameras that a file keeps are cameras of `scene`."""
    places = np.stack([camera.viewmat[:3].reshape(-1) for camera in scene.cameras.values()])
    for camera in known.cameras:
        gaps = np.abs(places - camera.viewmat[:3].reshape(-1)).max(axis=1)
        if gaps.min() > 1e-6 * (1.0 + float(np.abs(camera.viewmat).max())):
            raise UserError(
                f"{scene.path} is not the scene that {path} was fitted to: it has no camera where {camera.id} of the"
                " file stands; pass the scene it was fitted to, or omit --scene"
            )
