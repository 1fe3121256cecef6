"""When each camera started: pairwise shifts, made consistent over all cameras, or a clear no."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from ..errors import UserError
from .correlate import Shift, best_shift
from .recordings import Recording
from .signals import Signal, audio_signal, motion_signal

Method = Literal["auto", "audio", "motion", "none"]

# A pair is believed when its correlation, less what chance gives, is at least this, and stands out by this share of
# what is left to 1 above the next best shift. On filmed toy rooms right pairs have 0.47 and more, wrong ones at most
# 0.37.
_LEAST_PEAK = 0.42
_LEAST_MARGIN = 0.15

# Rates at which signals are compared: a few samples per frame for motion.
_MOTION_OVERSAMPLING = 2.0

# Relative difference below which two frame rates are the same.
_SAME_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Offsets:
    """Start of every camera on the common clock."""

    seconds: dict[str, float]
    """When the first frame was taken; the earliest camera's is 0."""
    method: str
    """`audio`, `motion`, `none` or `given`."""
    confidence: dict[str, float]
    """Best margin of any pair that was believed, per camera; 1 where nothing was measured."""
    residual: float
    """Root mean square disagreement of the believed pairs, seconds."""
    notes: tuple[str, ...] = ()


def synchronise(
    recordings: Sequence[Recording],
    method: Method,
    given: Mapping[str, float],
    progress: Callable[[int, int], None] | None = None,
) -> Offsets:
    """Returns when each camera started.

    Args:
        recordings: All cameras.
        method: `auto` takes sound where all cameras have it, else motion.
        given: Offsets in seconds that the user knows; all cameras, or none.
        progress: Called with (cameras read, cameras in all).

    Raises:
        UserError: The cameras cannot be synchronised: no clear shift between them, or shifts that contradict.
    """
    names = [recording.name for recording in recordings]
    if given:
        return _given(names, given)
    if method == "none" or len(recordings) == 1:
        return _together(names, "all cameras are taken to start together, as asked for" if len(names) > 1 else "")
    if any(recording.video is None for recording in recordings):
        return _together(names, "picture folders state no time: pictures of one number are taken as one instant")
    signals, used = _signals(recordings, method, progress)
    shifts = pair_shifts(signals)
    frame = 1.0 / min(recording.fps for recording in recordings)
    try:
        offsets = consistent_offsets(names, shifts, frame)
    except UserError as error:
        if method == "auto" and _same_trigger(recordings):
            return _together(
                names,
                f"offsets could not be measured by {used} ({error}); all cameras have the same rate and the same number"
                " of frames, as hardware-triggered ones do, so they are taken to start together",
            )
        raise UserError(_never(recordings, used, str(error))) from None
    notes = []
    largest = max(offsets.seconds.values())
    if _same_trigger(recordings) and largest < 0.5 * frame + 2 * offsets.residual:
        notes.append(
            f"all cameras have the same rate and number of frames, and measured offsets (up to {largest:.4f} s) are"
            " within half a frame and the error of the measurement: the cameras are in step, offsets are 0"
        )
        offsets = dataclasses.replace(offsets, seconds=dict.fromkeys(names, 0.0))
    return dataclasses.replace(offsets, method=used, notes=offsets.notes + tuple(notes))


def pair_shifts(signals: Mapping[str, Signal]) -> dict[tuple[str, str], Shift | None]:
    """Returns for every pair (a, b) by how many seconds b's camera started after a's."""
    rate = max(signal.rate for signal in signals.values())
    even = {name: signal.resampled(rate) for name, signal in signals.items()}
    shifts: dict[tuple[str, str], Shift | None] = {}
    for a, b in itertools.combinations(even, 2):
        shift = best_shift(even[a].values, even[b].values, rate)
        if shift is not None:
            # Values count from each signal's first one, offsets from each camera's first frame.
            shift = dataclasses.replace(shift, seconds=shift.seconds + even[a].start - even[b].start)
        shifts[a, b] = shift
    return shifts


