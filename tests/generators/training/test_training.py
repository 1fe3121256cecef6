"""Training at tiny size: what toys become, that losses fall, that a stopped training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from generators.cameras import orbit_camera, pluecker_rays, rays_of
from generators.models.surface import SurfaceNet
from generators.models.view_transformer import ViewTransformer, ViewTransformerConfig
from generators.training import toy_bank
from generators.training.loop import Loop, LoopConfig, load_weights
from generators.training.muon import orthogonalised
from generators.training.prior import draw_frames, draw_mode, prior_loss
from generators.training.surface import surface_loss
from generators.training.toy_bank import OTHERS, TIMES, ToyBank, render_toy, write_shard


def test_a_toy_is_seen_at_eight_times_and_from_six_sides():
    toy = render_toy(4)
    assert toy["rgba"].shape == (TIMES + OTHERS, 4, 64, 64) and toy["depth"].shape == (TIMES + OTHERS, 64, 64)
    assert (toy["viewmats"][:TIMES] == toy["viewmats"][0]).all()
    assert len(np.unique(toy["times"][TIMES:])) == 1
    seen = toy["rgba"][:, 3] == 255
    assert ((toy["depth"] > 0) >= seen).all()
    assert (toy["tokens"] > 0).sum() >= 4


def test_rays_of_tensors_are_those_of_cameras():
    camera = orbit_camera(70.0, 20.0, fov=30.0)
    rays = rays_of(torch.from_numpy(camera.viewmat).float()[None], torch.from_numpy(camera.K).float()[None])
    torch.testing.assert_close(rays, pluecker_rays([camera]), atol=2e-5, rtol=1e-4)


def test_newton_schulz_brings_singular_values_near_one():
    matrices = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.5 and values.max() < 1.4


def test_modes_know_what_they_say(monkeypatch):
    batch = {"times": torch.full((5, TIMES + OTHERS), 3 / 7)}
    rng = np.random.default_rng(0)
    for mode, count in (("views", 1), ("video", 1), ("two", 2), ("text", 0)):
        views, known = draw_frames(mode, batch, 5, rng)
        assert (known.sum(dim=1) == count).all()
        assert all(len(set(row.tolist())) == len(row) for row in views)
    video, _ = draw_frames("video", batch, 5, rng)
    assert (video < TIMES).all() and (video[:, 0] == 0).all()
    alone, known = draw_frames("text", batch, 1, rng)
    assert alone.shape == (5, 1) and not known.any()
    assert {draw_mode(0.5, rng, regression=True)[0] for _ in range(30)} == {"views"}


def test_training_learns_saves_and_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(toy_bank, "TOYS_PER_SHARD", 6)
    write_shard(tmp_path / "bank", 0)
    config = ViewTransformerConfig(width=32, layers=1, heads=2)
    surface = SurfaceNet(config).eval()

    def loop(minutes: float) -> tuple[Loop, list[float]]:
        torch.manual_seed(0)
        made = Loop(ViewTransformer(config), LoopConfig(tmp_path / "work", minutes, lr=3e-3), Accelerator(cpu=True))
        bank, rng, losses = ToyBank(tmp_path / "bank"), np.random.default_rng(0), []

        def loss_of(model, progress):
            loss, objects, figures = prior_loss(model, surface, next(bank.batches(4)), "views", 3, rng, False)
            losses.append(float(loss))
            # The clock of a test is its steps.
            made.elapsed = float(made.step + 1)
            return loss, objects, figures

        made.run(loss_of)
        return made, losses

    first, losses = loop(0.5)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
    second, more = loop(0.7)
    assert second.step > first.step and len(more) < len(losses)
    other = ViewTransformer(config)
    load_weights(other, tmp_path / "work" / "ema.safetensors")
    with second.averaged():
        torch.testing.assert_close(other.place, second.model.place, atol=1e-3, rtol=1e-2)


def test_the_surface_network_learns_depth(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(toy_bank, "TOYS_PER_SHARD", 3)
    write_shard(tmp_path, 0)
    torch.manual_seed(0)
    network = SurfaceNet(ViewTransformerConfig(width=32, layers=1, heads=2))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    rng, batches, errors = np.random.default_rng(0), ToyBank(tmp_path).batches(3), []
    for _ in range(25):
        loss, pictures, figures = surface_loss(network, next(batches), rng)
        assert pictures == 12
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(figures["depth error"])
    assert np.mean(errors[-4:]) < 0.75 * np.mean(errors[:4])
