"""The network: what its inputs mean, and that they matter."""

from __future__ import annotations

import pytest
import torch

from generators.cameras import orbit_cameras, pluecker_rays
from generators.models.noise import TRAIN_STEPS, noised, scheduler
from generators.models.view_transformer import Frames, ViewTransformer, ViewTransformerConfig, patches, unpatched

TINY = ViewTransformerConfig(size=16, width=32, layers=2, heads=2, head_channels=8)


@pytest.fixture
def model() -> ViewTransformer:
    torch.manual_seed(0)
    model = ViewTransformer(TINY)
    # The last layer starts at zero; here everything has to matter.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def _frames(count: int, known: int = 1, **changes) -> Frames:
    rays = pluecker_rays(orbit_cameras(count, size=16))[None]
    flags = torch.zeros(1, count, dtype=torch.bool)
    flags[:, :known] = True
    given = {
        "rays": rays,
        "times": torch.zeros(1, count),
        "known": flags,
        "words": torch.zeros(1, 20, dtype=torch.long),
    }
    return Frames(**{**given, **changes})


def test_patches_are_undone_by_unpatched():
    images = torch.randn(2, 3, 5, 16, 16)
    assert torch.equal(unpatched(patches(images, 8), 8, 16), images)


def test_every_input_matters(model):
    torch.manual_seed(1)
    images, levels = torch.randn(1, 4, 4, 16, 16), torch.tensor([[0.0, 0.7, 0.7, 0.7]])
    base = model(images, levels, _frames(4))
    assert base.shape == images.shape
    other_reference = images.clone()
    other_reference[:, 0] += 0.5
    turned = pluecker_rays(orbit_cameras(4, size=16, start=40.0))[None]
    words = torch.zeros(1, 20, dtype=torch.long)
    words[0, 0] = 14
    conditions = torch.rand(1, 4, 24, 16, 16)
    for changed in (
        model(other_reference, levels, _frames(4)),
        model(images, torch.tensor([[0.0, 0.2, 0.7, 0.7]]), _frames(4)),
        model(images, levels, _frames(4, rays=turned)),
        model(images, levels, _frames(4, times=torch.tensor([[0.0, 0.0, 0.5, 1.0]]))),
        model(images, levels, _frames(4, words=words)),
        model(images, levels, _frames(4, known=0)),
        model(images, levels, _frames(4, conditions=conditions)),
    ):
        assert (changed - base)[:, 1:].abs().max() > 1e-4


def test_order_of_the_frames_does_not_matter(model):
    torch.manual_seed(2)
    images, levels = torch.randn(1, 4, 4, 16, 16), torch.tensor([[0.0, 0.7, 0.7, 0.7]])
    order = torch.tensor([0, 3, 1, 2])
    frames = _frames(4)
    shuffled = _frames(4, rays=frames.rays[:, order])
    torch.testing.assert_close(
        model(images[:, order], levels, shuffled), model(images, levels, frames)[:, order], rtol=1e-4, atol=1e-5
    )


def test_noise_agrees_with_the_scheduler():
    torch.manual_seed(3)
    clean, noise = torch.randn(1, 3, 4, 8, 8), torch.randn(1, 3, 4, 8, 8)
    levels = torch.tensor([[0.0, 0.4, 1.0]])
    ours = noised(clean, noise, levels)
    torch.testing.assert_close(ours[:, 0], clean[:, 0])
    torch.testing.assert_close(ours[:, 2], noise[:, 2], atol=1e-4, rtol=1e-4)
    step = torch.tensor([int(0.4 * TRAIN_STEPS) - 1])
    torch.testing.assert_close(ours[:, 1], scheduler().add_noise(clean[:, 1], noise[:, 1], step))
