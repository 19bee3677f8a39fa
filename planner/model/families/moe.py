"""Mixture-of-experts decoders with ordinary attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Dims,
    Rope,
    decoder,
    dims,
    gated_mlp,
    kv_state,
    layer_types,
    norm,
    qkv_attention,
    repeat,
    rope,
    rotary_cache,
)
from planner.model.families.sparse import (
    W123,
    count,
    deepseek_block,
    deepseek_sparse_layers,
    flag,
    hidden_over_heads,
    layers_of,
    moe_sizes,
    mtp_parameters,
    partial_rope,
    per_layer,
    rotary,
    router,
    sparse_mlp,
    two_norms,
    unstaged_decoder,
)
from planner.model.modules import (
    EngineBuffer,
    Experts,
    Heads,
    HeadsWeight,
    Linear,
    Module,
    Weight,
)

# --- Mixtral and its relatives -------------------------------------------------------------------------------------


@family("MixtralForCausalLM")
def mixtral(config: Config, name: str) -> Model:
    """models/mixtral.py: Llama's attention; vLLM gives the layers no sliding window."""
    d = dims(config)
    block = sparse_mlp(d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe", packed=W123)
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, qkv_attention(d), block, two_norms(d.hidden), kv_state(d)),
        everywhere=(rotary(config, d.head_dim),),
    )


@family("PhiMoEForCausalLM")
def phimoe(config: Config, name: str) -> Model:
    """models/phimoe.py: Mixtral with LayerNorms; q, k, v, o and lm_head have a bias whatever the config says."""
    d = dims(config)
    block = sparse_mlp(d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe", packed=W123)
    attention = qkv_attention(d, qkv_bias=True, o_bias=True)
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden, bias=True), kv_state(d)),
        final_norm=norm("model.norm", d.hidden, bias=True),
        lm_head_bias=True,
        quantizable_head=False,
        tie=False,
        everywhere=(rotary(config, d.head_dim),),
    )


@family("OlmoeForCausalLM")
def olmoe(config: Config, name: str) -> Model:
    """models/olmoe.py: norms over the whole query and key widths, whole on every rank."""
    d = hidden_over_heads(dims(config))
    block = sparse_mlp(d.hidden, moe_sizes(config, count="num_experts", width="intermediate_size"))
    attention = (
        *qkv_attention(d),
        *norm("self_attn.q_norm", d.heads * d.head_dim),
        *norm("self_attn.k_norm", d.kv_heads * d.head_dim),
    )
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden), kv_state(d)),
        tie=False,
        everywhere=(rotary(config, d.head_dim),),
    )


@family("DbrxForCausalLM")
def dbrx(config: Config, name: str) -> Model:
    """models/dbrx.py: its own key names; vLLM takes the biases of its LayerNorms away."""
    attn, ffn = config.section("attn_config"), config.section("ffn_config")
    hidden, heads = config.int("d_model"), config.int("n_heads")
    d = Dims(
        hidden=hidden,
        layers=config.int("n_layers"),
        heads=heads,
        kv_heads=attn.int("kv_n_heads"),
        head_dim=hidden // heads,
        vocab=config.int("vocab_size"),
    )
    moe = moe_sizes(ffn, count="moe_num_experts", top_k="moe_top_k", width="ffn_hidden_size")
    attention = qkv_attention(
        d, prefix="norm_attn_norm.attn", qkv_name="Wqkv", o_name="out_proj", packed=(), scales="attn"
    )
    norms = (
        *norm("norm_attn_norm.norm_1", hidden),
        *norm("norm_attn_norm.norm_2", hidden),
    )
    # The routed experts' prefix is that of the block itself; weights are named w1, v1 and w2 in the checkpoint.
    block: tuple[Module, ...] = (
        router("ffn.router.layer", hidden, moe.experts),
        Experts(
            name="ffn",
            count=moe.experts,
            hidden=hidden,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            packed=("w1", "v1", "w2"),
        ),
    )
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, attention, block, norms, kv_state(d)),
        embedding="transformer.wte",
        final_norm=norm("transformer.norm_f", hidden),
        tie=False,
        layer_prefix="transformer.blocks.",
        everywhere=(rotary_cache(Rope(parameters={}), d.head_dim, config.int("max_seq_len")),),
    )


# --- Qwen ----------------------------------------------------------------------------------------------------------


def qwen_sparse_layers(config: Config) -> Callable[[int], bool]:
    """Which layers are sparse: every decoder_sparse_step-th, but not those of mlp_only_layers."""
    step, dense = config.int("decoder_sparse_step"), set(config.ints("mlp_only_layers", default=()))
    return lambda index: index not in dense and (index + 1) % step == 0


