"""Which requests a viewer answers, on which addresses it can be started, and what it keeps of those who left."""

from __future__ import annotations

import contextlib
import gc
import http.client
import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from viewer_helpers import coloured_blobs, ring, wait_until

pytest.importorskip("viser")

import viser
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from gaussian4d.cli import main
from gaussian4d.errors import UserError
from viewer.door import free_port, is_loopback, listening, origin_of
from viewer.server import ViewerServer
from viewer.session import FIRST_FOV, framed

PROTOCOL = [Subprotocol(f"viser-v{viser.__version__}")]


def any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=["127.0.0.1", "0.0.0.0"])
def server(request: pytest.FixtureRequest) -> Iterator[ViewerServer]:
    found = ViewerServer(coloured_blobs(), ring(), host=request.param, port=any_port(), backend="reference")
    yield found
    found.stop()


def status(server: ViewerServer, headers: dict[str, str], path: str = "/", method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def query(server: ViewerServer) -> str:
    """Returns what the printed address ends with."""
    return f"/?token={server.door.token}" if server.door.token else "/"


def test_the_printed_address_is_answered(server: ViewerServer) -> None:
    host = f"localhost:{server.port}"
    assert server.url == f"http://{host}" + (query(server) if server.door.token else "")
    assert status(server, {"Host": host}, query(server)) == 200
    # Through an ssh tunnel the same machine has another port.
    assert status(server, {"Host": "localhost:9999", "Origin": "http://localhost:9999"}, query(server)) == 200


@pytest.mark.parametrize(
    "origin", ["http://127.0.0.1:8199", "http://evil.example", "null", "http://localhost", "http://["]
)
def test_other_pages_are_refused(server: ViewerServer, origin: str) -> None:
    headers = {"Host": f"localhost:{server.port}", "Origin": origin}
    assert status(server, headers, query(server)) == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            f"ws://localhost:{server.port}{query(server)}",
            subprotocols=PROTOCOL,
            origin=Origin(origin),
            open_timeout=20,
        )


def test_another_name_for_this_machine_is_refused_where_only_it_is_served() -> None:
    server = ViewerServer(coloured_blobs(), ring(), port=any_port(), backend="reference")
    try:
        assert status(server, {"Host": f"evil.example:{server.port}"}) == 403
        assert status(server, {}) in (400, 403)
        assert status(server, {"Host": f"[::1]:{server.port}"}) == 200
        for host in ("[::1]evil.example", "localhost.evil.example", "evil.example:80:localhost", ""):
            assert status(server, {"Host": host}) == 403
    finally:
        server.stop()


def test_a_public_server_wants_its_token() -> None:
    server = ViewerServer(coloured_blobs(), ring(), host="0.0.0.0", port=any_port(), backend="reference")
    try:
        host = {"Host": f"192.168.1.7:{server.port}"}
        assert status(server, host) == 403
        assert status(server, host, "/?token=wrong") == 403
        assert status(server, host, query(server)) == 200
        assert status(server, host | {"Cookie": f"gaussian4d_view_{server.port}={server.door.token}"}) == 200
        # Another viewer on this machine gives the same browser a cookie for another port.
        other = {"Cookie": f"gaussian4d_view_1={server.door.token}"}
        assert status(server, host | other) == 403
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://127.0.0.1:{server.port}", subprotocols=PROTOCOL, open_timeout=20)
        connect(f"ws://127.0.0.1:{server.port}{query(server)}", subprotocols=PROTOCOL, open_timeout=20).close()
    finally:
        server.stop()


