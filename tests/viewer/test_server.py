"""The real web server on a free port of this machine."""

from __future__ import annotations

import inspect
import socket
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
