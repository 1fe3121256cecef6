"""Score distillation: how hard it pulls and where to, the range of noise levels, what the prior is shown."""

from __future__ import annotations

import pytest
import torch
from stag_oracle import INPUT, TIMES, toy_input, truth

from generators.cameras import orbit_cameras
from generators.stag4d.anchors import Anchors
from generators.stag4d.config import StagConfig
from generators.stag4d.distillation import Distillation
from generators.stag4d.terms import anisotropy


def _distillation(anchors=None, **settings):
    frames, prior = toy_input()
    generator = torch.Generator().manual_seed(0)
    return Distillation(prior, StagConfig(**settings), frames, TIMES, INPUT, anchors, generator), prior


def test_the_gradient_is_the_distance_to_the_clean_views():
    distillation, prior = _distillation(sds_views=2)
    images = torch.rand(2, 4, 32, 32, requires_grad=True)
    seen = []
    distillation.loss(lambda cameras: seen.append(cameras) or images, 1, 0.5).backward()
    clean = truth(prior.world, seen[0], [TIMES[1]] * 2)
    assert torch.allclose(images.grad, (images.detach() - clean) / images.numel(), atol=1e-9)


def test_noise_levels_are_annealed():
    distillation, prior = _distillation(sds_anneal=0.4)
    assert distillation.noise_range(0.0) == pytest.approx((0.5, 0.95))
    assert distillation.noise_range(0.2) == pytest.approx((0.26, 0.725))
    assert distillation.noise_range(0.9) == pytest.approx((0.02, 0.5))
    images = torch.zeros(1, 4, 32, 32)
    for _ in range(30):
        distillation.clean(images, orbit_cameras(1, size=32), 0, 0.9)
    assert 0.02 <= min(prior.levels) < 0.15 and 0.35 < max(prior.levels) <= 0.5


def test_an_anchor_goes_along_as_often_as_set_but_never_one_beside_the_input():
    anchors = Anchors(torch.zeros(4, 2, 4, 32, 32), orbit_cameras(2, elevation=15.0, size=32), list(TIMES))
    for chance, most in ((0.0, 1), (1.0, 2)):
        distillation, prior = _distillation(anchors, sds_anchor_chance=chance)
        distillation.clean(torch.zeros(1, 4, 32, 32), orbit_cameras(1, size=32), 0, 0.5)
        assert prior.references == [most]
        assert distillation._shown == [1]


def test_anisotropy_is_of_real_scales():
    scales = torch.tensor([[1.0, 1.0, 0.1], [1.0, 0.5, 0.5]])
    assert anisotropy(scales, 7.5) == pytest.approx((10.0 + 7.5) / 2 - 7.5)
