"""U-nets and what steers them, of diffusers, as data."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.configurations.denoisers import Denoiser, normal, step, tokens

_UNET = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}
_IMAGE = {"sample": normal(1, 3, 32, 32)}
_CROSS = {
    **_UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
}
_LATENT = {"sample": normal(2, 4, 16, 16), "timestep": step(2)}
_CONDITIONED = {**_LATENT, "encoder_hidden_states": normal(2, 7, 24)}
_VIDEO_CROSS = {
    **_CONDITIONED,
    "sample": normal(1, 4, 3, 16, 16),
    "timestep": step(),
    "encoder_hidden_states": normal(1, 7, 24),
}

UNETS: tuple[Denoiser, ...] = (
    Denoiser(
        "UNet2D",
        "UNet2DModel",
        "denoising",
        {
            **_UNET,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {**_IMAGE, "timestep": step()},
    ),
    Denoiser(
        "UNet2D of classes, residual sampling",
        "UNet2DModel",
        "denoising",
        {
            **_UNET,
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "num_class_embeds": 10,
            "resnet_time_scale_shift": "scale_shift",
        },
        {"sample": normal(2, 3, 16, 16), "timestep": step(2), "class_labels": tokens(10, 2)},
    ),
    Denoiser("UNet2DCondition (Stable Diffusion)", "UNet2DConditionModel", "denoising", _CROSS, _CONDITIONED),
    Denoiser(
        "UNet2DCondition (Stable Diffusion XL)",
        "UNet2DConditionModel",
        "denoising",
        {
            **_CROSS,
            "use_linear_projection": True,
            "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 80,
        },
        {
            **_CONDITIONED,
            "added_cond_kwargs": lambda: {"text_embeds": torch.randn(2, 32), "time_ids": torch.ones(2, 6)},
        },
    ),
    Denoiser(
        "UNet2DCondition (DeepFloyd)",
        "UNet2DConditionModel",
        "denoising",
        {
            **_CROSS,
            "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "resnet_time_scale_shift": "scale_shift",
            "encoder_hid_dim": 20,
            "encoder_hid_dim_type": "text_proj",
        },
        {**_LATENT, "encoder_hidden_states": normal(2, 7, 20)},
    ),
    Denoiser(
        "UNet1D",
        "UNet1DModel",
        "denoising",
        {"block_out_channels": (32, 32, 64), "extra_in_channels": 64, "sample_size": 256},
        {"sample": normal(1, 2, 256), "timestep": step()},
    ),
    Denoiser(
        "UNet3DCondition",
        "UNet3DConditionModel",
        "video denoising",
        {
            **_UNET,
            "block_out_channels": (32, 32),
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "cross_attention_dim": 24,
            "attention_head_dim": 8,
        },
        _VIDEO_CROSS,
    ),
    Denoiser(
        "UNetMotion (AnimateDiff)",
        "UNetMotionModel",
        "video denoising",
        {
            **_UNET,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "cross_attention_dim": 24,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            "motion_max_seq_length": 8,
        },
        {**_VIDEO_CROSS, "encoder_hidden_states": normal(3, 7, 24)},
    ),
    Denoiser(
        "UNetSpatioTemporal (Stable Video Diffusion)",
        "UNetSpatioTemporalConditionModel",
        "video denoising",
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "layers_per_block": 1,
            "cross_attention_dim": 24,
            "num_attention_heads": (2, 4),
        },
        {
            "sample": normal(1, 2, 8, 16, 16),
            "timestep": step(),
            "encoder_hidden_states": normal(1, 1, 24),
            "added_time_ids": partial(torch.ones, 1, 3),
        },
    ),
    Denoiser(
        "StableCascadeUNet",
        "StableCascadeUNet",
        "denoising",
        {
            "in_channels": 4,
            "out_channels": 4,
            "timestep_ratio_embedding_dim": 16,
            "conditioning_dim": 24,
            "block_out_channels": (16, 32),
            "num_attention_heads": (2, 4),
            "down_num_layers_per_block": (1, 1),
            "up_num_layers_per_block": (1, 1),
            "clip_text_pooled_in_channels": 20,
        },
        {
            "sample": normal(1, 4, 16, 16),
            "timestep_ratio": lambda: torch.tensor([0.3]),
            "clip_text_pooled": normal(1, 1, 20),
        },
    ),
    Denoiser(
        "UVit2D (aMUSEd)",
        "UVit2DModel",
        "denoising",
        {
            "hidden_size": 32,
            "cond_embed_dim": 32,
            "micro_cond_encode_dim": 8,
            "micro_cond_embed_dim": 40,
            "encoder_hidden_size": 24,
            "vocab_size": 40,
            "codebook_size": 36,
            "in_channels": 32,
            "block_out_channels": 32,
            "num_res_blocks": 1,
            "block_num_heads": 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "sample_size": 8,
        },
        {
            "input_ids": tokens(36, 1, 8, 8),
            "encoder_hidden_states": normal(1, 7, 24),
            "pooled_text_emb": normal(1, 32),
            "micro_conds": normal(1, 5),
        },
    ),
    Denoiser(
        "ControlNet",
        "ControlNetModel",
        "control",
        {
            **{name: value for name, value in _CROSS.items() if name not in ("sample_size", "up_block_types")},
            "conditioning_embedding_out_channels": (8, 16),
        },
        {**_CONDITIONED, "controlnet_cond": normal(2, 3, 32, 32)},
    ),
    Denoiser(
        "T2IAdapter",
        "T2IAdapter",
        "control",
        {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 8},
        {"x": normal(1, 3, 32, 32)},
    ),
)
