"""Which transformers configurations there are, as data: architectures by task, and what a family needs besides rules.

Chosen by what is known and in use, before anything of it was compiled; what cannot be built without a download or
without a further library (timm, detectron2, natten) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.configurations.inputs import with_images

TASKS: dict[str, str] = {
    "base": "MODEL_MAPPING_NAMES",
    "causal language model": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked language model": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "sequence classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "question answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "sequence to sequence": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "universal segmentation": "MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES",
    "depth": "MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES",
    "detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "video classification": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "audio classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "speech recognition": "MODEL_FOR_CTC_MAPPING_NAMES",
    "speech to text": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
}
"""Tasks and the table of transformers that names the class for each architecture."""

ARCHITECTURES: dict[str, str] = {
    "causal language model": "gpt2 gpt_neo gpt_neox gptj gpt_bigcode gpt_oss opt bloom llama mistral mixtral qwen2 "
    "qwen2_moe qwen3 qwen3_moe qwen3_next gemma gemma2 gemma3_text phi phi3 falcon mpt stablelm starcoder2 cohere olmo "
    "olmo2 olmoe granite granitemoe glm4 nemotron smollm3 codegen ctrl xglm biogpt deepseek_v3 mamba mamba2 rwkv "
    "recurrent_gemma jamba falcon_mamba lfm2",
    "masked language model": "bert albert deberta-v2 longformer mobilebert modernbert fnet esm",
    "sequence classification": "roberta distilbert electra deberta xlnet convbert squeezebert",
    "token classification": "mpnet big_bird layoutlm",
    "question answering": "funnel nystromformer",
    "base": "canine perceiver roformer reformer lilt tapas luke splinter clip siglip blip flava vilt align groupvit "
    "owlvit sam dinov3_vit hiera swin2sr vit_mae encodec univnet fastspeech2_conformer clap whisper patchtst "
    "patchtsmixer timesfm decision_transformer lxmert visual_bert git layoutlmv3 bridgetower vitdet llava qwen2_vl "
    "seggpt",
    "sequence to sequence": "t5 mt5 bart mbart pegasus marian blenderbot m2m_100 led prophetnet switch_transformers",
    "image classification": "vit deit beit swin swinv2 convnext convnextv2 resnet regnet mobilenet_v1 mobilenet_v2 "
    "mobilevit mobilevitv2 efficientnet poolformer pvt pvt_v2 levit cvt dinov2 focalnet bit swiftformer imagegpt",
    "segmentation": "segformer upernet dpt",
    "universal segmentation": "maskformer mask2former",
    "depth": "glpn depth_anything zoedepth",
    "detection": "yolos detr rt_detr deformable_detr",
    "video classification": "videomae timesformer vivit",
    "audio classification": "audio-spectrogram-transformer wav2vec2-conformer",
    "speech recognition": "wav2vec2 hubert wavlm sew data2vec-audio",
    "speech to text": "speech_to_text moonshine speecht5",
}


@dataclass(frozen=True)
class Family:
    """What an architecture needs beside the rules: fields of its configuration, and inputs (see `inputs_of`)."""

    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


_VIDEO: dict[str, Any] = {"pixel_values": (1, 4, 3, 32, 32)}
_BOXES: dict[str, Any] = {"bbox": (2, 12, 4, "zeros")}
_RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 1, 1, 1],
}
_DETECTION = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

_STEPS: dict[str, Any] = {"pixel_values": (1, 3, 64, 64)}
_FEATURES = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "out_indices": None}
_DINO: dict[str, Any] = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "out_indices": [1, 2, 3, 4],
    "out_features": None,
    "reshape_hidden_states": False,
    "apply_layernorm": False,
}
_BEIT: dict[str, Any] = {
    "model_type": "beit",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "out_indices": [1, 2, 3, 4],
    "out_features": None,
    "reshape_hidden_states": False,
}
_SWIN: dict[str, Any] = {
    "model_type": "swin",
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
    **_FEATURES,
}

FAMILIES: dict[str, Family] = {
    "gpt_neo": Family({"attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "nemotron": Family({"num_key_value_heads": 1}),
    "codegen": Family({"num_attention_heads": 4, "n_head": 4, "rotary_dim": 4}),
    "deepseek_v3": Family({"head_dim": 8, "num_key_value_heads": 2}),
    "mamba2": Family({"num_heads": 4, "head_dim": 16, "chunk_size": 4}),
    "esm": Family({"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1}),
    "squeezebert": Family({"embedding_size": 32}),
    "perceiver": Family(
        {
            "d_latents": 32,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        {"inputs": (2, 12, 32)},
    ),
    "reformer": Family(
        {
            "axial_pos_embds": False,
            "attn_layers": ["local", "local"],
            "local_attn_chunk_length": 4,
            "lsh_attn_chunk_length": 4,
            "num_buckets": 4,
            "hash_seed": 7,
        },
        {"input_ids": (1, 16, "tokens"), "attention_mask": None},
    ),
    "lilt": Family({"hidden_size": 48, "channel_shrink_ratio": 4}, _BOXES),
    "layoutlm": Family({}, _BOXES),
    "layoutlmv3": Family({"coordinate_size": 4, "shape_size": 8, "patch_size": 8}, _BOXES),
    "vilt": Family(
        {"patch_size": 8}, {"pixel_values": None, "image_embeds": (2, 16, 32), "pixel_mask": (2, 4, 4, "ones")}
    ),
    "clap": Family(
        {
            "audio_config": {
                "spec_size": 64,
                "num_mel_bins": 16,
                "window_size": 2,
                "patch_embeds_hidden_size": 16,
                "hidden_size": 32,
                "depths": [1, 1],
                "num_attention_heads": [1, 2],
                "projection_dim": 16,
            }
        },
        {"input_features": (2, 1, 40, 16)},
    ),
    "align": Family(
        {
            "projection_dim": 160,
            "vision_config": {"hidden_dim": 320, "width_coefficient": 0.5, "depth_coefficient": 0.5},
        }
    ),
    "sam": Family(
        {
            "vision_config": {
                "hidden_size": 32,
                "output_channels": 16,
                "image_size": 64,
                "patch_size": 16,
                "global_attn_indexes": [1],
                "window_size": 2,
                "num_pos_feats": 8,
            },
            "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
            "mask_decoder_config": {"hidden_size": 16, "iou_head_hidden_dim": 16},
        },
        {"pixel_values": (1, 3, 64, 64), "input_points": (1, 1, 2, 2, "unit"), "input_labels": (1, 1, 2, "ones")},
    ),
    "encodec": Family(
        {"num_filters": 4, "codebook_size": 16, "hidden_size": 16, "upsampling_ratios": [4, 2]},
        {"input_values": (1, 1, 160)},
    ),
    "univnet": Family(
        {"initializer_range": 0.05, "model_hidden_channels": 8, "num_mel_bins": 16, "resblock_stride_sizes": (2, 2, 2)},
        {"input_features": (1, 8, 16), "noise_sequence": (1, 8, 64)},
    ),
    "patchtst": Family({}, {"past_values": (2, 32, 1)}),
    "patchtsmixer": Family({}, {"past_values": (2, 32, 1)}),
    "timesfm": Family(
        {"patch_length": 8, "context_length": 32, "horizon_length": 8},
        {"past_values": (2, 32), "past_values_padding": (2, 32, "zeros"), "freq": (2, 1, "zeros")},
    ),
    "decision_transformer": Family(
        {"max_ep_len": 32},
        {
            "states": (1, 5, 17),
            "actions": (1, 5, 4),
            "returns_to_go": (1, 5, 1),
            "timesteps": (1, 5, "range"),
            "attention_mask": (1, 5, "ones"),
            "rewards": None,
        },
    ),
    "lxmert": Family(
        {"visual_feat_dim": 24, "num_hidden_layers": None},
        {"visual_feats": (2, 4, 24), "visual_pos": (2, 4, 4, "unit")},
    ),
    "visual_bert": Family(
        {"visual_embedding_dim": 24}, {"visual_embeds": (2, 4, 24), "visual_attention_mask": (2, 4, "ones")}
    ),
    "bridgetower": Family(
        {
            "vision_config": {"patch_size": 8, "image_size": 32, "hidden_size": 64},
            "hidden_size": 64,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "text_config": {"hidden_size": 64},
        },
        {"pixel_values": (2, 3, 32, 32)},
    ),
    "led": Family(
        {"attention_window": 4, "max_decoder_position_embeddings": 64, "max_encoder_position_embeddings": 64}
    ),
    "longformer": Family({"attention_window": 4}),
    "big_bird": Family({"attention_type": "original_full"}),
    "swin": Family({"window_size": 2, "image_size": 64}),
    "mobilevitv2": Family({"image_size": 64}),
    "mobilevit": Family({"image_size": 64}),
    "efficientnet": Family({"hidden_dim": 640, "width_coefficient": 0.5, "depth_coefficient": 0.5}),
    "upernet": Family(
        {
            "backbone_config": {
                "model_type": "convnext",
                "hidden_sizes": [16, 16, 32, 32],
                "depths": [1, 1, 1, 1],
                **_FEATURES,
            },
            "auxiliary_in_channels": 32,
        },
        _STEPS,
    ),
    "dpt": Family({"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}),
    "depth_anything": Family(
        {"backbone_config": _DINO, "reassemble_hidden_size": 32, "fusion_hidden_size": 16, "head_hidden_size": 16},
        {"pixel_values": (1, 3, 56, 56)},
    ),
    "zoedepth": Family(
        {
            "backbone_config": _BEIT,
            "num_relative_features": 8,
            "bottleneck_features": 16,
            "fusion_hidden_size": 16,
            "bin_embedding_dim": 16,
            "num_attractors": [4, 4, 2, 1],
        }
    ),
    "maskformer": Family(
        {
            "backbone_config": _SWIN,
            "decoder_config": {
                "model_type": "detr",
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "num_queries": 4,
                **_DETECTION,
                "backbone_config": _RESNET,
            },
        },
        {"pixel_values": (1, 3, 64, 64)},
    ),
    "mask2former": Family(
        {"backbone_config": _SWIN, "hidden_dim": 32, "encoder_feedforward_dim": 32}, {"pixel_values": (1, 3, 64, 64)}
    ),
    "detr": Family({**_DETECTION, "backbone_config": _RESNET}, _STEPS),
    "deformable_detr": Family(
        {
            **_DETECTION,
            "backbone_config": {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]},
            "num_queries": 8,
        },
        {"pixel_values": (1, 3, 128, 128)},
    ),
    "rt_detr": Family(
        {
            "backbone_config": {
                "model_type": "rt_detr_resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 64, 128],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage2", "stage3", "stage4"],
                "layer_type": "basic",
            },
            "encoder_in_channels": [32, 64, 128],
            "encoder_hidden_dim": 32,
            "d_model": 32,
            "decoder_in_channels": [32, 32, 32],
            "num_queries": 8,
            "anchor_image_size": None,
        },
        _STEPS,
    ),
    "qwen2_vl": Family(
        {
            "text_config": {
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
            }
        },
        {"pixel_values": None, "position_ids": (3, 2, 12, "range")},
    ),
    "seggpt": Family(
        {
            "image_size": [32, 16],
            "patch_size": 8,
            "pretrain_image_size": 16,
            "num_hidden_layers": 4,
            "merge_index": 0,
            "intermediate_hidden_state_indices": [1, 2, 3, 3],
            "decoder_hidden_size": 16,
        },
        {name: (1, 3, 16, 16) for name in ("pixel_values", "prompt_pixel_values", "prompt_masks")},
    ),
    "videomae": Family({"patch_size": 8}, _VIDEO),
    "timesformer": Family({"patch_size": 8}, _VIDEO),
    "vivit": Family({"tubelet_size": [2, 8, 8]}, _VIDEO),
    "vit_mae": Family({}, {"noise": (1, 4, "unit")}),
    "audio-spectrogram-transformer": Family({"max_length": 48, "num_mel_bins": 32}, {"input_values": (1, 48, 32)}),
    "speech_to_text": Family(
        {"conv_channels": 32, "input_feat_per_channel": 16, "max_source_positions": 64},
        {"input_features": (1, 40, 16), "decoder_input_ids": (1, 6, "tokens")},
    ),
    "speecht5": Family({}, {"decoder_input_ids": (1, 6, "tokens")}),
    "moonshine": Family(
        {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, "pad_head_dim_to_multiple_of": 8},
        {"decoder_input_ids": (1, 6, "tokens")},
    ),
    "llava": Family(
        {
            "vision_config": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 16},
            "image_token_index": 4,
            "image_token_id": 4,
            "vision_feature_layer": -1,
        },
        {"input_ids": with_images(1, 12, 4), "attention_mask": None, "pixel_values": (1, 3, 32, 32)},
    ),
}