@family("Qwen2MoeForCausalLM")
def qwen2_moe(config: Config, name: str) -> Model:
    """models/qwen2_moe.py: bias on q, k, v; a gated shared expert; the gate is there even without the expert."""
    d = hidden_over_heads(dims(config))
    block = sparse_mlp(
        d.hidden,
        moe_sizes(config, count="num_experts"),
        shared=count(config, "shared_expert_intermediate_size"),
        shared_name="shared_expert",
        shared_gate=True,
    )
    return _qwen_moe(config, name, d, qkv_attention(d, qkv_bias=True), block)


@family("Qwen3MoeForCausalLM")
def qwen3_moe(config: Config, name: str) -> Model:
    """models/qwen3_moe.py."""
    return qwen3_moe_text(config, name)


def qwen3_moe_text(config: Config, name: str, *, positions_factor: int = 4) -> Model:
    """Norms on q and k per head; the router is built with the quantization config.

    positions_factor: 1 inside a vision-language model (qwen3_vl_moe.py).
    """
    d = dims(config)
    shared = count(config, "shared_expert_intermediate_size")
    block = sparse_mlp(
        d.hidden,
        moe_sizes(config, count="num_experts"),
        gate_quantizable=True,
        shared=shared,
        shared_name="shared_expert",
        shared_gate=bool(shared),
    )
    attention = qkv_attention(d, qkv_bias=flag(config, "attention_bias"), qk_norm=d.head_dim)
    return _qwen_moe(config, name, d, attention, block, positions_factor=positions_factor)


def _qwen_moe(
    config: Config,
    name: str,
    d: Dims,
    attention: Sequence[Module],
    block: Sequence[Module],
    *,
    positions_factor: int = 4,
) -> Model:
    layers = layers_of(
        d.layers,
        attention,
        block,
        two_norms(d.hidden),
        kv_state(d),
        dense=gated_mlp(d.hidden, config.int("intermediate_size")),
        is_sparse=qwen_sparse_layers(config),
    )
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers,
        everywhere=(rotary(config, d.head_dim, positions_factor=positions_factor),),
    )


# --- DeepSeek's first, GLM-4.5 ----------------------------------------------------------------------------------------


@family("DeepseekForCausalLM")
def deepseek_v1(config: Config, name: str) -> Model:
    """models/deepseek_v2.py DeepseekAttention: DeepSeek's first MoE, with ordinary attention."""
    d = hidden_over_heads(dims(config))
    layers = layers_of(
        d.layers,
        qkv_attention(d),
        deepseek_block(config, moe_sizes(config, count="n_routed_experts"), bias=False),
        two_norms(d.hidden),
        kv_state(d),
        dense=gated_mlp(d.hidden, config.int("intermediate_size")),
        is_sparse=deepseek_sparse_layers(config),
    )
    return decoder(
        config,
        name,
        d,
        layers=layers,
        tie=False,
        everywhere=(rotary(config, d.head_dim),),
    )


@family("Glm4MoeForCausalLM")
def glm4_moe(config: Config, name: str) -> Model:
    """models/glm4_moe.py: half of each head is rotated; norms on q and k and a bias where the config says so."""
    d, first = dims(config), count(config, "first_k_dense_replace")
    attention = qkv_attention(
        d, qkv_bias=flag(config, "attention_bias"), qk_norm=d.head_dim if flag(config, "use_qk_norm") else None
    )
    layers = layers_of(
        d.layers,
        attention,
        deepseek_block(config, moe_sizes(config, count="n_routed_experts"), gate_fp32=True, bias=True),
        two_norms(d.hidden),
        kv_state(d),
        dense=gated_mlp(d.hidden, config.int("intermediate_size")),
        is_sparse=lambda index: index >= first,
    )
    return decoder(
        config,
        name,
        d,
        layers=layers,
        tie=False,
        everywhere=(rotary(config, d.head_dim, partial_rope(config, 0.5)),),
        extra_parameters=mtp_parameters(config, d.hidden, d.vocab, layers[-1].parameters),
    )


# --- others --------------------------------------------------------------------------------------------------------


