"""Mixture-of-experts decoder models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from planner.model.architecture import Layer, Model
from planner.model.attention import CompressedAttention, KVAttention, LayerState, MLAttention
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
from planner.model.modules import (
    AttentionScales,
    Embedding,
    EngineBuffer,
    Experts,
    Heads,
    HeadsWeight,
    Linear,
    LmHead,
    MlaValueCopy,
    Module,
    Placement,
    Tensor,
    Weight,
    divide,
)

W123 = ("w1", "w3", "w2")
"""Mixtral's names of an expert's gate, up and down projections."""

# --- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Moe:
    """The sizes of one sparse block: how many experts, how many a token visits, how wide one is."""

    experts: int
    top_k: int
    intermediate: int


def moe_sizes(
    config: Config,
    count: str = "num_local_experts",
    top_k: str = "num_experts_per_tok",
    width: str = "moe_intermediate_size",
) -> Moe:
    """Read and check a sparse block's sizes from these keys. InputError names the key that is wrong."""
    sizes = Moe(experts=config.int(count), top_k=config.int(top_k), intermediate=config.int(width))
    if sizes.top_k > sizes.experts:
        raise config.error(
            top_k, f"= {sizes.top_k} exceeds {config.path(count)} = {sizes.experts}; correct one of them"
        )
    return sizes


def flag(config: Config, key: str, otherwise: bool = False) -> bool:
    """A boolean that transformers' class may know; `otherwise` where neither it nor the file has it."""
    return config.bool(key) if config.has(key) or config.has_default(key) else otherwise


def count(config: Config, key: str, otherwise: int = 0) -> int:
    """A whole number of at least 0 that may be missing or null: `otherwise` then."""
    value = config.optional_int(key)
    return otherwise if value is None else value


