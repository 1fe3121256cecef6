"""The embedded prior's sampling at tiny size: what is kept, what is tied together, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from gaussian4d.errors import UserError
from generators.cameras import orbit_camera, orbit_cameras
from generators.models.motion import MotionConfig, MotionNet
from generators.models.picture import PictureConfig, PictureNet
from generators.models.surface import SurfaceNet
from generators.models.view_transformer import ViewTransformer, ViewTransformerConfig
from generators.priors import DistillationPrior, Fusion, ImagePrior, MultiViewPrior, VideoPrior
from generators.priors.embedded import EmbeddedPrior, load_network, tidy

CAMERAS = orbit_cameras(3, size=16)
INPUT = orbit_camera(0.0, 10.0, size=16)


@pytest.fixture(scope="module")
def prior() -> EmbeddedPrior:
    torch.manual_seed(0)
    model = ViewTransformer(ViewTransformerConfig(size=16, width=32, layers=2, heads=2, head_channels=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    surface = SurfaceNet(ViewTransformerConfig(size=16, width=32, layers=1, heads=2, head_channels=8))
    motion = MotionNet(MotionConfig(size=16, width=32, layers=1, heads=2))
    picture = PictureNet(PictureConfig(size=16, channels=(8, 8), width=32, layers=1, heads=2))
    for network in (motion.out, picture.last):
        torch.nn.init.normal_(network.weight, std=0.1)
    return EmbeddedPrior(model, surface, motion, picture)


def _pictures(count: int, size: int = 16) -> torch.Tensor:
    return tidy(torch.rand(count, 4, size, size, generator=torch.Generator().manual_seed(5)))


def test_it_is_all_four_kinds_of_prior(prior):
    for kind in (MultiViewPrior, VideoPrior, ImagePrior, DistillationPrior):
        assert isinstance(prior, kind)


def test_views_are_proper_pictures_and_repeatable(prior):
    done = []
    views = prior.sample_views(
        _pictures(2, 40), INPUT, CAMERAS, seed=3, steps=2, progress=lambda k, n: done.append((k, n))
    )
    assert views.shape == (2, 3, 4, 16, 16) and done == [(1, 2), (2, 2)]
    assert views.min() >= 0 and (views[:, :, :3] <= views[:, :, 3:]).all() and views.max() <= 1
    assert torch.equal(views, prior.sample_views(_pictures(2, 40), INPUT, CAMERAS, seed=3, steps=2))
    assert not torch.equal(views, prior.sample_views(_pictures(2, 40), INPUT, CAMERAS, seed=4, steps=2))


def test_instants_with_equal_pictures_are_equal_and_a_batch_changes_nothing(prior):
    same = _pictures(1).expand(3, -1, -1, -1)
    views = prior.sample_views(same, INPUT, CAMERAS, steps=2, times=[0.2, 0.2, 0.2])
    torch.testing.assert_close(views[0], views[2])
    alone = prior.sample_views(same[:1], INPUT, CAMERAS, steps=2, times=[0.2])
    # Products of other sizes round otherwise, by how much depends on the processor; leaking instants would be tenths.
    torch.testing.assert_close(views[:1], alone, atol=2e-4, rtol=0)


def test_fusion_leaves_the_first_instant_alone_and_pulls_the_others_towards_it(prior):
    pictures = torch.cat([_pictures(1), 1 - _pictures(1)])
    pictures = tidy(pictures)
    plain = prior.sample_views(pictures, INPUT, CAMERAS, steps=2, times=[0.5, 0.5])
    half = prior.sample_views(pictures, INPUT, CAMERAS, steps=2, times=[0.5, 0.5], fusion=Fusion())
    full = prior.sample_views(pictures, INPUT, CAMERAS, steps=2, times=[0.5, 0.5], fusion=Fusion(anchor=1.0))
    none = prior.sample_views(pictures, INPUT, CAMERAS, steps=2, times=[0.5, 0.5], fusion=Fusion(anchor=0.0))
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(half[0], plain[0], atol=1e-5, rtol=1e-4)
    assert (half[1] - plain[1]).abs().max() > 1e-4
    assert (full[1] - plain[1]).abs().mean() > (half[1] - plain[1]).abs().mean()
    outside = prior.sample_views(
        pictures, INPUT, CAMERAS, steps=2, times=[0.5, 0.5], fusion=Fusion(steps=(0.0, 0.2), layers=())
    )
    torch.testing.assert_close(outside, plain, atol=1e-5, rtol=1e-4)
    # The processors are gone afterwards.
    assert type(prior.model.blocks[0].attn1.processor).__name__ == "AttnProcessor2_0"


def test_a_hook_takes_the_place_of_the_prediction(prior):
    seen = []

    def black(views, cameras, step, steps):
        seen.append((step, steps, len(cameras)))
        return torch.zeros_like(views)

    views = prior.sample_views(_pictures(1), INPUT, CAMERAS, steps=3, hook=black)
    assert seen == [(0, 3, 3), (1, 3, 3), (2, 3, 3)]
    assert views.abs().max() < 1e-5


def test_a_video_begins_with_its_picture(prior):
    picture = _pictures(1, 16)[0]
    video = prior.sample_video(picture, INPUT, 4, steps=2)
    assert video.shape == (4, 4, 16, 16)
    torch.testing.assert_close(video[0], picture, atol=1e-6, rtol=0)
    assert prior.sample_video(picture, INPUT, 1).shape == (1, 4, 16, 16)
    told = prior.sample_video(None, INPUT, 3, caption="a red ball hopping", steps=2)
    torch.testing.assert_close(told[0], prior.sample_image("a red ball hopping", INPUT), atol=1e-6, rtol=0)


def test_words_alone_become_a_picture_and_then_views(prior):
    views = prior.sample_views(None, INPUT, CAMERAS, caption="a red ball", steps=2)
    picture = prior.sample_image("a red ball", INPUT)
    assert views.shape == (1, 3, 4, 16, 16)
    again = prior.sample_views(picture[None], INPUT, CAMERAS, caption="a red ball", steps=2)
    torch.testing.assert_close(views, again)


def test_guidance_of_one_is_none_and_more_changes_the_sample(prior):
    args, words = (_pictures(1), INPUT, CAMERAS), {"caption": "a red ball", "steps": 2}
    plain = prior.sample_views(*args, **words)
    torch.testing.assert_close(prior.sample_views(*args, **words, guidance=1.0), plain)
    assert (prior.sample_views(*args, **words, guidance=3.0) - plain).abs().max() > 1e-4
    # Without words there is nothing to be guided by.
    silent = prior.sample_views(*args, steps=2)
    torch.testing.assert_close(prior.sample_views(*args, steps=2, guidance=3.0), silent, atol=1e-4, rtol=1e-3)
    ball = prior.sample_image("a red ball", INPUT, steps=2, guidance=1.0)
    assert (prior.sample_image("a red ball", INPUT, steps=2, guidance=4.0) - ball).abs().max() > 1e-4


def test_what_the_teacher_sees_depends_on_noise_and_reference(prior):
    images = _pictures(3)
    common = {"noise": torch.zeros(3, 4, 16, 16)}
    low = prior.predict_clean(images, CAMERAS, images[:1], [INPUT], noise_level=0.1, **common)
    high = prior.predict_clean(images, CAMERAS, images[:1], [INPUT], noise_level=0.9, **common)
    other = prior.predict_clean(images, CAMERAS, 1 - images[:1], [INPUT], noise_level=0.1, **common)
    assert low.shape == images.shape and not low.requires_grad
    assert (low - high).abs().max() > 1e-3 and (low - other).abs().max() > 1e-3
    with pytest.raises(UserError, match="expected a reference"):
        prior.predict_clean(images, CAMERAS, None, [], noise_level=0.1, **common)


def test_captions_without_a_known_word_are_refused(prior):
    with pytest.raises(UserError, match=r"it knows none \(unknown: dragon, rider\)"):
        prior.sample_image("a dragon with a rider", INPUT)
    with pytest.raises(UserError, match="neither"):
        prior.sample_views(None, INPUT, CAMERAS)
    assert prior.sample_image("a red dragon", INPUT, steps=1).shape == (4, 16, 16)


def test_weights_of_another_network_are_refused(tmp_path, prior):
    good = tmp_path / "good.safetensors"
    config = {"config": json.dumps({"size": 16, "width": 32, "layers": 2, "heads": 2, "head_channels": 8})}
    save_file(prior.model.state_dict(), good, config)
    loaded = EmbeddedPrior(load_network(good, ViewTransformer), prior.surface, prior.motion, prior.picture)
    args = (_pictures(1), INPUT, CAMERAS)
    assert torch.equal(loaded.sample_views(*args, steps=1), prior.sample_views(*args, steps=1))
    with pytest.raises(UserError, match="16 pixels"):
        EmbeddedPrior.load(good)
    save_file(prior.model.state_dict(), tmp_path / "other.safetensors", {"config": "{}"})
    with pytest.raises(UserError, match="another network"):
        load_network(tmp_path / "other.safetensors", ViewTransformer)
    (tmp_path / "torn.safetensors").write_bytes(good.read_bytes()[:1000])
    with pytest.raises(UserError, match="can be read"):
        EmbeddedPrior.load(tmp_path / "torn.safetensors")
    with pytest.raises(UserError, match="no file"):
        EmbeddedPrior.load(tmp_path / "none.safetensors")
