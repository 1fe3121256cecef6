"""Assets whose motion is known before the fit: the pieces of a picture carry the Gaussians along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stag_oracle import FRAMES, INPUT, TIMES, OraclePrior, truth

from gaussian4d.errors import UserError
from gaussian4d.gaussians import rotation_matrices
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_cameras
from generators.models.pieces import Moves
from generators.stag4d import Interrupted, fit_asset, quick
from generators.stag4d.drawing import Cameras, draw
from generators.stag4d.rigid import moved_params, rigid_motion
from generators.stag4d.trainer import StagTrainer

TINY = {
    "motion": "rigid-parts", "max_steps": 60, "max_minutes": None, "init_points": 400, "sizes": ((0.0, 48),),
    "anchor_views": 4, "densify_every": 10, "sds": False, "log_every": 20, "checkpoint_every": 1000,
}  # fmt: skip


def _toy():
    """Returns a toy of several parts, its pictures, the prior that knows it, and how its parts really move."""
    world = make_toy(21, "test", instants=FRAMES).world
    assert len(world.parts) > 1
    views = render_views(world, [INPUT], [0.0])
    transforms = np.stack(
        [[part.T_world_part(t) @ np.linalg.inv(part.T_world_part(0.0)) for part in world.parts] for t in TIMES]
    )
    ys, xs = np.mgrid[: INPUT.height, : INPUT.width] + 0.5
    depth = views.depth[0]
    local = np.stack([(xs - INPUT.K[0, 2]) / INPUT.K[0, 0], (ys - INPUT.K[1, 2]) / INPUT.K[1, 1], np.ones_like(xs)], -1)
    points = (local * depth[..., None] - INPUT.viewmat[:3, 3]) @ INPUT.viewmat[:3, :3]
    points[views.owner[0] < 0] = np.nan
    owner = torch.from_numpy(views.owner[0]).long()
    moves = Moves(
        owner.clamp_min(0), torch.from_numpy(transforms[..., :3, :]).float(), torch.from_numpy(points).float()
    )
    return world, truth(world, [INPUT] * FRAMES, TIMES), OraclePrior(world), moves


def test_gaussians_go_with_the_piece_whose_surface_is_nearest():
    R = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    still, turned = torch.eye(4)[:3], torch.cat([R, torch.tensor([[0.5], [0.0], [0.0]])], dim=1)
    points = torch.full((2, 2, 3), torch.nan)
    points[0, 0], points[1, 1] = torch.tensor([1.0, 0, 0]), torch.tensor([-1.0, 0, 0])
    # The pixel that shows nothing has an owner too, which says nothing about places.
    moves = Moves(
        torch.tensor([[0, 1], [1, 1]]), torch.stack([still.expand(2, 3, 4), torch.stack([still, turned])]), points
    )
    means = torch.tensor([[1.0, 0.2, 0.0], [-1.0, 0.2, 0.0], [-0.8, 0.0, 0.3]])
    rest = {
        "means": means, "quats": torch.randn(3, 4), "scales": torch.randn(3, 3) * 0.3 - 2,
        "opacities": torch.zeros(3), "sh0": torch.zeros(3, 1, 3), "shN": torch.zeros(3, 0, 3),
    }  # fmt: skip
    model = DynamicGaussians(moved_params(rest, moves), rigid_motion(moves, [0.0, 1.0]))
    before, after = model.at(0.0), model.at(1.0)
    torch.testing.assert_close(before.means, means)
    torch.testing.assert_close(after.means[0], means[0])
    torch.testing.assert_close(after.means[1:], means[1:] @ R.T + torch.tensor([0.5, 0.0, 0.0]))
    axes, turned_axes = (rotation_matrices(state.quats) * state.scales[:, None] for state in (before, after))
    expected = R @ axes[1:] @ axes[1:].mT @ R.T
    torch.testing.assert_close(turned_axes[1:] @ turned_axes[1:].mT, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="moves of 3 instants"):
        rigid_motion(moves, [0.0, 0.5, 1.0])


@pytest.mark.usefixtures("cpu_backend")
def test_what_is_known_to_move_is_fitted_at_its_start_and_right_later(tmp_path):
    world, frames, prior, moves = _toy()
    out = tmp_path / "run"
    model = fit_asset(frames, TIMES, INPUT, prior, out, quick(**TINY), moves=moves)
    assert prior.asked == [[0.0]], "anchors of the first instant only"
    assert load_model(out).motion.name == "rigid-parts" and set(model.params["parts"].tolist()) > {0.0}
    cameras = orbit_cameras(3, elevation=30.0, start=60.0, size=32)

    def error(at_rest):
        with torch.no_grad():
            rgba = draw(model.at(0.0 if at_rest else TIMES[1]), Cameras.of(cameras)).rgba
        return float((rgba - truth(world, cameras, [TIMES[1]] * 3)).square().mean())

    assert error(at_rest=False) < 0.6 * error(at_rest=True), "it does not move as it should"
    again = fit_asset(
        frames, TIMES, INPUT, prior, tmp_path / "more", quick(**{**TINY, "max_steps": 1}), moves=moves, rest=model
    )
    assert (again.params["means"][: len(model)] - model.params["means"]).abs().max() < 0.01


@pytest.mark.usefixtures("cpu_backend")
def test_a_stopped_fit_of_what_is_known_to_move_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    _, frames, prior, moves = _toy()
    config = quick(**{**TINY, "max_steps": 24})
    whole = fit_asset(frames, TIMES, INPUT, prior, tmp_path / "whole", config, moves=moves)
    original = StagTrainer.take_step

    def stopping(self, progress):
        self.stop_requested = self.step + 1 == 11
        return original(self, progress)

    with monkeypatch.context() as patched:
        patched.setattr(StagTrainer, "take_step", stopping)
        with pytest.raises(Interrupted):
            fit_asset(frames, TIMES, INPUT, prior, tmp_path / "parts", config, moves=moves)
    parts = fit_asset(frames, TIMES, INPUT, prior, tmp_path / "parts", config, moves=moves, resume=True)
    assert all(torch.equal(whole.params[name], parts.params[name]) for name in whole.params)


def test_moves_and_the_motion_go_together(tmp_path):
    _, frames, prior, moves = _toy()
    for motion, known in (("hexplane", moves), ("rigid-parts", None)):
        with pytest.raises(UserError, match="go together"):
            fit_asset(frames, TIMES, INPUT, prior, tmp_path / "run", quick(**{**TINY, "motion": motion}), moves=known)
    assert not (tmp_path / "run").exists()
