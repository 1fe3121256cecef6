"""The C++ backend by itself: shared maths headers in double, threads, instruction sets, bounds, degenerate rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diff_rasterizer import rasterization

_cpu = pytest.importorskip("diff_rasterizer._cpu")

MODELS = {"pinhole": 0, "ortho": 1, "fisheye": 2}


def _rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def _project_inputs(model: str, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    viewmat = np.eye(4)
    viewmat[:3, :3] = _rotation(seed)
    camera_point = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4), rng.uniform(2.0, 3.0)])
    viewmat[:3, 3] = rng.normal(size=3)
    mean = viewmat[:3, :3].T @ (camera_point - viewmat[:3, 3])
    focal = 30.0 if model == "ortho" else 90.0
    K = np.array([[focal, 0, 50.0], [0, focal * 1.1, 40.0], [0, 0, 1]])
    return [mean, rng.normal(size=4), rng.uniform(0.05, 0.4, size=3), viewmat, K]


def _project(inputs: list[np.ndarray], model: str) -> np.ndarray:
    out = np.zeros(7)
    _cpu.project_one_double(*map(np.ascontiguousarray, inputs), 100, 80, MODELS[model], 0.3, out, None, None)
    return out


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("off_axis", [0.0, 1.0], ids=["inside", "clamped"])
def test_projection_gradient_is_the_finite_difference(model: str, seed: int, off_axis: float) -> None:
    inputs = _project_inputs(model, seed)
    if off_axis and model == "pinhole":
        # Beyond the clamp of the Jacobian, still near enough for its ellipse to touch the picture.
        view = inputs[3]
        inputs[2] = np.array([2.5, 3.0, 2.2])
        inputs[0] = view[:3, :3].T @ (np.array([1.9, 0.2, 2.0]) - view[:3, 3])
    weights = np.random.default_rng(seed + 9).normal(size=7)
    out, gradient = np.zeros(7), np.zeros(22)
    _cpu.project_one_double(*map(np.ascontiguousarray, inputs), 100, 80, MODELS[model], 0.3, out, weights, gradient)
    step = 1e-6

    def difference(index: int, at: tuple[int, ...]) -> float:
        values = []
        for sign in (1, -1):
            moved = [x.copy() for x in inputs]
            moved[index][at] += sign * step
            values.append(_project(moved, model) @ weights)
        return (values[0] - values[1]) / (2 * step)

    numeric = [difference(0, (i,)) for i in range(3)] + [difference(1, (i,)) for i in range(4)]
    numeric += [difference(2, (i,)) for i in range(3)]
    numeric += [difference(3, (i, j)) for i in range(3) for j in range(3)] + [difference(3, (i, 3)) for i in range(3)]
    np.testing.assert_allclose(gradient, numeric, rtol=2e-6, atol=2e-6 * np.abs(numeric).max())


def test_fisheye_series_meets_the_closed_form() -> None:
    # Just inside and just outside the switch at r = 0.2 z.
    inputs = _project_inputs("fisheye", 0)
    inputs[3] = np.eye(4)
    values = []
    for r in (0.19999999, 0.20000001):
        inputs[0] = np.array([r * 2.0, 0.0, 2.0])
        out, gradient = np.zeros(7), np.zeros(22)
        arrays = map(np.ascontiguousarray, inputs)
        _cpu.project_one_double(*arrays, 100, 80, 2, 0.3, out, np.ones(7), gradient)
        values.append(np.concatenate([out, gradient]))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("degree", range(5))
def test_sh_bases_are_orthonormal_and_their_gradient_is_tangent(degree: int) -> None:
    rng = np.random.default_rng(degree)
    directions = rng.normal(size=(20000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    count = (degree + 1) ** 2
    bases, v = np.zeros(count), np.zeros(3)
    table = np.stack([_bases(degree, d, bases, v) for d in directions[:4000]])
    # Monte Carlo over the sphere: 4 pi mean(B B^T) = 1 within a few percent.
    np.testing.assert_allclose(4 * np.pi * table.T @ table / len(table), np.eye(count), atol=0.25)
    weights = rng.normal(size=count)
    for d in directions[:5]:
        tangent = np.cross(d, rng.normal(size=3))
        gradient = np.zeros(3)
        _cpu.sh_bases_double(degree, np.ascontiguousarray(d), np.zeros(count), weights, gradient)
        step = 1e-6
        ends = []
        for sign in (1, -1):
            moved = d + sign * step * tangent
            ends.append(_bases(degree, moved / np.linalg.norm(moved), np.zeros(count), np.zeros(3)) @ weights)
        assert gradient @ tangent == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-6)


def _bases(degree: int, direction: np.ndarray, bases: np.ndarray, v: np.ndarray) -> np.ndarray:
    _cpu.sh_bases_double(degree, np.ascontiguousarray(direction), bases, np.zeros_like(bases), v)
    return bases.copy()


def _scene(count: int = 3000, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": (torch.rand(count, 3, generator=g) - 0.5) * 2 + torch.tensor([0.0, 0.0, 3.0]),
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.rand(count, 3, generator=g) * 0.05 + 1e-3,
        "opacities": torch.rand(count, generator=g),
        "colors": torch.rand(count, 3, generator=g),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[110.0, 0, 65], [0, 110, 45], [0, 0, 1]]]),
    }


def _run(
    scene: dict[str, torch.Tensor], width: int = 130, height: int = 91, camera_model: str = "pinhole"
) -> list[torch.Tensor]:
    leaves = {k: v.clone().requires_grad_(k not in ("Ks",)) for k, v in scene.items()}
    render, alpha, _ = rasterization(
        **leaves, width=width, height=height, packed=False, camera_model=camera_model, backend="cpu"
    )  # type: ignore[arg-type]
    weight = torch.linspace(-1, 1, render.numel()).view_as(render)
    ((render * weight).sum() + alpha.square().sum()).backward()
    return [render.detach(), alpha.detach(), *(v.grad for v in leaves.values() if v.grad is not None)]


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(_run(_scene()))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_instruction_sets_agree() -> None:
    before = _cpu.instruction_set()
    results = []
    try:
        for name in _cpu.instruction_sets():
            _cpu.use_instruction_set(name)
            results.append(_run(_scene()))
    finally:
        _cpu.use_instruction_set(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert (a - b).norm() <= 2e-4 * a.norm() + 1e-6


def test_unknown_instruction_set_names_the_usable_ones() -> None:
    with pytest.raises(ValueError, match="generic"):
        _cpu.use_instruction_set("avx1024")


@pytest.mark.parametrize(("width", "height"), [(1, 1), (15, 17), (16, 16), (33, 2)])
def test_pictures_that_do_not_fill_their_tiles(instruction_set: str, width: int, height: int) -> None:
    """Every pixel equals the same pixel of a larger picture: tiles at the border read and write only their own."""
    scene = _scene(500)
    # Orthographic, because a perspective Jacobian is clamped at a distance that depends on the picture's size.
    small, large = _run(scene, width, height, "ortho"), _run(scene, 64, 64, "ortho")
    torch.testing.assert_close(small[0], large[0][:, :height, :width], rtol=1e-5, atol=1e-5)


def test_huge_gaussians_cover_the_picture(instruction_set: str) -> None:
    scene = _scene(3)
    scene["scales"] = torch.full((3, 3), 1e6)
    scene["opacities"] = torch.tensor([0.5, 0.25, 0.125])
    render, alpha, *gradients = _run(scene)
    torch.testing.assert_close(alpha, torch.full_like(alpha, 1 - 0.5 * 0.75 * 0.875), rtol=1e-3, atol=1e-3)
    assert all(bool(g.isfinite().all()) for g in [render, *gradients])


def test_blending_refuses_arrays_of_the_wrong_size() -> None:
    f, i = torch.zeros, lambda *s: torch.zeros(*s, dtype=torch.int32)
    with pytest.raises(ValueError, match="conics must have 6 elements, got 9"):
        _cpu.blend_forward(f(2, 2), f(3, 3), f(2, 3), f(2), f(2), i(2, 2), i(2), 1, 8, 8, None, f(1, 8, 8, 3),
                           f(1, 8, 8, 1), None, 1)  # fmt: skip
