"""Tiny random weights, saved in the layouts in which the large ones are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    I2VGenXLPipeline,
    MotionAdapter,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models import I2VGenXLUNet
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

EDGE = 16


def tokenizer(folder: Path) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(k) for k in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def text_encoder(width: int) -> CLIPTextModel:
    ids = {"bos_token_id": 188, "eos_token_id": 189, "pad_token_id": 189}
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=190, **ids
        )
    ).eval()


def vision_encoder(width: int, edge: int = EDGE) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, projection_dim=width, num_hidden_layers=1, num_attention_heads=2,
            image_size=edge, patch_size=edge // 2,
        )
    ).eval()  # fmt: skip


def image_processor(std: float = 0.5) -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": EDGE},
        crop_size={"height": EDGE, "width": EDGE},
        image_mean=[0.5] * 3,
        image_std=[std] * 3,
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4,
    ).eval()  # fmt: skip


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=EDGE // 2, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    ).eval()  # fmt: skip


def zero123pp(folder: Path) -> Path:
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "unet": unet(),
        "vae": vae(),
        "vision_encoder": vision_encoder(8),
        "text_encoder": text_encoder(8),
        "tokenizer": tokenizer(folder / "tokenizer"),
        "feature_extractor_clip": image_processor(),
        "feature_extractor_vae": image_processor(0.8),
        "scheduler": EulerAncestralDiscreteScheduler(prediction_type="v_prediction", beta_schedule="linear"),
    }
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "Zero123PlusPipeline"],
        "ramping_coefficients": [k / 77 for k in range(77)],
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def svd(folder: Path) -> Path:
    torch.manual_seed(0)
    video_unet = UNetSpatioTemporalConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=8, in_channels=8,
        num_attention_heads=(2, 2), projection_class_embeddings_input_dim=96, addition_time_embed_dim=32, num_frames=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip
    video_vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1
    )
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
    )
    StableVideoDiffusionPipeline(
        video_vae, vision_encoder(8, 224), video_unet, scheduler, image_processor()
    ).save_pretrained(folder)
    return folder


def wan(folder: Path, *, from_image: bool) -> Path:
    torch.manual_seed(0)
    words = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], extra_ids=0)
    text = UMT5EncoderModel(
        UMT5Config(d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=max(len(words), 8))
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36 if from_image else 16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=16, num_layers=1, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    video_vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    parts: dict[str, Any] = dict(
        tokenizer=words, text_encoder=text, vae=video_vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer,
    )  # fmt: skip
    (WanImageToVideoPipeline if from_image else WanPipeline)(**parts).save_pretrained(folder)
    return folder


def stable_diffusion(folder: Path) -> Path:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae(), text_encoder(8), tokenizer(folder / "tokenizer"), unet(), DDIMScheduler(), None, None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def animatediff(folder: Path) -> Path:
    torch.manual_seed(0)
    motion = MotionAdapter(
        block_out_channels=(8, 8), motion_layers_per_block=1, motion_norm_num_groups=4, motion_num_attention_heads=2,
        motion_max_seq_length=4,
    )  # fmt: skip
    AnimateDiffPipeline(
        vae(), text_encoder(8), tokenizer(folder / "tokenizer"), unet(), motion, DDIMScheduler()
    ).save_pretrained(folder)
    return folder


def video_unet_options() -> dict[str, Any]:
    return dict(
        sample_size=EDGE // 2, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip


def i2vgen(folder: Path) -> Path:
    torch.manual_seed(0)
    I2VGenXLPipeline(
        vae(), text_encoder(8), tokenizer(folder / "tokenizer"), vision_encoder(8), image_processor(),
        I2VGenXLUNet(**video_unet_options()), DDIMScheduler(prediction_type="v_prediction"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def modelscope(folder: Path) -> Path:
    torch.manual_seed(0)
    TextToVideoSDPipeline(
        vae(), text_encoder(8), tokenizer(folder / "tokenizer"), UNet3DConditionModel(**video_unet_options()),
        DDIMScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    return folder
