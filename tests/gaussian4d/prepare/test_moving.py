"""One video of a camera that walks through the room, and lenses that are known beforehand."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from filmed import Room, Shot, film, write_mp4

from gaussian4d import Camera, load_scene
from gaussian4d.errors import UserError
from gaussian4d.prepare import Options, prepare
from gaussian4d.prepare.geometry import align_cameras

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason='pycolmap is not installed: pip install "pycolmap>=4.2"'
)

SIZE = (240, 180)


def walk(count: int) -> list[Camera]:
    """Returns cameras on an arc of 40 degrees that looks at the middle."""
    cameras = []
    for k, angle in enumerate(np.radians(np.linspace(0, 40, count))):
        eye = np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.5 + 0.2 * np.sin(3 * angle)])
        up = np.array([0.0, 0.0, 1.0])
        cameras.append(
            Camera.look_at(eye, np.zeros(3), up, width=SIZE[0], height=SIZE[1], focal=1.1 * SIZE[0], id=str(k))
        )
    return cameras


def test_every_frame_of_a_walk_gets_a_pose_and_a_time(tmp_path: Path) -> None:
    cameras = walk(12)
    frames = [film(Room(), Shot(camera, 0.1 * k, 10.0, 1))[0] for k, camera in enumerate(cameras)]
    write_mp4(tmp_path / "walk.mp4", frames, 10.0)
    K = cameras[0].K.copy()
    K[:2, 2] -= 0.5
    text = " ".join(repr(float(x)) for x in K.reshape(-1))
    (tmp_path / "lens.xml").write_text(
        '<?xml version="1.0"?>\n<opencv_storage><K type_id="opencv-matrix"><rows>3</rows><cols>3</cols><dt>d</dt>'
        f"<data>{text}</data></K></opencv_storage>\n",
        encoding="utf-8",
    )
    found = prepare(tmp_path / "walk.mp4", tmp_path / "scene", Options(calibration=tmp_path / "lens.xml"))
    assert any("lenses of walk are kept" in note for note in found.notes)
    scene = load_scene(tmp_path / "scene", downscale=1)
    shown = sorted(scene.frames("all"), key=lambda frame: frame.time)
    assert len(shown) == 12 and scene.seconds(1.0) == pytest.approx(1.1)
    np.testing.assert_allclose([frame.time for frame in shown], np.arange(12) / 11, atol=1e-6)
    poses = np.stack([scene.cameras[frame.camera_id].viewmat for frame in shown])
    degrees, share = align_cameras(poses, np.stack([camera.viewmat for camera in cameras]))
    assert degrees.max() < 0.5 and share.max() < 0.03
    np.testing.assert_allclose(scene.cameras[shown[0].camera_id].K, cameras[0].K, atol=1e-3)


def test_a_camera_that_stands_still_is_not_taken_for_a_walk(tmp_path: Path) -> None:
    camera = dataclasses.replace(walk(12)[0], id="still")
    write_mp4(tmp_path / "still.mp4", film(Room(), Shot(camera, 0.0, 10.0, 8)), 10.0)
    with pytest.raises(UserError, match=r"still\.mp4: the camera path cannot be trusted"):
        prepare(tmp_path / "still.mp4", tmp_path / "scene", Options())
    assert not (tmp_path / "scene" / "transforms.json").exists()
