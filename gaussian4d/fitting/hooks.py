"""Where other packages look into a running fit: plain callables, given by the caller or found by name.

Upper packages register hooks under the entry-point group `gaussian4d.fit_hooks`; `fit --view` asks for one by name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .trainer import Trainer

GROUP = "gaussian4d.fit_hooks"

FitHook = Callable[["Trainer", str], None]
"""Called with the trainer and an event: `start`, `step` (after every step), `checkpoint`, `end`.

A hook may read `trainer.step`, `trainer.progress`, `trainer.scene` and `trainer.model()`; it must not change parameters
or draw from the trainer's generators, or runs are no longer repeatable. It may set `trainer.stop_requested`, and it may
wait: the time that hooks take is not counted as time of fitting.
"""


def load_hook(name: str) -> FitHook:
    """Returns a hook for one fit, from what an installed package registered as `name`; raises `UserError` without.

    What is registered takes no arguments and returns the hook, so that one fit's hook knows nothing of another's.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        available = ", ".join(sorted(point.name for point in entry_points(group=GROUP))) or "none"
        raise UserError(f"expected an installed fit hook named {name!r}; available: {available}")
    return found[0].load()()
