"""How this package registers `torch.library` operators: a schema, CPU code, shapes alone, a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# A fragment: other modules may add to the namespace.
_library = torch.library.Library("diff_rasterizer", "FRAGMENT")


def define(
    name: str, arguments: str, outputs: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> None:
    """Registers `diff_rasterizer::name(arguments) -> (outputs)`; `fake` returns empty tensors of the right shapes."""
    # Strides are part of the deal: outputs are contiguous whatever a compiler would like.
    _library.define(f"{name}({arguments}) -> ({outputs})", tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, implementation, "CPU")
    torch.library.register_fake(f"diff_rasterizer::{name}", fake, lib=_library)


def differentiable(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Gives the operator `name` its gradient, and `name`_backward an error in place of one.

    Args:
        setup: called with (ctx, inputs, output) after the forward.
        backward: called with (ctx, *output gradients); returns one gradient per input.
    """

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"diff_rasterizer::{name} can be differentiated once, not twice; call without create_graph")

    torch.library.register_autograd(f"diff_rasterizer::{name}", backward, setup_context=setup, lib=_library)
    # Without this a second derivative would be silently zero.
    torch.library.register_autograd(f"diff_rasterizer::{name}_backward", refuse, lib=_library)