@family("GptOssForCausalLM")
def gpt_oss(config: Config, name: str) -> Model:
    """models/gpt_oss.py: biases everywhere, a sink per head, a window on every second layer, an fp32 rotary cache."""
    d = dims(config)
    attention = (
        *qkv_attention(d, qkv_bias=True, o_bias=True, prefix="attn"),
        Weight(name="attn.sinks", shape=(d.heads,), split=0, group="attention"),
    )
    block = sparse_mlp(
        d.hidden,
        moe_sizes(config, width="intermediate_size"),
        gate="router",
        gate_bias=True,
        expert_bias=True,
        layout="gpt_oss",
    )
    window = config.optional_int("sliding_window", minimum=1)

    def layer(index: int) -> Layer:
        state = KVAttention(
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_size=d.head_dim,
            sliding_window=window if index % 2 == 0 else None,
            sinks=True,
        )
        return Layer(modules=(*attention, *block, *two_norms(d.hidden)), state=state)

    r = replace(rope(config), type="yarn", partial=1.0)
    cache = rotary_cache(r, d.head_dim, config.int("max_position_embeddings"), dtype="float32")
    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: index % 2),
        embedding="model.embedding",
        quantizable_head=False,
        tie=False,
        everywhere=(cache,),
    )


@family("MiniMaxM2ForCausalLM")
def minimax_m2(config: Config, name: str) -> Model:
    """models/minimax_m2.py: norms over the whole query and key widths, sharded; an fp32 router."""
    d = dims(config)
    attention = (
        *qkv_attention(d, qkv_bias=flag(config, "attention_bias")),
        Weight(name="self_attn.q_norm.weight", shape=(d.heads * d.head_dim,), split=0),
        HeadsWeight(name="self_attn.k_norm.weight", heads=Heads(count=d.kv_heads, size=d.head_dim)),
    )
    # The block is the attribute block_sparse_moe but built with the prefix "mlp", which ignore lists see.
    block = sparse_mlp(
        d.hidden,
        moe_sizes(config, width="intermediate_size"),
        gate_fp32=True,
        bias_at="mlp" if flag(config, "use_routing_bias") else None,
        packed=W123,
    )
    return decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden), kv_state(d)),
        tie=False,
        everywhere=(rotary(config, d.head_dim, partial_rope(config, config.int("rotary_dim") / d.head_dim)),),
    )


@family("MiniMaxM3SparseForCausalLM")
def minimax_m3(config: Config, name: str) -> Model:
    """vllm/models/minimax_m3, text only."""
    return minimax_m3_text(config, name)


def minimax_m3_text(config: Config, name: str) -> Model:
    """The decoder of vllm/models/minimax_m3/nvidia/model.py: block-sparse attention with an indexer.

    moe_layer_freq and sparse_attention_config.sparse_attention_freq say by layer which are sparse.
    """
    d = dims(config)
    sparse = config.section("sparse_attention_config") if config.has("sparse_attention_config") else None
    index_dim = 0 if sparse is None else sparse.int("sparse_index_dim")
    indexed = _m3_layers(sparse, "sparse_attention_freq", d.layers, missing=0)
    expert = _m3_layers(config, "moe_layer_freq", d.layers, missing=1)
    moe = moe_sizes(config, width="intermediate_size")
    block = sparse_mlp(
        d.hidden,
        moe,
        prefix="block_sparse_moe",
        gate_fp32=True,
        bias_at="block_sparse_moe" if flag(config, "use_routing_bias") else None,
        shared=moe.intermediate * count(config, "n_shared_experts"),
    )
    dense = gated_mlp(d.hidden, config.int("dense_intermediate_size")) if 0 in expert else ()
    attention = qkv_attention(d, qk_norm=d.head_dim)

    def layer(index: int) -> Layer:
        own = _m3_indexed(d, attention, index_dim) if indexed[index] else attention
        state = KVAttention(
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_size=d.head_dim,
            index_head_size=index_dim if indexed[index] else None,
        )
        mlp = block if expert[index] else dense
        return Layer(modules=(*own, *mlp, *two_norms(d.hidden)), state=state)

    r = Rope(parameters={}, partial=config.number("partial_rotary_factor"))
    top_k = () if sparse is None else (_m3_top_k(sparse),)
    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: (bool(indexed[index]), bool(expert[index]))),
        tie=False,
        everywhere=(rotary(config, d.head_dim, r), *top_k),
    )


def _m3_layers(config: Config | None, key: str, layers: int, missing: int) -> tuple[int, ...]:
    if config is None or not config.has(key):
        return (missing,) * layers
    values = config.ints(key)
    per_layer(config, key, layers, values)
    return values


