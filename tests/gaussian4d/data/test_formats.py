"""Every format: the same 3D point projects, through the loaded camera, to the pixel it was drawn at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from tiny_scenes import (
    COUNT,
    FOCAL,
    HEIGHT,
    WIDTH,
    assert_dots,
    brown,
    dot,
    dot_video,
    find_dot,
    nerfstudio,
    nerfstudio_images,
    normalised,
    opencv_xml,
    opengl,
    picture,
    pixel,
    poses,
    qualisys_text,
    write_dnerf,
    write_panoptic,
    write_video,
)

from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene

BARREL = (-0.35, 0.15, 0.002, -0.003, -0.02)


def test_dnerf(tmp_path: Path) -> None:
    scene = load_scene(write_dnerf(tmp_path))
    assert scene.format == "dnerf" and scene.has_alpha
    assert list(scene.cameras) == ["0", "1", "2"]
    assert scene.cameras[2] is scene.cameras["2"]
    assert {frame.camera_id for frame in scene.frames("test")} == {"2"}
    assert len(scene.frames("train")) == 2 * COUNT and len(scene.frames("all")) == 3 * COUNT
    np.testing.assert_allclose(scene.times, np.arange(COUNT) / (COUNT - 1))
    assert_dots(scene)
    frame = scene.frames("test")[1]
    assert frame.image.shape == (HEIGHT, WIDTH, 4) and frame.image.dtype == np.uint8
    np.testing.assert_array_equal(frame.mask, frame.image[..., 3])
    camera, time, image = frame
    assert camera is frame.camera and time == frame.time and image is frame.image


def test_dnerf_without_camera_ids_has_a_camera_per_picture(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    for split in ("train", "test"):
        path = tmp_path / f"transforms_{split}.json"
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            del frame["camera_id"]
        path.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    assert len(scene.cameras) == 3 * COUNT
    assert_dots(scene)


def test_moving_camera_is_several_cameras(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    path = tmp_path / "transforms_test.json"
    content = json.loads(path.read_text())
    for k, frame in enumerate(content["frames"]):
        pose = poses(6)[k % 2]
        frame["transform_matrix"] = opengl(pose)
        image = picture(*pixel(pose, dot(k)))
        Image.fromarray(np.dstack([image, np.full((HEIGHT, WIDTH), 255, np.uint8)])).save(
            tmp_path / f"{frame['file_path']}.png"
        )
    path.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    assert len({frame.camera.id for frame in scene.frames("test")}) > 1
    assert_dots(scene)


def test_dnerf_in_seconds_is_normalised_with_a_warning(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    for split in ("train", "test"):
        path = tmp_path / f"transforms_{split}.json"
        content = json.loads(path.read_text())
        for frame in content["frames"]:
            frame["time"] = frame["time_index"] / 20
            # The test split ends earlier: the clip's length is the longest of all splits.
        content["frames"] = [f for f in content["frames"] if split == "train" or f["time_index"] < 3]
        for frame in content["frames"]:
            frame["time"] *= 10
        path.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(scene.times, [0, 0.25, 0.5, 0.75, 1])
    assert scene.duration == pytest.approx(2.0) and scene.fps == pytest.approx(2.0)
    assert scene.seconds(0.5) == pytest.approx(1.0)
    assert max(frame.time for frame in scene.frames("test")) == pytest.approx(0.5)
    assert any("shifted to start at 0" in problem.message for problem in scene.problems)


def test_panoptic(tmp_path: Path) -> None:
    scene = load_scene(write_panoptic(tmp_path))
    assert scene.format == "panoptic" and not scene.has_alpha and scene.fps == 30
    assert list(scene.cameras) == ["0", "1", "2"]
    assert_dots(scene)
    train, test = scene.frames("train")[0], scene.frames("test")[0]
    assert train.mask is not None and test.mask is None
    assert set(np.unique(train.mask)) == {0, 255}
    assert np.mean((train.mask > 0) != (train.image[..., 0] > 100)) < 0.005


def test_frames_sort_numerically(tmp_path: Path) -> None:
    """Instant 10 comes after instant 9 though its name sorts before, and times count over all splits."""
    write_panoptic(tmp_path, count=12)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_meta.json"
        meta = json.loads(path.read_text())
        for names in meta["fn"]:
            for c, name in enumerate(names):
                folder, stem = name.split("/")
                short = f"{folder}/{int(stem[:6])}.jpg"
                (tmp_path / "ims" / name).rename(tmp_path / "ims" / short)
                names[c] = short
        path.write_text(json.dumps(meta))
    scene = load_scene(tmp_path)
    assert_dots(scene)
    assert [frame.time_index for frame in scene.frames("test")] == list(range(12))


def test_points_of_panoptic(tmp_path: Path) -> None:
    data = np.array([[1.0, 2, 3, 0.5, 0, 1, 1], [4, 5, 6, 1, 1, 1, 0]])
    np.savez(write_panoptic(tmp_path) / "init_pt_cld.npz", data=data)
    points = load_scene(tmp_path).points
    assert points is not None and len(points) == 2
    np.testing.assert_allclose(points.xyz, data[:, :3])
    np.testing.assert_array_equal(points.rgb, [[128, 0, 255], [255, 255, 255]])


def write_qualisys(folder: Path) -> Path:
    for c, pose in enumerate(poses()):
        dot_video(folder / "videos" / f"take_cam{c + 1:02d}.mp4", pose)
    (folder / "calibration").mkdir()
    (folder / "calibration" / "Calib.qca.txt").write_text(qualisys_text(poses(), ["cam01", "cam02", "cam03"]))
    return folder


def test_videos_with_qualisys(tmp_path: Path) -> None:
    scene = load_scene(write_qualisys(tmp_path), test_every=2)
    assert scene.format == "videos" and scene.fps == 25
    assert scene.duration == pytest.approx((COUNT - 1) / 25)
    assert list(scene.cameras) == ["cam01", "cam02", "cam03"]
    assert_dots(scene)
    assert {frame.time_index for frame in scene.frames("test")} == {1, 3}
    assert {frame.time_index for frame in scene.frames("train")} == {0, 2, 4}
    assert "held out" in scene.split_note


@pytest.mark.parametrize("rodrigues", [True, False])
def test_videos_with_opencv_xml(tmp_path: Path, rodrigues: bool) -> None:
    """Strong barrel distortion, a file per camera, and background plates beside the recording."""
    for c, pose in enumerate(poses()):
        images = []
        for k in range(COUNT):
            x, y = brown(BARREL, *normalised(pose, dot(k)))
            images.append(picture(FOCAL * x + WIDTH / 2, FOCAL * y + HEIGHT / 2))
        write_video(tmp_path / "take" / f"cam{c}.avi", images, codec="mpeg4")
        write_video(tmp_path / "background" / f"cam{c}.avi", [picture(5, 5)], codec="mpeg4")
        rotation = Rotation.from_matrix(pose[:3, :3]).as_rotvec()[:, None] if rodrigues else None
        (tmp_path / f"cam{c}.xml").write_text(opencv_xml(pose, BARREL, rotation))
    scene = load_scene(tmp_path)
    assert len(scene.cameras) == 3 and len(scene.times) == COUNT
    assert_dots(scene, 0.3)
    assert any("background" in note for note in scene.notes)


def test_videos_with_yaml_of_all_cameras_over_two_files(tmp_path: Path) -> None:
    """EasyMocap's intri.yml and extri.yml."""

    def entry(name: str, m: np.ndarray) -> str:
        data = ", ".join(repr(float(x)) for x in m.ravel())
        return f"{name}: !!opencv-matrix\n   rows: {m.shape[0]}\n   cols: {m.shape[1]}\n   dt: d\n   data: [ {data} ]\n"

    K = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1.0]])
    intri = extri = '%YAML:1.0\n---\nnames:\n   - "01"\n   - "02"\n'
    for name, pose in zip(("01", "02"), poses(2)):
        intri += entry(f"K_{name}", K) + entry(f"dist_{name}", np.zeros((1, 5)))
        extri += entry(f"R_{name}", Rotation.from_matrix(pose[:3, :3]).as_rotvec()[:, None])
        extri += entry(f"Rot_{name}", pose[:3, :3]) + entry(f"T_{name}", pose[:3, 3:])
        dot_video(tmp_path / f"{name}.mp4", pose)
    (tmp_path / "intri.yml").write_text(intri)
    (tmp_path / "extri.yml").write_text(extri)
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["01", "02"]
    assert scene.cameras[1].id == "01"
    with pytest.raises(KeyError, match="01, 02"):
        scene.cameras[0]
    assert_dots(scene)


