"""Checks on single arguments. Every message says which argument, what was expected, what came, what to do.

None of them reads the values of a tensor: that would wait for a GPU.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
MOST = 2**31
"""Rows, pixels and tiles are counted in 32 bits in gsplat's lists and in the kernels' records."""

Shape = tuple[tuple[str, int | None], ...]


def check_count(name: str, value: Any) -> int:
    """Returns `value` as an int, or raises ValueError unless it is a whole number from 1 to 2^31 - 1."""
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {shown(value)}")
    if value >= MOST:
        raise ValueError(f"{name} must be less than 2^31, got {shown(value)}")
    return operator.index(value)


def check_number(name: str, value: Any, least: float = -math.inf, finite: bool = False) -> float:
    """Returns `value` as a float, or raises ValueError for what is no number, NaN, less than `least` or infinite."""
    wanted = "a finite number" if finite else "a number"
    if least > -math.inf:
        wanted += f" of at least {least:g}"
    try:
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    if not number >= least or math.isnan(number) or (finite and math.isinf(number)):
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return number


def check_flags(**flags: Any) -> None:
    """Raises ValueError for what is neither True nor False (nor 1 nor 0)."""
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_) and not (is_integer(value) and value in (0, 1)):
            raise ValueError(f"{name} must be True or False, got {shown(value)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of the words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")


def check_tensor(
    name: str, tensor: Any, types: tuple[torch.dtype, ...], like: tuple[str, Tensor] | None = None
) -> None:
    """Raises ValueError unless `tensor` is a dense tensor with data, of one of the types.

    Given `like`, a name and a tensor, it must lie on the same device and, where both are floating point, have its type.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}; use torch.as_tensor({name})")
    if tensor.layout != torch.strided or tensor.is_nested:
        raise ValueError(f"{name} must be a dense tensor, got layout {tensor.layout}; use {name}.to_dense()")
    if tensor.dtype not in types:
        names = " or ".join(str(kind).removeprefix("torch.") for kind in types)
        raise ValueError(f"{name} must be {names}, got {type_name(tensor)}; use {name}.to({types[0]})")
    if like is not None:
        other, first = like
        if tensor.dtype.is_floating_point and first.dtype.is_floating_point and tensor.dtype != first.dtype:
            raise ValueError(
                f"{name} must be {type_name(first)} like {other}, got {type_name(tensor)}; use {name}.to({other}.dtype)"
            )
        if tensor.device != first.device:
            raise ValueError(
                f"{name} must be on {first.device} like {other}, got {tensor.device}; use {name}.to({other}.device)"
            )
    if tensor.device.type == "meta":
        raise ValueError(f"{name} must hold data, got a tensor on the meta device; pass a real tensor")


def check_floats(optional: tuple[str, ...] = (), **tensors: Any) -> None:
    """Raises ValueError unless all are float32, or all float64, tensors on the device of the first.

    Those named in `optional` may be None.
    """
    like: Any = None
    for name, tensor in tensors.items():
        if tensor is None and name in optional:
            continue
        check_tensor(name, tensor, FLOATS, like)
        like = like or (name, tensor)


def check_shape(name: str, tensor: Tensor, *shape: tuple[str, int | None] | int) -> None:
    """Raises ValueError unless the shape is that of (letter, size) pairs and plain sizes."""
    pairs: Shape = tuple(size if isinstance(size, tuple) else ("", size) for size in shape)
    if tuple(tensor.shape) != tuple(size for _, size in pairs):
        raise_shape(name, tensor, pairs)


def check_ndim(name: str, tensor: Tensor, least: int, shape: str, last: int | None = None) -> None:
    """Raises ValueError for fewer than `least` dimensions or another last size; `shape` is the wanted one in words."""
    if tensor.ndim < least or (last is not None and tensor.shape[-1] != last):
        raise ValueError(f"{name} must have shape {shape}, got {plain(tuple(tensor.shape))}")


def check_limit(what: str, count: int, mend: str) -> None:
    """Raises ValueError for 2^31 of anything, before it is allocated."""
    if count >= MOST:
        raise ValueError(f"{what} must be less than 2^31, got {count}; {mend}")


def raise_shape(name: str, tensor: Tensor, shape: Shape) -> None:
    """Raises ValueError with the expected shape in letters and numbers, and a mend where one is plain."""
    sizes = tuple(size for _, size in shape)
    came = tuple(tensor.shape)
    mend = ""
    if came == (*sizes, 1):
        mend = f"; use {name}[..., 0]"
    elif came == sizes[1:] and sizes[0] == 1:
        mend = f"; use {name}[None]"
    elif came == (1, *sizes):
        mend = f"; use {name}[0]"
    elif len(came) == len(sizes) and sorted(came) == sorted(s for s in sizes if s is not None):
        mend = "; check the order of its dimensions"
    letters = symbols(shape)
    numbers = "" if letters == plain(sizes) else f" = {plain(sizes)}"
    raise ValueError(f"{name} must have shape {letters}{numbers}, got {plain(came)}{mend}")


def symbols(shape: Shape) -> str:
    """Returns a shape in letters where it has them."""
    return plain(tuple(letter or size for letter, size in shape))


def plain(sizes: tuple[Any, ...]) -> str:
    """Returns a shape as it is typed."""
    return "(" + ", ".join(str(size) for size in sizes) + ("," if len(sizes) == 1 else "") + ")"


def type_name(tensor: Tensor) -> str:
    """Returns "float32" for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


def shown(value: Any) -> str:
    """Returns a value as an error shows it: short, and never the contents of a tensor."""
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"a tensor of shape {plain(tuple(value.shape))}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}... ({type(value).__name__})"


def is_integer(value: Any) -> bool:
    """Returns whether `value` counts: an int, or what stands for one, but no bool."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True