def hidden_over_heads(d: Dims) -> Dims:
    """For classes that compute head_dim as hidden_size / num_attention_heads, whatever the config says."""
    return replace(d, head_dim=d.hidden // d.heads)


def per_layer(config: Config, key: str, layers: int, values: Sequence[object]) -> None:
    """InputError unless a list of one entry a layer has as many as the model has layers."""
    if len(values) < layers:
        raise config.error(key, f"lists {len(values)} layers, num_hidden_layers says {layers}; correct one of them")


# --- pieces --------------------------------------------------------------------------------------------------------


def router(
    name: str, hidden: int, experts: int, *, bias: bool = False, fp32: bool = False, quantizable: bool = False
) -> Module:
    """GateLinear (layers/fused_moe/router/gate_linear.py): whole on every rank; fp32 where the model asks for it.

    Most models build it without a quantization config; those that pass one say quantizable.
    """
    if fp32:
        return Weight(name=f"{name}.weight", shape=(experts, hidden), dtype="float32", group="mlp")
    return Linear(name=name, inputs=hidden, outputs=(experts,), split="none", bias=bias, quantizable=quantizable)


def sparse_mlp(
    hidden: int,
    moe: Moe,
    *,
    prefix: str = "mlp",
    gate: str = "gate",
    gate_fp32: bool = False,
    gate_bias: bool = False,
    gate_quantizable: bool = False,
    bias_at: str | None = None,
    shared: int = 0,
    shared_name: str = "shared_experts",
    shared_bias: bool = False,
    shared_gate: bool = False,
    packed: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
    expert_bias: bool = False,
    layout: str = "default",
) -> tuple[Module, ...]:
    """Router, routed experts (FusedMoE) and shared experts (an ordinary gated MLP of width `shared`).

    bias_at: the module that holds the fp32 bias of routing without auxiliary loss (e_score_correction_bias), if any.
    """
    modules: list[Module] = [
        router(
            f"{prefix}.{gate}", hidden, moe.experts, bias=gate_bias, fp32=gate_fp32, quantizable=gate_quantizable
        ),
        Experts(
            name=f"{prefix}.experts",
            count=moe.experts,
            hidden=hidden,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            bias=expert_bias,
            packed=packed,
            layout=layout,
        ),
    ]
    if bias_at is not None:
        name = f"{bias_at}.e_score_correction_bias"
        modules.append(Weight(name=name, shape=(moe.experts,), dtype="float32", group="mlp"))
    if shared_gate:
        name = f"{prefix}.shared_expert_gate"
        modules.append(Linear(name=name, inputs=hidden, outputs=(1,), split="none", quantizable=False))
    if shared:
        modules.extend(gated_mlp(hidden, shared, bias=shared_bias, prefix=f"{prefix}.{shared_name}"))
    return tuple(modules)


def two_norms(hidden: int, *, bias: bool = False) -> tuple[Weight, ...]:
    """The norms before attention and before the MLP of nearly every decoder layer."""
    return (
        *norm("input_layernorm", hidden, bias=bias),
        *norm("post_attention_layernorm", hidden, bias=bias),
    )


def rotary(config: Config, head_dim: int, r: Rope | None = None, *, positions_factor: int = 4) -> Weight:
    """The one rotary cache of a model that calls get_rope() with the config's own parameters."""
    return rotary_cache(
        rope(config) if r is None else r,
        head_dim,
        config.int("max_position_embeddings"),
        positions_factor=positions_factor,
    )


def layers_of(
    number: int,
    attention: Sequence[Module],
    sparse: Sequence[Module],
    norms: Sequence[Module],
    state: LayerState | None,
    *,
    dense: Sequence[Module] = (),
    is_sparse: Callable[[int], bool] = lambda index: True,
) -> tuple[Layer, ...]:
    """Layers that differ only in whether their MLP is sparse."""

    def layer(index: int) -> Layer:
        mlp = sparse if is_sparse(index) else dense
        return Layer(modules=(*attention, *mlp, *norms), state=state)

    return repeat(number, layer, is_sparse)


def unstaged_decoder(
    config: Config,
    name: str,
    *,
    hidden: int,
    vocab: int,
    everywhere: Sequence[Module] = (),
    embedding: str = "model.embed_tokens",
    final_norm: Iterable[Module] | None = None,
    lm_head_bias: bool = False,
    quantizable_head: bool = True,
    tie: bool | None = None,
    last_only: tuple[str, ...] = (),
    **others: object,
) -> Model:
    """A decoder whose class asks for no rank: embedding, final norm and lm_head are on every pipeline stage.

    `last_only` names what of "norm" and "lm_head" the class does keep for the last stage.
    """
    tied = flag(config, "tie_word_embeddings") if tie is None else tie
    head = LmHead(name="lm_head", rows=vocab, width=hidden, bias=lm_head_bias, quantizable=quantizable_head)
    parts: dict[str, tuple[Module, ...]] = {
        "norm": tuple(norm("model.norm", hidden) if final_norm is None else final_norm),
        "lm_head": () if tied else (head,),
    }
    return decoder(
        config,
        name,
        hidden=hidden,
        vocab=vocab,
        first=(),
        final_norm=tuple(module for part in last_only for module in parts[part]),
        everywhere=(
            Embedding(name=embedding, rows=vocab, width=hidden),
            *(module for part, modules in parts.items() if part not in last_only for module in modules),
            *everywhere,
        ),
        tie=True,  # a head, if there is one, is among the parts already
        **others,  # type: ignore[arg-type]
    )


# --- Mixtral and its relatives -------------------------------------------------------------------------------------


@family("MixtralForCausalLM")
def mixtral(config: Config, name: str) -> Model:
    """models/mixtral.py: Llama's attention; vLLM gives the layers no sliding window."""
    d = dims(config)
    block = sparse_mlp(
        d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe", packed=W123
    )
    return unstaged_decoder(
        config,
        name,
        layers=layers_of(d.layers, qkv_attention(d), block, two_norms(d.hidden), kv_state(d)),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        everywhere=(rotary(config, d.head_dim),),
    )


@family("PhiMoEForCausalLM")
def phimoe(config: Config, name: str) -> Model:
    """models/phimoe.py: Mixtral with LayerNorms; q, k, v, o and lm_head have a bias whatever the config says."""
    d = dims(config)
    block = sparse_mlp(
        d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe", packed=W123
    )
    attention = qkv_attention(d, qkv_bias=True, o_bias=True)
    return unstaged_decoder(
        config,
        name,
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden, bias=True), kv_state(d)),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
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
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden), kv_state(d)),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
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
        layers=layers_of(d.layers, attention, block, norms, kv_state(d)),
        hidden=hidden,
        vocab=d.vocab,
        heads=heads,
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
        layers=layers,
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        everywhere=(rotary(config, d.head_dim, positions_factor=positions_factor),),
    )


