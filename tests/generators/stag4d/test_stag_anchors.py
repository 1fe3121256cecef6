"""Anchors: what is asked of the prior, and the stage folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stag_oracle import INPUT, TIMES, OraclePrior, toy_input

from gaussian4d.errors import UserError
from generators.cameras import orbit_cameras
from generators.priors.base import Fusion
from generators.stag4d.anchors import Anchors, angles_to, load_anchors, make_anchors, read_rgba, write_rgba

CAMERAS = orbit_cameras(3, size=32)


def test_pictures_survive_a_file_to_8_bits(tmp_path):
    alpha = torch.rand(1, 9, 7)
    picture = torch.cat([torch.rand(3, 9, 7) * alpha, alpha])
    write_rgba(tmp_path / "x.png", picture)
    assert (read_rgba(tmp_path / "x.png") - picture).abs().max() < 1.01 / 255


def test_a_stage_folder_gives_the_anchors_back(tmp_path):
    anchors = Anchors(torch.ones(2, 3, 4, 32, 32) * 0.5, list(CAMERAS), [0.0, 1.0])
    anchors.save(tmp_path / "a")
    loaded = load_anchors(tmp_path / "a")
    assert loaded.times == [0.0, 1.0] and torch.allclose(loaded.views, anchors.views, atol=1 / 200)
    assert all((a.viewmat == b.viewmat).all() and (a.K == b.K).all() for a, b in zip(loaded.cameras, CAMERAS))
    (tmp_path / "a" / "t0001_v2.png").unlink()
    with pytest.raises(UserError, match="instant 1"):
        load_anchors(tmp_path / "a")


def test_chunks_take_the_first_instant_along_and_give_each_once(tmp_path):
    frames, prior = toy_input()
    whole = make_anchors(frames, TIMES, INPUT, prior, CAMERAS, Fusion())
    calls = []
    parts = make_anchors(frames, TIMES, INPUT, prior, CAMERAS, Fusion(), chunk=2, progress=lambda *a: calls.append(a))
    assert prior.asked == [TIMES, TIMES[:2], [TIMES[0], *TIMES[2:]]]
    assert torch.equal(whole.views, parts.views) and calls == [(1, 2), (2, 2)]


def test_only_what_is_missing_is_made_again(tmp_path):
    frames, prior = toy_input()
    folder = tmp_path / "a"
    first = make_anchors(frames, TIMES, INPUT, prior, CAMERAS, Fusion(), folder=folder)
    (folder / "t0002_v1.png").unlink()
    again = make_anchors(frames, TIMES, INPUT, prior, CAMERAS, Fusion(), folder=folder)
    assert prior.asked[1:] == [[TIMES[0], TIMES[2]]] and torch.equal(first.views, again.views)
    with pytest.raises(UserError, match=r"something else .*seed"):
        make_anchors(frames, TIMES, INPUT, prior, CAMERAS, Fusion(), 5, folder=folder)


def test_angles_are_between_directions():
    assert angles_to(orbit_cameras(4, elevation=0.0)[0], orbit_cameras(4, elevation=0.0)) == pytest.approx(
        [0, 90, 180, 90], abs=1e-4
    )


def test_priors_whose_samples_scatter_are_asked_several_times_and_averaged(tmp_path):
    class Scattering(OraclePrior):
        def sample_views(self, images, input_camera, cameras, *, seed=0, progress=None, **options):
            self.asked.append(seed)
            for step in (1, 2):
                progress(step, 2)
            views = torch.zeros(len(images), len(cameras), 4, 32, 32)
            return views + {0: 0.2}.get(seed, 0.4)

    frames, prior = toy_input()
    prior = Scattering(prior.world)
    prior.info = dataclasses.replace(prior.info, samples=3)
    steps = []
    anchors = make_anchors(
        frames, TIMES, INPUT, prior, orbit_cameras(2), None, 0, lambda *done: steps.append(done), chunk=2
    )
    assert len(set(prior.asked)) == 3 and prior.asked[:3] == prior.asked[3:]
    torch.testing.assert_close(anchors.views, torch.full((len(TIMES), 2, 4, 32, 32), 1 / 3))
    assert steps == [(k + 1, 12) for k in range(12)]
