"""The CPU backend's `torch.library` operators: what torch asks of one, and hostile states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rasterizer_scenes import make_scene
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from diff_rasterizer import rasterization

pytest.importorskip("diff_rasterizer._cpu")
from diff_rasterizer import cpu

OPS = torch.ops.diff_rasterizer


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in tensors]


def project_arguments(covars: bool = False, compensate: bool = True) -> tuple[Any, ...]:
    """Returns arguments of `diff_rasterizer::project` for two cameras, the differentiable ones requiring gradients."""
    scene = make_scene(n=24, cameras=2, dtype=torch.float32)
    means, quats, scales, viewmats = leaves(
        *(x[None] for x in (scene.means, scene.quats, scene.scales, scene.viewmats))
    )
    factor = torch.rand(1, 24, 3, 3, generator=torch.Generator().manual_seed(0))
    matrices = leaves(0.1 * factor @ factor.mT)[0] if covars else None
    shape = (None, None, matrices) if covars else (quats, scales, None)
    settings = (scene.width, scene.height, 0.3, 0.01, 1e10, 0.0, "pinhole", compensate)
    return means, *shape, scene.opacities[None].clone(), viewmats, scene.Ks[None].clone(), *settings


def blend_arguments(channels: int = 3) -> tuple[Any, ...]:
    arguments = project_arguments()
    means2d, depths, conics, _, radii = (x.detach() for x in OPS.project(*arguments))
    rows = means2d.shape[:3].numel()
    g = torch.Generator().manual_seed(1)
    means2d, conics, colors, opacities, backgrounds = leaves(
        means2d.reshape(rows, 2),
        conics.reshape(rows, 3),
        torch.rand(rows, channels, generator=g),
        torch.rand(rows, generator=g),
        torch.rand(2, channels, generator=g),
    )
    ids = torch.arange(2, dtype=torch.int32).repeat_interleave(rows // 2)
    rest = (depths.reshape(rows), radii.reshape(rows, 2), ids, 2, *arguments[7:9], backgrounds)
    return means2d, conics, colors, opacities, *rest


def without_gradients(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in arguments)


@pytest.mark.parametrize("covars", [False, True], ids=["quats", "covars"])
def test_opcheck_project(covars: bool) -> None:
    arguments = project_arguments(covars, compensate=not covars)
    torch.library.opcheck(OPS.project.default, arguments)
    means, quats, scales, matrices, _, *rest = without_gradients(arguments)
    outputs = OPS.project(*without_gradients(arguments))
    grads = [torch.ones_like(x) for x in outputs[:4]]
    torch.library.opcheck(
        OPS.project_backward.default, (means, quats, scales, matrices, *rest[:2], *outputs, *grads, *rest[2:])
    )


@pytest.mark.parametrize("per_camera", [False, True])
def test_opcheck_view_colors(per_camera: bool) -> None:
    g = torch.Generator().manual_seed(2)
    means, campos = leaves(torch.randn(1, 20, 3, generator=g), torch.zeros(1, 2, 3))
    lead = (1, 2, 20) if per_camera else (1, 20)
    (coeffs,) = leaves(torch.randn(*lead, 9, 3, generator=g))
    radii = torch.ones(1, 2, 20, 2, dtype=torch.int32)
    torch.library.opcheck(OPS.view_colors.default, (2, means, campos, coeffs, radii))
    plain = without_gradients((2, means, campos, coeffs))
    colors = OPS.view_colors(*plain, radii)
    torch.library.opcheck(OPS.view_colors_backward.default, (*plain, colors, torch.ones_like(colors)))


def test_opcheck_blend() -> None:
    arguments = blend_arguments()
    torch.library.opcheck(OPS.blend.default, arguments)
    plain = without_gradients(arguments)
    renders, alphas, state = OPS.blend(*plain)
    grads = (torch.ones_like(renders), torch.ones_like(alphas))
    torch.library.opcheck(OPS.blend_backward.default, (state, plain[0], plain[10], alphas, *grads))


def test_opcheck_ssim_l1() -> None:
    g = torch.Generator().manual_seed(3)
    (image,) = leaves(torch.rand(2, 13, 14, 3, generator=g))
    target = torch.rand(2, 13, 14, 3, generator=g)
    # Registered by the first traced loss; here directly.
    from diff_rasterizer import loss_ops  # noqa: F401

    torch.library.opcheck(OPS.ssim_l1.default, (image, target, True))
    _, _, partials = OPS.ssim_l1(image.detach(), target, True)
    ones = torch.ones(())
    torch.library.opcheck(OPS.ssim_l1_backward.default, (image.detach(), target, partials, ones, ones, True))


def test_fake_tensors_give_the_shapes() -> None:
    scene = make_scene(n=30, cameras=2, sh_degree=1, dtype=torch.float32)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = {k: mode.from_tensor(v, static_shapes=True) for k, v in scene.tensors().items()}
        renders, alphas, meta = rasterization(
            **fake, width=45, height=35, sh_degree=1, packed=False, render_mode="RGB+D", backend="cpu"
        )  # type: ignore[arg-type]
    assert renders.shape == (2, 35, 45, 4) and alphas.shape == (2, 35, 45, 1)
    assert meta["radii"].shape == (2, 30, 2) and meta["radii"].dtype == torch.int32


@pytest.mark.parametrize("name", ["project", "view_colors", "blend"])
def test_a_second_derivative_is_refused(name: str) -> None:
    g = torch.Generator().manual_seed(6)
    if name == "project":
        arguments = project_arguments()
    elif name == "view_colors":
        campos = torch.zeros(1, 1, 3)
        arguments = (1, *leaves(torch.randn(1, 5, 3, generator=g), campos, torch.randn(1, 5, 4, 3, generator=g)), None)
    else:
        arguments = blend_arguments()
    wanted = [x for x in arguments if isinstance(x, Tensor) and x.requires_grad]
    outputs = getattr(OPS, name)(*arguments)
    first = outputs if isinstance(outputs, Tensor) else outputs[0]
    grads = torch.autograd.grad(first.square().sum(), wanted, create_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match=f"{name} can be differentiated once, not twice"):
        torch.autograd.grad(sum(x.square().sum() for x in grads if x is not None), wanted)  # type: ignore[arg-type]


def test_the_state_is_the_same_bytes_every_time_and_survives_a_copy() -> None:
    plain = without_gradients(blend_arguments())
    renders, alphas, state = OPS.blend(*plain)
    assert torch.equal(state, OPS.blend(*plain)[2])
    rest = (plain[0], plain[10], alphas, torch.ones_like(renders), torch.ones_like(alphas))
    expected = OPS.blend_backward(state, *rest)
    # A view at an odd place: the operator brings it into line.
    shifted = torch.cat([torch.zeros(3, dtype=torch.uint8), state])[3:]
    for copy in (state.clone(), shifted):
        for a, b in zip(OPS.blend_backward(copy, *rest), expected, strict=True):
            assert torch.equal(a, b)


def test_a_tampered_state_is_refused_or_harmless() -> None:
    """Every index in the bytes is checked: no change of theirs reads or writes outside."""
    plain = without_gradients(blend_arguments())
    renders, alphas, state = OPS.blend(*plain)
    rest = (plain[0], plain[10], alphas, torch.ones_like(renders), torch.ones_like(alphas))
    for wrong in (state[:-64], state[:8], torch.cat([state, state[:64]]), torch.zeros_like(state)):
        with pytest.raises(ValueError, match="not the state of this blending"):
            OPS.blend_backward(wrong, *rest)
    with pytest.raises(ValueError, match="another size"):
        OPS.blend_backward(state, plain[0], plain[10], alphas, torch.ones(2, 35, 44, 3), torch.ones(2, 35, 44, 1))
    g = torch.Generator().manual_seed(7)
    refused = 0
    for _ in range(200):
        broken = state.clone().view(torch.int32)
        at = int(torch.randint(len(broken), (1,), generator=g))
        broken[at] = int(torch.randint(-(2**31), 2**31 - 1, (1,), generator=g))
        try:
            outputs = OPS.blend_backward(broken.view(torch.uint8), *rest)
        except ValueError:
            refused += 1
        else:
            assert [x.shape for x in outputs[:2]] == [(48, 2), (48, 3)]
    assert refused > 0


def test_direct_nodes_and_operators_give_the_same_bits() -> None:
    arguments = blend_arguments()
    results = []
    for function in (lambda *a: OPS.blend(*a)[:2], lambda *a: cpu.blend(*a, absgrad=False)):
        inputs = tuple(leaves(x)[0] if isinstance(x, Tensor) and x.requires_grad else x for x in arguments)
        renders, alphas = function(*inputs)
        (renders.square().sum() + alphas.sum()).backward()
        results.append([renders, alphas, *(inputs[i].grad for i in (0, 1, 2, 3, 10))])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
