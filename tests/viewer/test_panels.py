"""Camera path, crop box, comparison, splats and films of one browser, against a fake client."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from test_painter import view_through
from viewer_fakes import FakeClient, FakeControl
from viewer_helpers import coloured_blobs, ring, wait_until

pytest.importorskip("viser")

from gaussian4d.cameras import Camera
from gaussian4d.crop import CropBox
from gaussian4d.desk import Desk, Shot, render_to
from gaussian4d.motion import FreeTime
from gaussian4d.paths import load_path
from gaussian4d.rendering import render
from gaussian4d.video_out import write_video
from viewer.painter import Painter
from viewer.session import Session
from viewer.splats import SplatNode, splat_arrays
from viewer.workspace import Workspace


class FakeFrame:
    def __init__(self, camera, time: float, value: int) -> None:
        self.camera, self.time = camera, time
        self.image = np.full((camera.height, camera.width, 3), value, np.uint8)


class FakeScene:
    """Every camera sees a grey of its own, brighter at the end."""

    def frames(self, split: str) -> list[FakeFrame]:
        return [FakeFrame(c, t, 30 * k + int(10 * t)) for k, c in enumerate(ring()) for t in (0.0, 1.0)]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    cameras = ring()
    workspace = Workspace(tmp_path / "run", tmp_path / "run", FakeScene())  # type: ignore[arg-type]
    painter = Painter(coloured_blobs(), cameras, backend="reference", background=(0.1, 0.2, 0.3), truth=workspace.truth)
    session = Session(FakeClient(), painter, cameras, 2.0, workspace)  # type: ignore[arg-type]
    yield session
    session.close(wait=True)


def control(session: Session, label: str) -> FakeControl:
    return session.client.gui.controls[label]  # type: ignore[attr-defined]


def look(session: Session, index: int, time: float = 0.0) -> None:
    """Puts the browser at a recorded camera; what a real one does with `jump`, the fake does by hand."""
    from viser.transforms import SO3

    camera = ring()[index]
    session.jump(camera)
    session.client.camera.wxyz = SO3.from_matrix(camera.viewmat[:3, :3].T).wxyz
    session.timeline.go(time)


def told(session: Session) -> str:
    return str(session.client.told[-1] if session.client.told else "")  # type: ignore[attr-defined]


def drawn_path(session: Session) -> Path:
    for index, time in ((0, 0.0), (1, 0.5), (3, 1.0)):
        look(session, index, time)
        control(session, "Add keyframe").by_hand()
    for label, value in (("seconds", 1.0), ("frames per second", 6), ("width", 32), ("height", 24)):
        control(session, label).by_hand(value)
    control(session, "file").by_hand("save")
    file = session.workspace.folder / "paths" / "path.json"  # type: ignore[operator]
    assert file.exists() and str(file) in told(session)
    return file


def test_a_path_of_the_page_is_the_shells_path_to_the_bit(session: Session) -> None:
    file = drawn_path(session)
    mine, shells = session.path.path().cameras(), load_path(file)
    assert len(mine) == len(shells) == 6
    for (a, time_a), (b, time_b) in zip(mine, shells):
        assert np.array_equal(a.viewmat, b.viewmat) and np.array_equal(a.K, b.K) and time_a == time_b
    for k, index in ((0, 0), (-1, 3)):
        assert np.allclose(shells[k][0].viewmat, ring()[index].viewmat, atol=1e-9)
    assert [shells[0][1], shells[-1][1]] == [0.0, 1.0]


def test_a_film_of_the_page_is_the_shells_film(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[list[np.ndarray]] = []

    def kept(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
        encoded.append(list(frames))
        return write_video(path, encoded[-1], fps)

    monkeypatch.setattr("gaussian4d.desk.write_video", kept)
    file = drawn_path(session)
    control(session, "Render film").by_hand()
    film = session.workspace.folder / "renders" / "path.mp4"  # type: ignore[operator]
    assert wait_until(lambda: session.path.film.status.content.startswith("wrote"))
    assert control(session, "Render film").label == "Render film" and control(session, "progress_bar").value == 100.0
    shot = Shot(background=(0.1, 0.2, 0.3), backend="reference")
    (expected,) = render_to(tmp_path / "shell.mp4", Desk(coloured_blobs(), load_path(file), shot), 6.0)
    for source in (film, expected):
        with av.open(str(source)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 6
    # Before the codec: it makes ten levels and more of a last bit that sums in another thread round otherwise.
    mine, shells = encoded
    assert len(mine) == len(shells) == 6
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(mine, shells)) <= 1


def test_keyframes_are_edited_and_loaded(session: Session) -> None:
    file = drawn_path(session)
    control(session, "keyframe").by_hand("2")
    assert control(session, "time of keyframe").value == 0.5
    control(session, "time of keyframe").by_hand(0.25)
    control(session, "fov of keyframe").by_hand(30.0)
    assert (session.path.keyframes[1].time, session.path.keyframes[1].fov) == (0.25, 30.0)
    control(session, "keyframe").by_hand("3")
    assert control(session, "time of keyframe").value == 1.0 and session.path.keyframes[2].time == 1.0
    control(session, "change").by_hand("remove")
    assert len(session.path.keyframes) == 2
    control(session, "file").by_hand("load")
    assert [key.time for key in session.path.keyframes] == [0.0, 0.5, 1.0]
    control(session, "loop path").by_hand(True)
    assert session.path.path().loop and json.loads(file.read_text())["loop"] is False
    nodes = session.client.nodes  # type: ignore[attr-defined]
    control(session, "change").by_hand("clear")
    assert len(session.path.keyframes) == 3
    control(session, "Remove all").by_hand()
    assert session.path.keyframes == [] and nodes["/path/curve"].removed


def test_times_are_spread_over_the_clip(session: Session) -> None:
    for index in (0, 1, 3):
        look(session, index, 0.2)
        control(session, "Add keyframe").by_hand()
    control(session, "change").by_hand("spread times")
    assert [key.time for key in session.path.keyframes] == [0.0, 0.5, 1.0]
    assert control(session, "keyframe").value == "3" and control(session, "time of keyframe").value == 1.0
    control(session, "loop path").by_hand(True)
    control(session, "change").by_hand("spread times")
    # The way home takes the last third.
    assert [key.time for key in session.path.keyframes] == [0.0, 0.333, 0.667]
    assert session.path.path().cameras()[-1][1] > 0.98


def test_saved_paths_are_offered_and_the_line_that_renders_them_can_be_read(session: Session) -> None:
    assert not session.path.saved.visible
    file = drawn_path(session)
    run = session.workspace.folder
    assert f"gaussian4d render {run} --out path.mp4 --path {file}" in session.path.note.content
    assert session.path.note.visible and session.path.saved.options == ("(choose)", "path")
    session.path.clear()
    control(session, "saved paths").by_hand("path")
    assert [key.time for key in session.path.keyframes] == [0.0, 0.5, 1.0]


def test_a_drawn_camera_is_hidden_from_the_share_of_the_picture_it_covers() -> None:
    from scipy.spatial import ConvexHull

    from viewer.camera_panel import LARGEST_SHARE, in_the_way, outline

    painter, dice = Painter(coloured_blobs(), ring(), backend="reference"), np.random.default_rng(0)
    recorded, found = ring(24), []
    for _ in range(600):
        eye = dice.normal(size=3) * 1.5
        target = dice.normal(size=3) * 0.5
        seen = Camera.look_at(eye, target, np.array([0.0, 0.0, 1.0]), width=160, height=90, focal=100.0)
        view = view_through(painter, seen, width=160, height=90)
        outlines = np.array([outline(camera, painter.units) for camera in recorded])
        for points, hidden in zip(outlines, in_the_way(outlines, view)):
            world = np.array([painter.units.world_from_viewer(point) for point in points])
            if np.linalg.norm(points - np.array(view.position), axis=1).min() < 0.25:
                continue
            places = world @ seen.viewmat[:3, :3].T + seen.viewmat[:3, 3]
            if places[:, 2].min() > 0.01:
                pixels = places @ seen.K.T
                pixels = pixels[:, :2] / pixels[:, 2:]
                share = ConvexHull(pixels).volume / (160 * 90)
                inside = ((pixels > 0) & (pixels < (160, 90))).all()
                if inside and abs(share - LARGEST_SHARE) > 1e-4:
                    assert hidden == (share > LARGEST_SHARE)
                    found.append(hidden)
                if (pixels[:, 0] < 0).all() or (pixels[:, 1] > 90).all():
                    assert not hidden
            elif places[:, 2].max() < 0.0:
                assert not hidden
    assert 10 < sum(found) < len(found) - 10


def test_what_of_the_path_is_at_the_eye_is_not_drawn(session: Session) -> None:
    drawn_path(session)
    client = session.client
    frustums = [client.frustums[f"/path/{k}"] for k in range(3)]  # type: ignore[attr-defined]
    curve = client.nodes["/path/curve"]  # type: ignore[attr-defined]
    look(session, 3)
    client.moved(None)  # type: ignore[attr-defined]
    assert [node.visible for node in (*frustums, curve)] == [True, True, False, False]
    look(session, 5)
    client.moved(None)  # type: ignore[attr-defined]
    assert [node.visible for node in (*frustums, curve)] == [True, True, True, True]
    control(session, "Preview").by_hand()
    assert control(session, "Preview").label == "Stop preview" and not any(node.visible for node in frustums)
    control(session, "Preview").by_hand()
    assert wait_until(lambda: control(session, "Preview").label == "Preview" and all(n.visible for n in frustums))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", "", ".", "x" * 200])
def test_files_stay_below_the_run_folder(session: Session, tmp_path: Path, name: str) -> None:
    drawn_path(session)
    before = sorted(tmp_path.rglob("*"))
    control(session, "name")._value = name
    for act in ("save", "load"):
        control(session, "file").by_hand(act)
        assert "Failed" in told(session)
    control(session, "Render film").by_hand()
    assert "Failed" in told(session) and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", [b"\xff\x00", b"[]", b'{"keyframes": [{"position": "here"}]}', b" " * 2_000_000])
def test_a_nonsense_upload_is_said_and_changes_nothing(session: Session, content: bytes) -> None:
    drawn_path(session)
    upload = control(session, "Open a path file")
    upload._value = type("File", (), {"content": content})()
    upload.by_hand()
    assert "Failed" in told(session) and len(session.path.keyframes) == 3


def test_the_preview_flies_and_stops(session: Session) -> None:
    drawn_path(session)
    control(session, "Preview").by_hand()
    assert wait_until(lambda: session.playback.now() > 0.9, 20)
    position = session.painter.units.world_from_viewer(session.client.camera.position)
    assert np.linalg.norm(position - ring()[3].position) < 1.5
    assert wait_until(lambda: not session.path._preview.is_set())


def test_the_crop_box_is_in_world_units_and_cuts(session: Session) -> None:
    # The cameras stand 3 away in both: the viewer's units are the world's here, shifted by nothing.
    session.crop.handle.position = np.array([0.6, 0.0, 0.0])  # type: ignore[assignment]
    control(session, "size").by_hand((0.5, 0.5, 0.5))
    assert session.view().crop is None  # type: ignore[union-attr]
    control(session, "crop").by_hand(True)
    box = session.crop.box()
    assert np.allclose(box.center, [0.6, 0, 0]) and np.allclose(box.size, 0.5)
    look(session, 3)
    picture = session.painter(session.view(), 1.0)  # type: ignore[arg-type]
    # From -x the blue blob hides the red one, unless it is cut away.
    assert picture[30, 40].argmax() == 0
    control(session, "Save box").by_hand()
    assert CropBox.load(session.workspace.folder / "crop.json") == box  # type: ignore[operator]
    session.crop.handle.position = np.array([5.0, 0.0, 0.0])  # type: ignore[assignment]
    session.request()
    assert wait_until(lambda: "holds no Gaussian" in session.picture.stats.content)


def test_compare_shows_the_recorded_picture_of_that_time_on_the_left(session: Session) -> None:
    control(session, "compare").by_hand(True)
    look(session, 2, 0.9)
    view = session.view()
    assert view is not None
    picture = session.painter(view, 1.0)
    # The browser's picture is 4:3 as the camera's: the left half is its grey, at the nearest instant.
    assert np.all(picture[:, :38] == 70)
    expected = render(
        coloured_blobs(), ring()[2].resized(80, 60), 0.9, background=(0.1, 0.2, 0.3), backend="reference"
    ).rgb
    assert np.abs(picture[:, 42:] / 255.0 - expected.clamp(0, 1).numpy()[:, 42:]).max() < 0.02
    # Away from all cameras there is nothing to compare with, and it is said.
    assert wait_until(lambda: "80x60" in session.picture.stats.content)
    assert "no recorded image" not in session.picture.stats.content
    session.client.camera.position = session.client.camera.position * 0.7
    assert not np.all(session.painter(session.view(), 1.0)[:, :38] == 70)  # type: ignore[arg-type]
    session.request()
    assert wait_until(lambda: "no recorded image" in session.picture.stats.content)


def test_backgrounds(session: Session) -> None:
    look(session, 0)
    for choice, expected in (("scene", (26, 51, 77)), ("white", (255, 255, 255)), ("colour", (10, 20, 30))):
        control(session, "colour")._value = (10, 20, 30)
        control(session, "background").by_hand(choice)
        assert session.painter(session.view(), 1.0)[0, 0].tolist() == list(expected)  # type: ignore[arg-type]


def test_splats_are_sent_once_per_time_and_taken_away(session: Session) -> None:
    client = session.client
    look(session, 0)
    control(session, "splats in the browser").by_hand(True)
    assert wait_until(lambda: "/splats" in client.nodes)  # type: ignore[attr-defined]
    node = client.nodes["/splats"]  # type: ignore[attr-defined]
    centers, covariances, colors, _ = node.data
    assert np.allclose(centers * node.scale, coloured_blobs().params["means"], atol=1e-6)
    assert np.allclose(covariances * node.scale**2, 0.12**2 * np.eye(3), atol=1e-6)
    assert np.allclose(colors[:3], np.eye(3), atol=1e-5)
    node.data = None
    client.moved(None)  # type: ignore[attr-defined]
    session.timeline.go(0.5)
    assert wait_until(lambda: node.data is not None)
    control(session, "splats in the browser").by_hand(False)
    assert node.removed and wait_until(lambda: "80x60" in session.picture.stats.content)


@pytest.mark.parametrize("degree", [0, 1])
def test_colours_of_splats_are_sent_again_once_a_turned_view_rests(session: Session, degree: int) -> None:
    painter = session.painter
    painter.model.params["shN"] = torch.full((4, (degree + 1) ** 2 - 1, 3), 0.3)
    look(session, 0)
    control(session, "splats in the browser").by_hand(True)
    assert wait_until(lambda: "/splats" in session.client.nodes)  # type: ignore[attr-defined]
    node = session.client.nodes["/splats"]  # type: ignore[attr-defined]
    first = node.data[2]
    look(session, 3)
    session.client.moved(None)  # type: ignore[attr-defined]
    if degree == 0:
        assert not wait_until(lambda: node.data[2] is not first, 1.0)
        return
    assert wait_until(lambda: node.data[2] is not first)
    eye = torch.as_tensor(ring()[3].position, dtype=torch.float32)
    expected = splat_arrays(painter.model.at(0.0), eye, np.zeros(3), 1.0)[2]
    assert np.allclose(node.data[2], expected, atol=1e-5) and np.abs(expected - first).max() > 0.1


def test_splats_lie_before_the_background_and_leave_the_place_to_other_outputs(session: Session) -> None:
    client = session.client
    control(session, "splats in the browser").by_hand(True)
    assert wait_until(lambda: "/splats" in client.nodes)  # type: ignore[attr-defined]
    node, pictures = client.nodes["/splats"], client.pictures  # type: ignore[attr-defined]
    assert pictures[-1].shape == (2, 2, 3) and pictures[-1][0, 0].tolist() == [26, 51, 77]
    control(session, "background").by_hand("white")
    assert wait_until(lambda: pictures[-1][0, 0].tolist() == [255, 255, 255])
    control(session, "output").by_hand("depth")
    assert wait_until(lambda: not node.visible and pictures[-1].shape == (60, 80, 3))
    control(session, "output").by_hand("rgb")
    assert wait_until(lambda: node.visible and pictures[-1].shape == (2, 2, 3))


def test_splats_that_are_taken_away_while_they_are_computed_do_not_come_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(session, 0)
    node, view = SplatNode(session), session.view()

    def slow(*data: object) -> object:
        node.remove()
        return splat_arrays(*data)  # type: ignore[arg-type]

    monkeypatch.setattr("viewer.splats.splat_arrays", slow)
    assert view is not None and not node.update(view)
    assert "/splats" not in session.client.nodes  # type: ignore[attr-defined]


def test_as_many_splats_are_sent_at_all_times() -> None:
    model = coloured_blobs()
    columns = {
        "velocities": torch.zeros(4, 3),
        "times": torch.tensor([0.0, 0.3, 0.6, 1.0]),
        "durations": torch.zeros(4),
    }
    model = dataclasses.replace(model, params={**model.params, **columns}, motion=FreeTime())
    sent = [splat_arrays(model.at(time), torch.zeros(3), np.zeros(3), 1.0) for time in (0.0, 0.5, 1.0)]
    assert {len(array) for data in sent for array in data} == {4}
    assert not np.array_equal(sent[0][3], sent[2][3])


def test_tiny_splats_survive_half_floats() -> None:
    model = coloured_blobs()
    model.params["scales"] = torch.full((4, 3), math.log(2e-4))
    _, covariances, _, _ = splat_arrays(model.at(0.0), torch.zeros(3), np.zeros(3), 1.0)
    diagonal = covariances.astype(np.float16).astype(float)[:, 0, 0] / 100.0**2
    assert np.allclose(np.sqrt(diagonal), 2e-4, rtol=0.01)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"wxyz": np.array([np.nan] * 4)},
        {"wxyz": np.zeros(4)},
        {"position": np.array([np.inf, 0, 0])},
        {"fov": 0.0},
        {"fov": 4.0},
        {"image_width": -5},
    ],
)
def test_a_nonsense_view_asks_for_nothing(session: Session, nonsense: dict) -> None:
    session.client.camera.__dict__.update(nonsense)
    assert session.view() is None
    control(session, "time").by_hand(float("nan"))
    assert session.playback.now() == 0.0


def test_a_camera_at_the_eye_is_not_drawn(session: Session) -> None:
    frustums = session.client.frustums  # type: ignore[attr-defined]
    look(session, 2)
    session.client.moved(None)  # type: ignore[attr-defined]
    assert [frustums[f"/cameras/cam{k}"].visible for k in range(6)] == [True, True, False, True, True, True]
    look(session, 3)
    session.client.moved(None)  # type: ignore[attr-defined]
    assert frustums["/cameras/cam2"].visible and not frustums["/cameras/cam3"].visible


def test_without_a_run_folder_files_are_downloads(session: Session, tmp_path: Path) -> None:
    session.workspace.folder = None
    look(session, 0)
    control(session, "Add keyframe").by_hand()
    control(session, "file").by_hand("save")
    files = session.client.files  # type: ignore[attr-defined]
    assert len(json.loads(files["path.json"])["keyframes"]) == 1 and list(tmp_path.iterdir()) == []
    control(session, "Screenshot").by_hand()
    assert files["view_rgb_0.000.png"].startswith(b"\x89PNG")