# --- DeepSeek and others with latent attention ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The sizes of multi-head latent attention, under DeepSeek's names."""

    hidden: int
    heads: int
    kv_lora: int
    q_lora: int | None
    nope: int
    rope: int
    value: int

    def state(self, index_head_dim: int | None = None) -> MLAttention:
        return MLAttention(
            heads=self.heads,
            kv_lora_rank=self.kv_lora,
            qk_rope_head_dim=self.rope,
            qk_nope_head_dim=self.nope,
            v_head_dim=self.value,
            index_head_dim=index_head_dim,
        )


def latent(config: Config) -> Latent:
    return Latent(
        hidden=config.int("hidden_size"),
        heads=config.int("num_attention_heads"),
        kv_lora=config.int("kv_lora_rank"),
        q_lora=config.optional_int("q_lora_rank", minimum=1),
        nope=config.int("qk_nope_head_dim"),
        rope=config.int("qk_rope_head_dim"),
        value=config.int("v_head_dim"),
    )


def mla_attention(
    m: Latent, *, prefix: str = "self_attn", inner: str = "self_attn.mla_attn.mla_attn"
) -> tuple[Module, ...]:
    """DeepseekV2MLAAttention (models/deepseek_v2.py): down projections whole on every rank, the rest by heads.

    inner: vLLM's name of the attention layer itself, which holds the scales and the copy of kv_b_proj.
    """
    queries = m.heads * (m.nope + m.rope)
    kv_b = _column(f"{prefix}.kv_b_proj", m.kv_lora, m.heads * (m.nope + m.value))
    modules: list[Module] = []
    if m.q_lora is None:
        modules += [
            _whole(f"{prefix}.kv_a_proj_with_mqa", m.hidden, m.kv_lora + m.rope),
            _column(f"{prefix}.q_proj", m.hidden, queries),
        ]
    else:
        modules += [
            replace(
                _whole(f"{prefix}.fused_qkv_a_proj", m.hidden, m.q_lora, m.kv_lora + m.rope),
                packed=("q_a_proj", "kv_a_proj_with_mqa"),
            ),
            *norm(f"{prefix}.q_a_layernorm", m.q_lora),
            _column(f"{prefix}.q_b_proj", m.q_lora, queries),
        ]
    return (
        *modules,
        *norm(f"{prefix}.kv_a_layernorm", m.kv_lora),
        kv_b,
        Linear(
            name=f"{prefix}.o_proj",
            inputs=m.heads * m.value,
            outputs=(m.hidden,),
            split="row",
            group="attention",
        ),
        AttentionScales(name=inner),
        MlaValueCopy(name=inner, kv_b_proj=kv_b),
    )


def _whole(name: str, inputs: int, *outputs: int) -> Linear:
    return Linear(name=name, inputs=inputs, outputs=outputs, split="none", group="attention")


def _column(name: str, inputs: int, *outputs: int) -> Linear:
    return Linear(name=name, inputs=inputs, outputs=outputs, split="column", group="attention")


def deepseek_rope(config: Config) -> Rope:
    """DeepSeek's classes turn every rope type but the default into their own yarn."""
    r = rope(config)
    return r if r.type == "default" else replace(r, type="deepseek_yarn")


def deepseek_block(config: Config, moe: Moe, *, gate_fp32: bool = False, bias: bool | None = None) -> tuple[Module, ...]:
    """DeepseekV2MoE and Glm4MoE: shared experts merged into one MLP; a correction bias with topk_method noaux_tc."""
    with_bias = config.optional_str("topk_method") == "noaux_tc" if bias is None else bias
    return sparse_mlp(
        config.int("hidden_size"),
        moe,
        gate_fp32=gate_fp32,
        bias_at="mlp.gate" if with_bias else None,
        shared=moe.intermediate * count(config, "n_shared_experts"),
    )


def deepseek_sparse_layers(config: Config) -> Callable[[int], bool]:
    """Which layers are sparse: from first_k_dense_replace on, every moe_layer_freq-th."""
    first, every = count(config, "first_k_dense_replace"), count(config, "moe_layer_freq", 1) or 1
    return lambda index: index >= first and index % every == 0


