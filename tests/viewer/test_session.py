"""One browser's controls against a fake client: the browser is faked, everything behind it is real."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from viewer_fakes import FakeClient, FakeControl
from viewer_helpers import coloured_blobs, ring, wait_until

pytest.importorskip("viser")

from gaussian4d.cameras import Camera
from viewer.painter import FIRST_FOV, Painter
from viewer.session import Session


@pytest.fixture
def session() -> Iterator[Session]:
    cameras = ring()
    painter = Painter(coloured_blobs(), cameras, backend="reference")
    session = Session(FakeClient(), painter, cameras, duration=2.0)  # type: ignore[arg-type]
    yield session
    session.close(wait=True)


def control(session: Session, label: str) -> FakeControl:
    return session.client.gui.controls[label]  # type: ignore[attr-defined]


def test_a_picture_comes_without_asking_and_in_full(session: Session) -> None:
    pictures = session.client.pictures  # type: ignore[attr-defined]
    assert wait_until(lambda: pictures and pictures[-1].shape == (60, 80, 3))
    assert wait_until(lambda: "80x60" in session.picture.stats.content)


def test_the_slider_seeks_and_a_tick_moves_the_slider(session: Session) -> None:
    control(session, "time").by_hand(0.4)
    assert session.playback.now() == 0.4
    control(session, "Play").by_hand()
    assert session.playback.playing and session.timeline.button.label == "Pause"
    assert wait_until(lambda: control(session, "time").value != 0.4)
    control(session, "Play").by_hand()
    assert not session.playback.playing and session.timeline.button.label == "Play"
    assert session.playback.now() != 0.4


def test_ticks_do_not_seek(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[float] = []
    monkeypatch.setattr(session.playback, "seek", sought.append)
    session.timeline._tick(0.7)
    assert control(session, "time").value == 0.7 and sought == []


def test_frame_steps_go_one_recorded_frame(session: Session) -> None:
    control(session, "frame").by_hand(">")
    assert session.playback.now() == pytest.approx(0.25)
    control(session, "frame").by_hand("<")
    control(session, "frame").by_hand("<")
    assert session.playback.now() == 0.0


def test_a_click_on_a_camera_looks_through_it(session: Session) -> None:
    camera = ring()[2]
    session.client.frustums["/cameras/cam2"].by_hand()  # type: ignore[attr-defined]
    mine = session.client.camera
    assert np.allclose(session.painter.units.world_from_viewer(mine.position), camera.position)
    towards = (mine.look_at - mine.position) / np.linalg.norm(mine.look_at - mine.position)
    assert np.allclose(towards, camera.forward) and np.allclose(mine.up_direction, camera.up)
    assert np.tan(mine.fov / 2) == pytest.approx(24 / 60)


def test_the_list_of_cameras_follows_and_the_first_view_comes_back(session: Session) -> None:
    session.client.frustums["/cameras/cam2"].by_hand()  # type: ignore[attr-defined]
    assert control(session, "camera").value == "cam2"
    session.cameras.next()
    assert control(session, "camera").value == "cam3"
    control(session, "Reset view").by_hand()
    mine = session.client.camera
    assert np.allclose(mine.position, session.painter.first_position) and np.allclose(mine.look_at, 0.0)
    assert np.allclose(mine.up_direction, [0, 0, 1]) and mine.fov == FIRST_FOV


def test_a_view_through_a_camera_that_looks_down_is_turned_around_the_scenes_up(session: Session) -> None:
    def around(camera: Camera) -> np.ndarray:
        session.jump(camera)
        mine = session.client.camera
        # Whatever it is turned around, the picture is the camera's.
        forward = (mine.look_at - mine.position) / np.linalg.norm(mine.look_at - mine.position)
        right = np.cross(forward, mine.up_direction)
        assert np.allclose(right / np.linalg.norm(right), camera.viewmat[0, :3], atol=1e-6)
        return mine.up_direction

    def looking(place: list[float], up: list[float]) -> Camera:
        return Camera.look_at(np.array(place), np.zeros(3), np.array(up), width=64, height=48, focal=60.0)

    assert np.allclose(around(looking([2.0, 0.0, 2.0], [0, 0, 1])), [0, 0, 1])
    tilted = looking([2.0, 0.0, 2.0], [0, 0.1, 1])
    assert around(tilted)[2] > 0.99 > tilted.up[2]
    # On its head, on its side, straight down: the camera's own.
    for place, up in (([2.0, 0.0, 2.0], [0, 0, -1]), ([2.0, 0.0, 0.0], [0, 1, 0]), ([0.0, 0.0, 3.0], [1, 0, 0])):
        camera = looking(place, up)
        assert np.allclose(around(camera), camera.up)


def test_a_tab_loaded_anew_is_put_back_whatever_views_the_page_makes_up_first(session: Session) -> None:
    session.jump(ring()[2])
    kept = session.kept()
    assert kept.pose is not None
    there = np.array(session.client.camera.position)
    painter = session.painter
    again = Session(FakeClient(), painter, ring(), duration=2.0)  # type: ignore[arg-type]
    try:
        mine = again.client.camera
        again.restore(kept)

        def tells(place: object, fov: float = FIRST_FOV) -> None:
            mine.position, mine.look_at, mine.fov = np.array(place), np.zeros(3), fov
            again._moved()

        # As a slow page reported them: viser's own view, one on the way, the first view again after the kept one.
        for place, fov in (
            ((3.0, 3.0, 3.0), math.radians(75.0)),
            ((3.0, -3.0, 3.0), 1.0),
            (there, kept.fov),
            (painter.first_position, FIRST_FOV),
            (painter.first_position, kept.fov),
            ((3.0, 3.0, 3.0), FIRST_FOV),
        ):
            tells(place, fov)
            assert np.allclose((mine.position, mine.look_at), kept.pose[:2]) and mine.fov == kept.fov
        # Then somebody turns it, also back to where it began.
        for place in ((0.0, 5.0, 0.0), painter.first_position):
            tells(place)
            assert np.allclose(mine.position, place)
    finally:
        again.close(wait=True)


def test_cameras_can_be_hidden(session: Session) -> None:
    frustums = [node for name, node in session.client.frustums.items() if "/cameras/" in name]  # type: ignore
    assert len(frustums) == 6
    control(session, "show").by_hand(False)
    assert not any(frustum.visible for frustum in frustums)


def test_output_and_resolution_reach_the_request(session: Session) -> None:
    session.client.camera.image_width, session.client.camera.image_height = 2000, 1000
    control(session, "output").by_hand("depth")
    control(session, "longest side").by_hand("640")
    view = session.view()
    assert view is not None and (view.width, view.height, view.output) == (640, 320, "depth")


def test_a_browser_without_a_size_asks_for_nothing(session: Session) -> None:
    session.client.camera.image_width = 0
    assert session.view() is None


def test_two_browsers_keep_their_own_time() -> None:
    cameras = ring()
    painter = Painter(coloured_blobs(), cameras, backend="reference")
    one, two = (Session(FakeClient(), painter, cameras, duration=2.0) for _ in range(2))  # type: ignore[arg-type]
    control(one, "time").by_hand(0.9)
    assert (one.playback.now(), two.playback.now()) == (0.9, 0.0)
    one.close(wait=True)
    two.close(wait=True)


def test_a_failing_picture_is_shown_and_printed_once(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    control(session, "output").value = "nothing"
    session.request()
    assert wait_until(lambda: "rendering failed" in session.picture.stats.content)
    session.request()
    wait_until(lambda: False, seconds=0.3)
    assert capsys.readouterr().err.count("Traceback") == 1


def test_without_recorded_cameras_none_is_drawn_and_the_model_is_seen_whole() -> None:
    painter = Painter(coloured_blobs(), [], backend="reference")
    session = Session(FakeClient(), painter, [], duration=2.0)  # type: ignore[arg-type]
    try:
        assert session.cameras.frustums == {} and vars(control(session, "camera"))["disabled"]
        session.cameras.next()
        assert painter.rig.up == pytest.approx([0, 0, 1])
        # All blobs lie within the first view.
        place, reach = painter.first_position, np.tan(0.5 * FIRST_FOV)
        forward = -place / np.linalg.norm(place)
        for mean in painter.model.params["means"].numpy():
            ahead = painter.units.viewer_from_world(mean) - place
            depth = float(ahead @ forward)
            assert depth > 0 and np.linalg.norm(ahead - depth * forward) < reach * depth
    finally:
        session.close(wait=True)


@pytest.mark.parametrize("recorded", [True, False])
def test_up_is_chosen_by_hand(recorded: bool) -> None:
    cameras = ring() if recorded else []
    painter = Painter(coloured_blobs(), cameras, backend="reference")
    session = Session(FakeClient(), painter, cameras, duration=2.0)  # type: ignore[arg-type]
    try:
        control(session, "up").by_hand("-y")
        camera = session.client.camera
        assert session.rig.up == pytest.approx([0, -1, 0]) and camera.up_direction == pytest.approx([0, -1, 0])
        assert np.linalg.norm(np.cross(camera.position, [0, -1, 0])) > 0.5, "no view straight along up"
        control(session, "up").by_hand("as opened")
        assert camera.up_direction == pytest.approx([0, 0, 1]) and camera.position == pytest.approx(
            painter.first_position
        )
    finally:
        session.close(wait=True)
