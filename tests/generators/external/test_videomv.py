"""VideoMV's camera embedding over video UNets."""

from __future__ import annotations

from pathlib import Path

import external_weights as tiny
import pytest
import torch
from diffusers import UNet3DConditionModel
from test_sampling import CAMERA, check, picture

from gaussian4d.errors import UserError
from generators.cameras import orbit_cameras
from generators.external.loading import open_external
from generators.external.videomv import EMBEDDING_FILE, CameraEmbedding, camera_conditioned, normalised_poses
from generators.priors import Fusion, MultiViewPrior

pytestmark = pytest.mark.filterwarnings("ignore:.*generated pictures have no uniform background")

S = tiny.EDGE
CAMERAS = orbit_cameras(3, size=S)


def embedding(seed: int = 0) -> CameraEmbedding:
    torch.manual_seed(seed)
    made = CameraEmbedding(32)
    torch.nn.init.normal_(made.outer.weight, std=0.5)
    return made


@torch.no_grad()
def test_zero_changes_nothing_and_each_frame_follows_its_own_camera() -> None:
    torch.manual_seed(0)
    unet = UNet3DConditionModel(**tiny.video_unet_options()).eval()
    # Without mixing over time a frame can only change by its own camera.
    for name, module in unet.named_modules():
        if name.endswith(("temp_convs", "temp_attentions")):
            for inner in module.modules():
                if isinstance(inner, torch.nn.Conv3d | torch.nn.Linear):
                    torch.nn.init.zeros_(inner.weight)
    sample, words = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 5, 8)
    poses = normalised_poses(CAMERAS, 2.0)

    def run(embed: CameraEmbedding | None, poses: torch.Tensor = poses) -> torch.Tensor:
        if embed is None:
            return unet(sample, 10, words).sample
        with camera_conditioned(unet, embed, poses):
            return unet(sample, 10, words).sample

    plain = run(None)
    assert torch.equal(run(CameraEmbedding(32)), plain)
    told = run(embedding())
    assert not torch.allclose(told, plain, atol=1e-4)
    moved = poses.clone()
    moved[1] = poses[2]
    change = (run(embedding(), moved) - told).abs().amax(dim=(0, 1, 3, 4))
    assert change[1] > 1e-4 and change[1] > 100 * max(change[0], change[2])
    # The hooks are gone afterwards.
    assert torch.equal(run(None), plain)


def test_poses_look_at_the_origin_from_the_given_distance() -> None:
    poses = normalised_poses(CAMERAS, 1.7)
    assert torch.allclose(poses[:, :3, 3].norm(dim=-1), torch.tensor(1.7))
    # OpenGL: the camera looks along its -Z.
    looking = -poses[:, :3, 2]
    assert torch.allclose(looking * 1.7, -poses[:, :3, 3], atol=1e-5)


def test_the_embedding_comes_back_from_its_file(tmp_path: Path) -> None:
    made = embedding()
    made.save(tmp_path / EMBEDDING_FILE)
    again = CameraEmbedding.open(tmp_path / EMBEDDING_FILE, 32)
    assert torch.equal(again(torch.eye(4)[None]), made(torch.eye(4)[None]))
    with pytest.raises(UserError, match="width 64"):
        CameraEmbedding.open(tmp_path / EMBEDDING_FILE, 64)
    (tmp_path / EMBEDDING_FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="no safetensors file"):
        CameraEmbedding.open(tmp_path / EMBEDDING_FILE, 32)


def test_views_of_a_picture(tmp_path: Path) -> None:
    folder = tiny.i2vgen(tmp_path / "i2vgen-xl")
    with pytest.raises(UserError, match=r"camera_embedding\.safetensors is missing"):
        open_external(str(folder), "multi-view")
    embedding().save(folder / EMBEDDING_FILE)
    prior = open_external(str(folder), "multi-view", size=S)
    assert isinstance(prior, MultiViewPrior) and prior.info.fixed_cameras is None
    told: list[tuple[int, int]] = []
    frames = torch.stack([picture(0), picture(1)])
    apart = prior.sample_views(frames, CAMERA, CAMERAS, steps=1, progress=lambda *at: told.append(at))
    check(apart, 2, 3, 4, S, S)
    assert told == [(1, 2), (2, 2)]
    tied = prior.sample_views(frames, CAMERA, CAMERAS, steps=1, fusion=Fusion(anchor=1.0))
    assert torch.equal(tied[0], apart[0]) and not torch.equal(tied[1], apart[1])
    fed = prior.sample_views(frames[:1], CAMERA, CAMERAS, steps=1, hook=lambda clean, *_: torch.zeros_like(clean))
    assert not torch.equal(fed[0], apart[0])
    assert type(prior.pipeline.scheduler).__name__ == "DDIMScheduler"
    assert not hasattr(prior.pipeline.scheduler, "_feedback")


def test_views_of_words(tmp_path: Path) -> None:
    folder = tiny.modelscope(tmp_path / "text-to-video-ms-1.7b")
    embedding().save(folder / EMBEDDING_FILE)
    prior = open_external(str(folder), "multi-view", size=S)
    assert "non-commercial" in (prior.info.notice or "")
    check(prior.sample_views(None, CAMERA, CAMERAS, caption="a red box", steps=1), 1, 3, 4, S, S)
    with pytest.raises(UserError, match="words alone"):
        prior.sample_views(picture()[None], CAMERA, CAMERAS, caption="a red box", steps=1)