def _m3_indexed(d: Dims, attention: Sequence[Module], index_dim: int) -> tuple[Module, ...]:
    """MiniMaxM3SparseAttention: index_q sharded like the KV heads and index_k, one head, join the projection."""
    plain = attention[0]
    assert isinstance(plain, Linear)
    qkv = replace(
        plain,
        outputs=(*plain.outputs, Heads(count=d.kv_heads, size=index_dim), Heads(count=1, size=index_dim)),
        packed=(*plain.packed, "index_q_proj", "index_k_proj"),
    )
    return (
        qkv,
        *attention[1:],
        *norm("self_attn.index_q_norm", index_dim),
        *norm("self_attn.index_k_norm", index_dim),
    )


def _m3_top_k(sparse: Config) -> EngineBuffer:
    """topk_indices_buffer [tokens, local index heads, blocks]."""
    heads = Heads(count=sparse.int("sparse_num_index_heads"), size=1)
    blocks = sparse.int("sparse_topk_blocks")
    return EngineBuffer(name="model.topk_indices_buffer", rows="tokens", width=heads, depth=blocks)


@family("HYV3ForCausalLM")
def hunyuan_v3(config: Config, name: str) -> Model:
    """models/hy_v3.py: Hunyuan 3; an fp32 router, dense first layers, norms on q and k where qk_norm says so."""
    d, first = dims(config), count(config, "first_k_dense_replace")
    moe = moe_sizes(config, count="num_experts", width="expert_hidden_dim")
    block = (
        *sparse_mlp(
            d.hidden,
            moe,
            gate_fp32=True,
            shared=moe.intermediate * count(config, "num_shared_experts"),
            shared_name="shared_mlp",
        ),
        Weight(name="mlp.expert_bias", shape=(moe.experts,), dtype="float32", group="mlp"),
    )
    layers = layers_of(
        d.layers,
        qkv_attention(d, qk_norm=d.head_dim if flag(config, "qk_norm") else None),
        block,
        two_norms(d.hidden),
        kv_state(d),
        dense=gated_mlp(d.hidden, config.int("intermediate_size")),
        is_sparse=lambda index: index >= first,
    )
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers,
        everywhere=(rotary(config, d.head_dim),),
    )


@family("HunYuanMoEV1ForCausalLM")
def hunyuan_moe(config: Config, name: str) -> Model:
    """transformers' hunyuan_v1_moe through vLLM's Transformers backend (models/transformers/moe.py)."""
    d = dims(config)
    moe = moe_sizes(config, count="num_experts", top_k="moe_topk", width="intermediate_size")
    block = sparse_mlp(
        d.hidden, moe, gate="gate.wg", gate_quantizable=True, shared=moe.intermediate, shared_name="shared_mlp"
    )
    attention = (
        *qkv_attention(d, qkv_bias=flag(config, "attention_bias"), o_bias=flag(config, "attention_bias")),
        *norm("self_attn.query_layernorm", d.head_dim),
        *norm("self_attn.key_layernorm", d.head_dim),
    )
    return decoder(
        config,
        name,
        d,
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden), kv_state(d)),
        tie=flag(config, "tie_word_embeddings"),
        everywhere=tuple(
            Weight(
                name=f"model.rotary_emb.{part}",
                shape=(d.head_dim // 2,),
                kind="buffer",
                dtype="float32",
                group="other",
            )
            for part in ("inv_freq", "original_inv_freq")
        ),
    )


@family("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM", "GraniteMoeSWAForCausalLM")
def granite_moe(config: Config, name: str) -> Model:
    """models/granitemoe.py and granitemoeshared.py, which adds a shared MLP under its own names."""
    d = hidden_over_heads(dims(config))
    block = (
        *sparse_mlp(d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe"),
        *granite_shared_mlp(d.hidden, _granite_shared(config)),
    )
    types = layer_types(config, d.layers)
    sinks = flag(config, "attention_sinks", types is not None)
    window = config.optional_int("sliding_window", minimum=1)

    def layer(index: int) -> Layer:
        windowed = types is not None and types[index] == "sliding_attention"
        sink = (Weight(name="self_attn.sinks", shape=(d.heads,), split=0, group="attention"),) if sinks else ()
        state = KVAttention(
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_size=d.head_dim,
            sliding_window=window if windowed else None,
            sinks=sinks,
        )
        return Layer(modules=(*qkv_attention(d), *sink, *block, *two_norms(d.hidden)), state=state)

    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: types[index] if types else None),
        everywhere=_granite_rotary(config, d),
    )


def _granite_shared(config: Config) -> int:
    # Only GraniteMoeShared's classes look at the key, and only their configs have it.
    return count(config, "shared_intermediate_size")


