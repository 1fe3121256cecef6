"""Training at tiny size: what toys become, that losses fall, that a stopped training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from gaussian4d.toys import make_toy
from generators.cameras import orbit_camera, pluecker_rays, rays_of
from generators.models.motion import MotionConfig, MotionNet, anchor_pixels, lifted
from generators.models.picture import PictureConfig, PictureNet
from generators.models.surface import SurfaceNet
from generators.models.view_transformer import ViewTransformer, ViewTransformerConfig
from generators.training import toy_bank
from generators.training.loop import Loop, LoopConfig, load_weights
from generators.training.motion import motion_loss, true_trajectories
from generators.training.muon import orthogonalised
from generators.training.picture import picture_loss
from generators.training.prior import draw_frames, draw_mode, prior_loss
from generators.training.surface import surface_loss
from generators.training.toy_bank import OTHERS, TIMES, ToyBank, render_toy, write_shard


def test_trajectories_are_those_of_the_toy_world(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(toy_bank, "TOYS_PER_SHARD", 4)
    write_shard(tmp_path, 0)
    shard = load_file(next(tmp_path.glob("*.safetensors")))
    for start in (0, 2):
        found, there = true_trajectories(shard, torch.full((4,), start))
        for b in range(4):
            world = make_toy(b).world
            pixels, solid = anchor_pixels(shard["start_owner"][b, start][None] >= 0)
            assert torch.equal(solid[0], there[b]) and there[b].any()
            depth = shard["start_depth"][b, start][None].float()
            points = lifted(depth, shard["start_viewmats"][b, start][None], shard["start_Ks"][b, start][None])[0]
            for m in there[b].nonzero()[::7, 0].tolist():
                point = points[pixels[0, m]].numpy().astype(np.float64)
                part = world.parts[int(shard["start_owner"][b, start].flatten()[pixels[0, m]])]
                local = world.part_points(world.parts.index(part), point[None], 0.0)[0]
                for k in (1, 5, 7):
                    T = part.T_world_part(k / 7)
                    expected = T[:3, :3] @ local + T[:3, 3] - point
                    np.testing.assert_allclose(found[b, m, k - 1].numpy(), expected, atol=5e-3)


def test_motion_and_pictures_are_learned(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(toy_bank, "TOYS_PER_SHARD", 6)
    write_shard(tmp_path, 0)
    torch.manual_seed(0)
    surface = SurfaceNet(ViewTransformerConfig(width=32, layers=1, heads=2)).eval()
    motion = MotionNet(MotionConfig(width=32, layers=1, heads=2))
    picture = PictureNet(PictureConfig(channels=(8, 16), width=32, layers=1, heads=2))
    losses_of = {
        motion: lambda batch, rng: motion_loss(motion, surface, batch, rng)[0],
        picture: lambda batch, rng: picture_loss(picture, batch, rng)[0],
    }
    for network, loss_of in losses_of.items():
        optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
        rng, batches, losses = np.random.default_rng(0), ToyBank(tmp_path).batches(6), []
        for _ in range(40):
            loss = loss_of(next(batches), rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_training_that_only_sees_nonsense_stops(tmp_path: Path):
    model = ViewTransformer(ViewTransformerConfig(size=16, width=32, layers=1, heads=2, head_channels=8))
    loop = Loop(model, LoopConfig(tmp_path, 1.0), Accelerator(cpu=True))
    with pytest.raises(FloatingPointError, match="no finite gradient"):
        loop.run(lambda wrapped, progress: (model.place.sum() * torch.nan, 1, {}))


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
    for mode, count in (("views", 1), ("video", 1), ("two", 2)):
        views, known = draw_frames(mode, batch, 5, rng)
        assert (known.sum(dim=1) == count).all()
        assert all(len(set(row.tolist())) == len(row) for row in views)
    video, _ = draw_frames("video", batch, 5, rng)
    assert (video < TIMES).all() and (video[:, 0] == 0).all()
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
            losses.append(float(loss.detach()))
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
