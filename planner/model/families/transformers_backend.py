"""Decoders that vLLM runs through its Transformers modeling backend (models/transformers/base.py, 0.33).

transformers' own modules with their linears replaced: projections that feed one attention and gates are fused as in a
native class, the rest is split as transformers' tensor-parallel plan says. Rotary embeddings stay transformers': a few
fp32 numbers instead of a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Dims,
    alternating,
    dims,
    gated_mlp,
    norm,
    plain_mlp,
    qkv_attention,
    rope,
    ungated_mlp,
    windows,
)
from planner.model.families.dense import PRE_NORMS, norms, stack
from planner.model.modules import Embedding, Linear, Module, Weight


def _rotary(config: Config, head_dim: int, *, partial: float = 1.0, kinds: Sequence[str] = ("",)) -> tuple[Weight, ...]:
    """The frequencies, one for two elements of a head, and a copy of them; per kind of layer where kinds differ."""
    size = -(-rope(config, partial=partial).rotary_dim(head_dim) // 2)
    return tuple(
        Weight(
            name=f"model.rotary_emb.{kind}{part}",
            shape=(size,),
            kind="buffer",
            dtype="float32",
            group="other",
        )
        for kind in kinds
        for part in ("inv_freq", "original_inv_freq")
    )


def _backend(config: Config, name: str, d: Dims, modules: Sequence[Module], **others: Any) -> Model:
    others.setdefault("everywhere", _rotary(config, d.head_dim))
    others.setdefault("local", windows(config, d.layers))
    model = stack(config, name, d, modules, **others)
    # With a tied head the last stage keeps all that comes before the layers, not the embedding alone.
    return replace(model, tied=model.first) if model.tied else model


def _llama(config: Config, name: str, *, qkv_bias: bool, o_bias: bool, mlp_bias: bool) -> Model:
    d = dims(config)
    modules = (
        *qkv_attention(d, qkv_bias=qkv_bias, o_bias=o_bias),
        *gated_mlp(d.hidden, config.int("intermediate_size"), bias=mlp_bias),
        *norms(d.hidden, *PRE_NORMS),
    )
    return _backend(config, name, d, modules)


@family("SmolLM3ForCausalLM")
def smollm3(config: Config, name: str) -> Model:
    """Llama without positions in some layers; windows, if used at all, in those."""
    bias = config.bool("attention_bias", default=False)
    d = dims(config)
    types = ["full_attention"] * d.layers
    if config.bool("use_sliding_window", default=False):
        every = config.int("no_rope_layer_interval", default=4)
        ropes = config.ints("no_rope_layers", default=[int((i + 1) % every != 0) for i in range(d.layers)])
        types = ["full_attention" if turned else "sliding_attention" for turned in ropes]
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *gated_mlp(d.hidden, config.int("intermediate_size"), bias=config.bool("mlp_bias", default=False)),
        *norms(d.hidden, *PRE_NORMS),
    )
    return _backend(config, name, d, modules, local=windows(config, d.layers, types))


@family("SeedOssForCausalLM")
def seed_oss(config: Config, name: str) -> Model:
    """Llama with a bias on q, k and v, and one of its own for the output."""
    return _llama(
        config,
        name,
        qkv_bias=config.bool("attention_bias", default=True),
        o_bias=config.bool("attention_out_bias", default=False),
        mlp_bias=config.bool("mlp_bias", default=False),
    )


@family("GlmForCausalLM")
def glm(config: Config, name: str) -> Model:
    """GLM-4 in transformers' format: half of each head rotated, gate and up stored as one."""
    d = dims(config)
    width = config.int("intermediate_size")
    modules = (
        *qkv_attention(d, qkv_bias=config.bool("attention_bias", default=False)),
        Linear(name="mlp.gate_up_proj", inputs=d.hidden, outputs=(2 * width,), split="column"),
        Linear(name="mlp.down_proj", inputs=width, outputs=(d.hidden,), split="row"),
        *norms(d.hidden, *PRE_NORMS),
    )
    return _backend(config, name, d, modules, everywhere=_rotary(config, d.head_dim, partial=0.5))


@family("HunYuanDenseV1ForCausalLM")
def hunyuan(config: Config, name: str) -> Model:
    """Llama with norms on q and k per head."""
    d = dims(config)
    bias = config.bool("attention_bias", default=False)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *norms(d.head_dim, "self_attn.query_layernorm", "self_attn.key_layernorm"),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, *PRE_NORMS),
    )
    return _backend(config, name, d, modules)


@family("ArceeForCausalLM")
def arcee(config: Config, name: str) -> Model:
    """Llama whose MLP has no gate."""
    d = dims(config)
    bias = config.bool("attention_bias", default=False)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *ungated_mlp(config, d.hidden),
        *norms(d.hidden, *PRE_NORMS),
    )
    return _backend(config, name, d, modules)


@family("OlmoForCausalLM")
def olmo(config: Config, name: str) -> Model:
    """Norms without parameters."""
    d = dims(config)
    bias = config.bool("attention_bias", default=False)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
    )
    return _backend(config, name, d, modules, final_norm=())


