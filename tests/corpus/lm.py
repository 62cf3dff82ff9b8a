"""Every model of mlx-lm in miniature: two layers, a hidden size of 32, random weights.

`MODELS` names every module of `mlx_lm.models` that has a model; `tiny(name)` builds it. Most get by with the
common values below; what a model wants otherwise stands in `OVERRIDES`. A model that plain MLX cannot train or
run on a CPU is listed with the reason.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

VOCABULARY = 64

SIZES: dict[str, Any] = {
    "d_model": 32,
    "first_k_dense_replace": 1,
    "global_head_dim": 8,
    "head_dim": 8,
    "hidden_dim": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "kv_channels": 8,
    "kv_lora_rank": 16,
    "linear_key_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 8,
    "model_dim": 32,
    "moe_intermediate_size": 16,
    "n_embd": 32,
    "n_group": 1,
    "n_head": 4,
    "n_heads": 4,
    "n_layer": 2,
    "n_layers": 2,
    "n_positions": 64,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "num_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_layers": 2,
    "num_local_experts": 4,
    "num_vocab": VOCABULARY,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "shared_expert_intermediate_size": 16,
    "state_size": 8,
    "topk_group": 1,
    "v_head_dim": 8,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
"""Given to every field of that name, also where it has a default: defaults are as large as the real model."""

REQUIRED: dict[str, Any] = {
    "attention_bias": False,
    "attention_multiplier": 1.0,
    "attn_logit_softcapping": 50.0,
    "conv_L_cache": 3,
    "conv_bias": True,
    "conv_kernel": 4,
    "decoder_sparse_step": 1,
    "dim_model_base": 32,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": 30.0,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "linear_conv_kernel_dim": 4,
    "logits_scaling": 1.0,
    "max_position_embeddings": 64,
    "mlp_bias": False,
    "mlp_only_layers": [],
    "model_type": "tiny",
    "moe_layer_freq": 1,
    "n_ctx": 64,
    "n_groups": 1,
    "n_inner": 64,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "norm_topk_prob": True,
    "num_kv_heads": 2,
    "num_shared_experts": 1,
    "partial_rotary_factor": 0.5,
    "query_pre_attn_scalar": 8,
    "residual_multiplier": 1.0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "rotary_dim": 4,
    "rotary_pct": 0.5,
    "routed_scaling_factor": 1.0,
    "scale_depth": 1.4,
    "scale_emb": 1,
    "scoring_func": "sigmoid",
    "sliding_window": 4,
    "tie_word_embeddings": False,
    "time_step_limit": (0.0, 1e9),
    "time_step_rank": 4,
    "topk_method": "noaux_tc",
    "use_bias": False,
    "use_conv_bias": True,
    "use_parallel_residual": True,
    "use_qk_norm": True,
    "use_qkv_bias": True,
}
"""Given where a field has no default."""

TWO_KINDS = ["sliding_attention", "full_attention"]
ROPE = {"rope_theta": 10000.0, "rope_type": "default", "type": "default"}
ROPE_BY_KIND = dict.fromkeys(TWO_KINDS, ROPE)
LINEAR_ATTENTION = {
    "num_heads": 4,
    "head_dim": 8,
    "short_conv_kernel_size": 4,
    "kda_layers": [1],
    "full_attn_layers": [2],
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "afm7": {"num_layers": 3, "num_kv_reuse_layers": 1},
    "afmoe": {"layer_types": TWO_KINDS},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"sliding_window_layers": [1], "conv_window": 2},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 2},
    "cohere2": {"sliding_window_pattern": 2, "sliding_window": 4},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "topk_method": "greedy",
        "rope_scaling": {"factor": 2.0, "mscale_all_dim": 0.5, "original_max_position_embeddings": 32},
    },
    "deepseek_v32": {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 4},
    "deepseek_v41": {
        "head_dim": 32,
        "qk_rope_head_dim": 8,
        "o_groups": 2,
        "o_lora_rank": 8,
        "compress_ratios": (2, 2),
        "kv_source_layer_ids": (0,),
        "index_source_layer_ids": (0,),
        "candidate_source_layer_id": 0,
        "candidate_topk_blocks": 1,
        "candidate_block_size": 2,
        "index_n_heads": 2,
        "index_head_dim": 32,
        "index_topk": 2,
        "sliding_window": 4,
        "hc_mult": 2,
        "hc_sinkhorn_iters": 2,
    },
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_intermediate_size": 16, "moe_k": 2, "moe_layer_start_index": 1},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"layer_types": TWO_KINDS, "is_moe_layer": [False, True]},
    "falcon_h1": {
        "mamba_chunk_size": 4,
        "mamba_d_head": 8,
        "mamba_d_ssm": 32,
        "mamba_d_state": 8,
        "mamba_n_heads": 4,
    },
    "gear": {"layer_types": TWO_KINDS},
    "gemma3_text": {"sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "gemma3n.TextConfig": {
        "num_kv_shared_layers": 1,
        "rope_local_base_freq": 10000.0,
        "layer_types": [*TWO_KINDS, "full_attention"],
        "num_hidden_layers": 3,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0],
        "hidden_size_per_layer_input": 8,
        "altup_num_inputs": 2,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    },
    "gemma4_text": {"layer_types": TWO_KINDS, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8},
    "glm_moe_dsa": {"index_head_dim": 8, "index_n_heads": 2, "index_topk": 4, "rope_parameters": ROPE},
    "gpt_neox": {"rotary_emb_base": 10000},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 16,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_proj_bias": False,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "hunyuan": {
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1000.0, "type": "dynamic", "factor": 1.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
    },
    "kimi_k3.TextArgs": {
        "linear_attn_config": LINEAR_ATTENTION,
        "attn_res_block_size": 1,
        "num_shared_experts": 1,
        "routed_expert_hidden_size": 16,
        "latent_moe_use_norm": True,
    },
    "kimi_linear": {"linear_attn_config": LINEAR_ATTENTION, "model_max_length": 64},
    "lfm2": {
        "layer_types": ["conv", "full_attention"],
        "block_dim": 32,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "use_expert_bias": True, "num_dense_layers": 1},
    "lille-130m": {"block_size": 64, "n_embd": 64},
    "llama4.TextArgs": {"attention_chunk_size": 4, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
    "llama4": {"text_config": {"num_experts_per_tok": 1, "num_hidden_layers": 4}},
    "llama4_text": {"intermediate_size_mlp": 48, "no_rope_layers": [1, 0]},
    "longcat_flash": {
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "moe_topk": 2,
        "expert_ffn_hidden_size": 16,
        "ffn_hidden_size": 48,
        "zero_expert_num": 1,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "longcat_flash_ngram": {
        "moe_topk": 2,
        "expert_ffn_hidden_size": 16,
        "ffn_hidden_size": 48,
        "zero_expert_num": 1,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "ngram_vocab_size_ratio": 2,
    },
    "mellum": {"layer_types": TWO_KINDS, "rope_parameters": ROPE_BY_KIND},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [1, 0],
        "moe_layer_freq": [0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": 4,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "minicpm3": {
        "rope_scaling": {"short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0], "original_max_position_embeddings": 64}
    },
    "minimax": {"shared_intermediate_size": 16},
    "minimax_m3_vl.TextArgs": {
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 16,
        "moe_layer_freq": [0, 1],
        "layer_types": ["full_attention", "sparse_attention"],
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 2,
        "index_topk_blocks": 2,
    },
    "ministral3": {
        "layer_types": TWO_KINDS,
        "rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 4},
        "sliding_window": 4,
    },
    "mistral4": {"rope_parameters": {**ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 4}},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.5}},
            {"attention": {"replace_with_linear": True}, "ffn": {"no_op": True}},
        ]
    },
    "nemotron_h": {
        "num_hidden_layers": 4,
        "hybrid_override_pattern": ["M", "-", "*", "E"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "moe_shared_expert_intermediate_size": 16,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "olmo": {"mlp_hidden_size": 48, "embedding_size": VOCABULARY},
    "olmo3": {"layer_types": TWO_KINDS},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"], "linear_allow_neg_eigval": True},
    "openelm": {
        "num_transformer_layers": 2,
        "ffn_dim_divisor": 8,
        "num_query_heads": [4, 4],
        "num_kv_heads": [2, 2],
        "ffn_multipliers": [1.0, 2.0],
    },
    "phi": {"partial_rotary_factor": 0.5},
    "phi3small": {
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 48,
        "gegelu_limit": 20.0,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        "blocksparse_vert_stride": 2,
        "vocab_size": 100352,  # it masks the tokens from 100256 on
    },
    "phixtral": {"rotary_dim": 4},
    "plamo": {"n_shared_head": 2},
    "plamo2": {
        "hidden_size_per_head": 8,
        "attention_window_size": 4,
        "mamba_d_state": 8,
        "mamba_num_heads": 4,
        "mamba_chunk_size": 4,
    },
    "prism_hadamard_qwen35": {
        "text_config": {"num_experts": 0, "intermediate_size": 512},
        "schema_version": 1,
        "tensor_namespace": "mlx-lm-text",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {"path": "model.layers.0.mlp.down_proj", "embedding": False, "dtype": "float16", "block": 512},
        ],
    },
    "qwen": {"num_attention_heads": 4},
    "qwen3": {"rope_theta": 10000.0},
    "qwen3_5": {"text_config": {"num_experts": 0}},
    "qwen3_5.TextModelArgs": {"full_attention_interval": 2},
    "qwen3_next": {"full_attention_interval": 2},
    "recurrent_gemma": {
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv7": {"a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
    "spark2_5": {"layer_types": TWO_KINDS, "rope_parameters": ROPE_BY_KIND},
    "step3p5": {
        "num_attention_groups": 2,
        "layer_types": TWO_KINDS,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 16,
        "moe_layers_enum": "1",
        "sliding_window": 4,
    },
}
"""What a model wants otherwise, on top of the above."""

WRAPPED: dict[str, str] = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n.TextConfig",
    "gemma4": "gemma4_text",
    "kimi_k25": "deepseek_v3",
    "kimi_k3": "kimi_k3.TextArgs",
    "kimi_vl": "kimi_vl.TextArgs",
    "lfm2-vl": "lfm2",
    "llama4": "llama4.TextArgs",
    "minimax_m3_vl": "minimax_m3_vl.TextArgs",
    "mistral3": "ministral3",
    "pixtral": "llama",
    "prism_hadamard_qwen35": "qwen3_5.TextModelArgs",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5.TextModelArgs",
    "qwen3_5_moe": "qwen3_5.TextModelArgs",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Models around a text model: what their `text_config` configures."""