def mtp_parameters(config: Config, hidden: int, vocab: int, layer: int) -> dict[str, int]:
    """What num_nextn_predict_layers adds to a DeepSeek-style checkpoint: layers that the main model does not load.

    Each is a decoder layer with eh_proj, three norms and copies of the embedding and the head (models/deepseek_mtp.py).
    """
    number = count(config, "num_nextn_predict_layers")
    extra = 2 * hidden * hidden + 3 * hidden + 2 * vocab * hidden
    return {"MTP layers": number * (layer + extra)} if number else {}


@family("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "MistralLarge3ForCausalLM")
def deepseek(config: Config, name: str) -> Model:
    """models/deepseek_v2.py: latent attention, dense layers first, then routed and shared experts."""
    return deepseek_text(config, name)


def deepseek_text(config: Config, name: str, **others: object) -> Model:
    """The decoder of models/deepseek_v2.py, alone or as the language model of a vision-language one."""
    m, vocab, number = latent(config), config.int("vocab_size"), config.int("num_hidden_layers", maximum=10_000)
    moe = moe_sizes(config, count="n_routed_experts")
    layers = layers_of(
        number,
        mla_attention(m),
        deepseek_block(config, moe),
        two_norms(m.hidden),
        m.state(),
        dense=gated_mlp(m.hidden, config.int("intermediate_size")),
        is_sparse=deepseek_sparse_layers(config),
    )
    everywhere = (rotary(config, m.rope, deepseek_rope(config)), *_extra(others))
    return decoder(
        config,
        name,
        layers=layers,
        hidden=m.hidden,
        vocab=vocab,
        heads=m.heads,
        tie=False,
        everywhere=everywhere,
        extra_parameters=mtp_parameters(config, m.hidden, vocab, layers[-1].parameters),
        **others,
    )


def _extra(others: dict[str, object]) -> tuple[Module, ...]:
    """What a caller adds to every stage."""
    return tuple(others.pop("everywhere", ()))  # type: ignore[call-overload,no-any-return]


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
        layers=layers,
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        tie=False,
        everywhere=(rotary(config, d.head_dim),),
    )


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """The lightning indexer of DeepSeek sparse attention."""

    heads: int
    head_dim: int
    top_k: int


def indexer_modules(m: Latent, i: Indexer, prefix: str = "self_attn.indexer") -> tuple[Module, ...]:
    """DeepseekV32Indexer (vllm/models/deepseek_v32/attention.py): whole on every rank."""
    k_norm = f"{prefix}.k_norm"
    return (
        _whole(f"{prefix}.wq_b", m.q_lora or 0, i.head_dim * i.heads),
        Linear(
            name=f"{prefix}.wk_weights_proj",
            inputs=m.hidden,
            outputs=(i.head_dim, i.heads),
            split="none",
            group="attention",
            packed=("wk", "weights_proj"),
            quantizable=False,
        ),
        Weight(name=f"{k_norm}.weight", shape=(i.head_dim,), dtype="float32"),
        Weight(name=f"{k_norm}.bias", shape=(i.head_dim,), dtype="float32"),
        # What FLASH_ATTN_MLA_SPARSE gathers for one layer (v1/attention/backends/mla/index_group.py).
        EngineBuffer(name="physical_topk_indices", rows="requests", extra_rows=1, width=i.top_k, group="attention"),
        EngineBuffer(name="valid_topk_counts", rows="requests", extra_rows=1, group="attention"),
    )


