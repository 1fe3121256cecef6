"""One thread that draws what was asked for last: small while the view moves, in full once it rests."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np

from gaussian4d.crop import CropBox

# Sizes of pictures while moving, as fractions of the full side; few, so that the picture does not pump.
SCALES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18)


@dataclasses.dataclass(frozen=True)
class View:
    """What one browser looks at. Viewer units, see `painter.Units`."""

    wxyz: tuple[float, float, float, float]
    """Camera-to-world rotation, OpenCV axes."""
    position: tuple[float, float, float]
    fov: float
    """Vertical, radians."""
    width: int
    """Of the full picture, pixels."""
    height: int
    time: float
    """Clip time in [0, 1]."""
    output: str = "rgb"
    """Of `gaussian4d.io.pictures.PICTURE_BUFFERS`."""
    background: tuple[float, float, float] | None = None
    """Colour behind the Gaussians; None takes the painter's."""
    crop: CropBox | None = None
    """Draw only what is inside."""
    split: float | None = None
    """Up to this share of the width, from the left, the recorded picture is shown, where a recorded camera stands."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A finished picture and what it cost."""

    view: View
    picture: np.ndarray
    """uint8 [h, w, 3]."""
    scale: float
    """Its side over the full side."""
    seconds: float


class RenderLoop:
    """Draws requested views in a thread of its own; a request replaces one that still waits.

    Args:
        draw: returns the picture uint8 [h, w, 3] of a view at a scale in (0, 1]; None when there is nothing to show.
        show: called with each finished picture, in the loop's thread.
        fail: called with an error that `draw` or `show` raised; the loop goes on.
        budget: seconds a picture may take while the view moves; slower machines get smaller pictures.
        settle: seconds without a request after which the last view is drawn in full.
    """

    def __init__(
        self,
        draw: Callable[[View, float], np.ndarray | None],
        show: Callable[[Drawn], None],
        fail: Callable[[Exception], None] | None = None,
        *,
        budget: float = 0.08,
        settle: float = 0.2,
    ) -> None:
        self._draw, self._show, self._fail = draw, show, fail
        self._budget, self._settle = budget, settle
        self._wake = threading.Condition()
        self._waiting: View | None = None
        self._stopped = False
        self._seconds_per_pixel: float | None = None
        self.resting = False
        """Whether what is drawn now is drawn because nothing has moved for a while."""
        self._thread = threading.Thread(target=self._run, name="viewer-render", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def request(self, view: View) -> None:
        """Asks for `view`; returns at once."""
        with self._wake:
            self._waiting = view
            self._wake.notify()

    def stop(self, wait: bool = False) -> None:
        """Ends the thread after the picture it is drawing."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        if wait and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def running(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    def moving_scale(self, view: View) -> float:
        """Returns the largest of `SCALES` at which a picture should fit the budget, by the pictures drawn so far."""
        if self._seconds_per_pixel is None:
            return SCALES[-2]
        affordable = math.sqrt(self._budget / max(self._seconds_per_pixel * view.width * view.height, 1e-12))
        return next((scale for scale in SCALES if scale <= affordable), SCALES[-1])

    def _run(self) -> None:
        owed: View | None = None
        while True:
            with self._wake:
                if self._waiting is None and not self._stopped:
                    self._wake.wait(self._settle if owed is not None else None)
                if self._stopped:
                    return
                view, self._waiting = self._waiting, None
            self.resting = view is None
            if view is not None:
                scale = self.moving_scale(view)
                drawn = self._picture(view, scale)
                owed = view if scale < 1.0 or not drawn else None
            elif owed is not None:
                self._picture(owed, 1.0)
                owed = None

    def _picture(self, view: View, scale: float) -> bool:
        """Draws and shows; returns whether there was a picture."""
        start = time.perf_counter()
        try:
            picture = self._draw(view, scale)
            if picture is None:
                return False
            seconds = time.perf_counter() - start
            cost = seconds / max(picture.shape[0] * picture.shape[1], 1)
            old = self._seconds_per_pixel
            self._seconds_per_pixel = cost if old is None else 0.7 * old + 0.3 * cost
            self._show(Drawn(view, picture, scale, seconds))
        except Exception as error:
            if self._fail is None:
                traceback.print_exc()
            else:
                self._fail(error)
        return True
