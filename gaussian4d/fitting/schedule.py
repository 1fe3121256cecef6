"""What changes as a fit goes on: learning rates, picture size, view dependence."""

from __future__ import annotations


def progress_of(step: int, elapsed: float, max_steps: int | None, max_minutes: float | None) -> float:
    """Returns how much of the fit is done, 0..1: the larger of the shares of steps and seconds."""
    by_steps = step / max_steps if max_steps else 0.0
    # A little early, so that the last step and saving end within the limit.
    by_time = elapsed / (0.99 * 60.0 * max_minutes) if max_minutes else 0.0
    return min(max(by_steps, by_time), 1.0)


def exponential(rates: tuple[float, float], progress: float) -> float:
    """Returns the value that goes from the first to the last of `rates` by a constant factor per progress."""
    first, last = rates
    return first * (last / first) ** progress if first > 0 and last > 0 else first + (last - first) * progress


def resolution_at(resolutions: tuple[tuple[float, float], ...], progress: float) -> float:
    """Returns the downscale factor of the last (progress, downscale) pair that has begun; 1 before the first."""
    downscale = 1.0
    for begin, factor in resolutions:
        if progress >= begin:
            downscale = factor
    return downscale


def sh_degree_at(sh_degree: int, start: float, progress: float) -> int:
    """Returns the active degree: 0 before `start`, then one more at equal steps until 0.6 of the fit."""
    if sh_degree == 0 or progress < start:
        return 0
    width = max(0.6 - start, 1e-9) / sh_degree
    return min(sh_degree, 1 + int((progress - start) / width))