@family("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
def deepseek_v32(config: Config, name: str) -> Model:
    """vllm/models/deepseek_v32: DeepSeek V3 with a sparse indexer, whose rotary embedding is another one."""
    m, vocab, number = latent(config), config.int("vocab_size"), config.int("num_hidden_layers", maximum=10_000)
    if m.q_lora is None:
        raise config.error("q_lora_rank", "is missing; the sparse indexer needs it")
    indexer = Indexer(
        heads=config.int("index_n_heads"), head_dim=config.int("index_head_dim"), top_k=config.int("index_topk")
    )
    attention = mla_attention(m, inner="self_attn")
    sparse, dense = deepseek_block(config, moe_sizes(config, count="n_routed_experts")), gated_mlp(
        m.hidden, config.int("intermediate_size")
    )
    is_sparse, skips = deepseek_sparse_layers(config), _skips_indexer(config)
    cu_seqlens = EngineBuffer(name="cu_seqlens_q_buffer", rows="tokens", extra_rows=1, group="attention")

    def layer(index: int) -> Layer:
        own = () if skips(index) else indexer_modules(m, indexer)
        mlp = sparse if is_sparse(index) else dense
        return Layer(
            modules=(*attention, *own, cu_seqlens, *mlp, *two_norms(m.hidden)),
            state=m.state(None if skips(index) else indexer.head_dim),
        )

    layers = repeat(number, layer, lambda index: (is_sparse(index), skips(index)))
    cache = rotary(config, m.rope, deepseek_rope(config))
    # Interleaved, the indexer's rotary embedding is the very one of the attention.
    second = () if flag(config, "indexer_rope_interleave") else (replace(cache, name="indexer_rope_emb.cos_sin_cache"),)
    top_k = EngineBuffer(name="model.topk_indices_buffer", rows="tokens", width=indexer.top_k)
    return decoder(
        config,
        name,
        layers=layers,
        hidden=m.hidden,
        vocab=vocab,
        heads=m.heads,
        tie=False,
        everywhere=(cache, *second, top_k),
        extra_parameters=mtp_parameters(config, m.hidden, vocab, layers[-1].parameters),
    )


def _skips_indexer(config: Config) -> Callable[[int], bool]:
    """Layers that reuse the indices of an earlier one (index_topk_freq, index_topk_pattern)."""
    pattern = config.optional_str("index_topk_pattern")
    if pattern is not None:
        return lambda index: index < len(pattern) and pattern[index] == "S"
    every, offset = count(config, "index_topk_freq", 1) or 1, count(config, "index_skip_topk_offset", 2)
    return lambda index: max(index - offset + 1, 0) % every != 0


@family("Glm4MoeLiteForCausalLM")
def glm4_moe_lite(config: Config, name: str) -> Model:
    """models/glm4_moe_lite.py: DeepSeek's attention, GLM-4.5's experts."""
    m, vocab, number = latent(config), config.int("vocab_size"), config.int("num_hidden_layers", maximum=10_000)
    layers = layers_of(
        number,
        mla_attention(m),
        deepseek_block(config, moe_sizes(config, count="n_routed_experts"), gate_fp32=True, bias=True),
        two_norms(m.hidden),
        m.state(),
        dense=gated_mlp(m.hidden, config.int("intermediate_size")),
        is_sparse=deepseek_sparse_layers(config),
    )
    return decoder(
        config,
        name,
        layers=layers,
        hidden=m.hidden,
        vocab=vocab,
        heads=m.heads,
        tie=False,
        everywhere=(rotary(config, m.rope, deepseek_rope(config)),),
        extra_parameters=mtp_parameters(config, m.hidden, vocab, layers[-1].parameters),
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
        layers=layers,
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        tie=False,
        everywhere=(rotary(config, d.head_dim, partial_rope(config, 0.5)),),
        extra_parameters=mtp_parameters(config, d.hidden, d.vocab, layers[-1].parameters),
    )


def partial_rope(config: Config, otherwise: float) -> Rope:
    """The config's rotary parameters; `otherwise` is the rotated part of a head where it does not say."""
    r = rope(config)
    said = "partial_rotary_factor" in r.parameters or config.has("partial_rotary_factor")
    return r if said else replace(r, partial=otherwise)


# --- DeepSeek V4 ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PaddedSinks:
    """attn_sink of DeepSeek V4: fp32, padded to the 64 or 128 heads that FlashMLA's sparse decode kernel takes."""

    name: str
    heads: int
    group: Group = "attention"

    @property
    def parameters(self) -> int:
        return self.heads

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        yield Tensor(self.name, 4 * (64 if divide(self.heads, at.tp_size) <= 64 else 128))


def _v4_compressor(hidden: int, head_dim: int, ratio: int, prefix: str) -> tuple[Module, ...]:
    """DeepseekCompressor (vllm/models/deepseek_v4/compressor.py): twice as wide where windows overlap, at ratio 4."""
    width = (2 if ratio == 4 else 1) * head_dim
    return (
        Weight(name=f"{prefix}.ape", shape=(ratio, width), dtype="float32", group="attention"),
        replace(_whole(f"{prefix}.fused_wkv_wgate", hidden, width, width), quantizable=False),
        *norm(f"{prefix}.norm", head_dim),
    )


def _v4_attention(config: Config, ratio: int) -> tuple[Module, ...]:
    """DeepseekV4Attention (vllm/models/deepseek_v4/attention.py); ratio 4 adds an indexer to the compressor."""
    hidden, heads, head_dim = config.int("hidden_size"), config.int("num_attention_heads"), config.int("head_dim")
    q_lora, o_lora, groups = config.int("q_lora_rank"), config.int("o_lora_rank"), config.int("o_groups")
    fused = _whole("attn.fused_wqa_wkv", hidden, q_lora, head_dim)
    modules: list[Module] = [
        PaddedSinks(name="attn.attn_sink", heads=heads),
        replace(fused, packed=("wq_a", "wkv")),
        *norm("attn.q_norm", q_lora),
        _column("attn.wq_b", q_lora, heads * head_dim),
        *norm("attn.kv_norm", head_dim),
        _column("attn.wo_a", heads * head_dim // groups, groups * o_lora),
        Linear(name="attn.wo_b", inputs=groups * o_lora, outputs=(hidden,), split="row", group="attention"),
    ]
    if ratio > 1:
        modules += _v4_compressor(hidden, head_dim, ratio, "attn.compressor")
    if ratio == 4:
        index_heads, index_dim = config.int("index_n_heads"), config.int("index_head_dim")
        modules += [
            _whole("attn.indexer.wq_b", q_lora, index_dim * index_heads),
            replace(_whole("attn.indexer.weights_proj", hidden, index_heads), quantizable=False),
            *_v4_compressor(hidden, index_dim, ratio, "attn.indexer.compressor"),
        ]
    return tuple(modules)


def _v4_mixing(hidden: int, mult: int) -> tuple[Module, ...]:
    """The hyper-connections around attention and MLP, all fp32."""
    mix = (2 + mult) * mult
    shapes = (("fn", (mix, mult * hidden)), ("base", (mix,)), ("scale", (3,)))
    return tuple(
        Weight(name=f"hc_{part}_{kind}", shape=shape, dtype="float32", group="other")
        for part in ("attn", "ffn")
        for kind, shape in shapes
    )


def _v4_ratios(config: Config, layers: int) -> tuple[int, ...]:
    """How many tokens each layer's cache compresses into one; 1 for sliding-window layers."""
    ratios = config.ints("compress_ratios")
    per_layer(config, "compress_ratios", layers, ratios)
    for ratio in ratios:
        if ratio not in (0, 1, 4, 128):
            raise config.error("compress_ratios", f"may only hold 0, 4 and 128, has {ratio}")
    return tuple(max(1, ratio) for ratio in ratios[:layers])


@family("DeepseekV4ForCausalLM")
def deepseek_v4(config: Config, name: str) -> Model:
    """vllm/models/deepseek_v4 (nvidia): sliding windows beside compressed caches, hyper-connections, hashed routing.

    The first num_hash_layers layers route by token id, from a table; the experts of the others have a correction bias.
    """
    hidden, number = config.int("hidden_size"), config.int("num_hidden_layers", maximum=10_000)
    vocab, heads, mult = config.int("vocab_size"), config.int("num_attention_heads"), config.int("hc_mult")
    moe, hashed = moe_sizes(config, count="n_routed_experts"), count(config, "num_hash_layers", 3)
    ratios = _v4_ratios(config, number)
    shared = moe.intermediate * count(config, "n_shared_experts")
    table = Weight(name="ffn.gate.tid2eid", shape=(vocab, moe.top_k), dtype="int32", group="mlp")
    noaux = config.optional_str("topk_method") == "noaux_tc"

    def layer(index: int) -> Layer:
        is_hashed = index < hashed
        return Layer(
            modules=(
                *_v4_attention(config, ratios[index]),
                *sparse_mlp(
                    hidden,
                    moe,
                    prefix="ffn",
                    bias_at="ffn.gate" if noaux and not is_hashed else None,
                    shared=shared,
                    packed=W123,
                    layout="deepseek_v4",
                ),
                *((table,) if is_hashed else ()),
                *norm("attn_norm", hidden),
                *norm("ffn_norm", hidden),
                *_v4_mixing(hidden, mult),
            ),
            state=CompressedAttention(
                heads=heads,
                head_dim=config.int("head_dim"),
                rope_dim=config.int("qk_rope_head_dim"),
                sliding_window=config.int("sliding_window"),
                compress_ratio=ratios[index],
                index_head_dim=config.int("index_head_dim") if ratios[index] == 4 else None,
            ),
        )

    fp32 = {"dtype": "float32", "group": "other"}
    head = tuple(
        Weight(name=f"model.hc_head_{kind}", shape=shape, **fp32)  # type: ignore[arg-type]
        for kind, shape in (("fn", (mult, mult * hidden)), ("base", (mult,)), ("scale", (1,)))
    )
    broadcast = Weight(
        name="hc_attn_fn_broadcast",
        shape=((2 + mult) * mult, hidden),
        kind="attr",
        **fp32,  # type: ignore[arg-type]
    )
    return decoder(
        config,
        name,
        layers=repeat(number, layer, lambda index: (ratios[index], index < hashed)),
        hidden=hidden,
        vocab=vocab,
        heads=heads,
        first=(Embedding(name="model.embed_tokens", rows=vocab, width=hidden), broadcast),
        tie=False,
        everywhere=(
            *_v4_rotary(config, ratios),
            EngineBuffer(name="model.topk_indices_buffer", rows="tokens", width=config.int("index_topk")),
            *head,
        ),
    )


def _v4_rotary(config: Config, ratios: Sequence[int]) -> tuple[Module, ...]:
    """An fp32 cache for sliding-window layers, without scaling, and one for compressed layers, with it."""
    positions, width = config.int("max_position_embeddings"), config.int("qk_rope_head_dim")
    caches = []
    if 1 in ratios:
        caches.append(rotary_cache(Rope(parameters={}), width, positions, dtype="float32"))
    if any(ratio > 1 for ratio in ratios):
        caches.append(
            rotary_cache(
                deepseek_rope(config), width, positions, name="compress_rotary_emb", rotary_dim=width, dtype="float32"
            )
        )
    return tuple(caches)


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
        layers=repeat(d.layers, layer, lambda index: index % 2),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
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
        layers=layers_of(d.layers, attention, block, two_norms(d.hidden), kv_state(d)),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        tie=False,
        everywhere=(rotary(config, d.head_dim, partial_rope(config, config.int("rotary_dim") / d.head_dim)),),
    )


@family("MiniMaxM3SparseForCausalLM")
def minimax_m3(config: Config, name: str) -> Model:
    """vllm/models/minimax_m3, text only."""
    return minimax_m3_text(config, name)


def minimax_m3_text(config: Config, name: str) -> Model:
    """The decoder of vllm/models/minimax_m3/nvidia/model.py: block-sparse attention with an indexer, dense first layers.

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
        layers=repeat(d.layers, layer, lambda index: (bool(indexed[index]), bool(expert[index]))),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
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
        layers=repeat(d.layers, layer, lambda index: types[index] if types else None),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
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
        Linear(
            name="shared_mlp.input_linear", inputs=hidden, outputs=(intermediate, intermediate), split="column"
        ),
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
        layers=layers,
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        tie=tied,
        supports_pp=not tied,  # its class ties the head to an embedding that the last stage does not have
        everywhere=(rotary(config, d.head_dim),),
    )


@family("Llama4ForCausalLM")
def llama4(config: Config, name: str) -> Model:
    """models/llama4.py, text only."""
    return llama4_text(config, name)


def llama4_text(config: Config, name: str, **others: object) -> Model:
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

    everywhere = (rotary(config, d.head_dim), *_extra(others))
    return decoder(
        config,
        name,
        layers=repeat(d.layers, layer, lambda i: (bool(ropes[i]), step > 0 and (i + 1) % step == 0)),
        hidden=d.hidden,
        vocab=d.vocab,
        heads=d.heads,
        everywhere=everywhere,
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
