"""The pretend accelerator itself: where it refuses, what it counts, and that it computes what the CPU computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretend_device import COUNT, count_syncs, held
from torch import Tensor


def some(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: torch.zeros(2, 3, device=d),
        lambda d: torch.full((2,), 1.5, device=d),
        lambda d: torch.arange(4, device=d),
        lambda d: torch.eye(3, device=d),
        lambda d: torch.tensor([1.0, 2.0], device=d),
        lambda d: torch.tensor(7, device=d),
        lambda d: torch.as_tensor(np.ones(3), dtype=torch.float32, device=d),
        lambda d: torch.zeros(3).to(d),
        lambda d: torch.zeros(3, device=d).new_tensor([1.0]),
        lambda d: torch.zeros_like(torch.ones(3, device=d)),
        lambda d: torch.linspace(0, 1, 5, device=d),
        lambda d: torch.randperm(5, device=d).sort()[0],
    ],
)
def test_new_tensors_are_on_the_device(pretend: torch.device, make: Callable[[Any], Tensor]) -> None:
    made = make(pretend)
    assert made.device == pretend and held(made).device.type == "cpu"
    assert made.shape == held(made).shape and torch.equal(made.cpu(), make("cpu"))


@pytest.mark.parametrize(
    "meet",
    [
        lambda x, y: x + y,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.stack([x[0, 0], y[0, 0]]),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: x.mul_(y),
        lambda x, y: y[torch.zeros(1, dtype=torch.long, device=x.device)],
        lambda x, y: x.index_select(0, torch.zeros(1, dtype=torch.long)),
        lambda x, y: x.__setitem__(torch.zeros(1, dtype=torch.long, device=x.device), y[:1]),
        lambda x, y: torch.nn.functional.linear(x, y),
    ],
)
def test_tensors_of_two_devices_do_not_meet(pretend: torch.device, meet: Callable[[Tensor, Tensor], Any]) -> None:
    for other in ("cpu", f"pretend:{COUNT - 1}"):
        with pytest.raises(RuntimeError, match="same device"):
            meet(some(pretend, 3, 3), some(torch.device(other), 3, 3))


def test_scalars_of_the_cpu_and_indices_may_come_along(pretend: torch.device) -> None:
    x = some(pretend, 3)
    assert torch.equal((x + torch.tensor(2.0)).cpu(), x.cpu() + 2.0)
    assert torch.equal(x[torch.tensor([2, 0])].cpu(), x.cpu()[[2, 0]])


def test_devices_that_do_not_exist_and_foreign_generators_are_refused(pretend: torch.device) -> None:
    with pytest.raises(RuntimeError, match="ordinal"):
        torch.zeros(3, device=f"pretend:{COUNT}")
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=pretend)
    for numpy in (lambda x: x.numpy(), np.asarray):
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            numpy(torch.zeros(3, device=pretend))


def test_views_share_memory(pretend: torch.device) -> None:
    x = some(pretend, 4, 3)
    view = x[1:3]
    view.zero_()
    assert float(x[1:3].abs().sum()) == 0.0
    assert x.T.contiguous().is_contiguous() and not x.T.is_contiguous()
    assert x.add_(1.0) is x


def _trained(device: torch.device) -> list[Tensor]:
    p = torch.nn.Parameter(some(device, 5, 3))
    assert isinstance(p, torch.nn.Parameter) and p.device == device
    optimizer = torch.optim.Adam([p], lr=0.1)
    for k in range(3):
        optimizer.zero_grad()
        mask = p[:, 0] > 0
        picked = p[mask].exp().sum() + p[torch.tensor([0, 1], device=device)].square().sum()
        (picked + torch.cat([p, some(device, 1, 3, seed=k)]).sin().sum()).backward()
        optimizer.step()
    with torch.no_grad():
        p[p[:, 1] > 0] = 0.5
    state = copy.deepcopy(optimizer.state_dict())["state"][0]
    return [p.detach(), p.grad, state["exp_avg"], copy.deepcopy(p).detach()]  # type: ignore[list-item]


def test_training_gives_the_numbers_of_the_cpu(pretend: torch.device) -> None:
    for here, there in zip(_trained(torch.device("cpu")), _trained(pretend), strict=True):
        assert there.device == pretend and torch.equal(here, there.cpu())


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.tolist(),
        lambda x: torch.zeros(3).copy_(x),
        lambda x: torch.zeros(3).copy_(x, non_blocking=True),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: torch.unique(x),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.inv(torch.diag(x)),
        lambda x: x.long().clamp_min(0).bincount(),
        repr,
        str,
        lambda x: f"{x.sum():.3f}",
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: x[[0, 1]],
    ],
)
def test_what_waits_is_counted_once(pretend: torch.device, wait: Callable[[Tensor], Any]) -> None:
    x = some(pretend, 3)
    with count_syncs() as syncs:
        wait(x)
    assert len(syncs) == 1, syncs


@pytest.mark.parametrize(
    "go_on",
    [
        lambda x: torch.isfinite(x).all(),
        lambda x: torch.zeros(3, device=x.device),
        lambda x: torch.full((3,), 0.5, device=x.device),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.masked_fill(x > 0, 1.0),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: torch.zeros(3).pin_memory().copy_(x, non_blocking=True),
        lambda x: x.to(torch.float64),
        lambda x: x[1:],
        lambda x: x[torch.zeros(1, dtype=torch.long, device=x.device)],
        lambda x: torch.linalg.inv_ex(torch.diag(x)),
        lambda x: torch.sort(x),
        lambda x: x.quantile(0.5),
        len,
    ],
)
def test_what_does_not_wait_is_not_counted(pretend: torch.device, go_on: Callable[[Tensor], Any]) -> None:
    x = some(pretend, 3)
    with count_syncs() as syncs:
        go_on(x)
    assert not syncs.names


def test_the_backward_is_counted_too(pretend: torch.device) -> None:
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad * float(grad.sum())

    x = some(pretend, 3).requires_grad_()
    with count_syncs() as syncs:
        Waits.apply(x).sum().backward()  # type: ignore[union-attr]
    assert syncs.names == ["item"]


def test_uploads_are_told_apart(pretend: torch.device) -> None:
    with count_syncs() as syncs:
        torch.ones(3).to(pretend).cpu()
    assert syncs.names == ["upload", "copy to the CPU"]
    assert syncs.uploads == ["upload"] and syncs.reads == ["copy to the CPU"]
