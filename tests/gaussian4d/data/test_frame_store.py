"""The frame cache: its bound, the scratch file, prefetch, threads."""

from __future__ import annotations

import mmap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_scenes import (
    HEIGHT,
    WIDTH,
    assert_dots,
    dot,
    dot_video,
    find_dot,
    opencv_xml,
    pixel,
    poses,
    spoil,
    write_dnerf,
)

from gaussian4d.data.frames import FrameJob, FrameStore
from gaussian4d.data.records import ImagePicture, Lens, VideoPicture
from gaussian4d.data.resample import Resampling
from gaussian4d.data.spill import own_pages
from gaussian4d.data.video import probe
from gaussian4d.scene import Scene, load_scene

FRAME_BYTES = WIDTH * HEIGHT * 3


def video_scene(folder: Path, cache_frames: float, count: int = 30) -> Scene:
    for c, pose in enumerate(poses(2)):
        dot_video(folder / f"cam{c}.mp4", pose, count=count)
        (folder / f"cam{c}.xml").write_text(opencv_xml(pose))
    return load_scene(folder, cache_mb=cache_frames * FRAME_BYTES / 2**20)


@pytest.mark.parametrize("cache_frames", [0, 1, 7.5, 1000])
def test_budget_is_never_exceeded_and_nothing_is_decoded_twice(tmp_path: Path, cache_frames: float) -> None:
    scene = video_scene(tmp_path, cache_frames, count=8)
    frames = list(scene.frames("all"))
    random = np.random.default_rng(0)
    first = {}
    for position in np.concatenate([random.permutation(len(frames)), random.integers(0, len(frames), 60)]):
        image = frames[position].image
        np.testing.assert_array_equal(image, first.setdefault(int(position), image.copy()))
        assert scene._store.held_bytes <= cache_frames * FRAME_BYTES
    counts = scene.cache_counts
    assert counts.decoded == len(frames), "every frame is decoded exactly once"
    assert counts.peak_bytes <= cache_frames * FRAME_BYTES
    if cache_frames < len(frames):
        assert counts.spilled > 0 and counts.reloaded > 0
    else:
        assert counts.spilled == 0
    assert_dots(scene)


def test_a_video_is_read_again_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the scratch file frames still come, with one warning."""
    import gaussian4d.data.spill as spill

    scene = video_scene(tmp_path, 2, count=6)
    monkeypatch.setattr(spill, "_DISK_RESERVE", 1 << 62)
    with pytest.warns(UserWarning, match="TMPDIR") as caught:
        for frame in reversed(scene.frames("all")):
            _ = frame.image
    assert len(caught) == 1
    assert_dots(scene)
    assert scene.cache_counts.decoded > len(scene.frames("all"))


def test_masks_and_alpha_survive_the_scratch_file(tmp_path: Path) -> None:
    roomy, tight = load_scene(write_dnerf(tmp_path)), load_scene(tmp_path, cache_mb=0)
    for _ in range(2):
        for a, b in zip(roomy.frames("all"), tight.frames("all")):
            np.testing.assert_array_equal(a.image, b.image)
            assert b.image.shape[-1] == 4
    assert tight.cache_counts.reloaded > 0


def test_prefetch_makes_frames_ready(tmp_path: Path) -> None:
    scene = video_scene(tmp_path, 1000, count=6)
    scene.prefetch(scene.frames("all"))
    deadline = time.monotonic() + 30
    while scene.cache_counts.decoded < len(scene.frames("all")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert scene.cache_counts.decoded == len(scene.frames("all"))
    hits = scene.cache_counts.hits
    _ = [frame.image for frame in scene.frames("all")]
    assert scene.cache_counts.hits == hits + len(scene.frames("all"))


def test_prefetch_thread_ends_with_its_scene(tmp_path: Path) -> None:
    scene = video_scene(tmp_path, 1000, count=4)
    scene.prefetch(scene.frames("all"))
    worker = scene._store._worker
    assert worker is not None
    _ = scene.frames("all")[-1].image
    del scene
    worker.join(timeout=20)
    assert not worker.is_alive()


def test_prefetch_of_a_broken_frame_leaves_the_error_to_the_reader(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    spoil(tmp_path / "train" / "c0_t1.png")
    scene = load_scene(tmp_path)
    scene.prefetch(scene.frames("all"))
    with pytest.raises(ValueError, match="c0_t1"):
        _ = scene.frames()[1].image
    assert scene.frames()[2].image.shape == (HEIGHT, WIDTH, 4), "other frames are served"


def test_threads_share_one_decoding(tmp_path: Path) -> None:
    scene = video_scene(tmp_path, 5, count=10)
    frames = list(scene.frames("all"))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for position in np.random.default_rng(seed).permutation(len(frames)):
                _ = frames[position].image
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert scene.cache_counts.decoded == len(frames)
    assert scene.cache_counts.peak_bytes <= 5 * FRAME_BYTES
    assert_dots(scene)


def test_frame_numbers_are_display_order_with_b_frames(tmp_path: Path) -> None:
    """The dot moves with the frame number, so a frame from decoding order would be in the wrong place."""
    path = dot_video(tmp_path / "v.mp4", poses(1)[0], count=12, bf="3", g="6")
    video = probe(path)
    assert video.count == 12
    lens = Lens(70, 70, 32, 24, WIDTH, HEIGHT)
    store = FrameStore(
        [FrameJob(VideoPicture(video, k), Resampling(lens, 1), None, False) for k in (9, 2, 11)], 1 << 20
    )
    for key, k in ((1, 2), (0, 9), (2, 11)):
        np.testing.assert_allclose(find_dot(store.get(key).image), pixel(poses(1)[0], dot(k)), atol=0.2)


def test_unwanted_frames_are_not_kept(tmp_path: Path) -> None:
    scene = load_scene(write_dnerf(tmp_path), frames="0:1")
    assert len(scene._store._jobs) == 3
    assert all(isinstance(job.picture, ImagePicture) for job in scene._store._jobs)


def test_large_frames_have_pages_of_their_own() -> None:
    """Memory that goes back to the system when a frame leaves the cache; on the heap it would stay as holes."""
    frame = own_pages((400, 500, 3))
    root = frame
    while isinstance(root, np.ndarray) and root.base is not None:
        root = root.base
    if isinstance(root, memoryview):
        root = root.obj
    assert isinstance(root, mmap.mmap) and len(root) == frame.nbytes
    frame[:] = 7
    assert frame.flags.writeable and (frame == 7).all() and not (own_pages((400, 500, 3)) == 7).any()
    assert own_pages((4, 5, 3)).base is None, "small ones would waste pages"


def test_large_frames_survive_the_cache_and_the_scratch_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truths = [random.integers(0, 256, (400, 500, 3), dtype=np.uint8) for _ in range(4)]
    jobs = []
    for k, truth in enumerate(truths):
        Image.fromarray(truth).save(tmp_path / f"{k}.png")
        lens = Lens(100.0, 100.0, 250.0, 200.0, 500, 400)
        jobs.append(FrameJob(ImagePicture(tmp_path / f"{k}.png"), Resampling(lens, 1), None, False))
    store = FrameStore(jobs, truths[0].nbytes + 10)
    kept = store.get(0).image
    for k in (1, 2, 3, 0, 2, 1):
        np.testing.assert_array_equal(store.get(k).image, truths[k])
    np.testing.assert_array_equal(kept, truths[0], "a frame in use outlives its place in the cache")
    assert store.counts.decoded == 4 and store.counts.reloaded == 3
