"""Autoencoders of diffusers, as data."""

from __future__ import annotations

from benchmarks.configurations.denoisers import Denoiser, normal, value

_AUTOENCODER = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
_IMAGE = {"sample": normal(1, 3, 32, 32)}

AUTOENCODERS: tuple[Denoiser, ...] = (
    Denoiser("AutoencoderKL", "AutoencoderKL", "autoencoding", _AUTOENCODER, _IMAGE),
    Denoiser(
        "AutoencoderKL (16 latent channels, no quantising convolutions)",
        "AutoencoderKL",
        "autoencoding",
        {**_AUTOENCODER, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
        _IMAGE,
    ),
    Denoiser(
        "AutoencoderKLTemporalDecoder",
        "AutoencoderKLTemporalDecoder",
        "autoencoding",
        {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2},
        {"sample": normal(2, 3, 16, 16), "num_frames": value(2)},
    ),
    Denoiser(
        "AsymmetricAutoencoderKL",
        "AsymmetricAutoencoderKL",
        "autoencoding",
        {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "down_block_out_channels": (16, 32),
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "up_block_out_channels": (16, 32),
            "norm_num_groups": 8,
        },
        _IMAGE,
    ),
    Denoiser(
        "AutoencoderTiny",
        "AutoencoderTiny",
        "autoencoding",
        {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 2),
            "num_decoder_blocks": (2, 1),
        },
        _IMAGE,
    ),
    Denoiser(
        "AutoencoderDC",
        "AutoencoderDC",
        "autoencoding",
        {
            "latent_channels": 4,
            "attention_head_dim": 8,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (16, 32),
            "decoder_block_out_channels": (16, 32),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
        },
        _IMAGE,
    ),
    Denoiser(
        "VQModel",
        "VQModel",
        "autoencoding",
        {**_AUTOENCODER, "num_vq_embeddings": 24},
        _IMAGE,
    ),
    Denoiser(
        "AutoencoderOobleck",
        "AutoencoderOobleck",
        "autoencoding",
        {
            "encoder_hidden_size": 12,
            "decoder_channels": 12,
            "decoder_input_channels": 6,
            "audio_channels": 2,
            "downsampling_ratios": [2, 4],
            "channel_multiples": [1, 2],
        },
        {"sample": normal(1, 2, 128)},
    ),
)
