"""Compiles training steps and prints, as JSON, how they compare with the eager ones. Run by `test_compile`.

A program of its own, because the suite's run-time shape checks cannot be compiled, and users do not have them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from rasterizer_scenes import make_scene
from torch import Tensor

from diff_rasterizer import l1_ssim_loss, rasterization

CASES: dict[str, tuple[str, int | None, str, dict[str, Any]]] = {
    "plain": ("aot_eager", None, "RGB", {"packed": False}),
    "sh": ("aot_eager", 2, "RGB+ED", {"packed": False, "rasterize_mode": "antialiased"}),
    # Which rows are visible is known only at run time: torch.compile leaves its graph there.
    "packed": ("aot_eager", 2, "RGB", {"packed": True}),
    # Runs outside the graph as a whole: its backward sets an attribute.
    "absgrad": ("aot_eager", None, "RGB", {"packed": True, "absgrad": True}),
    "inductor": ("inductor", 0, "RGB", {"packed": False}),
}


def training_step(
    sh_degree: int | None, render_mode: str, **options: Any
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Returns a function of parameters with a scalar loss, and parameters for it."""
    scene = make_scene(n=150, cameras=2, width=40, height=32, sh_degree=sh_degree, dtype=torch.float32)
    g = torch.Generator().manual_seed(4)
    target, backgrounds = torch.rand(2, 32, 40, 3, generator=g), torch.rand(2, 3, generator=g)
    Ks = scene.Ks.clone()

    def step(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, views: Tensor) -> Tensor:
        renders, alphas, _ = rasterization(
            means, quats, torch.exp(scales), torch.sigmoid(opacities), colors, views, Ks, 40, 32,
            sh_degree=sh_degree, render_mode=render_mode, backgrounds=backgrounds, **options,
        )  # type: ignore[arg-type]  # fmt: skip
        return l1_ssim_loss(renders[..., :3], target) + 0.1 * renders.mean() + alphas.square().mean()

    return step, [scene.means, scene.quats, scene.scales.log(), scene.opacities, scene.colors, scene.viewmats]


def loss_and_gradients(step: Callable[..., Tensor], parameters: list[Tensor]) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in parameters]
    loss = step(*inputs)
    loss.backward()
    return [loss.detach(), *(x.grad for x in inputs)]  # type: ignore[list-item]


def compare(backend: str, sh_degree: int | None, render_mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the largest relative differences for two numbers of Gaussians, and the size of the gradients."""
    step, parameters = training_step(sh_degree, render_mode, **options)
    compiled = torch.compile(step, backend=backend, fullgraph=not options["packed"])
    smaller = [x[:90] if i < 5 else x for i, x in enumerate(parameters)]
    differences = []
    # Outside one graph, another number of Gaussians is another compilation of the same.
    for inputs in (parameters, smaller) if not options["packed"] else (parameters,):
        expected, actual = loss_and_gradients(step, inputs), loss_and_gradients(compiled, inputs)
        norms = [float(x.norm()) for x in expected]
        differences += [float((a - b).norm()) / n for a, b, n in zip(actual, expected, norms, strict=True)]
    return {"differences": differences, "norms": norms}


def refusal() -> str:
    """Returns the message of the ValueError that a compiled step raises for a NaN in a camera."""
    step, parameters = training_step(None, "RGB", packed=False)
    parameters = [x.clone() for x in parameters]
    parameters[5][0, 0, 0] = float("nan")
    try:
        torch.compile(step, backend="aot_eager", fullgraph=True)(*(x.requires_grad_() for x in parameters))
    except ValueError as error:
        return str(error)
    return "nothing was raised"


class Renderer(torch.nn.Module):
    """Spherical harmonics to pictures, as a module that can be exported."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return rasterization(*tensors, 40, 32, sh_degree=1, packed=False)[:2]  # type: ignore[arg-type, return-value]


def exported() -> list[float]:
    """Returns the largest differences of an exported renderer for two numbers of Gaussians."""
    scene = make_scene(n=50, cameras=2, width=40, height=32, sh_degree=1, dtype=torch.float32)
    tensors = tuple(scene.tensors().values())
    count = torch.export.Dim("count", min=2, max=100_000)
    shapes = {"tensors": (*({0: count},) * 5, None, None)}
    program = torch.export.export(Renderer(), tensors, dynamic_shapes=shapes).module()
    differences = []
    for n in (50, 20):
        inputs = tuple(x[:n] if i < 5 else x for i, x in enumerate(tensors))
        pairs = zip(program(*inputs), Renderer()(*inputs), strict=True)
        differences += [float((a - b).abs().max()) for a, b in pairs]
    return differences


def main() -> None:
    wanted = sys.argv[1:]
    results: dict[str, Any] = {name: compare(*CASES[name]) for name in wanted if name in CASES}
    if "refusal" in wanted:
        results["refusal"] = refusal()
    if "export" in wanted:
        results["export"] = exported()
    print("RESULT " + json.dumps(results))


if __name__ == "__main__":
    main()
