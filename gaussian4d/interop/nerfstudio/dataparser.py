"""A scene that `gaussian4d.load_scene` reads, as nerfstudio's dataparser outputs.

nerfstudio reads pictures from files, so those of videos, bent lenses or larger sizes are written once, undistorted and
downscaled as `gaussian4d fit` sees them. The world is moved and scaled as in a fit: cameras stand about 1 from the
origin. Where points come with the scene they are handed on, else they are found as a fit finds them, at their instants.
"""

# nerfstudio has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from ...conventions import invert_rigid, opengl_from_opencv
from ...fitting.config import FitConfig, InitConfig
from ...fitting.initialise import initial_points
from ...fitting.normalise import Normalisation
from ...io.camera_files import picture_names, write_pictures
from ...scene import Frame, Scene, load_scene


@dataclass
class Gaussian4DDataParserConfig(DataParserConfig):
    """What `load_scene` takes, and where pictures go."""

    _target: type = field(default_factory=lambda: Gaussian4DDataParser)
    data: Path = Path("data")
    """Folder of a scene in any format that gaussian4d reads."""
    downscale: Optional[float] = None  # noqa: UP045 - old tyro
    """Factor by which pictures shrink; default as in gaussian4d."""
    frames: Optional[str] = None  # noqa: UP045
    """START:STOP:STEP of the instants."""
    pictures: Optional[Path] = None  # noqa: UP045
    """Folder for the pictures; default: gaussian4d_pictures in the scene's folder."""
    points: int = 20_000
    """Points looked for where the scene has none; 0 looks for none."""


class Gaussian4DDataParser(DataParser):
    """Reads the scene once for all splits."""

    config: Gaussian4DDataParserConfig
    includes_time = True

    def __init__(self, config: Gaussian4DDataParserConfig) -> None:
        super().__init__(config)
        self._scene: Scene | None = None
        self.downscale_factor = None

    @property
    def scene(self) -> Scene:
        """The scene, read when first asked for."""
        if self._scene is None:
            self._scene = load_scene(self.config.data, downscale=self.config.downscale, frames=self.config.frames)
        return self._scene

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        scene = self.scene
        frames = _of_split(scene, split)
        normalisation = Normalisation.from_cameras(frame.camera for frame in scene.frames("train"))
        moved = [normalisation.camera(frame.camera) for frame in frames]
        Ks = np.stack([camera.K for camera in moved])
        poses = np.stack([opengl_from_opencv(invert_rigid(camera.viewmat))[:3] for camera in moved])
        cameras = Cameras(
            camera_to_worlds=torch.from_numpy(poses).float(),
            fx=torch.from_numpy(Ks[:, 0, 0]).float(),
            fy=torch.from_numpy(Ks[:, 1, 1]).float(),
            cx=torch.from_numpy(Ks[:, 0, 2]).float(),
            cy=torch.from_numpy(Ks[:, 1, 2]).float(),
            width=torch.tensor([camera.width for camera in moved]),
            height=torch.tensor([camera.height for camera in moved]),
            camera_type=CameraType.PERSPECTIVE,
            times=torch.tensor([frame.time for frame in frames], dtype=torch.float32),
        )
        transform = np.concatenate([np.eye(3), -normalisation.centre[:, None]], axis=1)
        metadata = _points(scene, normalisation, self.config.points) if split == "train" else {}
        return DataparserOutputs(
            image_filenames=self._pictures(frames),
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])),
            dataparser_transform=torch.from_numpy(transform).float(),
            dataparser_scale=float(normalisation.scale),
            metadata=metadata,
        )

    def _pictures(self, frames: list[Frame]) -> list[Path]:
        """Returns the files of the pictures, written with those of all other splits unless they are there."""
        everything = self.scene.frames("all")
        names = dict(zip(map(id, everything), picture_names(everything)))
        root = self.config.pictures or Path(self.config.data) / "gaussian4d_pictures"
        # Pictures of another size or choice of instants stand beside these.
        folder = root / f"{self.scene.downscale:g}_{(self.config.frames or 'all').replace(':', '-')}"
        if not folder.is_dir():
            write_pictures(folder, self.scene, list(names.values()))
        return [folder / names[id(frame)] for frame in frames]


def _of_split(scene: Scene, split: str) -> list[Frame]:
    """Returns the frames of nerfstudio's split; validation is the test where the scene has none of its own."""
    frames = list(scene.frames(split))  # type: ignore[arg-type]
    return frames or list(scene.frames("test")) or list(scene.frames("train"))


def _points(scene: Scene, normalisation: Normalisation, count: int) -> dict[str, torch.Tensor]:
    """Returns nerfstudio's metadata of points, with `points3D_times` [P] (NaN: the whole clip)."""
    if count == 0 and scene.points is None:
        return {}
    config = FitConfig(max_steps=1, init=InitConfig(points=max(count, 1000)))
    found = initial_points(scene, scene.frames("train"), normalisation, config, 0, print)
    return {
        "points3D_xyz": torch.from_numpy(found.xyz).float(),
        "points3D_rgb": torch.from_numpy(np.round(found.rgb * 255.0)).to(torch.uint8),
        "points3D_times": torch.from_numpy(found.times).float(),
        "points3D_spacing": torch.tensor(found.spacing),
    }


# Here and not in `method.py`, which imports what asks for dataparsers while it is imported.
gaussian4d_dataparser = DataParserSpecification(
    config=Gaussian4DDataParserConfig(), description="Any scene that gaussian4d reads, with times."
)
