"""Gemma 1 to 4 and 3n, text only: norms on both sides, interleaved windows, embeddings on every pipeline stage.

Vision-language Gemmas (vision.py) are these with a tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from planner.errors import InputError
from planner.model.architecture import Layer, Model
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Dims,
    Rope,
    alternating,
    decoder,
    dims,
    for_pooling,
    gated_mlp,
    kv_state,
    layer_types,
    norm,
    qkv_attention,
    repeat,
    rope,
    rotary_cache,
    windows,
)
from planner.model.families.dense import PRE_NORMS, llama_rotary, norms, stack
from planner.model.families.sparse import router
from planner.model.modules import AttentionScales, Embedding, Experts, Linear, Module, Weight

FOUR_NORMS = (*PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
FULL, SLIDING = "full_attention", "sliding_attention"


def _scalar(name: str) -> Weight:
    """A number kept as a tensor of the model's dtype."""
    return Weight(name=name, shape=(), kind="buffer", group="other")


@family("GemmaForCausalLM")
def gemma(config: Config, name: str) -> Model:
    """models/gemma.py."""
    return _gemma(config, name, PRE_NORMS)


@family("Gemma2ForCausalLM", "Gemma2Model")
def gemma2(config: Config, name: str) -> Model:
    """models/gemma2.py: every second layer attends to a window; always tied."""
    layers = config.int("num_hidden_layers")
    local = windows(config, layers, alternating(config, layers, 2))
    return _gemma(config, name, FOUR_NORMS, local=local, tie=True)


@family("Gemma3TextModel")
def embedding_gemma(config: Config, name: str) -> Model:
    """Gemma3Model of models/gemma3.py, for embeddings (EmbeddingGemma)."""
    return replace(for_pooling(gemma3(config, name)), supports_pp=False)


@family("Gemma3ForCausalLM")
def gemma3(config: Config, name: str) -> Model:
    """models/gemma3.py: every sixth layer attends fully, with a rotary cache of its own; norms on q and k."""
    layers = config.int("num_hidden_layers")
    types = layer_types(config, layers) or alternating(config, layers, 6)
    both_ways = config.bool("use_bidirectional_attention", default=False)
    return _gemma(
        config,
        name,
        FOUR_NORMS,
        qk_norm=True,
        local=windows(config, layers, types),
        cached=not both_ways,
        everywhere=_caches(config, types, dims(config).head_dim),
    )


def _gemma(config: Config, name: str, layer_norms: tuple[str, ...], *, qk_norm: bool = False, **others: Any) -> Model:
    d = dims(config)
    bias = config.bool("attention_bias", default=False)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias, qk_norm=d.head_dim if qk_norm else None),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, *layer_norms),
    )
    everywhere = others.pop("everywhere", None) or llama_rotary(config, d)
    return stack(
        config,
        name,
        d,
        modules,
        everywhere=(*everywhere, _scalar("model.normalizer")),
        split_ends=False,
        **others,
    )


def _caches(config: Config, types: Sequence[str], *head_dims: int) -> tuple[Weight, ...]:
    """A rotary cache for each kind of layer there is; the two differ in theta at least."""
    length = config.int("max_position_embeddings")
    return tuple(
        rotary_cache(_rope_of(config, kind), head_dim, length)
        for kind, head_dim in zip((SLIDING, FULL), (*head_dims, head_dims[0]), strict=False)
        if kind in types
    )


def _rope_of(config: Config, kind: str) -> Rope:
    """rope_parameters by kind of layer (transformers 5); before, rope_scaling was meant for full attention."""
    nested = config.optional_section("rope_parameters")
    if nested is not None and nested.has(kind):
        return rope(config, kind)
    return rope(config) if kind == FULL else Rope(parameters={})


# --- Gemma 3n ------------------------------------------------------------------------------------------------------


def _column(name: str, inputs: int, rows: int, *, bias: bool = False, group: Any = "mlp") -> Linear:
    return Linear(name=name, inputs=inputs, outputs=(rows,), split="column", bias=bias, group=group)


def _whole(name: str, inputs: int, rows: int, **others: Any) -> Linear:
    return Linear(name=name, inputs=inputs, outputs=(rows,), split="none", **others)


def _reused_kv(d: Dims, bias: bool) -> tuple[Module, ...]:
    """Attention of a layer that reads another layer's keys and values: a query projection only."""
    return (
        _column("self_attn.q_proj", d.hidden, d.heads * d.head_dim, bias=bias, group="attention"),
        Linear(
            name="self_attn.o_proj",
            inputs=d.heads * d.head_dim,
            outputs=(d.hidden,),
            split="row",
            bias=bias,
            group="attention",
        ),
        AttentionScales(),
        *norm("self_attn.q_norm", d.head_dim),
    )


