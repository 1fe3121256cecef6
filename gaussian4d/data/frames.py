"""The frames of a scene, decoded once each and served from a bounded cache.

A frame is decoded, undistorted and downscaled the first time it is asked for; one that was given in Python comes from
its source as it is. It stays in memory while the budget allows; pushed out, it goes to a scratch file as raw bytes, so
that it is read back in a fraction of a millisecond and never decoded again. A video is decoded forwards, once, and
every wanted frame that passes is kept.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse

from ..errors import UserError
from .images import read_image, read_mask
from .records import Picture, VideoPicture
from .resample import Resampling
from .sources import GivenPicture
from .spill import Pixels, SpillFile, own_pages
from .video import Decoder, Video

_MATRIX_BUDGET = 256 << 20
_PREFETCH_QUEUE = 4096


@dataclasses.dataclass(frozen=True)
class FrameJob:
    """How one frame is made."""

    picture: Picture | GivenPicture
    resampling: Resampling
    mask: Path | None
    alpha: bool
    covisible: Path | None = None
    mask_orientation: int = 1


@dataclasses.dataclass
class CacheCounts:
    """What the cache has done so far."""

    decoded: int = 0
    hits: int = 0
    spilled: int = 0
    reloaded: int = 0
    peak_bytes: int = 0


class FrameStore:
    """Serves frames by their index in `jobs`; safe to use from several threads.

    At most `budget` bytes of pixels are held, the scratch file beside. Arrays handed out are shared: copy before
    writing.
    """

    def __init__(self, jobs: Sequence[FrameJob], budget: int, *, spill: bool = True) -> None:
        if budget < 0:
            raise UserError(f"cache_mb must not be negative, got {budget / 2**20:g}")
        self.counts = CacheCounts()
        self._jobs = list(jobs)
        self._budget = budget
        self._lock = threading.RLock()
        self._held: collections.OrderedDict[int, Pixels] = collections.OrderedDict()
        self._held_bytes = 0
        # What `put` has taken and not yet written; held in `_held` as well.
        self._put: dict[int, Pixels] = {}
        self._put_bytes = 0
        self._spill = SpillFile() if spill else None
        self._matrices = _MatrixCache()
        self._image_locks = [threading.Lock() for _ in range(64)]
        self._wanted: dict[Video, dict[int, list[int]]] = {}
        for key, job in enumerate(self._jobs):
            if isinstance(job.picture, VideoPicture):
                self._wanted.setdefault(job.picture.video, {}).setdefault(job.picture.index, []).append(key)
        self._cursors = {video: _VideoCursor(video, max(wanted)) for video, wanted in self._wanted.items()}
        self._queue: collections.deque[int] = collections.deque(maxlen=_PREFETCH_QUEUE)
        self._queue_filled = threading.Event()
        self._worker: threading.Thread | None = None

    @property
    def jobs(self) -> Sequence[FrameJob]:
        """How each frame is made; its place is its key."""
        return self._jobs

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels in memory now; never more than the budget."""
        return self._held_bytes

    def get(self, key: int) -> Pixels:
        """Returns the pixels of frame `key`; raises `UserError` naming the file when it cannot be decoded."""
        pixels = self._lookup(key)
        if pixels is not None:
            return pixels
        job = self._jobs[key]
        if isinstance(job.picture, VideoPicture):
            return self._decode_video(key, job.picture)
        with self._image_locks[key % len(self._image_locks)]:
            pixels = self._lookup(key)
            if pixels is None:
                if isinstance(job.picture, GivenPicture):
                    pixels = job.picture.read()
                else:
                    stored = read_image(job.picture.path, alpha=job.alpha, orientation=job.picture.orientation)
                    pixels = self._finish(job, stored)
                self._keep(key, pixels)
            return pixels

    def put(self, key: int, pixels: Pixels) -> None:
        """Takes the pixels of a frame that cannot be asked for again; raises `UserError` when they find no room.

        Once the budget is exceeded all of them go to the scratch file at once: later there may be no room for those
        that are pushed out.
        """
        with self._lock:
            self._put[key] = pixels
            self._put_bytes += pixels.nbytes
            if self._put_bytes > self._budget:
                for other, given in self._put.items():
                    if self._spill is None or not self._spill.write(other, given):
                        raise UserError(
                            "the frames fit neither into cache_mb nor into the scratch file, and an iterable gives them"
                            " only once; raise cache_mb, set TMPDIR to a disk with room, or give a FrameSource"
                        )
                    self.counts.spilled += 1
                self._put.clear()
            self._keep(key, pixels)

    def covisible(self, key: int) -> np.ndarray | None:
        """Returns the covisibility uint8 [H, W] of frame `key`, None without one.

        Read at every call and not cached: only an evaluation asks, once per frame.
        """
        job = self._jobs[key]
        return None if job.covisible is None else self._resampled_mask(job, job.covisible)

    def prefetch(self, keys: Iterable[int]) -> None:
        """Asks a background thread to have these frames ready; returns at once. Failures surface at `get`."""
        # Waking the thread costs the caller a turn of the interpreter, so not for what is there.
        missing = [key for key in keys if not self._has(key)]
        if not missing:
            return
        self._queue.extend(missing)
        self._queue_filled.set()
        if self._worker is None:
            with self._lock:
                if self._worker is None:
                    self._worker = threading.Thread(
                        target=_prefetch_loop,
                        args=(weakref.ref(self), self._queue, self._queue_filled),
                        name="gaussian4d-prefetch",
                        daemon=True,
                    )
                    self._worker.start()

    def _lookup(self, key: int) -> Pixels | None:
        with self._lock:
            pixels = self._held.get(key)
            if pixels is not None:
                self._held.move_to_end(key)
                self.counts.hits += 1
                return pixels
            if self._spill is None:
                return None
            pixels = self._spill.read(key)
            if pixels is not None:
                self.counts.reloaded += 1
                self._insert(key, pixels)
            return pixels

    def _keep(self, key: int, pixels: Pixels) -> None:
        with self._lock:
            self.counts.decoded += 1
            self._insert(key, pixels)

    def _insert(self, key: int, pixels: Pixels) -> None:
        while self._held and self._held_bytes + pixels.nbytes > self._budget:
            old_key, old = self._held.popitem(last=False)
            self._held_bytes -= old.nbytes
            self._write_out(old_key, old)
        if pixels.nbytes > self._budget:
            self._write_out(key, pixels)
            return
        self._held[key] = pixels
        self._held_bytes += pixels.nbytes
        self.counts.peak_bytes = max(self.counts.peak_bytes, self._held_bytes)

    def _write_out(self, key: int, pixels: Pixels) -> None:
        if self._spill is not None and self._spill.write(key, pixels):
            self.counts.spilled += 1

    def _finish(self, job: FrameJob, picture: np.ndarray) -> Pixels:
        resampling = job.resampling
        expected = (resampling.lens.height, resampling.lens.width)
        if picture.shape[:2] != expected:
            raise UserError(
                f"{job.picture.source}: the image is {picture.shape[1]}x{picture.shape[0]}, its camera states"
                f" {expected[1]}x{expected[0]}; restore the image or correct the camera file"
            )
        if picture.ndim == 3 and picture.shape[2] == 4 and not job.alpha:
            picture = np.ascontiguousarray(picture[..., :3])
        matrix = self._matrices.get(resampling)
        image = resampling.apply(picture, matrix)
        held = own_pages(image.shape)
        held[...] = image
        return Pixels(held, None if job.mask is None else self._resampled_mask(job, job.mask, job.mask_orientation))

    def _resampled_mask(self, job: FrameJob, path: Path, orientation: int = 1) -> np.ndarray:
        stated = read_mask(path, orientation=orientation)
        lens = job.resampling.lens
        if stated.shape != (lens.height, lens.width):
            raise UserError(
                f"{path}: the mask is {stated.shape[1]}x{stated.shape[0]}, its picture"
                f" {lens.width}x{lens.height}; they must be the same size"
            )
        return job.resampling.apply(stated, self._matrices.get(job.resampling))

    def _decode_video(self, key: int, picture: VideoPicture) -> Pixels:
        cursor = self._cursors[picture.video]
        wanted = self._wanted[picture.video]
        with cursor.lock:
            pixels = self._lookup(key)
            if pixels is not None:
                return pixels
            for index, decoded in cursor.forward_to(picture.index, wanted):
                for other in wanted[index]:
                    # After a rewind, frames that are still at hand pass by again.
                    if other != key and self._has(other):
                        continue
                    made = self._finish(self._jobs[other], decoded)
                    self._keep(other, made)
                    if other == key:
                        pixels = made
            assert pixels is not None, "forward_to ends with the frame asked for"
            return pixels

    def _has(self, key: int) -> bool:
        with self._lock:
            return key in self._held or (self._spill is not None and key in self._spill)