def granite_shared_mlp(hidden: int, intermediate: int) -> tuple[Linear, ...]:
    """GraniteMoeSharedMLP: a gated MLP whose two linears the checkpoint already fuses."""
    if not intermediate:
        return ()
    return (
        Linear(name="shared_mlp.input_linear", inputs=hidden, outputs=(intermediate, intermediate), split="column"),
        Linear(name="shared_mlp.output_linear", inputs=intermediate, outputs=(hidden,), split="row"),
    )


def _granite_rotary(config: Config, d: Dims) -> tuple[Module, ...]:
    """One cache for each rope base; a base of 0 stands for no rotary embedding."""
    bases = set(config.raw("layer_rope_theta") or (1,))
    return tuple(rotary(config, d.head_dim) for base in bases if base)


@family("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM")
def ernie45_moe(config: Config, name: str) -> Model:
    """models/ernie45_moe.py: one bias switch, an fp32 router with a correction bias, sparse layers in a range."""
    d, bias = dims(config), flag(config, "use_bias")
    moe = moe_sizes(config, count="moe_num_experts", top_k="moe_k")
    block = sparse_mlp(
        d.hidden,
        moe,
        gate_fp32=True,
        bias_at="mlp.gate",
        shared=moe.intermediate * count(config, "moe_num_shared_experts"),
    )
    first, every = count(config, "moe_layer_start_index"), count(config, "moe_layer_interval", 1) or 1
    last = config.optional_int("moe_layer_end_index", minimum=-1)
    last = d.layers - 1 if last is None or last < 0 else last
    used, tied = flag(config, "use_moe", otherwise=True), flag(config, "tie_word_embeddings")
    layers = layers_of(
        d.layers,
        qkv_attention(d, qkv_bias=bias),
        block,
        two_norms(d.hidden),
        kv_state(d),
        dense=gated_mlp(d.hidden, config.int("intermediate_size"), bias=bias),
        is_sparse=lambda index: used and (index + 1) % every == 0 and first <= index <= last,
    )
    return decoder(
        config,
        name,
        d,
        layers=layers,
        tie=tied,
        supports_pp=not tied,  # its class ties the head to an embedding that the last stage does not have
        everywhere=(rotary(config, d.head_dim),),
    )


@family("Llama4ForCausalLM")
def llama4(config: Config, name: str) -> Model:
    """models/llama4.py, text only."""
    return llama4_text(config, name)


def llama4_text(config: Config, name: str, **others: Any) -> Model:
    """The decoder of models/llama4.py, alone or as the language model of models/mllama4.py.

    Layers with rotary positions attend within chunks; those without attend to everything. The norm on q and k has no
    parameter, but vLLM keeps a tensor of ones for it.
    """
    d = dims(config)
    moe = moe_sizes(config, width="intermediate_size")
    sparse = sparse_mlp(
        d.hidden,
        moe,
        prefix="feed_forward",
        gate="router",
        shared=moe.intermediate,
        shared_name="shared_expert",
    )
    dense = gated_mlp(d.hidden, config.int("intermediate_size_mlp"), prefix="feed_forward")
    step = count(config, "interleave_moe_layer_step", 1)
    ropes = _llama4_ropes(config, d.layers)
    chunk = config.optional_int("attention_chunk_size")
    qk_norm = flag(config, "use_qk_norm")
    qk_ones = Weight(name="self_attn.qk_norm.weight", shape=(d.head_dim,), dtype="float32", kind="attr")

    def layer(index: int) -> Layer:
        state = KVAttention(
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_size=d.head_dim,
            chunk_size=(chunk or None) if ropes[index] else None,
        )
        mlp = sparse if step > 0 and (index + 1) % step == 0 else dense
        ones = (qk_ones,) if ropes[index] and qk_norm else ()
        return Layer(modules=(*qkv_attention(d), *ones, *mlp, *two_norms(d.hidden)), state=state)

    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda i: (bool(ropes[i]), step > 0 and (i + 1) % step == 0)),
        everywhere=(rotary(config, d.head_dim),),
        **others,
    )


def _llama4_ropes(config: Config, layers: int) -> tuple[int, ...]:
    """1 for a layer with rotary positions; where no_rope_layers is empty, every fourth has none."""
    ropes = config.ints("no_rope_layers", default=())
    if not ropes:
        every = count(config, "no_rope_layer_interval", 4) or 4
        return tuple(int((index + 1) % every != 0) for index in range(layers))
    per_layer(config, "no_rope_layers", layers, ropes)
    return ropes