def _own_kv(d: Dims, bias: bool) -> tuple[Module, ...]:
    """As Gemma 3, with a norm without weight on the values, which still holds a vector of ones."""
    return (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias, qk_norm=d.head_dim),
        Weight(name="self_attn.v_norm.weight", shape=(d.head_dim,), kind="attr"),
    )


def _own_kv_layers(config: Config, layers: int) -> int:
    """How many layers, from the first, keep keys and values of their own."""
    shared = config.int("num_kv_shared_layers", minimum=0)
    if shared >= layers:
        raise config.error("num_kv_shared_layers", f"= {shared} leaves none of num_hidden_layers = {layers} a KV cache")
    return layers - shared


def _per_layer_inputs(config: Config, layers: int, hidden: int) -> tuple[tuple[Module, ...], tuple[Module, ...]]:
    """Embeddings per layer: what the model holds once, and what each layer holds. Both empty where there are none."""
    size = config.optional_int("hidden_size_per_layer_input") or 0
    if not size:
        return (), ()
    rows = config.int("vocab_size_per_layer_input", default=config.int("vocab_size"))
    once: tuple[Module, ...] = (
        Embedding(name="model.embed_tokens_per_layer", rows=rows, width=layers * size),
        _column("model.per_layer_model_projection", hidden, layers * size),
        *norm("model.per_layer_projection_norm", size),
        *(_scalar(f"model.{name}") for name in ("embed_scale_per_layer", "per_layer_input_scale")),
        _scalar("model.per_layer_projection_scale"),
    )
    each: tuple[Module, ...] = (
        _whole("per_layer_input_gate", hidden, size),
        _whole("per_layer_projection", size, hidden),
        *norm("post_per_layer_input_norm", hidden),
    )
    return once, each


@family("Gemma3nForCausalLM")
def gemma3n(config: Config, name: str) -> Model:
    """models/gemma3n.py: four streams (AltUp), low-rank residuals (Laurel), embeddings per layer, reused caches."""
    d = dims(config)
    types = layer_types(config, d.layers) or alternating(config, d.layers, 5)
    own = _own_kv_layers(config, d.layers)
    widths = _widths(config, d.layers)
    spans = windows(config, d.layers, types)
    once, each = _per_layer_inputs(config, d.layers, d.hidden)
    streams = config.int("altup_num_inputs")
    bias = config.bool("attention_bias", default=False)
    common = (*_altup(d.hidden, streams), *_laurel(config, d.hidden), *each, *norms(d.hidden, *FOUR_NORMS))

    def layer(index: int) -> Layer:
        attention = _own_kv(d, bias) if index < own else _reused_kv(d, bias)
        return Layer(
            modules=(*attention, *gated_mlp(d.hidden, widths[index]), *common),
            state=kv_state(d, spans[index]) if index < own else None,
        )

    projections: tuple[Literal["altup_projections", "altup_unembed_projections"], ...]
    projections = ("altup_projections", "altup_unembed_projections")
    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: (spans[index], index < own, widths[index])),
        tie=True,
        everywhere=(
            *once,
            *(_column(f"model.{p}.{i}", d.hidden, d.hidden) for p in projections for i in range(streams - 1)),
            *_caches(config, types, d.head_dim),
            _scalar("model.embed_scale"),
        ),
        supports_pp=False,
        extra_parameters={
            "keys and values of layers that reuse others'": (d.layers - own)
            * (2 * d.kv_heads * d.head_dim * d.hidden + d.head_dim)
        },
    )


def _widths(config: Config, layers: int) -> tuple[int, ...]:
    """intermediate_size: one number, or one for each layer."""
    if not isinstance(config.raw("intermediate_size"), list):
        return (config.int("intermediate_size"),) * layers
    widths = config.ints("intermediate_size", minimum=1)
    if len(widths) != layers:
        raise config.error("intermediate_size", f"lists {len(widths)} layers, num_hidden_layers says {layers}")
    return widths


def _altup(hidden: int, streams: int) -> tuple[Module, ...]:
    return (
        _whole("altup.correction_coefs", streams, streams),
        _whole("altup.prediction_coefs", streams, streams**2),
        _whole("altup.modality_router", hidden, streams),
        *norm("altup.router_norm", hidden),
        _scalar("altup.router_input_scale"),
        Weight(name="altup.correct_output_scale", shape=(hidden,), dtype="float32", group="other"),
    )


