"""Decoders from before Llama: LayerNorm with bias, an MLP without a gate, learned positions or ALiBi."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import Dims, dims, norm, plain_mlp, qkv_attention, rope, rotary_cache
from planner.model.families.dense import alibi_slopes, norms, stack
from planner.model.modules import Embedding, Linear, Module, Weight


def _table(name: str, rows: int, width: int) -> Embedding:
    """A plain nn.Embedding: whole on every rank."""
    return Embedding(name=name, rows=rows, width=width, split=False)


def _unsplit(
    config: Config, name: str, d: Dims, modules: Sequence[Module], root: str, layers: str, **others: Any
) -> Model:
    """These classes build embeddings, final norm and head on every pipeline stage."""
    others.setdefault("final_norm", norm(f"{root}.ln_f", d.hidden, bias=True))
    return stack(config, name, d, modules, layer_prefix=f"{root}.{layers}.", split_ends=False, **others)


@family("GPT2LMHeadModel")
def gpt2(config: Config, name: str) -> Model:
    """models/gpt2.py."""
    d = dims(config)
    inner = config.optional_int("n_inner") or 4 * d.hidden
    modules = (
        *norms(d.hidden, "ln_1", "ln_2", bias=True),
        *qkv_attention(
            d, prefix="attn", qkv_name="c_attn", o_name="c_proj", packed=("c_attn",), qkv_bias=True, o_bias=True
        ),
        *plain_mlp(d.hidden, inner, up="mlp.c_fc", down="mlp.c_proj", bias=True),
    )
    positions = config.int("max_position_embeddings")
    first = (
        Embedding(name="transformer.wte", rows=d.vocab, width=d.hidden),
        _table("transformer.wpe", positions, d.hidden),
    )
    return _unsplit(config, name, d, modules, "transformer", "h", first=first)


@family("GPTJForCausalLM")
def gptj(config: Config, name: str) -> Model:
    """models/gpt_j.py: an untied lm_head with a bias, rotary positions on rotary_dim of each head."""
    d = dims(config)
    inner = config.optional_int("n_inner") or 4 * d.hidden
    modules = (
        *norms(d.hidden, "ln_1", bias=True),
        *qkv_attention(d, prefix="attn", o_name="out_proj"),
        *plain_mlp(d.hidden, inner, up="mlp.fc_in", down="mlp.fc_out", bias=True),
    )
    cache = rotary_cache(
        rope(config),
        d.head_dim,
        config.int("max_position_embeddings", default=8192),
        rotary_dim=config.int("rotary_dim"),
    )
    first = (Embedding(name="transformer.wte", rows=d.vocab, width=d.hidden),)
    return _unsplit(
        config,
        name,
        d,
        modules,
        "transformer",
        "h",
        first=first,
        tie=False,
        lm_head_bias=True,
        everywhere=(cache,),
    )


@family("OPTForCausalLM")
def opt(config: Config, name: str) -> Model:
    """models/opt.py: positions are offset by two; the smallest embedding (350m) is projected to the hidden size."""
    d = dims(config)
    bias = config.bool("enable_bias", default=True)
    affine = config.bool("layer_norm_elementwise_affine", default=True)
    layer_norms = norms(d.hidden, "self_attn_layer_norm", "final_layer_norm", bias=True) if affine else ()
    modules = (
        *qkv_attention(d, o_name="out_proj", qkv_bias=bias, o_bias=bias),
        *layer_norms,
        *plain_mlp(d.hidden, config.int("ffn_dim"), up="fc1", down="fc2", bias=bias),
    )
    width = config.int("word_embed_proj_dim", default=d.hidden)
    first: list[Module] = [
        Embedding(name="model.decoder.embed_tokens", rows=d.vocab, width=width),
        _table("model.decoder.embed_positions", config.int("max_position_embeddings") + 2, d.hidden),
    ]
    if width != d.hidden:
        first += [
            Linear(name="model.decoder.project_out", inputs=d.hidden, outputs=(width,), split="none"),
            Linear(name="model.decoder.project_in", inputs=width, outputs=(d.hidden,), split="none"),
        ]
    closes = config.bool("do_layer_norm_before", default=True) and affine
    if config.bool("_remove_final_layer_norm", default=False):
        closes = False
    return _unsplit(
        config,
        name,
        d,
        modules,
        "model.decoder",
        "layers",
        first=first,
        final_norm=norm("model.decoder.final_layer_norm", d.hidden, bias=True) if closes else (),
        head_width=width,
    )


@family("BloomForCausalLM")
def bloom(config: Config, name: str) -> Model:
    """models/bloom.py: ALiBi, a norm after the embedding."""
    d = dims(config)
    attention = "self_attention"
    modules = (
        *norms(d.hidden, "input_layernorm", "post_attention_layernorm", bias=True),
        *qkv_attention(
            d,
            prefix=attention,
            qkv_name="query_key_value",
            o_name="dense",
            packed=("query_key_value",),
            qkv_bias=True,
            o_bias=True,
        ),
        alibi_slopes(d.heads, f"{attention}.attn"),
        *plain_mlp(d.hidden, 4 * d.hidden, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", bias=True),
    )
    first = (
        Embedding(name="transformer.word_embeddings", rows=d.vocab, width=d.hidden),
        *norm("transformer.word_embeddings_layernorm", d.hidden, bias=True),
    )
    return _unsplit(config, name, d, modules, "transformer", "h", first=first)


@family("FalconForCausalLM", "RWForCausalLM")
def falcon(config: Config, name: str) -> Model:
    """models/falcon.py: one KV head (7B), several (40B, new_decoder_architecture) or one for each head."""
    d = _falcon_dims(config)
    bias = config.bool("bias", default=False)
    attention = "self_attention"
    modules: list[Module] = [
        *qkv_attention(
            d,
            prefix=attention,
            qkv_name="query_key_value",
            o_name="dense",
            packed=("query_key_value",),
            qkv_bias=bias,
            o_bias=bias,
        ),
        *plain_mlp(d.hidden, 4 * d.hidden, up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h", bias=bias),
        *norms(d.hidden, *_falcon_norms(config), bias=True),
    ]
    everywhere: tuple[Weight, ...] = ()
    if config.bool("alibi", default=False):
        modules.append(alibi_slopes(d.heads, f"{attention}.attn"))
    else:
        length = config.int("max_position_embeddings", default=2048)
        everywhere = (rotary_cache(rope(config), d.head_dim, length),)
    first = (Embedding(name="transformer.word_embeddings", rows=d.vocab, width=d.hidden),)
    return _unsplit(config, name, d, modules, "transformer", "h", first=first, everywhere=everywhere)


def _falcon_dims(config: Config) -> Dims:
    d = dims(config, kv_heads=1)
    if config.bool("new_decoder_architecture", default=False):
        return dims(config, kv_heads=config.int(config.first_of(("num_kv_heads", "n_head_kv"))))
    return d if config.bool("multi_query", default=True) else dims(config, kv_heads=d.heads)


def _falcon_norms(config: Config) -> tuple[str, ...]:
    if not config.bool("parallel_attn", default=True):
        return ("post_attention_layernorm", "input_layernorm")
    two = 2 if config.bool("new_decoder_architecture", default=False) else 1
    if config.int("num_ln_in_parallel_attn", default=two) == 2:
        return ("ln_attn", "ln_mlp")
    return ("input_layernorm",)
