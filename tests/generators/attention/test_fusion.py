"""Attention fusion over frames that are denoised one after another, and reference attention."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from gaussian4d.errors import UserError
from generators.attention.fusion import FusionStore, fused_attention, self_attention_names
from generators.attention.reference import reference_attention
from generators.priors import Fusion

WORDS = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    ).eval()  # fmt: skip


def frame(seed: int) -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def video(unet: UNet2DConditionModel, seeds: list[int], fusion: Fusion | None, steps: int = 2) -> Tensor:
    """Returns what the UNet says of each frame at each step: [T, steps, C, H, W]."""
    said = []
    with fused_attention(unet, fusion) as store:
        for k, seed in enumerate(seeds):
            if store is not None:
                store.begin_frame(k)
            for step in range(steps):
                if store is not None:
                    store.begin_step(step, steps)
                said.append(unet(frame(seed), 900 - 400 * step, WORDS).sample[0])
    return torch.stack(said).unflatten(0, (len(seeds), steps))


def test_a_frame_fused_with_itself_is_the_same_to_the_last_bit(unet: UNet2DConditionModel) -> None:
    said = video(unet, [1, 1, 1], Fusion(anchor=0.5, previous=0.3))
    assert torch.equal(said[1], said[0]) and torch.equal(said[2], said[0])
    assert torch.equal(said, video(unet, [1, 1, 1], None))


def test_weights_switch_off_and_pull_towards_the_first_and_the_previous_frame(unet: UNet2DConditionModel) -> None:
    apart = video(unet, [1, 2, 3], None)
    assert torch.equal(video(unet, [1, 2, 3], Fusion(anchor=0.0)), apart)
    half, whole = (video(unet, [1, 2, 3], Fusion(anchor=a)) for a in (0.5, 1.0))
    assert torch.equal(half[0], apart[0])
    assert 0 < (half[1] - apart[1]).norm() < (whole[1] - apart[1]).norm()
    # Of frame 1 the previous one is the first; of frame 2 it is another.
    before = video(unet, [1, 2, 3], Fusion(anchor=0.0, previous=0.5))
    assert torch.allclose(before[1], half[1], atol=1e-6) and not torch.allclose(before[2], half[2], atol=1e-5)


def test_layers_and_steps_are_respected(unet: UNet2DConditionModel) -> None:
    apart = video(unet, [1, 2], None)
    late = video(unet, [1, 2], Fusion(steps=(0.5, 1.0)))
    assert torch.equal(late[1, 0], apart[1, 0]) and not torch.equal(late[1, 1], apart[1, 1])
    assert torch.equal(video(unet, [1, 2], Fusion(layers=())), apart)
    first, all_layers = video(unet, [1, 2], Fusion(layers=(0,))), video(unet, [1, 2], Fusion())
    assert not torch.equal(first, apart) and not torch.equal(first, all_layers)


def test_layers_are_named_in_order_of_depth(unet: UNet2DConditionModel) -> None:
    names = self_attention_names(unet)
    assert len(names) == 7 and all(name.endswith("attn1") for name in names)
    assert [name.split("_")[0] for name in names] == ["down"] * 2 + ["mid"] + ["up"] * 4


def test_only_own_tokens_of_the_chosen_rows_are_blended() -> None:
    store = FusionStore(Fusion(anchor=0.5), ["a"])
    first, later = torch.zeros(2, 3, 4), torch.ones(2, 5, 4)
    store.begin_frame(0)
    store.begin_step(0, 1, slice(1, 2))
    store.blend("a", first, own=2)
    store.begin_frame(1)
    store.begin_step(0, 1, slice(1, 2))
    fused = store.blend("a", later, own=2)
    assert (fused[0] == 1).all() and (fused[1, :2] == 0.5).all() and (fused[1, 2:] == 1).all()
    assert (later == 1).all()
    with store.paused():
        assert store.blend("a", later, own=2) is later
    assert store.nbytes == 2 * 4 * 4


def test_half_precision_halves_memory_and_the_previous_frame_is_replaced() -> None:
    sizes = []
    for half in (False, True):
        store = FusionStore(Fusion(previous=0.2), ["a"], half=half)
        for k in range(4):
            store.begin_frame(k)
            store.begin_step(0, 1)
            store.blend("a", torch.rand(1, 6, 4))
        sizes.append(store.nbytes)
    # The first frame's and the last one's, no more.
    assert sizes == [2 * 6 * 4 * 4, 2 * 6 * 4 * 2]


def test_what_cannot_be_is_said() -> None:
    for fusion, message in (
        (Fusion(anchor=0.8, previous=0.4), "sum to at most 1"),
        (Fusion(steps=(0.7, 0.2)), "inside 0..1"),
        (Fusion(layers=(3,)), "layers of 0 to 1, got 3"),
    ):
        with pytest.raises(UserError, match=message):
            FusionStore(fusion, ["a", "b"])
    store = FusionStore(Fusion(), ["a"])
    store.begin_frame(0)
    with pytest.raises(ValueError, match="in order"):
        store.begin_frame(2)
    store.begin_frame(1)
    with pytest.raises(ValueError, match="left no tokens"):
        store.blend("a", torch.zeros(1, 2, 4))


@torch.no_grad()
def test_rows_with_a_reference_see_it_and_others_do_not(unet: UNet2DConditionModel) -> None:
    batch, words = torch.cat([frame(1), frame(1)]), WORDS.expand(2, -1, -1)
    plain = unet(batch, 500, words).sample
    said = {}
    with reference_attention(unet) as bank:
        for seed in (5, 6):
            with bank.writing():
                unet(frame(seed), 500, WORDS)
            with bank.reading(slice(1, 2)):
                said[seed] = unet(batch, 500, words).sample
        # Outside the passes the model is as it was.
        assert torch.equal(unet(batch, 500, words).sample, plain)
    for one in said.values():
        assert torch.allclose(one[0], plain[0], atol=1e-5) and not torch.allclose(one[1], plain[1], atol=1e-3)
    assert not torch.allclose(said[5][1], said[6][1], atol=1e-4)
    assert torch.equal(unet(batch, 500, words).sample, plain)


@torch.no_grad()
def test_fusion_leaves_the_tokens_of_the_reference(unet: UNet2DConditionModel) -> None:
    """With the own tokens wholly the first frame's, the later frame's reference still counts."""

    def views(references: tuple[int, int]) -> Tensor:
        with fused_attention(unet, Fusion(anchor=1.0)) as store, reference_attention(unet) as bank:
            assert store is not None
            for k, reference in enumerate(references):
                store.begin_frame(k)
                store.begin_step(0, 1)
                with bank.writing():
                    unet(frame(reference), 500, WORDS)
                with bank.reading():
                    said = unet(frame(1), 500, WORDS).sample
        return said

    assert not torch.allclose(views((5, 5)), views((5, 6)), atol=1e-4)
