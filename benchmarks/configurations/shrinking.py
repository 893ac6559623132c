"""Small settings for a configuration class, by the names of its fields: widths, depths, heads, vocabularies, images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = dict[str, Any]

_SIZES: dict[int, str] = {
    1: "num_key_value_heads num_kv_heads n_group topk_group n_groups num_groups first_k_dense_replace "
    "num_experts_per_tok num_experts_per_token moe_top_k max_window_layers num_hidden_groups",
    2: "num_hidden_layers num_layers n_layer n_layers layers encoder_layers decoder_layers num_decoder_layers depth "
    "num_encoder_layers decoder_num_hidden_layers num_attention_heads n_head n_heads num_heads heads attention_heads "
    "encoder_attention_heads decoder_attention_heads decoder_num_attention_heads num_encoder_blocks_layers "
    "encoder_num_hidden_layers decoder_num_layers num_blocks mamba_n_groups fusion_layers l_layers x_layers r_layers "
    "prediction_heads_layers num_adapter_layers resampler_depth num_codebooks cross_num_hidden_layers",
    4: "num_experts num_local_experts n_routed_experts num_frames index_n_heads num_queries_per_group num_bins",
    8: "sliding_window attention_window_size num_queries num_latents rotary_dim qk_rope_head_dim state_size d_state "
    "mamba_d_state chunk_size num_conv_pos_embeddings ssm_state_size max_relative_position rotary_ndims",
    12: "coordinate_size",
    16: "head_dim d_kv attention_head_size kv_lora_rank q_lora_rank qk_nope_head_dim v_head_dim qk_head_dim "
    "projection_dim num_mel_bins embedding_size word_embed_proj_dim dim_head classifier_proj_size codevector_dim "
    "mamba_d_head mamba_head_dim xvector_output_dim proj_codevector_dim attention_key_size "
    "feat_proj_size num_feat_bins d_inner_head kv_channels",
    32: "hidden_size d_model n_embd embed_dim emb_dim dim hidden_dim encoder_hidden_size decoder_hidden_size d_embed "
    "text_embed_dim output_hidden_size image_size out_hidden_size fusion_hidden_size embedding_dim vision_hidden_size "
    "text_hidden_size entity_emb_size neck_hidden_size feature_size_out fpn_feature_size mask_feature_size "
    "encoder_hidden_dim pooler_output_size image_embed_dim hidden_channels lru_width pretrain_image_size input_size "
    "feature_strength reassemble_size auxiliary_channels decoder_embed_dim bottleneck_features fpn_hidden_size d_embd",
    64: "intermediate_size n_inner d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim mlp_dim moe_intermediate_size "
    "shared_expert_intermediate_size decoder_intermediate_size d_inner dim_feedforward encoder_intermediate_size "
    "dff feed_forward_size linear_units max_position_embeddings n_positions max_source_positions n_ctx "
    "max_target_positions max_sequence_length max_encoder_position_embeddings max_2d_position_embeddings seq_length "
    "max_seq_len max_seq_length max_text_len original_max_position_embeddings ffn_hidden_size dim_ff "
    "position_buckets_size prenet_dim stem_hidden_size entity_vocab_size",
    120: "vocab_size text_vocab_size vocab_size_per_layer_input decoder_vocab_size src_vocab_size tgt_vocab_size "
    "n_vocab emb_vocab_size",
}  # fmt: skip
SIZES = {name: size for size, names in _SIZES.items() for name in names.split()}
"""What a field of this name becomes where it is larger."""

_STAGED_WIDTHS = (
    "hidden_sizes embed_dims encoder_hidden_sizes neck_hidden_sizes out_channels stage_out_channels conv_dim "
    "stem_channels channels embed_dim embed_dim_per_stage backbone_channel_list block_out_channels tdnn_dim"
)
_STAGED_DEPTHS = "depths num_blocks stage_num_blocks layers_per_stage blocks_per_stage layer_depths"
_STAGED_HEADS = "num_heads num_attention_heads num_attention_heads_per_stage"
_SMALLEST_STAGE = 16
_SPREADS = {"initializer_range": 0.2, "init_std": 0.2}
"""Standard deviations of weights, so that signals of narrow models neither fade nor grow."""


def shrunken(config_class: Any, changes: Mapping[str, Any]) -> Settings:
    """The fields of `config_class` that must be smaller, for its constructor; `changes` are this family's own.

    Nested configurations are shrunk by the same rules; a dictionary in `changes` adds to what the rules give.
    """
    kept = {name: value for name, value in changes.items() if not isinstance(value, Mapping)}
    settings = _small(_defaults(config_class()), set(kept)) | kept
    nested = {name: value for name, value in changes.items() if isinstance(value, Mapping)}
    for name, value in nested.items():
        settings[name] = merged(settings.get(name) or {}, value)
    return settings


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """`base` with `changes`, nested dictionaries joined."""
    both = dict(base)
    for name, value in changes.items():
        both[name] = merged(both.get(name) or {}, value) if isinstance(value, Mapping) else value
    return both


def _defaults(config: Any) -> Settings:
    fields: Settings = config.to_dict()
    return fields


def _small(fields: Settings, fixed: set[str]) -> Settings:
    """The changed fields alone, so that what a configuration derives from others is derived again."""
    settings: Settings = {"use_cache": False} if "use_cache" in fields else {}
    vocabulary = min(SIZES["vocab_size"], _whole(fields.get("vocab_size")) or SIZES["vocab_size"])
    for name, value in fields.items():
        if name in fixed:
            continue
        if isinstance(value, dict):
            inner = _small(value, set()) if "model_type" in value else {}
            if inner:
                settings[name] = {**inner, "model_type": value["model_type"]}
            continue
        small = _token(value, vocabulary) if name.endswith("_token_id") else _size(name, value)
        if small != value:
            settings[name] = small
    return settings


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _token(value: Any, vocabulary: int) -> Any:
    return 1 if isinstance(value, int) and value >= vocabulary else value


def _size(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not value:
        return value
    if isinstance(value, list | tuple):
        return _stages(name, list(value))
    size = SIZES.get(name)
    return min(size, value) if size is not None and isinstance(value, int) else _SPREADS.get(name, value)


def _stages(name: str, values: list[Any]) -> list[Any]:
    if not all(isinstance(value, int) for value in values):
        return values
    if name in _STAGED_DEPTHS.split():
        return [1] * len(values)
    if name in _STAGED_HEADS.split():
        return [max(1, value // min(values)) for value in values]
    if name in _STAGED_WIDTHS.split() and min(values) > _SMALLEST_STAGE:
        return [value * _SMALLEST_STAGE // min(values) // 8 * 8 for value in values]
    if name in ("image_size", "input_size"):
        return [min(32, value) for value in values]
    return values
