"""FusedAdam against torch.optim.Adam."""

from __future__ import annotations

import copy

import pytest
import torch

from diff_rasterizer import FusedAdam


def test_matches_torch_adam(instruction_set: str) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(37, 3, generator=generator), torch.randn(20000, generator=generator)]
    ours, theirs = ([p.clone().requires_grad_() for p in starts] for _ in range(2))
    groups = lambda ps: [{"params": [ps[0]], "lr": 1e-2}, {"params": [ps[1]], "lr": 3e-4}]  # noqa: E731
    a, b = FusedAdam(groups(ours)), torch.optim.Adam(groups(theirs), eps=1e-15)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(a.state[p][key], b.state[q][key], rtol=1e-5, atol=1e-6)


def test_state_survives_saving() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = FusedAdam([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    q = p.detach().clone().requires_grad_()
    other = FusedAdam([q], lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for x, o in ((p, optimizer), (q, other)):
        x.grad = torch.full((3,), -2.0)
        o.step()
    assert torch.equal(p, q)


def test_leaves_parameters_without_gradient_alone() -> None:
    p = torch.ones(3, requires_grad=True)
    FusedAdam([p]).step()
    assert torch.equal(p, torch.ones(3))


def test_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="float32"):
        FusedAdam([torch.ones(2, dtype=torch.float64, requires_grad=True)])
