"""Where other packages look into a running fit: callables or objects, given by the caller or found by name.

Upper packages register hooks under the entry-point group `gaussian4d.fit_hooks`; `fit --view` asks for one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..plugins import FIT_HOOKS

if TYPE_CHECKING:
    from .loop import Loop

EVENTS = ("start", "before_step", "after_backward", "after_step", "after_densify", "saved", "evaluated", "end")
"""In the order in which a fit tells of them; `after_densify` when the number of Gaussians may have changed, `saved`
when a checkpoint is on disk, `evaluated` when `trainer.metrics` holds the content of eval/metrics.json."""

FitHook = Callable[["Loop", str], None] | Any
"""Called with the trainer and an event of `EVENTS`; or an object that is not callable, whose methods bear the names of
the events it wants to hear of and take the trainer.

A hook may read `trainer.step`, `trainer.progress`, `trainer.scene` and `trainer.model()`; it must not change parameters
or draw from the trainer's generators, or runs are no longer repeatable (what changes a fit is a term or a strategy). It
may set `trainer.stop_requested`, and it may wait: the time that hooks take is not counted as time of fitting.
"""


def load_hook(name: str) -> FitHook:
    """Returns a hook for one fit, from what an installed package registered as `name`; raises `UserError` without.

    What is registered takes no arguments and returns the hook, so that one fit's hook knows nothing of another's.
    """
    return FIT_HOOKS.get(name)()


def tell_hooks(hooks: Iterable[FitHook], trainer: Any, event: str) -> None:
    """Tells every hook about an event."""
    for hook in hooks:
        if callable(hook):
            hook(trainer, event)
        elif (method := getattr(hook, event, None)) is not None:
            method(trainer)