UNTRAINABLE: dict[str, str] = {
    "deepseek_v41": "the router passes a gradient to the indices of take_along_axis, which MLX refuses",
}
"""Models of which plain MLX runs only the forward pass, and why."""

IMPOSSIBLE: dict[str, str] = {
    "bitnet": "its linear layers are Metal kernels",
    "muse_spark": "a Metal kernel normalizes and rotates its queries and keys",
}
"""Models that plain MLX cannot even run on a CPU, and why."""

SILENT: dict[str, str] = {
    "olmo": 'adds the mask "causal" as if it were an array',
}
"""Models that do not write text with the cache that mlx-lm makes for them, and why."""

HELPERS = frozenset(
    "activations base bitlinear_layers cache gated_delta mla pipeline rope_utils ssm switch_layers".split()
)
"""Modules of `mlx_lm.models` without a model."""


def _modules() -> set[str]:
    """The modules of `mlx_lm.models`, without importing it: that is a second of work, and a thousand modules of other
    packages', through which each session of the tests in that process would look. Who builds a model imports it."""
    package = importlib.util.find_spec("mlx_lm")
    assert package is not None
    folders = package.submodule_search_locations or []
    return {found.name for found in pkgutil.iter_modules([f"{folder}/models" for folder in folders])}


MODELS = tuple(sorted(_modules() - HELPERS - IMPOSSIBLE.keys()))
DIFFERENT = frozenset(
    "Klear afm7 bailing_hybrid bailing_moe_v3 dbrx gemma3n kimi_k3 longcat_flash_ngram minicpm3 phixtral "
    "prism_hadamard_qwen35 recurrent_gemma rwkv7".split()
)
"""Trained, these come by each line and each branch of nnrepl that any of them all comes by."""