def head_of(server: ViewerServer, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Returns the answer to a request for the page."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    line.putrequest("GET", query(server), skip_host=True)
    for name, value in headers.items():
        line.putheader(name, value)
    line.endheaders()
    answer = line.getresponse()
    answer.read()
    line.close()
    return answer


def test_the_page_may_talk_to_its_server_only_and_be_framed_by_nobody(server: ViewerServer) -> None:
    host = f"localhost:{server.port}"
    answer = head_of(server, {"Host": host})
    policy = answer.getheader("Content-Security-Policy") or ""
    assert f"connect-src 'self' ws://{host} wss://{host} data: blob:;" in policy
    assert policy.endswith("frame-ancestors 'self'") and answer.getheader("Referrer-Policy") == "no-referrer"


def test_a_proxy_is_let_in_by_name() -> None:
    server = ViewerServer(
        coloured_blobs(), ring(), port=free_port("127.0.0.1", 8260), backend="reference",
        allow_origins=["https://Hub.example.org/"],
    )  # fmt: skip
    try:
        for host, origin, wanted in (
            ("hub.example.org", "https://hub.example.org", 200),
            (f"localhost:{server.port}", "https://hub.example.org", 200),
            ("hub.example.org", "https://evil.example", 403), ("evil.example", "https://evil.example", 403),
            (f"localhost:{server.port}", "http://hub.example.org", 403),
        ):  # fmt: skip
            assert status(server, {"Host": host, "Origin": origin}) == wanted, (host, origin)
        policy = head_of(server, {"Host": "hub.example.org"}).getheader("Content-Security-Policy") or ""
        assert "wss://hub.example.org" in policy and "frame-ancestors 'self' https://hub.example.org" in policy
    finally:
        server.stop()
    for wrong in ("hub.example.org", "https://", "https://a/b", "ftp://a", "https://a:b", "*", "null", "https://u@a"):
        with pytest.raises(UserError, match="--allow-origin"):
            origin_of(wrong)


def test_no_page_can_have_a_tunnel_opened(server: ViewerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(server.server, "request_share_url", lambda *_: asked.append(1))
    with connect(f"ws://127.0.0.1:{server.port}{query(server)}", subprotocols=PROTOCOL, open_timeout=20) as line:
        line.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
        assert not wait_until(lambda: bool(asked), 2.0)


def test_other_methods_are_told_so(server: ViewerServer) -> None:
    for method in ("HEAD", "POST", "OPTIONS", "DELETE"):
        assert status(server, {"Host": f"localhost:{server.port}"}, query(server), method) == 405


def test_messages_that_make_no_sense_are_no_news(server: ViewerServer, capfd: pytest.CaptureFixture[str]) -> None:
    camera = {"type": "ViewerCameraMessage", "wxyz": "x", "position": None, "fov": [], "near": 1, "far": 2}
    messages = (
        b"\xc1garbage", b"", msgspec.msgpack.encode({"type": "Nothing"}), msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode({"type": "GuiUpdateMessage", "uuid": "none", "updates": {"value": 1}}),
        msgspec.msgpack.encode({"type": "GuiUpdateMessage"}),
        msgspec.msgpack.encode({**camera, "image_height": 1, "image_width": 1, "look_at": 0, "up_direction": 0}),
        "words",
    )  # fmt: skip
    for protocol in (PROTOCOL, [Subprotocol("viser-v0.0.0")], None):
        for message in messages:
            with (
                contextlib.suppress(WebSocketException, OSError),
                connect(f"ws://localhost:{server.port}{query(server)}", subprotocols=protocol, open_timeout=20) as line,
            ):
                line.send(message)
                time.sleep(0.05)
    gc.collect()
    time.sleep(0.3)
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""


def test_what_is_no_request_is_no_news(server: ViewerServer, capfd: pytest.CaptureFixture[str]) -> None:
    host = f"localhost:{server.port}"
    for content in (
        f"HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), f"POST / HTTP/1.1\r\nHost: {host}\r\n\r\nx".encode(),
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n", b"\x00" * 5000, b"GET /\r\n",
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
            line.sendall(content)
            line.shutdown(socket.SHUT_WR)
            line.settimeout(20)
            while line.recv(4096):
                pass
    with socket.create_connection(("127.0.0.1", server.port)):
        pass
    time.sleep(0.3)
    assert status(server, {"Host": host}, query(server)) == 200
    said = capfd.readouterr()
    assert said.err == "" and said.out == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "99999"], "between 1 and 65535"),
        (["--port", "-1"], "between 1 and 65535"),
        (["--host", "192.0.2.1"], "not an address of this machine"),
        (["--host", "no.such.name.invalid"], "not an address of this machine"),
    ],
)
def test_an_impossible_address_is_said_before_anything_is_loaded(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaussian4d.cli.opened.open_model", lambda *a, **k: pytest.fail("a model was loaded"))
    assert main(["view", str(tmp_path / "x.g4d"), *flags]) == 2
    assert words in capsys.readouterr().err


def test_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_port("127.0.0.1", 0) == 0
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert free_port("127.0.0.1", port) > port

    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="special privileges"):
        free_port("127.0.0.1", 80)


def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [never.wait(60)][1:])
    try:
        with pytest.raises(UserError, match="no name server answers"):
            free_port("a.name.somewhere", 8080)
    finally:
        never.set()


def test_a_name_with_several_addresses_is_served_on_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    with listening("a.name.somewhere", any_port()) as line:
        assert line.getsockname()[0] == "127.0.0.1"


def test_the_last_port_is_taken_or_said() -> None:
    with socket.socket() as busy:
        try:
            busy.bind(("127.0.0.1", 65535))
        except OSError:
            pytest.skip("another program uses the port")
        busy.listen()
        with pytest.raises(UserError, match="no port from 65535 on is free"):
            ViewerServer(coloured_blobs(), ring(), port=65535, backend="reference")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("[::1]", True), ("a.localhost", True),
     ("0.0.0.0", False), ("localhost.evil.example", False), ("10.0.0.1", False), ("", False)],
)  # fmt: skip
def test_which_names_mean_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_an_address_of_six_parts_is_printed_in_brackets() -> None:
    try:
        server = ViewerServer(coloured_blobs(), ring(), host="::1", port=any_port(), backend="reference")
    except UserError:
        pytest.skip("this machine has no IPv6")
    try:
        assert server.url == f"http://[::1]:{server.port}" and server.door.token is None
    finally:
        server.stop()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720), (700, 900), (390, 844), (844, 390)])
