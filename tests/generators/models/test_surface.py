"""The input picture lifted to its depth and drawn by other cameras: right where it is seen, marked where it is not."""

from __future__ import annotations

import numpy as np
import torch

from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_cameras
from generators.feedback import rendered_conditions
from generators.models.surface import SurfaceNet, drawn_conditions, mirrored, surface_conditions, surfels_of, turned
from generators.models.view_transformer import CONDITION_CHANNELS, DRAWN_CHANNELS, ViewTransformerConfig

CAMERAS = orbit_cameras(8)
VIEWMATS = torch.stack([torch.from_numpy(camera.viewmat).float() for camera in CAMERAS])
KS = torch.stack([torch.from_numpy(camera.K).float() for camera in CAMERAS])


def _toy(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    views = render_views(make_toy(seed, "test").world, CAMERAS, [0.0] * 8)
    return torch.from_numpy(views.rgba).permute(0, 3, 1, 2).float(), torch.from_numpy(views.depth).float()


def _world(k: int, depth: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Returns the positions [3, N] of camera k's pixels."""
    v, u = torch.nonzero(where, as_tuple=True)
    z = depth[v, u]
    local = torch.stack([(u + 0.5 - KS[k, 0, 2]) / KS[k, 0, 0] * z, (v + 0.5 - KS[k, 1, 2]) / KS[k, 1, 1] * z, z])
    return VIEWMATS[k, :3, :3].T @ (local - VIEWMATS[k, :3, 3, None])


def test_with_the_true_depth_other_cameras_see_what_they_should():
    truth, depth = _toy(3)
    drawn = surface_conditions(surfels_of(truth[0], depth[0], VIEWMATS[0], KS[0]), VIEWMATS, KS, 64)
    assert drawn.shape == (8, DRAWN_CHANNELS, 64, 64)
    for k, least in ((0, 20.0), (1, 18.0), (7, 18.0)):
        covered = (drawn[k, 3] > 0.8) & (truth[k, 3] > 0.8) & (drawn[k, 7] > 0.2)
        assert covered.sum() > 150
        error = (drawn[k, :3] - truth[k, :3])[:, covered].square().mean()
        assert -10 * np.log10(float(error)) > least
        # xyz is where the true depth says: half the position, from 0.5.
        found = drawn[k, 4:7][:, covered] / drawn[k, 3][covered] * 2 - 1
        assert (found - _world(k, depth[k], covered)).abs().median() < 0.03


def test_what_is_seen_from_behind_faces_away():
    truth, depth = _toy(3)
    drawn = surface_conditions(surfels_of(truth[0], depth[0], VIEWMATS[0], KS[0]), VIEWMATS, KS, 64)
    front, back = drawn[0], drawn[4]
    assert (front[7] / front[3].clamp_min(0.1))[front[3] > 0.8].median() > 0.5
    assert (back[7] / back[3].clamp_min(0.1))[back[3] > 0.8].median() < 0.0


def test_guesses_stand_where_a_box_has_its_other_sides():
    truth, depth = _toy(3)
    seen = surfels_of(truth[0], depth[0], VIEWMATS[0], KS[0])
    for guess, views in ((mirrored(seen, VIEWMATS[0]), (4,)), (turned(seen), (2, 6))):
        drawn = surface_conditions(guess, VIEWMATS, KS, 64)
        for k in views:
            covered = (drawn[k, 3] > 0.8) & (truth[k, 3] > 0.8) & (drawn[k, 7] > 0.2)
            assert covered.sum() > 150
            found = drawn[k, 4:7][:, covered] / drawn[k, 3][covered] * 2 - 1
            assert (found - _world(k, depth[k], covered)).abs().median() < 0.05
        # The camera that took the picture sees the inside of the far side only.
        if views == (4,):
            assert (drawn[0, 7] / drawn[0, 3].clamp_min(0.1))[drawn[0, 3] > 0.8].median() < 0.0


def test_breaks_in_depth_leave_no_veil_between_surfaces():
    picture = torch.ones(4, 64, 64)
    depth = torch.full((64, 64), 3.0)
    depth[:, 32:] = 4.0
    depth[:, 31] = 3.5
    surfels = surfels_of(picture, depth, VIEWMATS[0], KS[0])
    places = (surfels.means @ VIEWMATS[0, :3, :3].T + VIEWMATS[0, :3, 3])[:, 2]
    assert ((places - 3.0).abs().minimum((places - 4.0).abs()) < 1e-4).all()
    # The column in between is gone, its neighbours are not stretched towards it.
    assert len(places) == 64 * 63
    assert torch.linalg.eigvalsh(surfels.covars).amax() < (3 * 4.0 / float(KS[0, 0, 0])) ** 2


def test_an_empty_picture_draws_nothing():
    nothing = torch.zeros(4, 64, 64)
    surfels = surfels_of(nothing, torch.full((64, 64), 3.0), VIEWMATS[0], KS[0])
    assert surface_conditions(surfels, VIEWMATS, KS, 64).abs().max() == 0
    network = SurfaceNet(ViewTransformerConfig(width=32, layers=1, heads=2))
    assert drawn_conditions(network, nothing[None], VIEWMATS[None], KS[None]).shape == (
        1,
        8,
        CONDITION_CHANNELS,
        64,
        64,
    )


def test_a_reconstruction_speaks_the_same_channels():
    from gaussian4d.gaussians import Gaussians

    ball = Gaussians(
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.full((1, 3), 0.3),
        opacities=torch.ones(1),
        colors=torch.zeros(1, 1, 3),
    )
    conditions = rendered_conditions(ball, CAMERAS, 64)
    assert conditions.shape == (8, CONDITION_CHANNELS, 64, 64)
    # What a whole object shows always faces the camera.
    assert torch.equal(conditions[:, 7], conditions[:, 3])
