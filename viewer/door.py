"""Who may come in: the address that is served, and which requests are answered.

The viewer writes films and files, and can stop a fit; a web page that is open in another tab must not be able to. So a
request is refused that names another machine (`Host`, against DNS rebinding) or comes from another page (`Origin`), and
where others on the network can reach the server, one without the token of the address that is printed.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hmac
import http
import ipaddress
import logging
import secrets
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from gaussian4d.errors import UserError

_TRIED_PORTS = 100
_COOKIE = "gaussian4d_view"
_BROWSER = "gaussian4d_browser"

Handler = Callable[[Any, Request], Response | None]


def free_port(host: str, port: int) -> int:
    """Returns the port that can be served on `host`: `port`, or the next free one; 0 takes any.

    Raises `UserError` at once where an address can never be served: a port that does not exist or may not be used, a
    name that is not known, an address that is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must lie between 1 and 65535 (or be 0 for any free one), got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host} is no address that this machine knows ({error}); take 127.0.0.1 for this machine only, or"
            " 0.0.0.0 for everyone on its network"
        ) from None
    for candidate in [port] if port == 0 else range(port, min(port + _TRIED_PORTS, 65535) + 1):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server itself does: an address that was just given up can be taken again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate, *address[2:]))
                return candidate
            except PermissionError:
                raise UserError(
                    f"port {candidate} may not be used without special rights; take one from 1024 on"
                ) from None
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UserError(
                        f"{host} cannot be served: {error.strerror}; it is no address of this machine; take 127.0.0.1"
                        " for this machine only, or 0.0.0.0 for everyone on its network"
                    ) from None
    raise UserError(f"no port from {port} on is free on {host}; close another program or name another --port")


def is_loopback(host: str) -> bool:
    """Returns whether an address or name means this machine itself."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Door:
    """Decides which requests of a server are answered."""

    def __init__(self, host: str) -> None:
        self.token = None if is_loopback(host) else secrets.token_urlsafe(16)
        """What a request needs where others can reach the server; None where only this machine can."""
        self._numbering = threading.Lock()
        self._count = 0
        self._browsers: dict[int, str] = {}

    def url(self, host: str, port: int) -> str:
        """Returns the address to open in a browser on this machine."""
        name = "localhost" if host in ("0.0.0.0", "127.0.0.1", "") else "[::1]" if host == "::" else host
        name = f"[{name}]" if ":" in name and not name.startswith("[") else name
        return f"http://{name}:{port}" + (f"/?token={self.token}" if self.token else "")

    def refusal(self, request: Request) -> str | None:
        """Returns why a request is not answered, None where it is."""
        stated = _one(request.headers, "Host")
        if stated is None:
            return "the request names no host, or several"
        if self.token is None and not is_loopback(_name(stated)):
            return f"this server is for this machine only, not for {stated[:100]!r}; open the address that is printed"
        origin = _one(request.headers, "Origin", "")
        if origin is None or (origin and urllib.parse.urlsplit(origin).netloc.lower() != stated.lower()):
            return "another web page may not use this server"
        if self.token is not None and not self._has_token(request):
            return "the token is missing or wrong; open the whole address that is printed where the viewer was started"
        return None

    def _has_token(self, request: Request) -> bool:
        assert self.token is not None
        given = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query).get("token", [])
        cookie = _cookie(request, _COOKIE)
        given = given if cookie is None else [*given, cookie]
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)

    def guard(self, inner: Handler | None) -> Handler:
        """Returns `inner` for the requests that may be answered, and a refusal (403) for the others."""

        def answer(connection: Any, request: Request) -> Response | None:
            refusal = self.refusal(request)
            if refusal is not None:
                headers = Headers({"Content-Type": "text/plain; charset=utf-8", "Connection": "close"})
                return Response(http.HTTPStatus.FORBIDDEN, "Forbidden", headers, f"{refusal}\n".encode())
            response = None if inner is None else inner(connection, request)
            if response is not None and self.token is not None:
                # The page asks for more with it, and opens its socket.
                response.headers["Set-Cookie"] = f"{_COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            if response is not None and urllib.parse.urlsplit(request.path).path in ("/", "/index.html"):
                _with_script(response)
                if _cookie(request, _BROWSER) is None:
                    lasting = "Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
                    response.headers["Set-Cookie"] = f"{_BROWSER}={secrets.token_urlsafe(12)}; {lasting}"
            return response

        return answer

    def note(self, connection: Any) -> None:
        """Takes note of the browser behind a connection; called for every one, in their order, which numbers them."""
        with self._numbering:
            browser = None if connection.request is None else _cookie(connection.request, _BROWSER)
            if browser is not None:
                self._browsers[self._count] = browser
            self._count += 1

    def browser_of(self, client: int) -> str | None:
        """Returns the id of the browser that is a client of this number, once; None for programs."""
        with self._numbering:
            return self._browsers.pop(client, None)


def _cookie(request: Request, name: str) -> str | None:
    with contextlib.suppress(CookieError):
        cookie = SimpleCookie("; ".join(request.headers.get_all("Cookie"))).get(name)
        return cookie.value if cookie else None
    return None


def _with_script(response: Response) -> None:
    """Adds our script to the page that is answered; a page that is not as expected stays as it is."""
    packed = response.headers.get("Content-Encoding") == "gzip"
    page = gzip.decompress(response.body) if packed else bytes(response.body)
    script = (Path(__file__).parent / "page_script.js").read_bytes()
    if page.count(b"</head>") != 1:
        return
    page = page.replace(b"</head>", b"<script>\n" + script + b"</script></head>")
    response.body = gzip.compress(page) if packed else page
    del response.headers["Content-Length"]
    response.headers["Content-Length"] = str(len(response.body))


def _one(headers: Headers, name: str, missing: str | None = None) -> str | None:
    """Returns the value of a header that occurs once, `missing` where it does not occur, None where several times."""
    values = headers.get_all(name)
    return missing if not values else values[0] if len(values) == 1 else None


def _name(host: str) -> str:
    """Returns the name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] if host.count(":") == 1 else host


_lock = threading.Lock()


@contextlib.contextmanager
def guarded(door: Door) -> Iterator[None]:
    """Puts `door` before the web server that is started inside the block.

    viser starts it in a thread of its own and has no place to hand over a check of requests; it calls the function of
    the websockets package by its full name, which is replaced until the server is there.
    """
    logger = logging.getLogger("gaussian4d.viewer.door")
    # What strangers send that is no request is no news for whoever looks at a scene.
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    with _lock:
        original = websockets.asyncio.server.serve

        def serve(handler: Any, *args: Any, process_request: Any = None, **options: Any) -> Any:
            async def noted(connection: Any) -> None:
                door.note(connection)
                await handler(connection)

            options["logger"] = logger
            return original(noted, *args, process_request=door.guard(process_request), **options)

        websockets.asyncio.server.serve = serve  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            websockets.asyncio.server.serve = original  # type: ignore[misc]
