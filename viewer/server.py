"""The web server of the viewer: one `Session` per connected browser."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import viser
from viser._messages import ShareUrlDisconnect, ShareUrlRequest

from gaussian4d.cameras import Camera
from gaussian4d.clip_length import LEAST_SECONDS, clip_length
from gaussian4d.model import DynamicGaussians

from .door import Door, Visitor, guarded, listening
from .memory import Kept, Memory
from .painter import FIRST_FOV, Painter
from .session import BrowserGone, Session
from .workspace import Workspace

if TYPE_CHECKING:
    import torch

    from gaussian4d.paths import Rig


class ViewerServer:
    """Serves pictures of a model to browsers, drawn by our own renderer.

    Args:
        model: what to show; `show` replaces it.
        cameras: recorded cameras, which are drawn; may be none.
        rig: gives the first view, the up direction and the unit; None finds it from `cameras`, or the Gaussians.
        host: address to serve on.
        port: port to serve on; the next free one is taken when it is busy.
        allow_origins: other places whose pages may use the server, such as a proxy's `https://hub.example.org`.
        background: [3] colour behind the Gaussians; None takes the model's own.
        backend: rasterizer.
        device: where to draw, see `gaussian4d.devices.choose_device`; None draws where the model is.
        workspace: the scene's pictures and where files go; None has neither.
    """

    def __init__(
        self,
        model: DynamicGaussians,
        cameras: Sequence[Camera],
        *,
        rig: Rig | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        allow_origins: Sequence[str] = (),
        background: Sequence[float] | None = None,
        backend: str = "auto",
        device: str | torch.device | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        # A browser that leaves while a picture is on its way is nothing to report.
        warnings.filterwarnings("ignore", message="Queued a .* on a closed connection")
        warnings.filterwarnings("ignore", message=r"(?s)\[viser\] .* does not match annotation")
        self.workspace = workspace or Workspace()
        self._painter = Painter(
            model,
            cameras,
            rig=rig,
            background=background,
            backend=backend,
            device=device,
            truth=self.workspace.truth,
        )
        self._cameras = self.workspace.drawn_cameras(cameras)
        self._thumbnails: dict[str, np.ndarray] = {}
        self._sessions: dict[int, Session] = {}
        self._leaving: list[Session] = []
        """Of browsers that have left, while their threads end."""
        self._gone: set[int] = set()
        """Browsers that left before their session was there."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._memory = Memory()
        self._visitors: dict[int, Visitor | None] = {}
        self._duration = clip_length(model).played or LEAST_SECONDS
        self.host = host
        self.door = Door(host, allow_origins)
        line = listening(host, port)
        with _quiet(), guarded(self.door, line):
            self.server = viser.ViserServer(host=host, port=line.getsockname()[1], label="gaussian4d", verbose=False)
        # Any page could have us open a tunnel through somebody else's machine.
        for kind in (ShareUrlRequest, ShareUrlDisconnect):
            with contextlib.suppress(AssertionError):
                self.server._websock_server.unregister_handler(kind)
        self.server.gui.configure_theme(control_layout="floating", show_logo=False, show_share_button=False)
        self._place_first_view()
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)
        self.workspace.thumbnails(self._cameras, self._thumbnail)

    @property
    def port(self) -> int:
        """The port that is really served."""
        return self.server.get_port()

    @property
    def url(self) -> str:
        """Address to open in a browser on this machine."""
        return self.door.url(self.host, self.port)

    @property
    def remote_url(self) -> str:
        """Address to open on another machine, at the end of a tunnel."""
        return self.door.url("127.0.0.1", self.port)

    @property
    def sessions(self) -> list[Session]:
        """The browsers that are connected now."""
        with self._lock:
            return list(self._sessions.values())

    def show(self, model: DynamicGaussians) -> None:
        """Shows `model` from now on, in all browsers."""
        self._painter.show(model)
        for session in self.sessions:
            session.request()

    def wait(self) -> None:
        """Returns when `stop` is called from another thread; a KeyboardInterrupt passes through."""
        self._ended.wait()

    def stop(self) -> None:
        """Closes all sessions and the web server."""
        with self._lock:
            ending = [*self._sessions.values(), *self._leaving]
        for session in ending:
            session.close(wait=True)
        self._ended.set()
        with _quiet():
            self.server.stop()

    def _place_first_view(self) -> None:
        up, start = self._painter.rig.up, self.server.initial_camera
        self.server.scene.set_up_direction(up)
        start.position, start.look_at, start.up = self._painter.first_position, np.zeros(3), up
        start.fov = FIRST_FOV

    def _connect(self, client: viser.ClientHandle) -> None:
        with self._lock:
            # Building a page takes a while; a browser can be gone before it begins, and before it ends.
            if client.client_id in self._gone:
                self._gone.discard(client.client_id)
                return
        try:
            session = Session(
                client,
                self._painter,
                self._cameras,
                self._duration,
                self.workspace,
                dict(self._thumbnails),
                lambda: client.client_id not in self._gone,
            )
        except BrowserGone:
            with self._lock:
                self._gone.discard(client.client_id)
            return
        except Exception:
            # A browser that is gone before its page is built costs nobody else anything.
            traceback.print_exc(file=sys.stderr)
            with self._lock:
                self._gone.discard(client.client_id)
            return
        visitor = self.door.visitor(client.client_id)
        with self._lock:
            kept = self._last_of(visitor)
        session.restore(kept)
        with self._lock:
            gone = client.client_id in self._gone
            self._gone.discard(client.client_id)
            if not gone:
                self._sessions[client.client_id] = session
                self._visitors[client.client_id] = visitor
            known = dict(self._thumbnails)
        if gone:
            session.close()
            return
        for id, picture in known.items():
            session.cameras.set_thumbnail(id, picture)

    def _disconnect(self, client: viser.ClientHandle) -> None:
        with self._lock:
            session = self._sessions.pop(client.client_id, None)
            self._leaving = [other for other in self._leaving if other.loop.running]
            if session is None:
                self._gone.add(client.client_id)
            else:
                self._leaving.append(session)
            visitor = self._visitors.pop(client.client_id, None)
            # A dropped line is noticed late, often after the same tab has come back on another.
            if session is not None and visitor is not None and visitor not in self._visitors.values():
                self._memory.keep(visitor, session.kept())
        if session is not None:
            session.close()

    def _last_of(self, visitor: Visitor | None) -> Kept | None:
        """Returns where a visitor was last: also on a line that has dropped and was not noticed yet."""
        if visitor is None:
            return None
        for number, other in reversed(self._visitors.items()):
            if other == visitor and number in self._sessions:
                return self._sessions[number].kept()
        return self._memory.of(visitor)

    def _thumbnail(self, id: str, picture: np.ndarray) -> None:
        with self._lock:
            self._thumbnails[id] = picture
        for session in self.sessions:
            session.cameras.set_thumbnail(id, picture)


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Keeps viser's banners from standard output; the command prints its own lines."""
    return contextlib.redirect_stdout(io.StringIO())