class _VideoCursor:
    """The place a video has been decoded to."""

    def __init__(self, video: Video, last: int) -> None:
        self.lock = threading.Lock()
        self._video = video
        self._last = last
        self._decoder: Decoder | None = None

    def forward_to(self, index: int, wanted: Container[int]) -> Iterable[tuple[int, np.ndarray]]:
        """Yields (index, uint8 [H, W, 3]) of the wanted frames that are passed on the way to `index`, it included.

        Starts over when the decoder is already past `index` (its frame found no room in the scratch file).
        """
        if self._decoder is None or self._decoder.position > index:
            if self._decoder is not None:
                self._decoder.close()
            self._decoder = Decoder(self._video)
        yield from self._decoder.read(index, wanted)
        if self._decoder.position > self._last:
            # Nothing is left to find; an open decoder holds threads and reference pictures.
            self._decoder.close()
            self._decoder = None


class _MatrixCache:
    """The resampling matrices used last, within a budget: they are many times larger than a frame."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: collections.OrderedDict[Resampling, scipy.sparse.csr_matrix | None] = collections.OrderedDict()

    def get(self, resampling: Resampling) -> scipy.sparse.csr_matrix | None:
        """Returns the matrix of `resampling`, None for a straight lens."""
        if resampling.lens.straight:
            return None
        with self._lock:
            matrix = self._held.pop(resampling, None)
            if matrix is None:
                matrix = resampling.matrix()
            self._held[resampling] = matrix
            while len(self._held) > 1 and sum(held.matrix_bytes for held in self._held) > _MATRIX_BUDGET:
                self._held.popitem(last=False)
            return matrix


def _prefetch_loop(store_ref: weakref.ref[FrameStore], queue: collections.deque[int], filled: threading.Event) -> None:
    """Works the queue off; ends when the store is gone."""
    while True:
        filled.wait(timeout=1.0)
        if not queue:
            filled.clear()
        if not _prefetch_one(store_ref, queue):
            return


def _prefetch_one(store_ref: weakref.ref[FrameStore], queue: collections.deque[int]) -> bool:
    """Has the next frame decoded; returns False when the store is gone. No reference to it survives the call."""
    store = store_ref()
    if store is None:
        return False
    if queue:
        key = queue.popleft()
        # Whoever asks for a broken frame gets the error itself, in its own thread.
        with contextlib.suppress(Exception):
            if not store._has(key):
                store.get(key)
    return True
