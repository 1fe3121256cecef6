"""Calls the C++ extension's functions with arrays of wrong sizes and types, and numbers that are out of range.

    python fuzz_extension.py FIRST COUNT PROGRESS

Every call must return or raise; a crash, or a write behind an array (each has a guard of known bytes), is a failure.
`test_fuzz_calls` runs this.
"""

from __future__ import annotations

import faulthandler
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_rasterizer import _cpu

GUARD = 64
FILL = 0x5A
Argument = Any


class Arrays:
    """Makes arrays that lie in front of guard bytes."""

    def __init__(self) -> None:
        self.guards: list[Tensor] = []

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32, fill: float = 0.5) -> Tensor:
        size = torch.Size(shape).numel()
        width = torch.empty((), dtype=dtype).element_size()
        memory = torch.full((size * width + GUARD,), FILL, dtype=torch.uint8)
        self.guards.append(memory[size * width :])
        return memory[: size * width].view(dtype).view(shape).fill_(fill)

    def intact(self) -> bool:
        return all(bool((guard == FILL).all()) for guard in self.guards)


I32 = torch.int32


def project(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    inputs = [a(1, 5, 3), a(1, 5, 4), a(1, 5, 3), None, a(1, 5), a(1, 2, 4, 4), a(1, 2, 3, 3)]
    outputs = [a(1, 2, 5, 2, dtype=I32, fill=1), a(1, 2, 5, 2), a(1, 2, 5), a(1, 2, 5, 3), a(1, 2, 5)]
    return _cpu.project_forward, [*inputs, 16, 16, 0, 0.3, 0.01, 1e10, 0.0, *outputs, 1]


def project_backward(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    inputs = [a(1, 5, 3), a(1, 5, 4), a(1, 5, 3), None, a(1, 2, 4, 4), a(1, 2, 3, 3), 16, 16, 0, 0.3]
    outputs = [a(1, 2, 5, 2, dtype=I32, fill=1), a(1, 2, 5, 2), a(1, 2, 5), a(1, 2, 5, 3), a(1, 2, 5)]
    grads = [a(1, 2, 5, 2), a(1, 2, 5), a(1, 2, 5, 3), a(1, 2, 5)]
    return _cpu.project_backward, [
        *inputs,
        *outputs,
        *grads,
        a(1, 5, 3),
        a(1, 5, 4),
        a(1, 5, 3),
        None,
        a(1, 1, 2, 12),
        1,
    ]


def colors(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    radii = a(1, 2, 5, 2, dtype=I32, fill=1)
    return _cpu.colors_forward, [1, a(1, 5, 3), a(1, 2, 3), a(1, 5, 4, 3), radii, a(1, 2, 5, 3), 1]


def colors_backward(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    inputs = [1, a(1, 5, 3), a(1, 2, 3), a(1, 5, 4, 3), a(1, 2, 5, 3), a(1, 2, 5, 3)]
    return _cpu.colors_backward, [*inputs, a(1, 5, 4, 3), a(1, 5, 3), a(1, 1, 2, 3), 1]


def blend(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    rows = [
        a(5, 2, fill=9.0),
        a(5, 3, fill=0.2),
        a(5, 3),
        a(5),
        a(5),
        a(5, 2, dtype=I32, fill=4),
        a(5, dtype=I32, fill=0),
    ]
    rest = [2, 20, 18, a(2, 3), a(2, 18, 20, 3), a(2, 18, 20, 1), a(1, dtype=torch.int64, fill=0), 1]
    return _cpu.blend_forward, [*rows, *rest]


def blend_backward(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    function, arguments = blend(a)
    state = function(*arguments)
    grads = [a(2, 3), a(2, 18, 20, 3), a(2, 18, 20, 1), a(5, 2), a(5, 2), a(5, 3), a(5, 3), a(5)]
    return _cpu.blend_backward, [state, *grads, 1]


def state(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    function, arguments = blend(a)
    made = function(*arguments)
    data = a(made.n_bytes, dtype=torch.uint8, fill=0)
    made.write(data)
    return _cpu.BlendState.read, [data, 5, 2, 20, 18, 3]


def ssim(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    partials = a(_cpu.ssim_partials_size(1, 12, 12, 3))
    return _cpu.ssim_forward, [a(1, 12, 12, 3), a(1, 12, 12, 3), None, True, partials, 1]


def ssim_backward(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    partials = a(_cpu.ssim_partials_size(1, 12, 12, 3))
    return _cpu.ssim_backward, [a(1, 12, 12, 3), a(1, 12, 12, 3), None, True, partials, 0.5, 0.5, a(1, 12, 12, 3), 1]


def partials_size(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    return _cpu.ssim_partials_size, [1, 12, 12, 3]


def adam(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    return _cpu.adam, [a(7), a(7), a(7), a(7), 0.9, 0.999, 1e-3, 1.0, 1e-15, 1]


def bases(a: Arrays) -> tuple[Callable[..., Any], list[Argument]]:
    f64 = torch.float64
    return _cpu.sh_bases_double, [2, a(3, dtype=f64), a(9, dtype=f64), a(9, dtype=f64), a(3, dtype=f64)]


ENTRIES = [
    project, project_backward, colors, colors_backward, blend, blend_backward, state, ssim, ssim_backward,
    partials_size, adam, bases,
]  # fmt: skip
NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 5, 17, 33, 100, 2**26, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**70]
TYPES = [torch.float64, torch.int32, torch.int64, torch.uint8, torch.float16]


def spoil(rng: random.Random, a: Arrays, value: Argument) -> Argument:
    if isinstance(value, Tensor):
        kind = rng.randrange(7)
        shape = list(value.shape)
        if kind == 0:
            return None
        if kind == 1:
            return value.to(rng.choice(TYPES))
        if kind == 2:
            return value.flatten()
        if kind == 3:
            return value[None]
        if kind == 4:
            # Any content of the right size: ids, radii, the bytes of a state.
            content = torch.randint(-(2**31), 2**31 - 1, (value.numel(),), generator=torch.Generator().manual_seed(1))
            where = torch.rand(value.numel()) < rng.choice([0.01, 0.3, 1.0])
            return value.copy_(torch.where(where.view(shape), content.view(shape).to(value.dtype), value))
        dim = rng.randrange(len(shape))
        shape[dim] = max(0, shape[dim] + rng.choice([-shape[dim], -1, 1, 3]))
        return a(*shape, dtype=value.dtype, fill=1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(NUMBERS)
    if isinstance(value, float):
        return rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e300])
    return rng.choice([value, None, 3, a(5, 3)])


def main() -> int:
    faulthandler.enable()
    torch.set_num_threads(1)
    first, count, progress = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    returned = 0
    with progress.open("w") as file:
        for number in range(first, first + count):
            rng = random.Random(number)
            torch.manual_seed(number)
            a = Arrays()
            function, arguments = rng.choice(ENTRIES)(a)
            changed = rng.sample(range(len(arguments)), rng.choice([0, 1, 1, 1, 2]))
            for index in changed:
                arguments[index] = spoil(rng, a, arguments[index])
            file.seek(0)
            file.write(f"{number} {function} {changed}\n")
            file.flush()
            try:
                function(*arguments)
                returned += 1
            except (ValueError, TypeError):
                pass
            if not a.intact():
                print(f"call {number}: {function} wrote behind an array; changed arguments {changed}")
                return 1
    print(f"{count} calls, {returned} returned")
    return int(returned == 0)


if __name__ == "__main__":
    sys.exit(main())
