"""What all cameras notice at the same moment: how much moves from frame to frame, and what is heard."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from ..errors import UserError
from .recordings import Recording

# Width to which pictures are shrunk before they are compared: noise averages out, motion of a person does not.
_MOTION_WIDTH = 120

_AUDIO_RATE = 8000
# Loudness is followed at this rate: a millisecond is a thirtieth of a frame, and 30 cm of the way of sound.
_ENVELOPE_RATE = 500


@dataclasses.dataclass(frozen=True)
class Signal:
    """Evenly spaced values over a camera's own time."""

    values: np.ndarray
    """[n] float64."""
    rate: float
    """Values per second."""
    start: float
    """Seconds from the camera's first frame to the first value."""

    def resampled(self, rate: float) -> Signal:
        """Returns the signal at another rate, linearly interpolated."""
        count = int((len(self.values) - 1) / self.rate * rate) + 1
        at = np.arange(count) / rate
        return Signal(np.interp(at, np.arange(len(self.values)) / self.rate, self.values), rate, self.start)


def motion_signal(recording: Recording) -> Signal:
    """Returns the logarithm of the mean absolute difference of successive frames k and k + 1, at the time between them.

    A change of brightness of the whole picture (exposure, flicker of lamps) is taken out first, as its median.
    """
    values = []
    last: np.ndarray | None = None
    height = max(1, round(recording.height * _MOTION_WIDTH / recording.width))
    for _, picture in recording.frames(range(recording.count)):
        small = Image.fromarray(np.ascontiguousarray(picture)).convert("L")
        if small.width > _MOTION_WIDTH:
            small = small.resize((_MOTION_WIDTH, height), Image.Resampling.BOX)
        grey = np.asarray(small, dtype=np.float32)
        if last is not None:
            difference = grey - last
            values.append(float(np.abs(difference - np.median(difference)).mean()))
        last = grey
    energy = np.array(values)
    # The logarithm: a gesture is large in one view and small in another. The floor is the noise of a still frame.
    floor = max(float(np.quantile(energy, 0.1)), 1e-3)
    middles = 0.5 * (recording.stamps[1:] + recording.stamps[:-1])
    even = middles[0] + np.arange(len(middles)) / recording.fps
    # Frames further apart differ more: what counts is how much changed per second.
    speed = energy / np.maximum(np.diff(recording.stamps) * recording.fps, 1e-3)
    return Signal(np.log(np.interp(even, middles, speed) + floor), recording.fps, float(middles[0]))


def audio_signal(recording: Recording) -> Signal | None:
    """Returns how suddenly the sound gets louder, 500 values per second, or None when there is no sound to hear."""
    import av
    import av.error

    if recording.video is None:
        return None
    try:
        with av.open(str(recording.path), metadata_errors="replace") as container:
            if not container.streams.audio:
                return None
            begin = container.streams.video[0].start_time or 0
            video_start = float(begin * (container.streams.video[0].time_base or 0))
            resampler = av.AudioResampler(format="flt", layout="mono", rate=_AUDIO_RATE)
            chunks, audio_start = [], None
            for frame in container.decode(container.streams.audio[0]):
                if audio_start is None:
                    audio_start = float(frame.time or 0.0)
                chunks += [part.to_ndarray().reshape(-1) for part in resampler.resample(frame)]
    except av.error.FFmpegError as error:
        raise UserError(
            f"{recording.path}: the sound cannot be decoded ({error.strerror}); use --sync motion, or export it again"
        ) from None
    if not chunks or audio_start is None:
        return None
    samples = np.concatenate(chunks).astype(np.float64)
    step = _AUDIO_RATE // _ENVELOPE_RATE
    blocks = samples[: len(samples) // step * step].reshape(-1, step)
    if len(blocks) < _ENVELOPE_RATE // 2 or np.abs(samples).max() < 1e-3:
        return None
    # Quieter than a hundredth of the loudest block is noise of the microphone, whatever its own level.
    power = (blocks**2).mean(axis=1)
    level = np.log(power + 1e-4 * power.max())
    smooth = np.convolve(level, np.ones(5) / 5, mode="same")
    onset = np.maximum(np.diff(smooth), 0.0)
    return Signal(onset, float(_ENVELOPE_RATE), audio_start - video_start + step / _AUDIO_RATE)