def test_the_first_view_fits_the_free_part_of_any_window(width: int, height: int) -> None:
    fov, aside = framed(width, height)
    free = width - 320 if width >= 900 else width
    focal = 0.5 * height / math.tan(0.5 * fov)
    wanted = math.tan(0.5 * FIRST_FOV)
    # A sphere that fills the first view of a square window fits the shorter side of the free part.
    assert 0.5 * min(free, height) / focal >= wanted - 1e-9
    # The middle of the scene is in the middle of the free part, which is at the left.
    assert 0.5 * width - aside * focal == pytest.approx(0.5 * free)


def tell_view(socket: Any) -> None:
    """Tells the server where a browser's camera is, without which it is no client yet."""
    message = {
        "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, -3.0, 0.5], "fov": 0.8,
        "near": 0.01, "far": 1000.0, "image_height": 90, "image_width": 160, "look_at": [0.0, 0.0, 0.0],
        "up_direction": [0.0, 0.0, 1.0],
    }  # fmt: skip
    socket.send(msgspec.msgpack.encode(message))


def test_a_line_that_dropped_and_was_not_noticed_is_taken_up(tmp_path: Path) -> None:
    server = ViewerServer(coloured_blobs(), ring(), port=any_port(), backend="reference")

    def tab(name: str, browser: str = "me") -> Any:
        return connect(
            f"ws://localhost:{server.port}/?tab={name}", subprotocols=PROTOCOL,
            additional_headers={"Cookie": f"gaussian4d_browser={browser}"}, open_timeout=20,
        )  # fmt: skip

    def newest(count: int) -> Any:
        assert wait_until(lambda: len(server.sessions) == count)
        return server.sessions[-1]

    try:
        with tab("a") as dead:
            tell_view(dead)
            newest(1).timeline.go(0.4)
            for name, browser, time in (("b", "me", 0.0), ("a", "other", 0.0), ("a", "me", 0.4)):
                with tab(name, browser) as line:
                    tell_view(line)
                    assert newest(2).playback.now() == pytest.approx(time)
                    if time:
                        newest(2).timeline.go(0.9)
                assert wait_until(lambda: len(server.sessions) == 1)
        assert wait_until(lambda: not server.sessions)
        # The last word is that of the line which dropped, noticed at last: nobody else was there.
        with tab("a") as line:
            tell_view(line)
            assert newest(1).playback.now() in (pytest.approx(0.4), pytest.approx(0.9))
    finally:
        server.stop()


def test_what_a_browser_did_is_there_when_it_comes_back(tmp_path: Path) -> None:
    from viewer.workspace import Workspace

    server = ViewerServer(
        coloured_blobs(), ring(), port=any_port(), backend="reference", workspace=Workspace(tmp_path, tmp_path)
    )
    cookie = {"Cookie": "gaussian4d_browser=me"}
    try:
        with connect(
            f"ws://localhost:{server.port}", subprotocols=PROTOCOL, additional_headers=cookie, open_timeout=20
        ) as line:
            tell_view(line)
            assert wait_until(lambda: server.sessions)
            session = server.sessions[0]
            session.timeline.go(0.4)
            session.picture.output.value = "depth"
            from gaussian4d.keyframes import Keyframe

            session.path.keyframes = [Keyframe(ring()[0].T_world_camera, 50.0, 0.25)]
            session.path._listed(None)
        assert wait_until(lambda: not server.sessions)
        for headers, back in ((cookie, True), ({"Cookie": "gaussian4d_browser=other"}, False)):
            with connect(
                f"ws://localhost:{server.port}", subprotocols=PROTOCOL, additional_headers=headers, open_timeout=20
            ) as line:
                tell_view(line)
                assert wait_until(lambda: server.sessions)
                session = server.sessions[0]
                assert (session.playback.now() == pytest.approx(0.4)) == back
                assert (session.picture.output.value == "depth") == back
                # Keyframes that nobody saved are offered to everyone: they are kept beside the run.
                assert [key.time for key in session.path.keyframes] == [0.25]
            assert wait_until(lambda: not server.sessions)
    finally:
        server.stop()
    again = ViewerServer(
        coloured_blobs(), ring(), port=any_port(), backend="reference", workspace=Workspace(tmp_path, tmp_path)
    )
    try:
        with connect(f"ws://localhost:{again.port}", subprotocols=PROTOCOL, open_timeout=20) as line:
            tell_view(line)
            assert wait_until(lambda: again.sessions)
            path = again.sessions[0].path
            assert [key.time for key in path.keyframes] == [0.25]
            path.clear()
            assert not path.keyframes and not (tmp_path / "paths" / ".unsaved.json").exists()
            path.edit("undo")
            assert [key.time for key in path.keyframes] == [0.25]
    finally:
        again.stop()
