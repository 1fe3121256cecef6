"""External priors from disk: tiny random weights in the published layouts, opened and sampled, role by role."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import external_weights as tiny
import pytest
import torch
from torch import Tensor

from gaussian4d.errors import UserError
from generators.cameras import orbit_camera, orbit_cameras
from generators.external.loading import open_external
from generators.priors import Fusion, ImagePrior, MultiViewPrior, VideoPrior

pytestmark = pytest.mark.filterwarnings("ignore:.*generated pictures have no uniform background")

S = tiny.EDGE
CAMERA = orbit_camera(0.0, 15.0, size=S)


def picture(seed: int = 0, size: int = 24) -> Tensor:
    alpha = torch.zeros(1, size, size)
    alpha[:, 4:-4, 6:-6] = 1.0
    color = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
    return torch.cat([color * alpha, alpha])


def check(images: Tensor, *shape: int) -> None:
    """Premultiplied RGBA in 0..1, float32, not one value."""
    assert images.shape == shape and images.dtype == torch.float32
    assert images.isfinite().all() and images.min() >= 0.0 and images.max() <= 1.0
    assert (images[..., :3, :, :] <= images[..., 3:, :, :] + 1e-5).all()
    assert images.std() > 0.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lambda name: tmp_path_factory.mktemp(name)


def test_zero123pp(folder: Callable[[str], Path]) -> None:
    source = str(tiny.zero123pp(folder("zero123plus-v1.1")))
    prior = open_external(source, "multi-view")
    assert isinstance(prior, MultiViewPrior)
    assert prior.info.size == S and prior.info.licence == "CC-BY-NC-4.0" and "non-commercial" in prior.info.notice
    assert prior.info.fixed_cameras[:2] == ((30.0, 30.0), (90.0, -20.0))
    cameras = prior.cameras()
    told: list[tuple[int, int]] = []
    frames = torch.stack([picture(0), picture(1)])

    def views(frames: Tensor, cameras=cameras, **options) -> Tensor:
        return prior.sample_views(frames, CAMERA, cameras, steps=2, seed=3, **options)

    apart = views(frames, progress=lambda done, of: told.append((done, of)))
    check(apart, 2, 6, 4, S, S)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # Every instant starts from the same noise: the same picture gives the same views, at any place in the video.
    assert torch.equal(views(torch.stack([picture(1)]))[0], apart[1])
    # Cameras are recognised by where they are, in any order.
    assert torch.equal(views(frames[:1], cameras=[cameras[4], cameras[1]])[0], apart[0][[4, 1]])
    tied = views(frames, fusion=Fusion(anchor=1.0))
    assert torch.equal(tied[0], apart[0]) and not torch.equal(tied[1], apart[1])
    assert torch.equal(views(frames, fusion=Fusion(anchor=0.0)), apart)
    # The first picture twice: fused with its own tokens (kept in half precision) it stays what it is.
    twice = views(torch.stack([picture(0)] * 2), fusion=Fusion(anchor=0.5))
    assert (twice[1] - twice[0]).abs().max() < 1e-2
    seen: list[tuple[int, ...]] = []

    def hook(clean: Tensor, at, step: int, steps: int) -> Tensor:
        seen.append((*clean.shape, len(at), step, steps))
        return torch.zeros_like(clean)

    assert not torch.equal(views(frames[:1], hook=hook)[0], apart[0])
    assert seen == [(6, 4, S, S, 6, 0, 2), (6, 4, S, S, 6, 1, 2)]
    for wrong in (dict(cameras=orbit_cameras(2)), dict(fusion=Fusion(layers=(99,)))):
        with pytest.raises(UserError, match=r"six cameras|layers of 0 to"):
            views(frames, **wrong)
    with pytest.raises(UserError, match="expected images"):
        prior.sample_views(None, CAMERA, cameras, caption="a red box")


def test_stable_video_diffusion(folder: Callable[[str], Path]) -> None:
    prior = open_external(str(tiny.svd(folder("svd"))), "video", size=S)
    assert isinstance(prior, VideoPrior)
    assert prior.info.licence == "unknown" and "unknown" in prior.info.notice
    told: list[tuple[int, int]] = []
    video = prior.sample_video(picture(), CAMERA, 3, steps=2, progress=lambda *at: told.append(at))
    check(video, 3, 4, S, S)
    assert told == [(1, 2), (2, 2)]
    assert not torch.equal(video, prior.sample_video(picture(), CAMERA, 3, steps=2, seed=1))
    with pytest.raises(UserError, match="1 to 4 frames, got 5"):
        prior.sample_video(picture(), CAMERA, 5)
    with pytest.raises(UserError, match="expected an image"):
        prior.sample_video(None, CAMERA, 3, caption="a red box")


def test_wan(folder: Callable[[str], Path]) -> None:
    prior = open_external(str(tiny.wan(folder("Wan2.1-I2V"), from_image=True)), "video", size=S)
    assert isinstance(prior, VideoPrior) and prior.info.licence == "Apache-2.0" and prior.info.notice is None
    check(prior.sample_video(picture(), CAMERA, 4, caption="a b", steps=1), 4, 4, S, S)
    with pytest.raises(UserError, match="expected an image"):
        prior.sample_video(None, CAMERA, 4, caption="a b")
    with pytest.raises(UserError, match="multiple of 16"):
        open_external(prior.info.source, "video", size=24)
    words = open_external(str(tiny.wan(folder("Wan2.1-T2V"), from_image=False)), "video", size=S)
    check(words.sample_video(None, CAMERA, 3, caption="a b", steps=1), 3, 4, S, S)
    with pytest.raises(UserError, match="words alone"):
        words.sample_video(picture(), CAMERA, 3, caption="a b")


def test_animatediff(folder: Callable[[str], Path]) -> None:
    prior = open_external(str(tiny.animatediff(folder("animatediff"))), "video", size=S)
    assert isinstance(prior, VideoPrior)
    check(prior.sample_video(None, CAMERA, 3, caption="a box", steps=2), 3, 4, S, S)
    check(prior.sample_video(picture(), CAMERA, 3, steps=2), 3, 4, S, S)
    with pytest.raises(UserError, match="needs words or a picture"):
        prior.sample_video(None, CAMERA, 3)
    with pytest.raises(UserError, match="1 to 4 frames"):
        prior.sample_video(None, CAMERA, 9, caption="a box")


def test_stable_diffusion(folder: Callable[[str], Path]) -> None:
    prior = open_external(str(tiny.stable_diffusion(folder("stable-diffusion-v1-5"))), "image", size=S)
    assert isinstance(prior, ImagePrior) and "RAIL" in prior.info.licence
    check(prior.sample_image("a red box", CAMERA, steps=2), 4, S, S)
    with pytest.raises(UserError, match="expected a caption"):
        prior.sample_image(" ", CAMERA)
