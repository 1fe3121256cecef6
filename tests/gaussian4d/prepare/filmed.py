"""A small textured room with something moving in it, filmed by cameras that start when they like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from gaussian4d import Camera
from gaussian4d.toys import Part, ToyWorld
from gaussian4d.toys.motions import translation
from gaussian4d.toys.shapes import box, sphere
from gaussian4d.toys.textures import Texture

DURATION = 4.0


@dataclasses.dataclass(frozen=True)
class Restless:
    """Moves as people do: short gestures and rests at irregular times. `time` is in seconds."""

    reach: float
    seed: int
    word: str = "fidgets"

    def T(self, time: float) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        starts = np.cumsum(rng.uniform(0.25, 0.9, 24)) - 0.5
        lengths = rng.uniform(0.15, 0.45, 24)
        places = np.concatenate([np.zeros((1, 3)), rng.uniform(-1, 1, (24, 3))]) * self.reach
        x = np.clip((time - starts) / lengths, 0.0, 1.0)
        done = x * x * (3 - 2 * x)
        return translation(places[0] + (done[:, None] * np.diff(places, axis=0)).sum(axis=0))


@dataclasses.dataclass(frozen=True)
class Shot:
    """How one camera filmed: its place, when it started (seconds of the world), at what rate."""

    camera: Camera
    start: float
    fps: float
    count: int


def room(moving: bool = True) -> ToyWorld:
    """Returns the world; its clip time is in seconds."""
    parts = [
        Part("ball", sphere(0.5, 24), Texture("checker", ("red", "white"), "solid", (0.2, 0.2, 0.2)), (0, 0, 0.2), None,
             [Restless(0.5, 1)] if moving else []),
        Part("crate", box((0.25, 0.25, 0.25)), Texture("stripes", ("blue", "yellow"), "solid", (0.12, 0.12, 0.12)),
             (0.7, 0.6, -0.2), None, [Restless(0.3, 2)] if moving else []),
        Part("floor", box((2.0, 2.0, 0.05)), Texture("checker", ("cream", "teal"), "solid", (0.25, 0.25, 9.0)),
             (0, 0, -0.6)),
    ]  # fmt: skip
    return ToyWorld(tuple(parts))


def around(angles: Sequence[float], size: tuple[int, int] = (64, 48), distance: float = 4.0) -> list[Camera]:
    """Returns cameras at azimuths in degrees, looking at the middle from above."""
    cameras = []
    for k, angle in enumerate(angles):
        a = np.radians(angle)
        eye = np.array([distance * np.cos(a), distance * np.sin(a), 1.5 + 0.2 * (k % 3)])
        up = np.array([0.0, 0.0, 1.0])
        cameras.append(
            Camera.look_at(eye, np.zeros(3), up, width=size[0], height=size[1], focal=1.1 * size[0], id=f"cam{k + 1}")
        )
    return cameras


def film(world: ToyWorld, shot: Shot) -> list[np.ndarray]:
    """Returns the frames uint8 [H, W, 3] of a shot, with the noise of a sensor."""
    rng = np.random.default_rng(int(1000 * shot.start) + shot.count)
    frames = []
    for k in range(shot.count):
        view = world.render(shot.camera, shot.start + k / shot.fps, ("rgb",), samples=1)
        assert view.rgb is not None
        noisy = 255 * view.rgb + rng.normal(0, 2, view.rgb.shape)
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return frames


def write_mp4(path: Path, frames: Sequence[np.ndarray], fps: float, sound: np.ndarray | None = None) -> None:
    """Writes H.264, with `sound` (float [n] in -1..1 at 8 kHz) as AAC where given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=8000, layout="mono") if sound is not None else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if track is not None and sound is not None:
            for begin in range(0, len(sound), 1024):
                chunk = np.ascontiguousarray(sound[None, begin : begin + 1024].astype(np.float32))
                block = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
                block.sample_rate, block.pts = 8000, begin
                container.mux(track.encode(block))
            container.mux(track.encode(None))


def write_calibration(path: Path, cameras: Sequence[Camera], distortion: Mapping[str, Sequence[float]] = {}) -> None:  # noqa: B006
    """Writes an OpenCV FileStorage XML per camera into the folder `path`; pixel centres at whole numbers."""
    path.mkdir(parents=True, exist_ok=True)
    for camera in cameras:
        K = camera.K.copy()
        K[:2, 2] -= 0.5
        values = {"K": K, "R": camera.viewmat[:3, :3], "T": camera.viewmat[:3, 3:]}
        if camera.id in distortion:
            values["D"] = np.array(distortion[camera.id])[None]
        parts = [
            f'<{name} type_id="opencv-matrix"><rows>{m.shape[0]}</rows><cols>{m.shape[1]}</cols><dt>d</dt>'
            f"<data>{' '.join(repr(float(x)) for x in m.reshape(-1))}</data></{name}>"
            for name, m in values.items()
        ]
        text = f'<?xml version="1.0"?>\n<opencv_storage>\n{chr(10).join(parts)}\n</opencv_storage>\n'
        (path / f"{camera.id}.xml").write_text(text, encoding="utf-8")
