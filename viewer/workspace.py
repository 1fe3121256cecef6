"""What all browsers of one viewer share: the scene's name and pictures, where files go, a fit that is going on."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.files import inside
from gaussian4d.scene import Scene
from gaussian4d.truth import Truth, composed

_THUMBNAIL = 96
_MAX_CAMERAS = 64
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,63}")


@dataclasses.dataclass
class Workspace:
    """What all browsers of one viewer share."""

    source: Path | None = None
    """What was opened."""
    folder: Path | None = None
    """The run folder, the only place files are written to and read from; None offers downloads instead."""
    scene: Scene | None = None

    def __post_init__(self) -> None:
        self.truth = Truth(self.scene) if self.scene is not None else None

    def file(self, kind: str, name: str, ending: str) -> Path:
        """Returns the file `folder/kind/name.ending`; raises `UserError` for a name that is none."""
        assert self.folder is not None
        if not _NAME.fullmatch(name) or name.endswith("."):
            raise UserError(f"a name may contain letters, digits, spaces, '.', '-' and '_', got {name[:80]!r}")
        return inside(self.folder / kind, f"{name}{ending}")

    def shown(self, file: Path) -> Path:
        """Returns a file below the run folder as the user would write it, from the folder that was opened."""
        assert self.folder is not None
        return self.folder / file.relative_to(self.folder.resolve())

    def names(self, kind: str, ending: str) -> list[str]:
        """Returns the names of the files there are."""
        if self.folder is None:
            return []
        return sorted(file.name.removesuffix(ending) for file in (self.folder / kind).glob(f"[!.]*{ending}"))

    def drawn_cameras(self, cameras: Sequence[Camera]) -> list[Camera]:
        """Returns the cameras that browsers draw: of many, an even choice."""
        count = min(len(cameras), _MAX_CAMERAS)
        return [cameras[k] for k in np.linspace(0, len(cameras) - 1, count).astype(int)]

    def thumbnails(self, cameras: Sequence[Camera], found: Callable[[str, np.ndarray], None]) -> None:
        """Calls `found` with the id and a small first picture uint8 [h, w, 3] of every camera, in a thread."""
        if self.scene is None:
            return
        first = {frame.camera.id: frame for frame in reversed(self.scene.frames("all"))}

        def read() -> None:
            for camera in cameras:
                frame = first.get(camera.id)
                if frame is None:
                    continue
                picture = Image.fromarray(composed(frame.image, (1.0, 1.0, 1.0)))
                picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                found(camera.id, np.asarray(picture))

        threading.Thread(target=read, name="viewer-thumbnails", daemon=True).start()
