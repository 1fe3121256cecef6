"""Several processes that take every step of a fit together, started by `torchrun`.

Each process holds the whole model and draws its share of a step's pictures. Gradients and the densifier's statistics
are summed before anyone uses them, so that every process takes the same step and the models stay equal; what is random
comes from generators that all processes advance alike. The process of rank 0 alone writes files and prints.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import Tensor

from ..errors import UserError

# Rank 0 may look for its first points for minutes while the others wait.
_PATIENCE = datetime.timedelta(minutes=60)


class Team:
    """The processes of one fit. A team of one changes nothing and needs no `torch.distributed`."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, device: torch.device | None = None) -> Team:
        """Returns the team that `torchrun` describes in the environment; a team of one without it.

        Tensors on `device` are exchanged by the library that torch has for it (NCCL on CUDA GPUs), others by gloo.
        """
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1 or "RANK" not in os.environ:
            return cls()
        if not dist.is_available():
            raise UserError("torchrun started several processes, but this torch has no torch.distributed; start one")
        try:
            exchange = "gloo"
            if device is not None and device.type != "cpu":
                exchange = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        except ValueError:
            raise UserError(f"torch.distributed knows no way between {device} devices; start one process") from None
        try:
            dist.init_process_group(exchange, timeout=_PATIENCE)
            # Left to the interpreter's own end, its threads outlive what they use, and now and then abort a process
            # that had done its work or had said why it stopped.
            atexit.register(_leave)
        except (RuntimeError, ValueError) as error:
            place = ":".join(os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ)
            raise UserError(
                f"WORLD_SIZE says that {size} processes fit together, but they did not find each other"
                f"{' at ' + place if place else ''} ({_first_sentence(error)});"
                " start them with torchrun, or unset WORLD_SIZE and RANK for one process"
            ) from None
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """Returns which of the `batch` pictures of a step this process draws."""
        return range(self.rank, batch, self.size)

    def check_batch(self, batch: int) -> None:
        """Raises `UserError` when a step's pictures cannot be shared out evenly."""
        if batch % self.size:
            raise UserError(
                f"batch is {batch} pictures per step, which {self.size} processes cannot share evenly; use a multiple"
                f" of {self.size}, or another --nproc-per-node"
            )

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Adds up each tensor over the processes, in place; all tensors must be of one type and device."""
        if self.size == 1:
            return
        parts = list(tensors)
        flat = torch.cat([part.reshape(-1) for part in parts])
        _together(lambda: dist.all_reduce(flat))
        for part, total in zip(parts, flat.split([part.numel() for part in parts])):
            part.copy_(total.view_as(part))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients over the processes; one that no process has stays absent."""
        if self.size == 1:
            return
        chosen = [parameter for parameter in parameters if parameter.requires_grad and parameter.numel()]
        device = chosen[0].device if chosen else "cpu"
        present = torch.tensor([float(parameter.grad is not None) for parameter in chosen]).to(device)
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.sum([present, *(parameter.grad for parameter in chosen if parameter.grad is not None)])
        for parameter, count in zip(chosen, present.tolist()):
            if count == 0.0:
                parameter.grad = None

    def of_leader(self, value: float) -> float:
        """Returns the number that rank 0 has."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        _together(lambda: dist.broadcast(shared, src=0))
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)])
        _together(lambda: dist.all_reduce(shared, op=dist.ReduceOp.MAX))
        return bool(shared)

    def from_leader(self, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Returns the tensors that `make` returns on rank 0; elsewhere it is not called."""
        if self.size == 1:
            return dict(make())
        content = b""
        if self.leads:
            content = bytes_from_tensors({name: value.detach().cpu().contiguous() for name, value in make().items()})
        length = torch.tensor([len(content)])
        _together(lambda: dist.broadcast(length, src=0))
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if self.leads:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        _together(lambda: dist.broadcast(buffer, src=0))
        # The order in which safetensors lists names differs from process to process.
        return dict(sorted(tensors_from_bytes(buffer.numpy().tobytes()).items()))


def _leave() -> None:
    """Ends what `torch.distributed` has going in this process; others may be gone already."""
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """Returns the device of this process: of several that `torchrun` started here, each takes the next accelerator."""
    if device.type == "cpu" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    module = torch.get_device_module(device)
    mine = torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0")) % max(module.device_count(), 1))
    module.set_device(mine)
    return mine


def _together(call: Callable[[], object]) -> None:
    """Calls into `torch.distributed`; when another process is gone, raises `UserError` instead of its trace."""
    try:
        call()
    except RuntimeError as error:
        raise UserError(
            "another process of this fit stopped, so this one stops too; its own message says why. The fit goes on"
            f" from its last checkpoint with --resume ({_first_sentence(error)})"
        ) from None


def _first_sentence(error: Exception) -> str:
    """Returns the beginning of a message of `torch.distributed`, whose rest tells of its own source files."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0]
