"""What a console shows of models, runs and cameras: short, and what one wants to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gaussian4d as g4


def model(meta: dict | None = None, **fields: object) -> g4.DynamicGaussians:
    g = torch.Generator().manual_seed(0)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (3, 3)}
    params = {name: torch.randn(1234, *shape, generator=g) for name, shape in shapes.items()}
    return g4.DynamicGaussians(params, g4.make_motion("static"), meta=meta or {}, **fields)  # type: ignore[arg-type]


def test_a_model_is_two_lines() -> None:
    fitted = model({"near": 0.25, "fit": {"steps": 30}}, fps=12.5, times=np.linspace(0.0, 1.0, 9))
    assert repr(fitted).splitlines() == [
        "DynamicGaussians: 1,234 Gaussians, motion static, SH degree 1",
        "    on cpu, 9 frames at 12.5 fps, fitted in 30 steps, nothing nearer than 0.25",
    ]
    assert repr(model()).splitlines()[1] == "    on cpu, nothing nearer than 0.01"


def test_the_others_are_one(tmp_path: Path) -> None:
    camera = g4.Camera.look_at(
        np.array([3.0, 0.0, 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]), width=64, height=48, focal=70.5, id="left"
    )
    assert repr(camera) == "Camera('left', 64x48, pinhole, focal 70.5 px, at [3, 0, 1])"
    assert repr(model().at(0.5)) == "Gaussians(1,234, SH degree 1, on cpu)"
    assert repr(g4.RunFolder(tmp_path)) == f"RunFolder({str(tmp_path)!r}, no run yet)"
    (tmp_path / "config.json").write_text("{}")
    assert repr(g4.RunFolder(tmp_path)) == f"RunFolder({str(tmp_path)!r})"
    result = g4.FitResult(Path("runs/a"), model(), {"psnr": 31.234})
    assert repr(result) == "FitResult('runs/a', 1,234 Gaussians, PSNR 31.23 dB)"
    assert repr(g4.FitResult(Path("a"), model(), None, True)) == "FitResult('a', 1,234 Gaussians, interrupted)"


def test_gaussians_at_rest_are_those_of_a_model_that_stands_still() -> None:
    still = model()
    for degree, count in ((None, 4), (0, 1), (1, 4)):
        rest = g4.canonical_gaussians(still.params, degree)
        assert rest.colors.shape == (1234, count, 3)
        at = still.motion.at(still.params, 0.3, degree)
        for name in ("means", "quats", "scales", "opacities", "colors"):
            assert torch.equal(getattr(rest, name), getattr(at, name))
    assert torch.equal(rest.scales, still.params["scales"].exp())
    assert torch.equal(rest.opacities, still.params["opacities"].sigmoid())


@pytest.mark.parametrize("package", ["gaussian4d", "diff_rasterizer", "generators", "viewer"])
def test_the_packages_say_that_they_are_typed(package: str) -> None:
    assert (Path(__file__).resolve().parents[2] / package / "py.typed").read_bytes() == b""
