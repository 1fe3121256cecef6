"""How much memory reading a multi-view recording takes: generated videos, read in the order a fit reads them.

Writes `--cameras` H.264 videos of `--frames` frames at 1352x1014 (300 frames of 20 cameras is the shape of a published
N3DV sequence, 24.7 GB decoded), loads them as an N3DV scene, and asks for frames of random cameras and instants, as
training does. Prints by how much the process's resident memory grew at its peak, measured by Linux (VmHWM), beside the
budget `--cache-mb` and the overhead stated below. Exits with 1 when it grew further.

    python scripts/bench/read_path.py --cameras 3 --frames 300 --cache-mb 256
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 1352, 1014

# Beside the cache, megabytes: FIXED for the libraries of decoding; per open video the decoder's reference pictures, one
# set for each of its threads, and the picture in flight.
FIXED_MB = 100
DECODER_MB = 25


def main() -> int:
    """Generates, reads, reports; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--cache-mb", type=float, default=256)
    parser.add_argument("--reads", type=int, default=0, help="frames read; 0 reads twice as many as there are")
    parser.add_argument("--folder", type=Path, help="where the videos are kept; by default they are removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        write_scene(folder, options.cameras, options.frames)
        return measure(folder, options)


def write_scene(folder: Path, cameras: int, frames: int) -> None:
    """Writes the videos that are not there yet, and `poses_bounds.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for camera in range(cameras):
        path = folder / f"cam{camera:02d}.mp4"
        if not path.is_file():
            write_video(path, camera, frames)
        angle = 0.1 * (camera - cameras / 2)
        right, back = [np.cos(angle), 0, -np.sin(angle)], [np.sin(angle), 0, np.cos(angle)]
        place = 4 * np.array(back)
        matrix = np.stack([[0, -1, 0], right, back, place, [2 * HEIGHT, 2 * WIDTH, 2900]], axis=1)
        rows.append(np.concatenate([matrix.ravel(), [1, 10]]))
    np.save(folder / "poses_bounds.npy", np.array(rows))


def write_video(path: Path, camera: int, frames: int) -> None:
    """Writes a video of a drifting texture, with the group of pictures that cameras write."""
    import av

    random = np.random.default_rng(camera)
    texture = random.integers(0, 256, (HEIGHT // 8 + 80, WIDTH // 8 + 80, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for k in range(frames):
            shift = k % 79
            window = texture[shift : shift + HEIGHT // 8 + 1, shift : shift + WIDTH // 8 + 1]
            image = window.repeat(8, axis=0).repeat(8, axis=1)[:HEIGHT, :WIDTH]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def measure(folder: Path, options: argparse.Namespace) -> int:
    """Reads the scene and prints the figures; returns 1 when memory grew beyond the budget and the overhead."""
    from gaussian4d.bench.memory import resident_bytes, restart_peak
    from gaussian4d.scene import load_scene

    before = resident_bytes("VmRSS")
    restart_peak()
    began = time.perf_counter()
    # Full size of these videos: what papers train on.
    scene = load_scene(folder, downscale=1, cache_mb=options.cache_mb)
    loaded = time.perf_counter() - began
    frames = scene.frames("all")
    reads = options.reads or 2 * len(frames)
    order = np.random.default_rng(0).integers(0, len(frames), reads)
    checksum = 0
    for start in range(0, reads, 8):
        scene.prefetch(frames[k] for k in order[start + 8 : start + 16])
        for k in order[start : start + 8]:
            checksum += int(frames[k].image[0, 0, 0])
    seconds = time.perf_counter() - began - loaded
    grew = (resident_bytes("VmHWM") - before) / 2**20
    allowed = options.cache_mb + FIXED_MB + DECODER_MB * len(scene.cameras)
    counts = scene.cache_counts
    decoded = len(frames) * WIDTH * HEIGHT * 3 / 2**20
    print(
        f"scene      {len(scene.cameras)} cameras x {len(scene.times)} frames of {WIDTH}x{HEIGHT}: {decoded:,.0f} MiB"
    )
    print(f"loading    {loaded:.1f} s")
    print(f"reading    {reads} frames at random in {seconds:.1f} s, checksum {checksum}")
    print(f"cache      {counts.decoded} decoded, {counts.reloaded} read back from the scratch file, {counts.hits} hits")
    print(f"held       {counts.peak_bytes / 2**20:.0f} MiB of frames at most, budget {options.cache_mb:g} MiB")
    print(
        f"memory     grew by {grew:.0f} MiB at its peak; allowed {allowed:.0f}: {options.cache_mb:g} cache + {FIXED_MB}"
        f" + {DECODER_MB} x {len(scene.cameras)} decoders"
    )
    return int(not grew <= allowed)


if __name__ == "__main__":
    sys.exit(main())
