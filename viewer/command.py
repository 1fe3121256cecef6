"""`gaussian4d view`: look at a scene in the browser. Registered under the entry-point group `gaussian4d.commands`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from gaussian4d.cli.choices import Up
from gaussian4d.cli.fit import Backend
from gaussian4d.optional import require


@dataclasses.dataclass
class View:
    """Look at a run, a .g4d, a .ply or a folder of .ply frames in the browser; a run being fitted is followed."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d view runs/fox
        gaussian4d view fox.g4d --port 9000
    """

    source: Positional[Path]
    """Run folder (finished or not), a file of Gaussians, or a folder of frames."""
    up: Up | None = None
    """Which way is up in the scene. Default: what the file or the run says."""
    scene: Path | None = None
    """Where the scene of the run lies, when that is not where it was and not beside the run."""
    port: int = 8080
    """Port of the web server; the next free one is taken when it is busy."""
    host: str = "127.0.0.1"
    """Address to serve on. 127.0.0.1 serves this machine only; 0.0.0.0 lets everyone on the network look who has the
    token of the printed address."""
    allow_origin: tuple[str, ...] = ()
    """Other places whose pages may use the viewer, such as https://hub.example.org of a proxy before it."""
    device: str = "auto"
    """Where to draw: auto is a GPU where a backend works there, else cpu; also cuda, cuda:1."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> None:
        """Serves until Ctrl-C."""
        # Read when torch is loaded. Threads that wait by spinning take the processor from those they wait for, where
        # others use it too, such as the fit that is looked at (docs/viewer.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        require("viser")
        from .door import free_port, is_loopback, origin_of

        # Before a large model is loaded for nothing.
        free_port(self.host, self.port)
        origins = [origin_of(text) for text in self.allow_origin]
        from gaussian4d.cli.opened import open_model
        from gaussian4d.cli.placing import placed

        from .follow import Follower
        from .server import ViewerServer
        from .workspace import Workspace

        place = placed(self.device, self.backend)
        opened = open_model(self.source, newest=True, scene=self.scene, up=self.up)
        server = ViewerServer(
            opened.model,
            opened.recorded,
            rig=opened.framing.rig,
            host=self.host,
            port=self.port,
            allow_origins=origins,
            background=opened.background,
            backend=place.backend,
            device=place.device,
            workspace=Workspace(self.source, self.source if opened.is_run else None, opened.scene),
        )
        print(f"viewing {self.source}: {len(opened.model):,} Gaussians, motion {opened.model.motion.name}")
        for note in opened.notes:
            print(f"note    {note}")
        print(f"open    {server.url}   (Ctrl-C ends)")
        if not is_loopback(self.host):
            reach = f"{self.host}:{server.port}"
            print(f"public  whoever reaches {reach} and has the token can look, and can write films into the run")
        # A server on one address of this machine is not reached by the name localhost.
        there = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "") else server.door.name(self.host)
        print(
            f"remote  ssh -L {server.port}:{there}:{server.port} THIS_MACHINE, then open {server.remote_url}",
            flush=True,
        )
        follower = Follower(server, self.source, opened.scene) if opened.is_run and opened.scene is not None else None
        try:
            server.wait()
        except KeyboardInterrupt:
            # The way to end it that we print, so no failure.
            print("closed")
        finally:
            if follower is not None:
                follower.stop()
            server.stop()
