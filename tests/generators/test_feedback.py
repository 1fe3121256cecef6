"""3D-aware feedback: schedulers of all families, unmodified pipelines, and what a reconstruction puts in the views."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LMSDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians
from generators.cameras import orbit_cameras
from generators.feedback import RenderFeedback, chosen_step, rendered_conditions, with_feedback
from generators.priors import PriorInfo
from generators.views import render_rgba, render_xyz

SIZE = 8


def _identity(x0, index, steps):
    return x0


def _sampled(scheduler, steps=6, dtype=torch.float32):
    """Returns the end of a sampling with a made-up, smooth network."""
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, SIZE, SIZE, generator=generator).to(dtype) * float(
        getattr(scheduler, "init_noise_sigma", 1.0)
    )
    noise = torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = torch.tanh(given) * 0.7 + 0.1 * torch.sin(3 * given)
        stochastic = isinstance(scheduler, (DDPMScheduler, EulerAncestralDiscreteScheduler))
        extra = {"generator": noise} if stochastic else {}
        x = scheduler.step(output, t, x, **extra, return_dict=False)[0]
    return x


SCHEDULERS = {
    "ddim v": lambda: DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
    "ddim v zero snr": lambda: DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    ),
    "ddim sample": lambda: DDIMScheduler(prediction_type="sample", clip_sample=False),
    "ddpm v": lambda: DDPMScheduler(prediction_type="v_prediction", clip_sample=False),
    "euler v": lambda: EulerDiscreteScheduler(prediction_type="v_prediction"),
    "euler v karras": lambda: EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True),
    "euler ancestral v": lambda: EulerAncestralDiscreteScheduler(prediction_type="v_prediction"),
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "dpm v": lambda: DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    "dpm flow": lambda: DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    "unipc flow": lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    "unipc v": lambda: UniPCMultistepScheduler(prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_identity_changes_nothing_and_zero_ends_at_zero(name):
    make = SCHEDULERS[name]
    plain = _sampled(make())
    wrapped = with_feedback(make(), _identity, None)
    assert isinstance(wrapped, type(make())) and wrapped.config == make().config
    torch.testing.assert_close(_sampled(wrapped), plain, atol=1e-5, rtol=1e-5)
    # Clean predictions of zero at every step lead to zero, up to the noise that a schedule leaves at its end.
    ended = _sampled(with_feedback(make(), lambda x0, index, steps: torch.zeros_like(x0), None))
    assert ended.abs().max() < 0.2 * plain.abs().max()


def test_epsilon_in_float64_with_the_first_steps_skipped():
    def make():
        return DDIMScheduler(prediction_type="epsilon", clip_sample=False)

    plain = _sampled(make(), dtype=torch.float64)
    wrapped = with_feedback(make(), _identity, range(2, 6))
    assert (_sampled(wrapped, dtype=torch.float64) - plain).abs().max() < 1e-10


def test_steps_are_indices_or_shares():
    assert [k for k in range(50) if chosen_step(k, 50, (0.4, 0.6, 0.8))] == [20, 30, 40]
    assert [k for k in range(8) if chosen_step(k, 8, (0, 5))] == [0, 5]
    seen = []
    wrapped = with_feedback(DDIMScheduler(clip_sample=False), lambda x0, k, n: seen.append((k, n)) or x0, (0.5, 1))
    _sampled(wrapped, 6)
    assert seen == [(1, 6), (3, 6)]


def test_other_families_are_refused():
    with pytest.raises(UserError, match="LMSDiscreteScheduler"):
        with_feedback(LMSDiscreteScheduler(), _identity)


def test_an_unmodified_pixel_pipeline_takes_it():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipe = DDIMPipeline(unet, DDIMScheduler(prediction_type="v_prediction", clip_sample=False))
    pipe.set_progress_bar_config(disable=True)

    def run():
        return pipe(num_inference_steps=4, generator=torch.Generator().manual_seed(2), output_type="np").images

    plain = run()
    pipe.scheduler = with_feedback(pipe.scheduler, _identity, None)
    assert abs(run() - plain).max() < 1e-5
    pipe.scheduler = with_feedback(pipe.scheduler, lambda x0, index, steps: torch.ones_like(x0), (3,))
    assert run().mean() > 0.99


def test_an_unmodified_video_pipeline_of_flows_takes_it(tmp_path):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=256, ffn_dim=32, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    )  # fmt: skip
    pipe = WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=transformer,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    prompt = torch.randn(1, 16, 32)

    def run():
        return pipe(
            prompt_embeds=prompt, negative_prompt_embeds=prompt * 0, num_inference_steps=3, height=16, width=16,
            num_frames=5, generator=torch.Generator().manual_seed(0), output_type="latent",
        ).frames  # fmt: skip

    plain = run()
    pipe.scheduler = with_feedback(pipe.scheduler, _identity, None)
    torch.testing.assert_close(run(), plain, atol=1e-5, rtol=1e-5)
    pipe.scheduler = with_feedback(pipe.scheduler, lambda x0, index, steps: torch.zeros_like(x0), (2,))
    assert run().abs().max() < 1e-3
    # Saved, it is the scheduler it was.
    pipe.scheduler.save_pretrained(tmp_path)
    assert type(FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path)) is FlowMatchEulerDiscreteScheduler


def _ball(color: tuple[float, float, float]) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=1) * 0.5
    quats = torch.tensor([1.0, 0, 0, 0]).expand(400, 4)
    colors = ((torch.tensor(color) - 0.5) / 0.28209479177387814).expand(400, 1, 3)
    return Gaussians(means, quats, torch.full((400, 3), 0.08), torch.full((400,), 0.99), colors)


class _Knowing:
    """A reconstructor that always finds the same ball."""

    info = PriorInfo("ball", "test", "none")

    def __init__(self, gaussians: Gaussians) -> None:
        self.gaussians, self.seen = gaussians, []

    def reconstruct(self, views, cameras):
        self.seen.append([camera.id for camera in cameras])
        return self.gaussians


def test_renderings_replace_views_where_they_are_opaque():
    cameras = orbit_cameras(8, size=32)
    ball = _ball((0.9, 0.1, 0.2))
    knowing = _Knowing(ball)
    views = torch.zeros(8, 4, 32, 32)
    views[:, 2:] = 0.4
    whole = RenderFeedback(knowing, weight=1.0)
    fed = whole(views, cameras, 3, 5)
    rendered = render_rgba(ball, cameras)
    inside = rendered[:, 3] > 0.999
    assert inside.float().mean() > 0.1
    seen = fed.permute(0, 2, 3, 1)[inside]
    torch.testing.assert_close(seen, rendered.permute(0, 2, 3, 1)[inside], atol=2e-3, rtol=0)
    outside = rendered[:, 3] < 1e-6
    assert torch.equal(fed.permute(0, 2, 3, 1)[outside], views.permute(0, 2, 3, 1)[outside])
    assert knowing.seen == [[cameras[k].id for k in (0, 2, 4, 6)]]
    assert whole(views, cameras, 0, 5) is views
    half = RenderFeedback(knowing, weight=0.5)(views, cameras, 3, 5).permute(0, 2, 3, 1)[inside]
    torch.testing.assert_close(half, 0.5 * (seen + views.permute(0, 2, 3, 1)[inside]), atol=2e-3, rtol=0)
    with pytest.raises(UserError, match="weight"):
        RenderFeedback(knowing, weight=2.0)


def test_latents_go_through_decoder_and_encoder():
    cameras = orbit_cameras(4, size=16)
    feedback = RenderFeedback(_Knowing(_ball((0.2, 0.9, 0.2)))).latents(
        lambda z: z.view(4, 4, 16, 16) * 0.5 + 0.5, lambda x: x * 2 - 1, cameras
    )
    z = torch.zeros(1, 16, 16, 16)
    fed = feedback(z, 0, 1)
    assert fed.shape == z.shape
    middle = fed.view(4, 4, 16, 16)[:, :, 8, 8] * 0.5 + 0.5
    assert (middle[:, 1] > 0.8).all() and (middle[:, 0] < 0.3).all()


def test_coordinates_are_those_of_the_surface_seen():
    cameras = orbit_cameras(4, elevation=0.0, size=33)
    ball = _ball((0.5, 0.5, 0.5))
    xyz = render_xyz(ball, cameras)
    # The middle of the view from +X shows the surface nearest to it: about x = 0.5, y = z = 0.
    seen = xyz[0, :3, 16, 16] / xyz[0, 3, 16, 16] * 2 - 1
    torch.testing.assert_close(seen, torch.tensor([0.5, 0.0, 0.0]), atol=0.08, rtol=0)
    conditions = rendered_conditions(ball, cameras, 16)
    assert conditions.shape == (4, 24, 16, 16)
    assert conditions[:, :, 0, 0].abs().max() == 0
