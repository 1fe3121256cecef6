"""What is asked of cameras before they are believed, and exposures, on matches made from known cameras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filmed import around

from gaussian4d import Camera
from gaussian4d.conventions import invert_rigid
from gaussian4d.data.records import Lens
from gaussian4d.errors import UserError
from gaussian4d.prepare.calibrate import PlacedCamera
from gaussian4d.prepare.calibration_check import check_calibration, contradiction
from gaussian4d.prepare.consistency import loops_of, scale_spread, turn_degrees
from gaussian4d.prepare.exposure import Exposure, fit_exposures
from gaussian4d.prepare.matching import Matches
from gaussian4d.prepare.moving import interpolate_poses
from gaussian4d.prepare.recordings import Recording

SIZE = (320, 240)


def rig() -> list[Camera]:
    return around([0, 25, 50, 75], size=SIZE)


def placed(camera: Camera) -> PlacedCamera:
    K = camera.K
    lens = Lens(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), *SIZE)
    return PlacedCamera(camera.id, camera.viewmat, lens)


def recordings() -> list[Recording]:
    return [Recording(camera.id, Path(f"{camera.id}.mp4"), 30.0, 10, *SIZE) for camera in rig()]


def matches(outliers: float = 0.2, count: int = 300) -> Matches:
    """Returns what cameras see of points in a box: half a pixel of noise, some matches wrong."""
    rng = np.random.default_rng(3)
    X = rng.uniform([-1.0, -1.0, -0.5], [1.0, 1.0, 1.0], (count, 3))
    keypoints, found = {}, {}
    for camera in rig():
        seen = (X @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.K.T
        keypoints[camera.id, 0] = seen[:, :2] / seen[:, 2:] + rng.normal(0, 0.3, (count, 2))
    names = [camera.id for camera in rig()]
    for n, a in enumerate(names):
        for b in names[n + 1 :]:
            second = np.arange(count)
            wrong = rng.random(count) < outliers
            second[wrong] = rng.integers(0, count, int(wrong.sum()))
            found[a, b, 0] = np.stack([np.arange(count), second], axis=1)
    return Matches(np.array([0]), keypoints, found)


def check(change: Callable[[PlacedCamera], PlacedCamera]) -> float:
    cameras = {camera.id: change(placed(camera)) for camera in rig()}
    return check_calibration(cameras, recordings(), matches(), "calib.xml").median


def scaled(camera: PlacedCamera, factor: float) -> PlacedCamera:
    lens = camera.lens
    values = {key: getattr(lens, key) * factor for key in ("fx", "fy", "cx", "cy")}
    return dataclasses.replace(camera, lens=dataclasses.replace(lens, **values))


def test_a_right_calibration_is_obeyed_in_any_unit() -> None:
    assert check(lambda camera: camera) > 0.9

    def in_millimetres(camera: PlacedCamera) -> PlacedCamera:
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] *= 1000
        return dataclasses.replace(camera, viewmat=viewmat)

    assert check(in_millimetres) > 0.9


@pytest.mark.parametrize(("factor", "size"), [(2.0, "640x480"), (0.5, "160x120")])
def test_a_calibration_for_another_resolution_is_named(factor: float, size: str) -> None:
    with pytest.raises(UserError, match=rf"calib\.xml: the calibration is for another resolution.*about {size}"):
        check(lambda camera: scaled(camera, factor))


def test_inverted_and_opengl_poses_are_named() -> None:
    with pytest.raises(UserError, match=r"calib\.xml: its poses are camera-to-world, .*invert them"):
        check(lambda camera: dataclasses.replace(camera, viewmat=invert_rigid(camera.viewmat)))
    turn = np.diag([1.0, -1.0, -1.0, 1.0])
    with pytest.raises(UserError, match=r"calib\.xml: its camera axes are OpenGL's"):
        check(lambda camera: dataclasses.replace(camera, viewmat=turn @ camera.viewmat))


def test_a_camera_in_another_unit_or_moved_since_is_named() -> None:
    def moved(camera: PlacedCamera) -> PlacedCamera:
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] *= 0.001 if camera.name == "cam3" else 1
        return dataclasses.replace(camera, viewmat=viewmat)

    with pytest.raises(UserError, match=r"camera cam3 is not where the calibration says.*another unit"):
        check(moved)


def test_a_contradiction_without_an_explanation_is_a_warning() -> None:
    rng = np.random.default_rng(0)

    def random(camera: PlacedCamera) -> PlacedCamera:
        axis = rng.normal(size=3)
        turned = np.linalg.qr(np.stack([axis, *rng.normal(size=(2, 3))]))[0]
        viewmat = camera.viewmat.copy()
        viewmat[:3, :3] = turned * np.sign(np.linalg.det(turned))
        return dataclasses.replace(camera, viewmat=viewmat)

    cameras = {camera.id: random(placed(camera)) for camera in rig()}
    found = check_calibration(cameras, recordings(), matches(), "calib.xml")
    assert "contradicts the pictures" in contradiction(found)


def test_loops_of_true_rotations_close_and_a_wrong_one_is_found() -> None:
    poses = {camera.id: camera.viewmat for camera in rig()}
    rotations = {(a, b): poses[b][:3, :3] @ poses[a][:3, :3].T for a in poses for b in poses if a < b}
    loops = loops_of(rotations, poses)
    assert len(loops.degrees) == 4 and max(loops.degrees.values()) < 1e-4 and loops.closed == 1.0
    tilt = np.radians(20)
    turn = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    assert turn_degrees(turn) == pytest.approx(20)
    wrong = loops_of(rotations | {("cam1", "cam2"): turn @ rotations["cam1", "cam2"]}, poses)
    assert wrong.closed == 0.5 and wrong.never_closed == []
    assert wrong.against["cam1", "cam2"] == pytest.approx(20)
    # The same turn for all pairs of a camera would be a turn of the camera, and close.
    spoilt = {pair: turn @ R if "cam4" in pair else R for pair, R in rotations.items()}
    spoilt["cam1", "cam4"] = turn.T @ rotations["cam1", "cam4"]
    spoilt["cam2", "cam4"] = rotations["cam2", "cam4"] @ turn
    assert loops_of(spoilt, poses).never_closed == ["cam4"]


def test_scale_is_one_over_a_rig_or_it_is_not() -> None:
    poses = [camera.viewmat for camera in rig()]

    def rescaled(factors: list[float]) -> list[np.ndarray]:
        changed = []
        for pose, factor in zip(poses, factors):
            T = invert_rigid(pose)
            T[:3, 3] *= factor
            changed.append(invert_rigid(T))
        return changed

    assert scale_spread(poses, rescaled([3.0] * 4)) < 1e-9
    assert scale_spread(poses, rescaled([3.0, 3.0, 3.0, 4.0])) > 0.15


def test_exposures_bring_the_cameras_together() -> None:
    found = matches()
    rng = np.random.default_rng(1)
    truth = rng.uniform(40, 180, (300, 3))
    # What the cameras made of it: cam2 darker, cam3 with a blue cast.
    change = {"cam2": ([0.7, 0.7, 0.7], 5.0), "cam3": ([1.0, 1.0, 1.25], 0.0)}
    colours = {}
    for camera in rig():
        gain, offset = change.get(camera.id, ([1.0, 1.0, 1.0], 0.0))
        colours[camera.id, 0] = truth * gain + offset + rng.normal(0, 2, truth.shape)
    exposures = fit_exposures({camera.id: placed(camera) for camera in rig()}, found, colours)
    means = np.stack(
        [colours[name, 0] * np.array(e.gain) + np.array(e.offset) for name, e in exposures.items()]
    )  # fmt: skip
    assert np.abs(means - means.mean(0)).mean() < 3
    ratio = np.array(exposures["cam2"].gain) / np.array(exposures["cam1"].gain)
    np.testing.assert_allclose(ratio, 1 / 0.7, rtol=0.05)
    assert exposures["cam2"].percent < -15 and exposures["cam3"].cast > 15 > exposures["cam1"].cast + 5
    assert Exposure((0.5, 0.5, 0.5), (0.0, 0.0, 0.0), 50).percent == pytest.approx(100)
    assert fit_exposures({camera.id: placed(camera) for camera in rig()}, Matches(np.array([0]), {}, {}), {}) == {}


def test_poses_between_key_frames_follow_a_smooth_way() -> None:
    """On a circle around the subject, from every third camera."""
    viewmats = []
    for angle in np.radians(np.linspace(0, 60, 19)):
        eye = np.array([4 * np.cos(angle), 4 * np.sin(angle), 1.5])
        viewmats.append(Camera.look_at(eye, np.zeros(3), np.array([0.0, 0, 1]), width=8, height=8, focal=8.0).viewmat)
    poses, times = np.stack(viewmats), np.arange(19) / 30
    between = interpolate_poses(times[::3], poses[::3], times)
    np.testing.assert_allclose(between[::3], poses[::3], atol=1e-9)
    turned = [turn_degrees(a[:3, :3] @ b[:3, :3].T) for a, b in zip(between, poses)]
    away = np.linalg.norm(invert_rigid(between)[:, :3, 3] - invert_rigid(poses)[:, :3, 3], axis=1)
    assert max(turned) < 0.3 and away.max() < 0.005
