"""A pretend accelerator: what a GPU would do to a program, without a GPU.

Tensors on the device `pretend` hold their data on the CPU (`Pretended.held`), say that they are elsewhere, and refuse
to meet CPU tensors where CUDA would refuse. Every operation runs on the held data, so results are those of the CPU to
the bit. Where a real device would make the host wait, that is counted: see `count_syncs`.

    install()
    x = torch.zeros(3, device=DEVICE)
    with count_syncs() as syncs:
        x.sum().item()
    assert syncs.names == ["item"]

There are two such devices, `pretend:0` and `pretend:1`. The device is made for the whole process and cannot be taken
back. It stands on an experimental part of torch; `missing` says whether this torch has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

NAME = "pretend"
COUNT = 2
MEMORY = 1 << 30
"""Bytes that each device says it has."""


def missing() -> str:
    """Returns why there can be no pretend device here, "" when there can."""
    from torch.utils import backend_registration

    if hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return ""
    return f"torch {torch.__version__} cannot make a device from Python; torch 2.13 can"


@dataclasses.dataclass
class Syncs:
    """What made the host wait for a device, in order."""

    names: list[str] = dataclasses.field(default_factory=list)
    """Everything: reads of values and sizes, copies to the host, and blocking copies from the host."""
    uploads: list[str] = dataclasses.field(default_factory=list)
    """Of these the copies from the host that were not asked to be `non_blocking`."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def reads(self) -> list[str]:
        """What is left without the uploads."""
        rest = list(self.names)
        for name in self.uploads:
            rest.remove(name)
        return rest


_counting: list[Syncs] = []


@contextlib.contextmanager
def count_syncs() -> Iterator[Syncs]:
    """Counts what would make the host wait for a device, in all threads; may be nested."""
    syncs = Syncs()
    _counting.append(syncs)
    try:
        yield syncs
    finally:
        _counting.remove(syncs)


def synchronised(name: str, upload: bool = False) -> None:
    """Notes that the host waits here; for kernels that stand in for kernels which would wait."""
    for syncs in _counting:
        syncs.names.append(name)
        if upload:
            syncs.uploads.append(name)


class Pretended(Tensor):
    """A tensor on the pretend device."""

    held: Tensor
    """The data, on the CPU; views of one tensor hold views of one memory."""

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Pretended:
        # Gradients are the wrapper's matter.
        held = held.detach() if held.requires_grad else held
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        synchronised("print")
        return f"{self.held!r} on {self.device}"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return self.item().__format__(spec) if self.dim() == 0 else object.__format__(str(self), spec)

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                "memory first."
            )
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        # The wrapper has no memory of its own that could be copied.
        copy = Pretended(self.held.clone(), self.device).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy.detach(), self.requires_grad)
        memo[id(self)] = copy
        return copy

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def held(x: Any) -> Any:
    """Returns the data of a tensor on the pretend device; anything else as it is."""
    return x.held if isinstance(x, Pretended) else x


def on_pretend(x: Any, device: torch.device) -> Any:
    """Returns CPU data as a tensor on a pretend device that shares its memory; anything else as it is."""
    return Pretended(x, device) if isinstance(x, Tensor) and not isinstance(x, Pretended) else x