@family("Olmo2ForCausalLM")
def olmo2(config: Config, name: str) -> Model:
    """Norms after attention and MLP, and over the whole width of q and k, kept whole on every rank."""
    d = dims(config)
    return _backend(config, name, d, _olmo2_layer(config, d))


@family("Olmo3ForCausalLM")
def olmo3(config: Config, name: str) -> Model:
    """OLMo 2 with windows in three layers of four, and frequencies for each of the two kinds."""
    d = dims(config)
    types = alternating(config, d.layers, 4)
    kinds = ("sliding_attention_", "full_attention_")
    return _backend(
        config,
        name,
        d,
        _olmo2_layer(config, d),
        local=windows(config, d.layers, types),
        everywhere=_rotary(config, d.head_dim, kinds=kinds),
    )


def _olmo2_layer(config: Config, d: Dims) -> tuple[Module, ...]:
    bias = config.bool("attention_bias", default=False)
    return (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *norm("self_attn.q_norm", d.heads * d.head_dim),
        *norm("self_attn.k_norm", d.kv_heads * d.head_dim),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, "post_attention_layernorm", "post_feedforward_layernorm"),
    )


@family("GPTNeoXForCausalLM")
def gpt_neox(config: Config, name: str) -> Model:
    """Pythia and GPT-NeoX: one projection for q, k and v, a quarter of each head rotated."""
    d = dims(config, kv_heads=config.int("num_attention_heads"))
    bias = config.bool("attention_bias", default=True)
    modules = (
        *norms(d.hidden, *PRE_NORMS, bias=True),
        *qkv_attention(
            d,
            prefix="attention",
            qkv_name="query_key_value",
            o_name="dense",
            packed=("query_key_value",),
            qkv_bias=bias,
            o_bias=bias,
        ),
        *plain_mlp(
            d.hidden,
            config.int("intermediate_size"),
            up="mlp.dense_h_to_4h",
            down="mlp.dense_4h_to_h",
            bias=True,
        ),
    )
    return _backend(
        config,
        name,
        d,
        modules,
        first=(Embedding(name="model.embed_in", rows=d.vocab, width=d.hidden),),
        final_norm=norm("model.final_layer_norm", d.hidden, bias=True),
        everywhere=_rotary(config, d.head_dim, partial=0.25),
    )


@family("PhiForCausalLM")
def phi(config: Config, name: str) -> Model:
    """Phi-1 and 2: one norm a layer, biases everywhere, the head's too once the checkpoint brings it."""
    d = dims(config)
    modules: list[Module] = [
        *qkv_attention(d, o_name="dense", qkv_bias=True, o_bias=True),
        *plain_mlp(d.hidden, config.int("intermediate_size"), up="mlp.fc1", down="mlp.fc2", bias=True),
        *norms(d.hidden, "input_layernorm", bias=True),
    ]
    if config.bool("qk_layernorm", default=False):
        modules += norms(d.hidden // d.heads, "self_attn.q_layernorm", "self_attn.k_layernorm", bias=True)
    return _backend(
        config,
        name,
        d,
        modules,
        final_norm=norm("model.final_layernorm", d.hidden, bias=True),
        lm_head_bias=True,
        everywhere=_rotary(config, d.head_dim, partial=0.5),
    )


@family("Starcoder2ForCausalLM")
def starcoder2(config: Config, name: str) -> Model:
    """LayerNorm, an MLP without a gate, biases unless use_bias says no."""
    d = dims(config)
    bias = config.bool("use_bias", default=True)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *plain_mlp(d.hidden, config.int("intermediate_size"), up="mlp.c_fc", down="mlp.c_proj", bias=bias),
        *norms(d.hidden, *PRE_NORMS, bias=True),
    )
    return _backend(config, name, d, modules, final_norm=norm("model.norm", d.hidden, bias=True))


@family("GPTBigCodeForCausalLM")
def gpt_bigcode(config: Config, name: str) -> Model:
    """StarCoder 1: learned positions, one KV head, an MLP that transformers has no plan to split."""
    d = dims(config, kv_heads=1 if config.bool("multi_query", default=True) else None)
    inner = config.optional_int("n_inner") or 4 * d.hidden
    modules = (
        *qkv_attention(
            d, prefix="attn", o_name="c_proj", qkv_name="c_attn", packed=("c_attn",), qkv_bias=True, o_bias=True
        ),
        Linear(name="mlp.c_fc", inputs=d.hidden, outputs=(inner,), split="none", bias=True),
        Linear(name="mlp.c_proj", inputs=inner, outputs=(d.hidden,), split="none", bias=True),
        *norms(d.hidden, "ln_1", "ln_2", bias=True),
    )
    length = config.int("max_position_embeddings")
    mask = Weight(name="model.bias", shape=(length, length), kind="buffer", dtype="bool", group="other")
    first = (
        Embedding(name="model.wte", rows=d.vocab, width=d.hidden),
        Embedding(name="model.wpe", rows=length, width=d.hidden, split=False),
    )
    return _backend(
        config,
        name,
        d,
        modules,
        first=first,
        final_norm=norm("model.ln_f", d.hidden, bias=True),
        everywhere=(mask,),
        layer_prefix="model.h.",
    )
