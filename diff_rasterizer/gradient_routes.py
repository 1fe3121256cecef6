"""Autograd nodes that change how a gradient is delivered, never its value."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import TensorWeakRef


class SeenRows:
    """The Gaussians some camera sees, filled in once the projection knows them."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None


def sparse_rows(parameter: Float[Tensor, "N ..."], seen: SeenRows) -> Float[Tensor, "N ..."]:
    """Returns the parameter; its gradient will be a sparse COO tensor that holds each seen row once, in order."""
    return _SparseRows.apply(parameter, seen)  # type: ignore[return-value]


class _SparseRows(torch.autograd.Function):
    """Identity forward; drops the unseen rows, whose gradient is zero, backward."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, seen: SeenRows) -> Tensor:
        ctx.seen = seen
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ids = torch.unique(ctx.seen.ids)
        rows = torch.sparse_coo_tensor(ids[None], grad[ids], grad.shape, check_invariants=False, is_coalesced=True)
        return rows, None


def flatten_means2d(means2d: Float[Tensor, "*images N 2"]) -> Float[Tensor, "E 2"]:
    """Returns means2d as rows whose `.absgrad`, once the backward of `blend` has set it, is also set on `means2d`.

    The node refers to the rows weakly, because a tensor held by its own graph node would never be freed. Call
    `keep_until_backward` with the rows and what was made from them.
    """
    cell: list[TensorWeakRef] = []
    rows: Tensor = _Flatten.apply(means2d, cell)  # type: ignore[assignment]
    cell.append(TensorWeakRef(rows))
    return rows


def keep_until_backward(rows: Tensor, *outputs: Tensor) -> None:
    """Makes the graph of the outputs hold the rows, so that an attribute set on them in the backward can be read."""
    for output in outputs:
        if output.requires_grad:
            output.register_hook(partial(_hold, rows))


def _hold(rows: Tensor, grad: Tensor) -> None:
    """A hook that exists for what it refers to."""


class _Flatten(torch.autograd.Function):
    """Reshapes to rows; its backward runs after that of `blend` and takes the rows' absgrad along."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, cell: list[TensorWeakRef]) -> Tensor:
        ctx.means2d = means2d
        ctx.cell = cell
        return means2d.reshape(-1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        rows = ctx.cell[0]()
        absgrad = None if rows is None else getattr(rows, "absgrad", None)
        if absgrad is not None:
            ctx.means2d.absgrad = absgrad.reshape(ctx.means2d.shape)
        return grad.reshape(ctx.means2d.shape), None