def _laurel(config: Config, hidden: int) -> tuple[Module, ...]:
    rank = config.int("laurel_rank")
    return (
        _column("laurel.linear_left", hidden, rank),
        Linear(name="laurel.linear_right", inputs=rank, outputs=(hidden,), split="row"),
        *norm("laurel.post_laurel_norm", hidden),
    )


# --- Gemma 4 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Gemma4:
    """The sizes of one kind of layer of Gemma 4: full attention has heads of its own size and number."""

    sliding: Dims
    full: Dims

    def of(self, kind: str) -> Dims:
        return self.full if kind == FULL else self.sliding


def _gemma4_dims(config: Config) -> _Gemma4:
    sliding = dims(config)
    kv_heads = sliding.kv_heads
    if config.bool("attention_k_eq_v", default=False):
        kv_heads = config.optional_int("num_global_key_value_heads") or kv_heads
    if sliding.heads % kv_heads:
        raise InputError(
            f"{config.path('num_attention_heads')} = {sliding.heads} is not a multiple of "
            f"{config.path('num_global_key_value_heads')} = {kv_heads}; correct one of them"
        )
    full = Dims(
        hidden=sliding.hidden,
        layers=sliding.layers,
        heads=sliding.heads,
        kv_heads=kv_heads,
        head_dim=config.int("global_head_dim", default=512),
        vocab=sliding.vocab,
    )
    return _Gemma4(sliding=sliding, full=full)


@family("Gemma4ForCausalLM")
def gemma4(config: Config, name: str) -> Model:
    """models/gemma4.py: heads of two sizes, caches that later layers reuse, with or without experts."""
    g, d = _gemma4_dims(config), dims(config)
    types = list(layer_types(config, d.layers) or alternating(config, d.layers, 6))
    types[-1] = FULL  # transformers' class forces it
    own = _own_kv_layers(config, d.layers)
    wide = 2 if config.bool("use_double_wide_mlp", default=False) else 1
    width = config.int("intermediate_size")
    spans = tuple(config.optional_int("sliding_window") if kind == SLIDING else None for kind in types)
    once, each = _per_layer_inputs(config, d.layers, d.hidden)
    bias = config.bool("attention_bias", default=False)
    common = (
        *norms(d.hidden, *FOUR_NORMS),
        *_gemma4_experts(config, d.hidden),
        *each,
        Weight(name="layer_scalar", shape=(1,), kind="buffer", group="other"),
    )

    def layer(index: int) -> Layer:
        mine = g.of(types[index])
        attention = _own_kv(mine, bias) if index < own else _reused_kv(mine, bias)
        mlp = gated_mlp(d.hidden, width * (1 if index < own else wide))
        return Layer(
            modules=(*attention, *mlp, *common),
            state=kv_state(mine, spans[index]) if index < own else None,
        )

    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: (types[index], index < own)),
        everywhere=(
            *once,
            *_caches(config, types, g.sliding.head_dim, g.full.head_dim),
            _scalar("model.normalizer"),
        ),
        split_ends=False,
        extra_parameters=_gemma4_uncounted(config, g, types, own),
    )


def _gemma4_uncounted(config: Config, g: _Gemma4, types: Sequence[str], own: int) -> dict[str, int]:
    """A checkpoint stores a scalar for each layer, and with attention_k_eq_v no values, for they are the keys."""
    copies = 0
    if config.bool("attention_k_eq_v", default=False):
        copies = sum(kind == FULL for kind in types[:own]) * g.full.kv_heads * g.full.head_dim * g.full.hidden
    return {"layer_scalar": len(types), "values that are copies of the keys": -copies}


def _gemma4_experts(config: Config, hidden: int) -> tuple[Module, ...]:
    count = config.optional_int("num_experts")
    if count is None:
        return ()
    key = config.first_of(("moe_intermediate_size", "expert_intermediate_size"))
    names = ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2")
    return (
        router("router.proj", hidden, count),
        Weight(name="router.norm.weight", shape=(hidden,), kind="attr"),
        Weight(name="router.scale", shape=(hidden,), group="mlp"),
        Weight(name="router.per_expert_scale", shape=(count,), group="mlp"),
        _scalar("router.root_size"),
        Experts(
            name="experts",
            count=count,
            hidden=hidden,
            intermediate=config.int(key),
            top_k=config.int("top_k_experts"),
        ),
        *norms(hidden, *names),
    )
