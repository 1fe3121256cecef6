"""Who may come in: the address that is served, and which requests are answered.

The viewer writes films and files, and can stop a fit; a web page that is open in another tab must not be able to. So a
request is refused that names another machine (`Host`, against DNS rebinding) or comes from another page (`Origin`), and
where others on the network can reach the server, one without the token of the address that is printed.

A page that is let in is believed, so nobody else may speak in it: its address can name another server or a recording
(viser's page takes both, and shows HTML that they send), which browsers are told not to follow, and pages of other
places cannot put it in a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hmac
import http
import ipaddress
import logging
import re
import secrets
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

import viser
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from gaussian4d.errors import UserError

_TRIED_PORTS = 100
_NAME_SECONDS = 2.0
_TOKEN = "gaussian4d_view"
_BROWSER = "gaussian4d_browser"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s/?#@:;,'*\[\]]+)(:[0-9]{1,5})?", re.IGNORECASE)

Handler = Callable[[Any, Request], Response | None]


def free_port(host: str, port: int) -> int:
    """Returns the port that can be served on `host`: `port`, or the next free one; 0 stays 0. Raises as `listening`."""
    with listening(host, port) as line:
        return port and line.getsockname()[1]


def listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on `host` at `port`, or at the next free one; 0 takes any.

    Raises `UserError` at once where an address can never be served: a port that does not exist or may not be used, a
    name that is not known, an address that is not this machine's.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"--port must lie between 1 and 65535 (or be 0 for any free one), got {port}")
    reason = None
    for family, address in _addresses(host, port):
        for candidate in [port] if port == 0 else range(port, min(port + _TRIED_PORTS, 65535) + 1):
            try:
                return _bound(family, (address[0], candidate, *address[2:]))
            except PermissionError:
                raise UserError(f"port {candidate} needs special privileges; use a port from 1024 on") from None
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    reason = error
                    break
    if reason is None:
        raise UserError(f"no port from {port} on is free on {host}; close another program or name another --port")
    foreign = "; it is not an address of this machine" if reason.errno == errno.EADDRNOTAVAIL else ""
    raise UserError(f"{host} cannot be used: {reason.strerror or reason}{foreign}; {_ADVICE}")


_ADVICE = "use 127.0.0.1 for this machine only, or 0.0.0.0 for its whole network"


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Returns the (family, address) pairs that a name stands for; one that is not answered in time is not known."""
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host or "0.0.0.0"
    found: list[tuple[int, tuple[Any, ...]]] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            found.extend((int(family), address) for family, _, _, _, address in answers)
        except (OSError, UnicodeError) as error:
            errors.append(error)

    # A name server that is out of reach is waited for much longer than anyone who mistyped an address wants to.
    asking = threading.Thread(target=ask, name="viewer-name", daemon=True)
    asking.start()
    asking.join(_NAME_SECONDS)
    if not found:
        why = errors[0] if errors else "no name server answers"
        raise UserError(f"--host {host} is not an address of this machine ({why}); {_ADVICE}")
    return list(found)


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    line = socket.socket(family, socket.SOCK_STREAM)
    try:
        # An address that was just given up can be taken again.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is everything there is, also of the older kind.
            line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        line.bind(address)
        line.listen(100)
    except BaseException:
        line.close()
        raise
    return line


