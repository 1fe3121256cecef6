"""The clock of one browser: plays the clip in real time, round and round, and calls back at every tick."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Playback:
    """Clip time that runs while playing.

    Args:
        tick: called with the clip time in [0, 1], in the playback's own thread.
        ended: called when the clip has played to its end without `loop`.
        duration: seconds from the first to the last of `span` at speed 1.
        clock: returns seconds; another one may be given for tests.
        span: first and last clip time that was recorded, which is what plays.
    """

    def __init__(
        self,
        tick: Callable[[float], None],
        duration: float,
        clock: Callable[[], float] = time.monotonic,
        ended: Callable[[], None] = lambda: None,
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._ended = ended
        self.span = span
        self._tick, self._duration, self._clock = tick, max(duration, 1e-3), clock
        self._wake = threading.Condition()
        self._time = span[0]
        self._since = 0.0
        self._stopped = False
        self.playing = False
        self.loop = True
        self.speed = 1.0
        self.fps = 24.0
        self._thread = threading.Thread(target=self._run, name="viewer-playback", daemon=True)

    def start(self) -> None:
        """Starts the thread; nothing plays yet."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def now(self) -> float:
        """Returns the clip time. Playing past the end starts again, or stays there without `loop`."""
        if not self.playing:
            return self._time
        first, last = self.span
        share = (self._time - first) / (last - first) + (self._clock() - self._since) * self.speed / self._duration
        return first + (last - first) * (share % 1.0 if self.loop else min(share, 1.0))

    def seek(self, clip_time: float) -> None:
        """Goes to `clip_time`, playing or not; what is no number is not followed."""
        if not math.isfinite(clip_time):
            return
        with self._wake:
            self._time = min(max(clip_time, self.span[0]), self.span[1])
            self._since = self._clock()

    def play(self, playing: bool) -> None:
        """Plays or pauses at the present time."""
        with self._wake:
            now = self.now()
            # At the end there is nothing left to play: begin anew.
            self._time = self.span[0] if playing and not self.loop and now >= self.span[1] else now
            self._since = self._clock()
            self.playing = playing
            self._wake.notify()

    def set_loop(self, loop: bool) -> None:
        """Begins anew at the end of the clip, or stops there."""
        with self._wake:
            self._time = self.now()
            self._since = self._clock()
            self.loop = loop

    def set_speed(self, speed: float) -> None:
        """Changes the speed from now on; what has played keeps its place."""
        with self._wake:
            self._time = self.now()
            self._since = self._clock()
            self.speed = speed

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait(1.0 / self.fps if self.playing else None)
                if self._stopped:
                    return
                playing, clip_time = self.playing, self.now()
            if playing:
                self._tick(clip_time)
                if not self.loop and clip_time >= self.span[1]:
                    self.play(False)
                    self._ended()