# Operations whose result the host must know: its value, or how many elements it has.
_WAITS = {
    "aten::_local_scalar_dense": "item",
    "aten::is_nonzero": "item",
    "aten::equal": "equal",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique": "unique",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim_consecutive": "unique",
    "aten::bincount": "bincount",
    "aten::_linalg_check_errors": "check of a decomposition",
    "aten::_linalg_eigh": "eigh",
    "aten::_linalg_svd": "svd",
}
_INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
_COPIES = ("aten::_to_copy", "aten::copy_")
# They make a tensor like another, on the device they are told.
_LIKES = (
    "aten::empty_like", "aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::rand_like", "aten::randn_like",
    "aten::randint_like", "aten::new_empty", "aten::new_empty_strided", "aten::new_zeros", "aten::new_ones",
    "aten::new_full", "aten::_to_copy",
)  # fmt: skip
# They take no scalar tensor of another device either.
_STRICT = ("aten::cat", "aten::stack")
# They would change the size of the wrapper, which torch does not let Python do.
_RESHAPES = (
    "aten::resize_", "aten::resize_as_", "aten::set_", "aten::t_", "aten::transpose_", "aten::squeeze_",
    "aten::unsqueeze_", "aten::as_strided_", "aten::swapaxes_",
)  # fmt: skip


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what an operator gives, on the held data of its arguments."""
    name = func._schema.name
    if name == "aten::record_stream":
        # There is one order of work, and memory is nobody's.
        return None
    flat, spec = pytree.tree_flatten((args, kwargs))
    mine = [x for x in flat if isinstance(x, Pretended)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    device = _device_of(name, mine, asked)
    _check_meeting(name, args, flat, mine, device)
    _note_waits(name, args, kwargs, flat, mine, device)
    if mine and name in _RESHAPES:
        raise NotImplementedError(f"{name} on the pretend device: the wrapper of a tensor cannot change its shape")

    changed = [_as_cpu(x) for x in flat]
    cpu_args, cpu_kwargs = pytree.tree_unflatten(changed, spec)
    out = func(*cpu_args, **cpu_kwargs)
    if device is None:
        return args[0] if name == "aten::copy_" else out
    known = {id(x.held): x for x in mine}

    def wrapped(x: Any) -> Any:
        found = known.get(id(x))
        if found is not None and (found.shape != x.shape or found.stride() != x.stride()):
            raise NotImplementedError(f"{name} on the pretend device: the wrapper of a tensor cannot change its shape")
        return on_pretend(x, device) if found is None else found

    return pytree.tree_map(wrapped, out)


def _as_cpu(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == NAME:
        return torch.device("cpu")
    return held(x)


def _device_of(name: str, mine: list[Pretended], asked: torch.device | None) -> torch.device | None:
    """Returns the pretend device of the result, None where it is on the CPU."""
    if asked is not None and (name in _LIKES or not mine):
        if asked.type != NAME:
            return None
        index = asked.index or 0
        if index >= COUNT:
            raise RuntimeError(f"{NAME}: invalid device ordinal {index}; there are {COUNT}")
        return torch.device(NAME, index)
    if name == "aten::_local_scalar_dense":
        return None
    return mine[0].device if mine else None


def _check_meeting(
    name: str, args: tuple[Any, ...], flat: list[Any], mine: list[Pretended], device: torch.device | None
) -> None:
    """Raises RuntimeError where CUDA would: tensors of several devices, or a generator of another."""
    generators = [x for x in flat if isinstance(x, torch.Generator)]
    if device is not None and generators and generators[0].device.type == "cpu":
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    if not mine or name in _COPIES:
        return
    others = [x for x in flat if isinstance(x, Tensor) and not isinstance(x, Pretended)]
    if name in _INDEXES:
        indexed = args[0]
        # Indices may come from the CPU to the device, but not the other way round.
        others = [x for x in args[2:3] if isinstance(x, Tensor) and not isinstance(x, Pretended)]
        if not isinstance(indexed, Pretended):
            raise RuntimeError(
                f"indices should be either on cpu or on the same device as the indexed tensor (cpu): {name}"
            )
    if any(x.dim() > 0 or name in _STRICT for x in others) or len({x.device for x in mine}) > 1:
        found = sorted({str(x.device) for x in [*mine, *others]})
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {' and '.join(found)}, in "
            f"{name}"
        )


def _note_waits(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    flat: list[Any],
    mine: list[Pretended],
    device: torch.device | None,
) -> None:
    if not _counting:
        return
    if mine and name in _WAITS:
        synchronised(_WAITS[name])
    elif mine and name in _INDEXES:
        indices = [x for x in args[1] if x is not None]
        if any(isinstance(x, Pretended) and x.dtype in (torch.bool, torch.uint8) for x in indices):
            synchronised("boolean mask")
        if any(not isinstance(x, Pretended) for x in indices):
            synchronised("upload of indices", upload=True)
    elif mine and name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        synchronised("repeat_interleave")
    elif name == "aten::_to_copy":
        _note_copy(args[0], device, bool(kwargs.get("non_blocking")), pinned=False)
    elif name == "aten::copy_":
        blocking_not = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        to_host = not isinstance(args[0], Pretended)
        _note_copy(args[1], device if not to_host else None, blocking_not, to_host and _is_pinned(args[0]))


def _note_copy(source: Tensor, device: torch.device | None, non_blocking: bool, pinned: bool) -> None:
    from_device = isinstance(source, Pretended)
    if from_device and device is None and not (non_blocking and pinned):
        synchronised("copy to the CPU")
    elif not from_device and device is not None and not non_blocking:
        synchronised("upload", upload=True)


# Pinned memory, kept for good: a copy per call of `pin_memory`, small in tests.
_pinned: dict[int, Tensor] = {}


def _is_pinned(x: Tensor) -> bool:
    return not isinstance(x, Pretended) and x.untyped_storage().data_ptr() in _pinned


def _pin(x: Tensor, device: Any = None) -> Tensor:
    copy = torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
    _pinned[copy.untyped_storage().data_ptr()] = copy.detach()
    return copy


class _Module:
    """What is found as `torch.pretend`."""

    current = 0

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return self.current

    def set_device(self, device: Any) -> None:
        self.current = torch.device(device).index or 0

    def device_count(self) -> int:
        return COUNT

    def get_device_name(self, device: Any = None) -> str:
        return "a pretend accelerator"

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return MEMORY, MEMORY

    def synchronize(self, device: Any = None) -> None:
        synchronised("synchronize")

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


_libraries: list[torch.library.Library] = []


@cache
def install() -> torch.device:
    """Makes the device and returns `pretend:0`; the second call does nothing."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    aten = torch.library.Library("aten", "IMPL")
    # What reaches the device itself; everything else goes to `__torch_dispatch__` of the tensors that take part. A new
    # tensor is empty at first, and `torch.tensor` fills it with that dispatch switched off.
    kernels: dict[str, Callable[..., Tensor]] = {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "copy_": lambda *args, **kwargs: _run(torch.ops.aten.copy_.default, args, kwargs),
    }
    # Those that torch begins with a tensor of no elements, which then grows.
    for name in ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "range", "range.step"):
        kernels[name] = _whole(name)
    # Those that torch puts together of steps that change the shape of a tensor in place.
    for name in ("quantile", "quantile.scalar"):
        kernels[name] = _whole(name)
    for name, function in kernels.items():
        aten.impl(name, function, "PrivateUse1")
    aten.impl("_pin_memory", _pin, "CPU")
    aten.impl("is_pinned", lambda x, device=None: _is_pinned(x), "CPU")
    _libraries.append(aten)
    return torch.device(NAME, 0)


def required() -> torch.device:
    """Returns `install()`; skips the test where that cannot be, or fails it where everything must be."""
    import pytest

    if reason := missing():
        if os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_CPU=1, but {reason}")
        pytest.skip(reason)
    return install()


def _whole(name: str) -> Callable[..., Tensor]:
    """Returns an operator as one kernel on held data, which torch would otherwise take apart."""
    packet, _, overload = name.partition(".")
    function = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return lambda *args, **kwargs: _run(function, args, kwargs)


def _empty(size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty(size, dtype=dtype), _known(device))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return Pretended(torch.empty_strided(size, stride, dtype=dtype), _known(device))


def _known(device: Any) -> torch.device:
    found = _device_of("", [], torch.device(NAME, 0) if device is None else torch.device(device))
    assert found is not None
    return found
