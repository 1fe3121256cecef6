"""gsplat's own strategy objects drive a fit on the CPU backend, and MCMC's relocation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gsplat_oracle import gsplat
from torch import Tensor

from diff_rasterizer import compute_relocation, quat_scale_to_covar_preci, rasterization

SIZE = 40


def cameras() -> tuple[Tensor, Tensor]:
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[0, :3, 3] = torch.tensor([0.1, 0.0, 3.0])
    viewmats[1, :3, 3] = torch.tensor([-0.2, 0.1, 3.2])
    return viewmats, torch.tensor([[45.0, 0, SIZE / 2], [0, 45.0, SIZE / 2], [0, 0, 1]]).repeat(2, 1, 1)


def gaussians(n: int, seed: int, scale: float) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": torch.rand(n, 3, generator=g) * 1.6 - 0.8,
        "scales": torch.full((n, 3), math.log(scale)) + 0.2 * torch.randn(n, 3, generator=g),
        "quats": torch.randn(n, 4, generator=g),
        "opacities": torch.logit(0.1 + 0.7 * torch.rand(n, generator=g)),
        "colors": torch.rand(n, 3, generator=g),
    }


def render(params: Any, **options: Any) -> tuple[Tensor, dict[str, Any]]:
    viewmats, Ks = cameras()
    renders, _, info = rasterization(
        params["means"], params["quats"], torch.exp(params["scales"]), torch.sigmoid(params["opacities"]),
        params["colors"], viewmats, Ks, SIZE, SIZE, backend="cpu", **options,
    )  # fmt: skip
    return renders, info


def start(n: int = 200) -> tuple[Any, dict[str, torch.optim.Optimizer], Tensor]:
    """Returns parameters, one Adam for each, and the picture to fit."""
    target = render(gaussians(150, 1, 0.12))[0]
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in gaussians(n, 2, 0.08).items()})
    rates = {"means": 4e-3, "scales": 1e-2, "quats": 1e-2, "opacities": 2e-2, "colors": 2e-2}
    return params, {k: torch.optim.Adam([params[k]], lr=rates[k]) for k in params}, target


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_default_strategy(cpu_backend: Any, packed: bool, absgrad: bool) -> None:
    torch.manual_seed(0)
    params, optimizers, target = start()
    strategy = gsplat.DefaultStrategy(
        refine_start_iter=10, refine_every=20, reset_every=1000, grow_grad2d=2e-3 if absgrad else 1e-3,
        prune_opa=0.05, refine_scale2d_stop_iter=200, grow_scale2d=0.2, prune_scale3d=5.0, absgrad=absgrad,
    )  # fmt: skip
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    losses, counts = [], []
    for step in range(81):
        renders, info = render(params, packed=packed, absgrad=absgrad)
        strategy.step_pre_backward(params, optimizers, state, step, info)
        loss = (renders - target).abs().mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        losses.append(loss.item())
        counts.append(len(params["means"]))
    assert losses[-1] < 0.5 * losses[0]
    assert counts[0] == counts[10] == 200
    # Cloned or split, and pruned: both directions happen.
    assert max(counts) > 220 and len(set(counts)) >= 3
    assert state["grad2d"] is not None and len(state["grad2d"]) == counts[-1]


def test_packed_and_dense_give_the_strategy_the_same_statistics(cpu_backend: Any) -> None:
    states = []
    for packed in (True, False):
        params, optimizers, target = start()
        strategy = gsplat.DefaultStrategy(refine_scale2d_stop_iter=10)
        state = strategy.initialize_state()
        renders, info = render(params, packed=packed)
        strategy.step_pre_backward(params, optimizers, state, 0, info)
        (renders - target).abs().mean().backward()
        strategy.step_post_backward(params, optimizers, state, 0, info, packed=packed)
        states.append(state)
    assert float(states[0]["grad2d"].max()) > 0
    for key in ("grad2d", "count", "radii"):
        torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-5, atol=1e-8)


def test_mcmc_strategy_with_our_relocation(cpu_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gsplat.strategy import ops

    relocated: list[int] = []

    def counted(**arguments: Any) -> tuple[Tensor, Tensor]:
        relocated.append(len(arguments["opacities"]))
        return compute_relocation(**arguments)

    # Both exist only in CUDA there.
    monkeypatch.setattr(ops, "compute_relocation", counted)
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", quat_scale_to_covar_preci)
    torch.manual_seed(0)
    params, optimizers, target = start()
    with torch.no_grad():
        params["opacities"][:30] = -9.0
    strategy = gsplat.MCMCStrategy(cap_max=260, refine_start_iter=5, refine_every=15, noise_lr=1e3)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    losses = []
    for step in range(81):
        renders, info = render(params)
        loss = (renders - target).abs().mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info, lr=4e-3)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert relocated[0] >= 30 and len(params["means"]) > 230


def binomials(n_max: int) -> Tensor:
    table = torch.zeros(n_max, n_max)
    for n in range(n_max):
        for k in range(n + 1):
            table[n, k] = math.comb(n, k)
    return table


def test_relocation_is_equation_9() -> None:
    g = torch.Generator().manual_seed(3)
    opacities, scales = 0.01 + 0.98 * torch.rand(60, generator=g), torch.rand(60, 3, generator=g)
    ratios = torch.randint(1, 12, (60,), generator=g)
    new_opacities, new_scales = compute_relocation(opacities, scales, ratios, binomials(51))
    for i in range(60):
        o, n = float(opacities[i]), int(ratios[i])
        new = 1 - (1 - o) ** (1 / n)
        total = sum(
            math.comb(j - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
            for j in range(1, n + 1)
            for k in range(j)
        )
        assert float(new_opacities[i]) == pytest.approx(new, rel=1e-5)
        assert new_scales[i].tolist() == pytest.approx((o / total * scales[i]).tolist(), rel=1e-4)


def test_relocated_copies_look_like_the_one_before() -> None:
    """What the equation is for: n copies, blended, cover a ray along an axis as the single Gaussian did."""
    sigma, o, n = 0.7, 0.8, 5
    new_o, new_s = compute_relocation(torch.tensor([o]), torch.full((1, 3), sigma), torch.tensor([n]), binomials(51))
    x = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    before = o * torch.exp(-0.5 * (x / sigma) ** 2)
    after = 1 - (1 - new_o.double() * torch.exp(-0.5 * (x / new_s[0, 0].double()) ** 2)) ** n
    assert float(after.max()) == pytest.approx(float(before.max()), rel=1e-6)
    assert float(torch.trapezoid(after, x)) == pytest.approx(float(torch.trapezoid(before, x)), rel=1e-5)


@pytest.mark.parametrize("opacity", [0.0, 1e-7, 1.0 - 1e-6, 1.0])
def test_relocation_is_finite_at_the_ends_and_leaves_its_arguments_alone(opacity: float) -> None:
    ratios = torch.tensor([0, 1, 51, 400])
    before = ratios.clone()
    new_opacities, new_scales = compute_relocation(torch.full((4,), opacity), torch.ones(4, 3), ratios, binomials(51))
    assert torch.equal(ratios, before)
    assert bool(torch.isfinite(new_opacities).all()) and bool((new_scales > 0).all())
    torch.testing.assert_close(new_scales[:2], torch.ones(2, 3))
    assert bool(((new_opacities >= 0) & (new_opacities <= 1)).all())
