"""Small random models of every model type that transformers knows, made by shrinking each type's own defaults."""

import re
from typing import Any

import torch
import transformers as hf
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

LAYERS = 3
VOCABULARY = 100
PAD = 1
"""The padding token of every small model."""
WORDS = range(8, 60)
"""Token ids without a role: those of the special tokens and of a multimodal model's placeholders lie outside."""
_MOST_PARAMETERS = 10_000_000

# Names, and numbers of other things.
_NOT_SIZES = {
    "transformers_version",
    "architectures",
    "_name_or_path",
    "id2label",
    "label2id",
    "per_layer_config",
}
# The first that matches a setting's name says how large it becomes.
_RULES: list[tuple[str, int]] = [
    (r".*vocab_size.*|vocabulary_size", VOCABULARY),
    (r"max_position_embeddings|n_positions|max_seq_len(gth)?|max_sequence_length|n_ctx|seq_length", 1_024),
    (
        r"num_blocks|(num_hidden|num|n|encoder|decoder|num_encoder|num_decoder|num_block|num_hidden_groups|.*num_hidden)_?layers?",
        LAYERS,
    ),
    (r"mamba_d_head|mamba_head_dim", 16),
    (r"mamba_d_ssm", 64),
    (r"(.*_)?(num_key_value_heads|num_kv_heads|n_head_kv|n_kv_heads|kv_heads|num_query_groups)", 2),
    (r"(.*_)?(num_attention_heads|n_heads?|num_heads|attention_heads|num_v_heads|n_local_heads)", 4),
    (r"linear_num_(key|value)_heads", 4),
    (
        r"(.*_)?(head_dim|d_kv|kv_channels|head_size|d_head|qk_rope_head_dim|qk_nope_head_dim|v_head_dim|head_k_dim|head_v_dim)",
        8,
    ),
    (r"linear_(key|value)_head_dim", 8),
    (r"rotary_dim", 4),
    (r"(q|kv|o|.*)_lora_rank|.*lora.*rank", 16),
    (r"(.*_)?(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)", 4),
    (
        r"(.*_)?(num_experts_per_tok|top_k|topk|num_experts_per_token|moe_topk|moe_k|moe_top_k|num_selected_experts)",
        2,
    ),
    (r"n_group|topk_group|num_expert_group(s)?|n_shared_experts", 1),
    (r"first_k_dense_replace|moe_layer_start_index", 1),
    (r"(.*_)?(ssm_)?(state_size|d_state|mamba_d_state)", 8),
    (r"mamba_num_heads", 8),
    (r"(sliding|attention|local_attention)_window(_size)?|local_attention|window_size", 8),
    (
        r"(.*_)?(intermediate_size|ffn_dim|d_ff|n_inner|d_inner|inner_size|ffn_hidden_size|mlp_dim|hidden_dim|d_ffn)",
        64,
    ),
    (
        r"(.*_)?(hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_size|dim|projection_dim|word_embed_proj_dim|width)",
        32,
    ),
    (r"lru_width|d_embed|hidden_channels|output_dim|out_hidden_size", 32),
    (r"image_size", 32),
    (r"depth", LAYERS),
]


def model_types() -> list[str]:
    """Every model type that has a headless model."""
    return sorted(set(MODEL_MAPPING_NAMES) & set(hf.CONFIG_MAPPING))


def small_config(model_type: str, **changed: Any) -> hf.PretrainedConfig:
    """The type's configuration with everything small; whatever it derives from its sizes it derives again."""
    known = hf.CONFIG_MAPPING[model_type]
    settings = known().to_dict()
    shrunk = _shrink(settings) | _OF_TYPE.get(model_type, {}) | changed
    if re.search(r"vl|glm4v|glm_ocr|glm46v|glm_image|glmga|omni|paddle", model_type):
        _section_positions(shrunk, [1, 1, 0] if "moe" in model_type and "glm" in model_type else [2, 1, 1])
    return known.from_dict(shrunk)


def _section_positions(settings: dict[str, Any], sections: list[int]) -> None:
    """Of models that count height and width too: their sum is half of what a head turns."""
    for value in settings.values():
        if isinstance(value, dict):
            _section_positions(value, sections)
    if isinstance(settings.get("rope_parameters"), dict):
        settings["rope_parameters"]["mrope_section"] = sections


def _shrink(settings: dict[str, Any]) -> dict[str, Any]:
    layers = {
        value
        for name, value in settings.items()
        if "layer" in str(name) and type(value) is int and value > LAYERS
    }
    shrunk: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _NOT_SIZES or not isinstance(name, str):
            continue
        if isinstance(value, dict):
            shrunk[name] = _shrink(value)
        elif name == "mrope_section":
            shrunk[name] = [2, 1, 1]
        elif isinstance(value, list) and len(value) in layers and not str(name).endswith("token_ids"):
            continue  # one entry a layer, made again
        elif name.endswith("token_id") or name.endswith("token_index"):
            shrunk[name] = _token(name, value)
        elif type(value) is int:
            same = name == "num_key_value_heads" and value == settings.get("num_attention_heads")
            shrunk[name] = _smaller("num_attention_heads" if same else name, value)
        else:
            shrunk[name] = value
    return shrunk


def _token(name: str, value: Any) -> Any:
    roles = {"pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    if name in roles:
        return roles[name]
    if type(value) is int and value >= WORDS.start:
        return VOCABULARY - 1 - sum(map(ord, name)) % 30
    return value


def _smaller(name: str, value: int) -> int:
    if name == "max_position_embeddings" and 0 < value <= 64:
        return 1_024  # shorter than the texts
    for pattern, size in _RULES:
        if re.fullmatch(pattern, name):
            return min(value, size) if value > 0 else value
    return value


def small_model(config: hf.PretrainedConfig, seed: int = 0) -> nn.Module:
    """A headless model with random weights large enough that a wrong position or mask shows."""
    with torch.device("meta"):
        parameters = sum(each.numel() for each in hf.AutoModel.from_config(config).parameters())
    if parameters > _MOST_PARAMETERS:
        raise ValueError(f"{parameters:,} parameters")
    torch.manual_seed(seed)
    model = hf.AutoModel.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
    return model


# What the rules do not see.
_OF_TYPE: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 4},
    # Multipliers other than one: a layer that forgets one shows.
    "falcon_h1": {
        "mamba_n_heads": 8,
        "mlp_multipliers": [0.6, 1.7],
        "attention_out_multiplier": 0.8,
        "ssm_multipliers": [0.5, 0.7, 0.9, 1.1, 1.3],
        "key_multiplier": 0.7,
    },
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"mamba_n_heads": 8},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_blocks": LAYERS},
    "gpt_neo": {
        "attention_types": [[["global", "local", "global"], 1]],
        "attention_layers": ["global", "local", "global"],
    },
}