def is_loopback(host: str) -> bool:
    """Returns whether an address or name means this machine itself."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def origin_of(text: str) -> str:
    """Returns an origin such as `https://hub.example.org` in small letters; raises `UserError` where it is none."""
    if not _ORIGIN.fullmatch(text.rstrip("/")):
        raise UserError(f"--allow-origin must be an origin such as https://hub.example.org, got {text!r}")
    return text.rstrip("/").lower()


class Visitor(NamedTuple):
    """Who looks: a browser, by the cookie it was given, and one of its tabs."""

    browser: str
    tab: str


class Door:
    """Decides which requests of a server are answered.

    Args:
        host: name or address that is served.
        origins: other places whose pages may use the server, such as a proxy's `https://hub.example.org`.
    """

    def __init__(self, host: str, origins: Sequence[str] = ()) -> None:
        self.origins = frozenset(origin_of(text) for text in origins)
        self.token = None if is_loopback(host) else secrets.token_urlsafe(16)
        """What a request needs where others can reach the server; None where only this machine can."""
        self._numbering = threading.Lock()
        self._count = 0
        self._visitors: dict[int, Visitor] = {}
        self._pages: dict[bool, bytes] = {}
        """The page with our script, packed and not."""

    def url(self, host: str, port: int) -> str:
        """Returns the address to open in a browser on this machine."""
        return f"http://{self.name(host)}:{port}" + (f"/?token={self.token}" if self.token else "")

    def name(self, host: str) -> str:
        """Returns what the addresses of pages call `host`."""
        name = "localhost" if host in ("0.0.0.0", "127.0.0.1", "") else host.strip("[]")
        name = "::1" if name == "::" else name
        return f"[{name}]" if ":" in name else name

    def refusal(self, request: Request) -> str | None:
        """Returns why a request is not answered, None where it is."""
        stated = _one(request.headers, "Host")
        if stated is None:
            return "the request has no Host header, or several"
        proxied = stated.lower() in {origin.partition("://")[2] for origin in self.origins}
        if self.token is None and not proxied and not is_loopback(_name(stated)):
            return (
                f"this server is not available as {stated[:100]!r}; open the printed address"
                " (behind a proxy, start the viewer with --allow-origin and the proxy's address)"
            )
        origin = _one(request.headers, "Origin", "")
        if origin is None or (origin and not self._is_own(origin.lower(), stated.lower())):
            return (
                "other web pages may not use this server"
                " (behind a proxy, start the viewer with --allow-origin and the proxy's address)"
            )
        if self.token is not None and not self._has_token(request):
            return "the token is missing or wrong; open the complete address that the viewer printed"
        return None

    def _is_own(self, origin: str, stated: str) -> bool:
        """Returns whether a page of `origin` comes from this server, or from a place that may use it."""
        return origin in self.origins or (bool(_ORIGIN.fullmatch(origin)) and origin.partition("://")[2] == stated)

    def _has_token(self, request: Request) -> bool:
        assert self.token is not None
        asked, cookie = _asked(request, "token"), _cookie(request, self._token_cookie(request))
        given = [each for each in (asked, cookie) if each is not None]
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)

    def _token_cookie(self, request: Request) -> str:
        """Returns the name of the cookie for the token: browsers share theirs between all ports of a machine."""
        port = (_one(request.headers, "Host") or "").rpartition(":")[2]
        return f"{_TOKEN}_{port}" if port.isdigit() else _TOKEN

    def guard(self, inner: Handler | None) -> Handler:
        """Returns `inner` for the requests that may be answered, and a refusal (403) for the others."""

        def answer(connection: Any, request: Request) -> Response | None:
            refusal = self.refusal(request)
            if refusal is not None:
                headers = Headers({"Content-Type": "text/plain; charset=utf-8", "Connection": "close"})
                return Response(http.HTTPStatus.FORBIDDEN, "Forbidden", headers, f"{refusal}\n".encode())
            response = None if inner is None else inner(connection, request)
            if response is None:
                return None
            self._seal(response, _one(request.headers, "Host") or "")
            if self.token is not None:
                # The page asks for more with it, and opens its socket.
                name = self._token_cookie(request)
                response.headers["Set-Cookie"] = f"{name}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            if request.path.partition("?")[0] in ("/", "/index.html"):
                self._add_script(response)
                if _cookie(request, _BROWSER) is None:
                    lasting = "Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000"
                    response.headers["Set-Cookie"] = f"{_BROWSER}={secrets.token_urlsafe(12)}; {lasting}"
            return response

        return answer

    def _seal(self, response: Response, stated: str) -> None:
        """Tells the browser with whom a page may talk, and who may frame it."""
        places = [stated, *(origin.partition("://")[2] for origin in sorted(self.origins))]
        own = " ".join(f"ws://{place} wss://{place}" for place in places if _ORIGIN.fullmatch(f"http://{place}"))
        around = " ".join(["'self'", *sorted(self.origins)])
        response.headers["Content-Security-Policy"] = (
            f"connect-src 'self' {own} data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors {around}"
        )
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"

    def _add_script(self, response: Response) -> None:
        """Adds our script to the page that is answered; a page that is not as expected stays as it is."""
        packed = response.headers.get("Content-Encoding") == "gzip"
        if packed not in self._pages:
            page = gzip.decompress(response.body) if packed else bytes(response.body)
            if page.count(b"</head>") == 1:
                script = (Path(__file__).parent / "page_script.js").read_bytes()
                page = page.replace(b"</head>", b"<script>\n" + script + b"</script></head>")
            self._pages[packed] = gzip.compress(page) if packed else page
        response.body = self._pages[packed]
        del response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(response.body))

    def enter(self, connection: websockets.asyncio.server.ServerConnection) -> int:
        """Takes note of the browser behind a connection, and returns the connection's number.

        Called for every one in their order, which is how the server numbers its clients.
        """
        with self._numbering:
            number = self._count
            self._count += 1
            request = connection.request
            browser = None if request is None else _cookie(request, _BROWSER)
            if request is not None and browser is not None:
                self._visitors[number] = Visitor(browser[:64], (_asked(request, "tab") or "")[:64])
            return number

    def leave(self, number: int) -> None:
        """Forgets a connection that has ended."""
        with self._numbering:
            self._visitors.pop(number, None)

    def visitor(self, number: int) -> Visitor | None:
        """Returns who is behind the connection of a number; None for programs."""
        with self._numbering:
            return self._visitors.get(number)


def _asked(request: Request, name: str) -> str | None:
    """Returns a value from the query of a request's address, None without."""
    return urllib.parse.parse_qs(request.path.partition("?")[2]).get(name, [None])[-1]