def test_nerfstudio_times_from_names(tmp_path: Path) -> None:
    scene = load_scene(nerfstudio(tmp_path, nerfstudio_images(tmp_path), fps=10))
    assert scene.format == "nerfstudio" and list(scene.cameras) == ["cam0", "cam1"]
    np.testing.assert_allclose(scene.times, np.arange(COUNT) / (COUNT - 1))
    assert scene.duration == pytest.approx(0.4)
    assert_dots(scene)


def test_nerfstudio_stated_times_and_index_win_over_names(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    for position, frame in enumerate(frames):
        frame["frame_index"] = 2 * (position % COUNT)
    np.testing.assert_allclose(load_scene(nerfstudio(tmp_path, frames)).times, [0, 0.25, 0.5, 0.75, 1])
    for position, frame in enumerate(frames):
        frame["time"] = 0.1 * (position % COUNT)
    scene = load_scene(nerfstudio(tmp_path, frames))
    np.testing.assert_allclose(scene.times, [0, 0.1, 0.2, 0.3, 0.4])
    assert_dots(scene)


def test_nerfstudio_splits_masks_points(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    frames[0]["mask_path"] = "mask.png"
    header = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {a}\n" for a in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    (tmp_path / "points.ply").write_text(header + "1 2 3 10 20 30\n-1 0 0.5 255 0 1\n")
    names = [frame["file_path"] for frame in frames]
    scene = load_scene(
        nerfstudio(tmp_path, frames, ply_file_path="points.ply", train_filenames=names[1:], test_filenames=names[:1])
    )
    assert [frame.source for frame in scene.frames("test")] == [str((tmp_path / names[0]).resolve())]
    np.testing.assert_array_equal(scene.frames("test")[0].mask, mask)
    assert scene.frames("train")[0].mask is None
    assert scene.points is not None
    np.testing.assert_allclose(scene.points.xyz, [[1, 2, 3], [-1, 0, 0.5]])
    np.testing.assert_array_equal(scene.points.rgb, [[10, 20, 30], [255, 0, 1]])


def test_nerfstudio_videos(tmp_path: Path) -> None:
    for c, pose in enumerate(poses()):
        dot_video(tmp_path / "videos" / f"v{c}.mp4", pose)
    entries = [{"file_path": f"videos/v{c}.mp4", "transform_matrix": opengl(pose)} for c, pose in enumerate(poses())]
    scene = load_scene(nerfstudio(tmp_path, entries))
    assert list(scene.cameras) == ["v0", "v1", "v2"] and len(scene.frames("all")) == 3 * COUNT
    assert_dots(scene)
    cameras = [{"camera_id": 10 + c, "video": e["file_path"], **e} for c, e in enumerate(entries)]
    scene = load_scene(nerfstudio(tmp_path, [], cameras=cameras))
    assert list(scene.cameras) == ["10", "11", "12"]
    assert_dots(scene)


def test_nerfstudio_single_frames_of_a_video_with_a_moving_camera(tmp_path: Path) -> None:
    images = [picture(*pixel(pose, dot(k))) for k, pose in enumerate(poses(4))]
    write_video(tmp_path / "v.mp4", images)
    entries = [
        {"file_path": "v.mp4", "frame_index": k, "transform_matrix": opengl(pose)} for k, pose in enumerate(poses(4))
    ]
    scene = load_scene(nerfstudio(tmp_path, entries))
    assert len(scene.cameras) == 4 and len(scene.times) == 4
    assert_dots(scene)


def test_nerfstudio_opencv_distortion(tmp_path: Path) -> None:
    names = ("k1", "k2", "p1", "p2", "k3")
    coefficients = (-0.3, 0.1, 0.03, -0.02, 0.0)
    frames = []
    for t, pose in enumerate(poses(2)):
        x, y = brown(coefficients, *normalised(pose, dot(t) + [0, 0, 0.7]))
        Image.fromarray(picture(FOCAL * x + WIDTH / 2, FOCAL * y + HEIGHT / 2)).save(tmp_path / f"{t}.png")
        frames.append({"file_path": f"{t}.png", "transform_matrix": opengl(pose)})
    scene = load_scene(nerfstudio(tmp_path, frames, camera_model="OPENCV", **dict(zip(names, coefficients))))
    for frame in scene.frames("all"):
        K, (x, y) = frame.camera.K, normalised(poses(2)[frame.time_index], dot(frame.time_index) + [0, 0, 0.7])
        np.testing.assert_allclose(find_dot(frame.image), [K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]], atol=0.2)


def test_nerfstudio_fisheye(tmp_path: Path) -> None:
    k = (0.1, -0.03, 0.01, -0.002)
    frames = []
    for t, pose in enumerate(poses(2)):
        x, y = normalised(pose, dot(t))
        r = np.hypot(x, y)
        theta = np.arctan(r)
        scale = theta * (1 + k[0] * theta**2 + k[1] * theta**4 + k[2] * theta**6 + k[3] * theta**8) / r
        image = picture(FOCAL * x * scale + WIDTH / 2, FOCAL * y * scale + HEIGHT / 2)
        Image.fromarray(image).save(tmp_path / f"{t}.png")
        frames.append({"file_path": f"{t}.png", "transform_matrix": opengl(pose)})
    ks = {f"k{i + 1}": value for i, value in enumerate(k)}
    scene = load_scene(nerfstudio(tmp_path, frames, camera_model="OPENCV_FISHEYE", **ks))
    assert_dots(scene)


def test_downscale_scales_intrinsics_with_the_pixel_grid(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    for factor in (2, 3, 2.5):
        scene = load_scene(tmp_path, downscale=factor)
        frame = scene.frames()[0]
        assert frame.image.shape[:2] == (int(HEIGHT / factor), int(WIDTH / factor))
        assert (frame.camera.width, frame.camera.height) == (int(WIDTH / factor), int(HEIGHT / factor))
        assert frame.camera.K[0, 0] == pytest.approx(FOCAL / factor)
        assert_dots(scene)


def test_automatic_downscale(tmp_path: Path) -> None:
    pose = poses(1)[0]
    Image.fromarray(np.zeros((1080, 1920, 3), np.uint8)).save(tmp_path / "1.png")
    frame = {"file_path": "1.png", "transform_matrix": opengl(pose)}
    (tmp_path / "transforms.json").write_text(json.dumps({"fl_x": 1000, "frames": [frame]}))
    scene = load_scene(tmp_path)
    assert scene.downscale == 3 and scene.cameras["1"].width == 640 and scene.cameras["1"].height == 360
    assert any("factor of 3" in note for note in scene.notes)


def test_frames_selects_instants_and_keeps_clip_times(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    scene = load_scene(tmp_path, frames="1::2")
    np.testing.assert_allclose(scene.times, [0.25, 0.75])
    assert [frame.time_index for frame in scene.frames("test")] == [0, 1]
    assert_dots(scene, index=lambda frame: round(frame.time * (COUNT - 1)))
    with pytest.raises(UserError, match="selects none of the 5 instants"):
        load_scene(tmp_path, frames="9:")
    with pytest.raises(UserError, match="START:STOP:STEP"):
        load_scene(tmp_path, frames="a:b")


def test_inspect_returns_the_scene_and_its_problems(tmp_path: Path) -> None:
    scene, problems = inspect(write_dnerf(tmp_path))
    assert scene is not None and problems == []


def test_options_load_the_same_frames_again(tmp_path: Path) -> None:
    first = load_scene(write_dnerf(tmp_path / "scene"), frames="1::2", test_every=3, cache_mb=7)
    again = load_scene(first.path, **first.options)
    assert [frame.source for frame in again.frames("all")] == [frame.source for frame in first.frames("all")]
    assert again.options == first.options
