"""The reference's vectorised blending against the definition, one pixel and one Gaussian at a time."""

from __future__ import annotations

import math

import pytest
import torch

from diff_rasterizer import reference


@pytest.mark.parametrize("seed", range(4))
def test_blend_equals_the_loop_of_the_definition(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    n, width, height, n_images = 25, 6, 5, 2
    rows = n * n_images
    means2d = torch.rand(rows, 2, generator=g, dtype=torch.float64) * torch.tensor([8.0, 7.0]) - 1.0
    a, c = (0.05 + torch.rand(rows, generator=g, dtype=torch.float64) for _ in range(2))
    # Some conics are indefinite: their negative exponents must be skipped.
    b = (torch.rand(rows, generator=g, dtype=torch.float64) * 2.4 - 1.2) * torch.sqrt(a * c)
    conics = torch.stack([a, b, c], dim=-1)
    colors = torch.rand(rows, 2, generator=g, dtype=torch.float64)
    opacities = torch.rand(rows, generator=g, dtype=torch.float64) * 1.2
    depths = torch.randint(0, 6, (rows,), generator=g).to(torch.float64)
    radii = torch.full((rows, 2), 100, dtype=torch.int32)
    radii[::6, 1] = 0
    colors[3, 0] = math.nan
    opacities[4] = math.inf
    image_ids = torch.arange(n_images, dtype=torch.int32).repeat_interleave(n)
    backgrounds = torch.rand(n_images, 2, generator=g, dtype=torch.float64)
    renders, alphas = reference.blend(
        means2d, conics, colors, opacities, depths, radii, image_ids, n_images, width, height, backgrounds, False
    )
    stopped = 0
    for image in range(n_images):
        ids = [i for i in range(image * n, (image + 1) * n) if i % 6 != 0 and i not in (3, 4)]
        ids.sort(key=lambda i: (float(depths[i]), i))
        for y in range(height):
            for x in range(width):
                T, color = 1.0, [0.0, 0.0]
                for i in ids:
                    dx, dy = float(means2d[i, 0]) - (x + 0.5), float(means2d[i, 1]) - (y + 0.5)
                    sigma = 0.5 * (float(a[i]) * dx * dx + float(c[i]) * dy * dy) + float(b[i]) * dx * dy
                    if sigma < 0:
                        continue
                    alpha = min(0.999, float(opacities[i]) * math.exp(-sigma))
                    if alpha < 1 / 255:
                        continue
                    if T * (1 - alpha) <= 1e-4:
                        stopped += 1
                        break
                    color = [v + alpha * T * float(colors[i, k]) for k, v in enumerate(color)]
                    T *= 1 - alpha
                expected = [v + T * float(backgrounds[image, k]) for k, v in enumerate(color)]
                assert renders[image, y, x].tolist() == pytest.approx(expected, abs=1e-12)
                assert float(alphas[image, y, x, 0]) == pytest.approx(1 - T, abs=1e-12)
    assert stopped > 0