def tiny(name: str) -> nn.Module:
    """Build a model of `mlx_lm.models` in miniature, the same one every time."""
    module = _load(name)
    mx.random.seed(0)
    model: nn.Module = module.Model(module.ModelArgs(**values(name)))
    if name == "recurrent_gemma":
        nn.Module.__init__(model)  # its own __init__ forgets to
    model.apply(_without_zeros)
    return model


def tokens_for(name: str) -> mx.array:
    """What a model is trained on: two sequences of token ids."""
    length = 2 if name == "olmo" else 8  # OLMo adds the mask "causal" as if it were an array; one token needs none
    return mx.array([[1, 5, 9, 3, 7, 2, 8, 4], [2, 4, 6, 8, 1, 3, 5, 7]])[:, :length]


def loss_of(model: nn.Module) -> Callable[[mx.array], mx.array]:
    """Next-token cross entropy."""

    def loss(tokens: mx.array) -> mx.array:
        logits = model(tokens[:, :-1])
        return nn.losses.cross_entropy(logits.astype(mx.float32), tokens[:, 1:], reduction="mean")

    return loss


def values(name: str) -> dict[str, Any]:
    """The arguments for a model (`llama`), or for another class of its module (`llama4.TextArgs`)."""
    module, _, class_name = name.partition(".")
    chosen: dict[str, Any] = {}
    special = OVERRIDES.get(name, {})
    for field in dataclasses.fields(getattr(_load(module), class_name or "ModelArgs")):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name == "text_config":
            chosen[field.name] = values(WRAPPED[name]) | special.get("text_config", {})
        elif field.name in special:
            chosen[field.name] = special[field.name]
        elif field.name in SIZES:
            chosen[field.name] = SIZES[field.name]
        elif needed and field.name in REQUIRED:
            chosen[field.name] = REQUIRED[field.name]
    return chosen


def _load(name: str) -> ModuleType:
    if name == "olmo":  # it asks whether ai2-olmo is installed, and uses nothing of it
        sys.modules.setdefault("hf_olmo", ModuleType("hf_olmo"))
    return importlib.import_module(f"mlx_lm.models.{name}")


def _without_zeros(parameter: mx.array) -> mx.array:
    """Something random for parameters that begin as zeros, after which differences would hide."""
    if parameter.any().item():
        return parameter
    if mx.issubdtype(parameter.dtype, mx.floating):
        return (0.1 * mx.random.normal(parameter.shape)).astype(parameter.dtype)
    return mx.random.randint(0, 1 << 30, parameter.shape).astype(parameter.dtype)