def consistent_offsets(names: Sequence[str], shifts: Mapping[tuple[str, str], Shift | None], frame: float) -> Offsets:
    """Returns the offsets that agree best with the believed pairs, by least squares; pairs far off are left out.

    Raises `UserError` when some camera is connected to the others by no believed pair, or only by contradicting ones.
    """
    index = {name: k for k, name in enumerate(names)}
    pairs = [
        (index[a], index[b], shift)
        for (a, b), shift in shifts.items()
        if shift is not None and shift.peak >= _LEAST_PEAK and shift.margin >= _LEAST_MARGIN
    ]
    believed = len(pairs)
    while True:
        lonely = _unconnected(len(names), [(a, b) for a, b, _ in pairs])
        if lonely:
            named = ", ".join(names[k] for k in lonely)
            how = "no clear common moment" if believed == len(pairs) else "only shifts that contradict each other"
            raise UserError(f"{how} between {named} and the other cameras")
        starts, residuals = _solve(len(names), pairs)
        worst = int(np.argmax(np.abs(residuals)))
        if abs(residuals[worst]) <= frame or len(pairs) == len(names) - 1:
            break
        pairs.pop(worst)
    if len(pairs) < 0.5 * believed:
        raise UserError(f"{believed - len(pairs)} of {believed} pairs of cameras contradict the others")
    starts = starts - starts.min()
    confidence = {name: max(float(shift.margin) for a, b, shift in pairs if index[name] in (a, b)) for name in names}
    residual = float(np.sqrt(np.mean(residuals**2)))
    left_out = believed - len(pairs)
    notes = (f"{left_out} of {believed} pairs contradicted the others and were left out",) if left_out else ()
    return Offsets({name: float(starts[index[name]]) for name in names}, "", confidence, residual, notes)


def _solve(count: int, pairs: list[tuple[int, int, Shift]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns starts [count] with the first at 0, and what each pair disagrees with them [pairs], in seconds."""
    A = np.zeros((len(pairs) + 1, count))
    y = np.zeros(len(pairs) + 1)
    weights = np.ones(len(pairs) + 1)
    A[-1, 0] = 1.0
    for row, (a, b, shift) in enumerate(pairs):
        A[row, b], A[row, a] = 1.0, -1.0
        y[row] = shift.seconds
        weights[row] = np.sqrt(shift.margin)
    starts = np.linalg.lstsq(A * weights[:, None], y * weights, rcond=None)[0]
    return starts, (A @ starts - y)[:-1]


def _unconnected(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Returns the nodes that are not in the largest connected group."""
    group = list(range(count))

    def root(k: int) -> int:
        while group[k] != k:
            k = group[k]
        return k

    for a, b in pairs:
        group[root(a)] = root(b)
    roots = [root(k) for k in range(count)]
    largest = max(set(roots), key=roots.count)
    return [k for k in range(count) if roots[k] != largest]


def _signals(
    recordings: Sequence[Recording], method: Method, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, Signal], str]:
    """Returns a signal per camera, and which: sound when asked for or when all cameras have it."""
    if method in ("auto", "audio"):
        heard = {recording.name: audio_signal(recording) for recording in recordings}
        silent = [name for name, signal in heard.items() if signal is None]
        if not silent:
            return {name: signal for name, signal in heard.items() if signal is not None}, "audio"
        if method == "audio":
            raise UserError(
                f"{recordings[0].path.parent}: no sound in {', '.join(silent)}, and --sync audio was asked for;"
                " use --sync motion, or record sound with every camera"
            )
    signals = {}
    for done, recording in enumerate(recordings, start=1):
        signal = motion_signal(recording)
        signals[recording.name] = signal.resampled(signal.rate * _MOTION_OVERSAMPLING)
        if progress is not None:
            progress(done, len(recordings))
    return signals, "motion"


def _given(names: Sequence[str], given: Mapping[str, float]) -> Offsets:
    unknown, missing = sorted(set(given) - set(names)), sorted(set(names) - set(given))
    if unknown or missing:
        what = f"there is no camera {', '.join(unknown)}" if unknown else f"camera {', '.join(missing)} has none"
        raise UserError(
            f"--offsets must give one number of seconds per camera, but {what}; cameras: {', '.join(names)}"
        )
    first = min(given.values())
    starts = {name: given[name] - first for name in names}
    return Offsets(starts, "given", dict.fromkeys(names, 1.0), 0.0)


def _together(names: Sequence[str], note: str) -> Offsets:
    zero = dict.fromkeys(names, 0.0)
    return Offsets(zero, "none", dict.fromkeys(names, 1.0), 0.0, (note,) if note else ())


def _same_trigger(recordings: Sequence[Recording]) -> bool:
    """Tells whether rates and frame counts are those of cameras with a common trigger."""
    rates, counts = [r.fps for r in recordings], [r.count for r in recordings]
    return max(rates) <= min(rates) * (1 + _SAME_RATE) and max(counts) == min(counts)


def _never(recordings: Sequence[Recording], used: str, reason: str) -> str:
    return (
        f"{recordings[0].path.parent}: the cameras cannot be synchronised by {used}: {reason}. Were they ever"
        " synchronised, and do they film the same moment? If they started together, say --sync none; if you know when"
        " each started, say --offsets CAMERA=SECONDS ...; else film again with one clap or flash that all cameras see"
    )
