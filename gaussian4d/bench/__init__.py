"""Fixed rasterizer benchmarks: the same Gaussians on every machine, with the targets they are held to.

CPU-seconds are the process's own (all threads added), so other load on the machine changes them little; steps per
second and the gain of a second thread are wall time and want a quiet machine. `figures` says what a case returns,
`scenes` what is drawn; each other file holds the cases of one question.
"""

from __future__ import annotations

from collections.abc import Callable

from diff_rasterizer import available_backends

from ..errors import UserError
from .blending import cube, dense, instruction_sets, threads
from .figures import CaseResult, Figure
from .fit_step import fit_step
from .memory import memory

__all__ = ["CASES", "CaseResult", "Figure", "case_names", "run"]

CASES: dict[str, Callable[[], CaseResult]] = {
    "dense": dense,
    "cube": cube,
    "memory": memory,
    "threads": threads,
    "instruction-sets": instruction_sets,
    "fit-step": fit_step,
}


def case_names(asked: tuple[str, ...]) -> list[str]:
    """Returns the cases to run, all when none is asked for.

    Raises:
        UserError: for a case that does not exist, or when the CPU backend cannot run.
    """
    unknown = [name for name in asked if name not in CASES]
    if unknown:
        raise UserError(f"no benchmark is called {unknown[0]!r}; there are {', '.join(CASES)}")
    reason = available_backends()["cpu"]
    if reason:
        raise UserError(f"the benchmarks measure the CPU backend, which cannot run: {reason}")
    return list(asked) or list(CASES)


def run(cases: tuple[str, ...] = ()) -> list[CaseResult]:
    """Returns the figures of `cases`, all when none is named; errors as in `case_names`."""
    return [CASES[name]() for name in case_names(cases)]
