"""`gaussian4d convert`: one file format into another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from ..plugins import FORMATS
from .choices import Unset, listed

FormatName = Annotated[Unset[str], arg(metavar=listed(FORMATS, "NAME-sequence"))]


@dataclasses.dataclass
class Convert:
    """Convert between Gaussian file formats, chosen by the file endings."""

    WRITES: ClassVar[dict[str, bool | None]] = {"target": None}
    EXAMPLES: ClassVar[str] = """
        gaussian4d convert splat.ply splat.sog
        gaussian4d convert scene.spz scene.glb
        gaussian4d convert frames clip.splatv                  (a folder frame_0000.ply, frame_0001.ply, ...)
        gaussian4d convert fox.g4d frames --format spz-sequence
    """

    source: Positional[Path]
    """Gaussian file, or folder of frames."""
    target: Positional[Path]
    """File to write, or folder for a sequence."""
    format: FormatName = None
    """Output format. Default: from the ending of the target, ply-sequence if it has none. See docs/splat_formats.md."""
    time: Unset[float] = None
    """Clip time in [0, 1] for formats that hold a single instant. Default: the first recorded one."""
    spz_version: Literal[2, 3, 4] = 4
    """Version of a .spz file: 3 or 2 for older programs."""
    device: str = "auto"
    """Device for comparing the file with its source: auto takes a GPU if a backend works on it, else cpu."""

    def run(self) -> None:
        """Converts, and says what the target format cannot hold."""
        from ..devices import choose_device
        from ..errors import UserError
        from ..io.near_plane import NearSpace
        from ..io.sequence import find_frames, gaussians_in
        from ..model import load_model
        from ..run_folder import RunFolder
        from ..view_block import ViewBlock
        from .export import check_target, save_model
        from .exporters import check_readable

        check_target(self.target, self.format)
        if self.time is not None and not 0.0 <= self.time <= 1.0:
            raise UserError(f"--time is clip time in [0, 1], got {self.time}")
        check_readable(self.source)
        loose = self.source.is_dir() and not find_frames(self.source)
        if loose and (RunFolder(self.source).exists or gaussians_in(self.source) is None):
            raise UserError(
                f"{self.source} is a folder; expected a file or a folder of frames; for a run use `gaussian4d export`"
            )
        placement = choose_device(self.device)
        model = load_model(self.source)
        view = ViewBlock.of(model)
        cameras = () if view is None else view.cameras
        save_model(
            model,
            self.target,
            format=self.format,
            time=self.time,
            cameras=cameras,
            # What is converted stays as it is; what that means for other programs is said.
            space=NearSpace.of_cameras(cameras, model.near) if cameras else None,
            keep_near=True,
            placement=placement,
            version=self.spz_version,
        )