def _cookie(request: Request, name: str) -> str | None:
    with contextlib.suppress(CookieError):
        cookie = SimpleCookie("; ".join(request.headers.get_all("Cookie"))).get(name)
        return cookie.value if cookie else None
    return None


def _one(headers: Headers, name: str, missing: str | None = None) -> str | None:
    """Returns the value of a header that occurs once, `missing` where it does not occur, None where several times."""
    values = headers.get_all(name)
    return missing if not values else values[0] if len(values) == 1 else None


def _name(host: str) -> str:
    """Returns the name in a Host header, without the port."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host)
    return found[1] if found else ""


_lock = threading.Lock()


@contextlib.contextmanager
def guarded(door: Door, line: socket.socket) -> Iterator[None]:
    """Puts `door` before the web server that is started inside the block, and lets it serve on `line`.

    viser starts it in a thread of its own, where it tries ports for ever when an address cannot be served, and has no
    place to hand over a check of requests; it calls the function of the websockets package by its full name, which is
    replaced until the server is there.
    """
    logger = logging.getLogger("gaussian4d.viewer.door")
    # What strangers send that is no request is no news for whoever looks at a scene.
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    with _lock:
        original = websockets.asyncio.server.serve

        def serve(handler: Any, *address: Any, process_request: Any = None, **options: Any) -> Any:
            async def noted(connection: Any) -> None:
                spoken = (connection.subprotocol or "").removeprefix("viser-v")
                if spoken != viser.__version__:
                    # As the server itself does, but without a word to whoever looks at a scene.
                    reason = f"Version mismatch. Client: {spoken[:40] or 'unknown'}, Server: {viser.__version__}"
                    await connection.close(1002, reason)
                    return
                number = door.enter(connection)
                try:
                    await handler(connection)
                finally:
                    door.leave(number)

            # The loop is that of this server alone: what comes to its end there is a message that makes no sense.
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: logger.debug("%s", context.get("message"), exc_info=context.get("exception"))
            )
            options["logger"] = logger
            options["create_connection"] = _Connection
            return original(noted, sock=line, process_request=door.guard(process_request), **options)

        websockets.asyncio.server.serve = serve  # type: ignore[misc,assignment]
        try:
            yield
        except BaseException:
            line.close()
            raise
        finally:
            websockets.asyncio.server.serve = original  # type: ignore[misc]


class _Connection(websockets.asyncio.server.ServerConnection):
    """Answers what is asked with other methods than GET, such as `curl -I`, instead of hanging up."""

    _begun = False

    def data_received(self, data: bytes) -> None:
        """Takes what the other side sent."""
        if not self._begun and re.match(rb"(?!GET )[A-Z]{3,16} ", data):
            self.transport.write(
                b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            self.transport.close()
            return
        self._begun = True
        super().data_received(data)
