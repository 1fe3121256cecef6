"""The real web server on a free port of this machine."""

from __future__ import annotations

import inspect
import socket
import threading
import urllib.request
from pathlib import Path

import pytest
from viewer_helpers import coloured_blobs, ring

pytest.importorskip("viser")

from viewer.command import View
from viewer.server import ViewerServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_serves_its_page_and_takes_the_next_port_when_busy(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    first = ViewerServer(coloured_blobs(), ring(), port=port, backend="reference")
    try:
        assert first.port == port and first.url == f"http://localhost:{port}"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
            assert response.status == 200 and b"<html" in response.read().lower()
        second = ViewerServer(coloured_blobs(), ring(), port=port, backend="reference")
        try:
            assert second.port != port
        finally:
            second.stop()
    finally:
        first.stop()
    assert capsys.readouterr().out == ""


def test_only_this_machine_can_look_unless_asked() -> None:
    assert View(Path("run")).host == "127.0.0.1"
    assert inspect.signature(ViewerServer).parameters["host"].default == "127.0.0.1"


def test_the_first_view_looks_at_the_scene_from_its_cameras() -> None:
    server = ViewerServer(coloured_blobs(), ring(), port=free_port(), backend="reference")
    try:
        camera = server.server.initial_camera
        assert tuple(camera.look_at) == pytest.approx((0, 0, 0))
        assert sum(x * x for x in camera.position) ** 0.5 == pytest.approx(3.0)
        assert tuple(camera.up) == pytest.approx((0, 0, 1))
    finally:
        server.stop()


def test_a_browser_that_leaves_while_its_page_is_built_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from viewer_fakes import FakeClient, FakeControl

    import viewer.server

    real, closed = viewer.server.Session, []

    class SlowSession(real):
        def __init__(self, client, *rest) -> None:
            super().__init__(client, *rest)
            if client.leaves:
                server._disconnect(client)

        def close(self, wait: bool = False) -> None:
            closed.append(self.client.client_id)
            super().close(wait)

    monkeypatch.setattr(viewer.server, "Session", SlowSession)
    server = ViewerServer(coloured_blobs(), ring(), port=free_port(), backend="reference")
    try:
        clients = [FakeClient() for _ in range(3)]
        for index, client in enumerate(clients):
            client.client_id, client.leaves = 100 + index, index == 0
        # A fourth leaves when its first controls are there: the rest is not built.
        early = FakeClient()
        early.client_id, early.leaves = 103, False
        early.gui.add_rgb = lambda *_, **__: server._disconnect(early) or FakeControl((0, 0, 0))
        server._connect(early)
        assert early.frustums == {} and not server._gone
        server._connect(clients[0])  # leaves meanwhile
        server._disconnect(clients[1])  # has left before
        server._connect(clients[1])
        server._connect(clients[2])
        assert [session.client.client_id for session in server.sessions] == [102]
        assert closed == [100] and not server._gone
    finally:
        server.stop()


def test_those_who_left_do_not_queue_for_pictures() -> None:
    from test_painter import view_through

    from viewer.painter import Painter

    painter = Painter(coloured_blobs(), ring(), backend="reference")
    view = view_through(painter, ring()[0])
    with painter.lock:
        # Another browser's picture takes for ever; waiting for it would never end.
        assert painter(view, 1.0, lambda: False) is None
    assert painter(view, 1.0, lambda: False) is None and painter(view, 1.0) is not None


def test_the_end_waits_for_the_picture_of_a_browser_that_has_left() -> None:
    from types import SimpleNamespace

    from viewer_fakes import FakeClient

    from viewer.session import Session

    server = ViewerServer(coloured_blobs(), ring(), port=free_port(), backend="reference")
    began, go = threading.Event(), threading.Event()

    def slow(view: object, scale: float, wanted: object = None) -> None:
        began.set()
        assert go.wait(30)

    client = FakeClient()
    session = Session(client, server._painter, ring(), 1.0)  # type: ignore[arg-type]
    session.loop._draw = slow  # type: ignore[assignment]
    session.request()
    assert began.wait(30)
    server._sessions[7] = session
    server._disconnect(SimpleNamespace(client_id=7))  # type: ignore[arg-type]
    assert server.sessions == [] and session.loop.running
    threading.Timer(0.5, go.set).start()
    server.stop()
    assert not session.loop.running
