"""Llama and the dense decoders built like it: RMSNorm, rotary positions, grouped-query attention, a gated MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from planner.errors import InputError
from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    GATE_UP,
    QKV,
    Dims,
    alternating,
    decoder,
    dims,
    gated_mlp,
    kv_state,
    norm,
    qkv_attention,
    repeat,
    rope,
    rotary_cache,
    ungated_mlp,
    windows,
)
from planner.model.modules import AttentionScales, Embedding, Heads, Linear, LmHead, Module, PartsWeight, Weight


def stack(
    config: Config,
    name: str,
    d: Dims,
    modules: Sequence[Module],
    *,
    local: Sequence[int | None] | None = None,
    cached: bool = True,
    **others: Any,
) -> Model:
    """A decoder whose layers differ at most in their sliding window (`local`, one entry a layer).

    cached: False for bidirectional attention, which keeps no KV cache.
    """
    spans = local or (None,) * d.layers

    def layer(index: int) -> Layer:
        return Layer(modules=tuple(modules), state=kv_state(d, spans[index]) if cached else None)

    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: spans[index]),
        **others,
    )


def norms(size: int, *names: str, bias: bool = False) -> tuple[Weight, ...]:
    """Several norms of the hidden size."""
    return tuple(weight for name in names for weight in norm(name, size, bias=bias))


PRE_NORMS = ("input_layernorm", "post_attention_layernorm")


def llama_like(
    config: Config,
    name: str,
    *,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    local: Sequence[int | None] | None = None,
    layer_norms: tuple[str, ...] = PRE_NORMS,
    norm_bias: bool = False,
    partial: float = 1.0,
    positions_factor: int = 4,
    qkv_packed: tuple[str, ...] = QKV,
    mlp_packed: tuple[str, ...] = GATE_UP,
    **others: Any,
) -> Model:
    """models/llama.py with the differences that its many relatives have."""
    d = dims(config)
    modules = (
        *qkv_attention(
            d,
            qkv_bias=qkv_bias,
            o_bias=o_bias,
            qk_norm=d.head_dim if qk_norm else None,
            packed=qkv_packed,
        ),
        *gated_mlp(d.hidden, config.int("intermediate_size"), bias=mlp_bias, packed=mlp_packed),
        *norms(d.hidden, *layer_norms, bias=norm_bias),
    )
    others.setdefault("everywhere", llama_rotary(config, d, partial, positions_factor))
    others.setdefault("final_norm", norm("model.norm", d.hidden, bias=norm_bias))
    return stack(config, name, d, modules, local=local or windows(config, d.layers), **others)


def llama_rotary(config: Config, d: Dims, partial: float = 1.0, positions_factor: int = 4) -> tuple[Weight, ...]:
    """One rotary cache for all layers, sized by the config's max_position_embeddings, not by --max-model-len."""
    r = rope(config, partial=partial)
    longest = config.int("max_position_embeddings", default=_default_positions(config))
    if not config.has("dual_chunk_attention_config"):
        return (rotary_cache(r, d.head_dim, longest, positions_factor=positions_factor),)
    chunks = config.section("dual_chunk_attention_config")
    rows = chunks.int("chunk_size") - chunks.int("local_size")
    width = r.rotary_dim(d.head_dim)
    return tuple(
        Weight(name=f"rotary_emb.cos_sin_{part}_cache", shape=(n, width), kind="buffer", group="other")
        for part, n in (("q", rows), ("qc", rows), ("k", longest), ("qc_no_clamp", rows), ("q_inter", rows))
    )


def _default_positions(config: Config) -> int:
    """What most model classes take where config and config class name no length: getattr(config, …, 8192)."""
    key = "max_position_embeddings"
    return config.int(key) if config.has_default(key) else 8192


def attention_bias(config: Config) -> bool:
    """Whether q, k and v have biases: `attention_bias`, or InternLM's older `bias` (models/llama.py)."""
    return config.bool("attention_bias", default=False) or config.bool("bias", default=False)


def headless(config: Config, name: str, build: Callable[[Config, str], Model]) -> Model:
    """An architecture that names the base model only: vLLM gives it a head that its checkpoint does not have.

    Served with `--runner pooling`, as a sentence-transformers repository is by itself, it loses the head (for_pooling).
    """
    model = build(config, name)
    head = sum(module.parameters for module in (*model.last, *model.everywhere) if isinstance(module, LmHead))
    return replace(model, extra_parameters={"a head that the checkpoint does not have": -head})


@family("LlamaModel", "MistralModel")
def llama_model(config: Config, name: str) -> Model:
    """LlamaModel as an encoder: no lm_head."""
    return headless(config, name, llama)


@family("Qwen2Model")
def qwen2_model(config: Config, name: str) -> Model:
    """Qwen2Model as an encoder: no lm_head."""
    return headless(config, name, qwen2)


@family(
    "LlamaForCausalLM",
    "LLaMAForCausalLM",
    "LlamaBidirectionalModel",
    "AquilaForCausalLM",
    "InternLMForCausalLM",
    "InternLM3ForCausalLM",
    "IQuestCoderForCausalLM",
    "MistralForCausalLM",
    "Ministral3ForCausalLM",
    "CwmForCausalLM",
    "TeleChat3ForCausalLM",
    "TeleFLMForCausalLM",
)
def llama(config: Config, name: str) -> Model:
    """models/llama.py: `attention_bias` covers q, k, v and o; `qkv_bias` (InternLM 3) overrides it for q, k and v."""
    bias = attention_bias(config)
    return llama_like(
        config,
        name,
        qkv_bias=config.bool("qkv_bias", default=bias),
        o_bias=bias,
        mlp_bias=config.bool("mlp_bias", default=False),
        cached=config.bool("is_causal", default=True),
    )


@family("Phi3ForCausalLM")
def phi3(config: Config, name: str) -> Model:
    """models/phi3.py: Llama whose checkpoint already holds fused qkv_proj and gate_up_proj."""
    bias = attention_bias(config)
    return llama_like(
        config,
        name,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.bool("mlp_bias", default=False),
        qkv_packed=("qkv_proj",),
        mlp_packed=("gate_up_proj",),
    )


@family("Ernie4_5ForCausalLM")
def ernie(config: Config, name: str) -> Model:
    """models/ernie45.py: Llama that drops the bias of o_proj."""
    return llama_like(config, name, qkv_bias=attention_bias(config), mlp_bias=config.bool("mlp_bias", default=False))


@family("Qwen2ForCausalLM", "MiMoForCausalLM")
def qwen2(config: Config, name: str) -> Model:
    """models/qwen2.py: bias on q, k and v always."""
    return llama_like(
        config,
        name,
        qkv_bias=True,
        qk_norm=config.bool("qk_norm", default=False),
        local=qwen_windows(config),
        cached=config.bool("is_causal", default=True),
    )


@family("Qwen3ForCausalLM")
def qwen3(config: Config, name: str) -> Model:
    """models/qwen3.py."""
    return qwen3_text(config, name)


def qwen3_text(config: Config, name: str, *, positions_factor: int = 4) -> Model:
    """Norms on q and k per head; attention_bias covers q, k and v.

    positions_factor: 1 inside a vision-language model (qwen3_vl.py).
    """
    return llama_like(
        config,
        name,
        qkv_bias=config.bool("attention_bias", default=False),
        qk_norm=True,
        positions_factor=positions_factor,
        local=qwen_windows(config),
        cached=config.bool("is_causal", default=True),
    )


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """Qwen2Config's layer_types: the window, if used at all, from layer max_window_layers on."""
    layers = config.int("num_hidden_layers")
    if not config.bool("use_sliding_window", default=False):
        return (None,) * layers
    start = config.int("max_window_layers", default=28, minimum=0)
    types = ["sliding_attention" if index >= start else "full_attention" for index in range(layers)]
    return windows(config, layers, types, per_layer=False)


@family("GraniteForCausalLM", "GraniteSWAForCausalLM")
def granite(config: Config, name: str) -> Model:
    """models/granite.py: Llama with multipliers, which store nothing; sinks and several thetas with layer_types."""
    d = dims(config)
    bias = attention_bias(config)
    sinks = config.bool("attention_sinks", default=config.has("layer_types"))
    modules: list[Module] = [
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *gated_mlp(d.hidden, config.int("intermediate_size"), bias=config.bool("mlp_bias", default=False)),
        *norms(d.hidden, *PRE_NORMS),
    ]
    if sinks:
        modules.append(Weight(name="self_attn.sinks", shape=(d.heads,), split=0, group="attention"))
    spans = windows(config, d.layers)

    def layer(index: int) -> Layer:
        state = KVAttention(
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_size=d.head_dim,
            sliding_window=spans[index],
            sinks=sinks,
        )
        return Layer(modules=tuple(modules), state=state)

    # One cache per distinct theta; 0 marks a layer without rotary positions.
    thetas = set(config.ints("layer_rope_theta")) if config.has("layer_rope_theta") else {1}
    cache = llama_rotary(config, d)
    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: spans[index]),
        everywhere=[weight for theta in thetas if theta for weight in cache],
    )


@family("InternLM2ForCausalLM")
def internlm2(config: Config, name: str) -> Model:
    """models/internlm2.py: Llama under other names, not split over pipeline stages at its ends."""
    d = dims(config)
    modules = (
        *qkv_attention(d, prefix="attention", qkv_name="wqkv", o_name="wo", packed=("wqkv",)),
        *gated_mlp(d.hidden, config.int("intermediate_size"), prefix="feed_forward", down="w2", packed=("w1", "w3")),
        *norms(d.hidden, "attention_norm", "ffn_norm"),
    )
    return stack(
        config,
        name,
        d,
        modules,
        local=windows(config, d.layers, per_layer=False),
        first=(Embedding(name="model.tok_embeddings", rows=d.vocab, width=d.hidden),),
        head="output",
        everywhere=llama_rotary(config, d),
        split_ends=False,
    )


@family("Glm4ForCausalLM")
def glm4(config: Config, name: str) -> Model:
    """models/glm4.py: four norms a layer, half of each head rotated."""
    return llama_like(
        config,
        name,
        qkv_bias=config.bool("attention_bias", default=False),
        layer_norms=(*PRE_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm"),
        partial=0.5,
        local=windows(config, config.int("num_hidden_layers"), per_layer=False),
    )


@family("ChatGLMModel", "ChatGLMForConditionalGeneration")
def chatglm(config: Config, name: str) -> Model:
    """models/chatglm.py (ChatGLM2, ChatGLM3, GLM-4 before transformers had a class): not split at its ends."""
    hidden, heads = config.int("hidden_size"), config.int("num_attention_heads")
    if hidden % heads:
        raise InputError(f"{config.path('hidden_size')} = {hidden} is not divisible by num_attention_heads = {heads}")
    grouped = config.bool("multi_query_attention", default=False)
    vocab = config.int("padded_vocab_size", default=65024)
    d = Dims(
        hidden=hidden,
        layers=config.int(config.first_of(("num_layers", "num_hidden_layers"))),
        heads=heads,
        kv_heads=config.int("multi_query_group_num", default=1) if grouped else heads,
        head_dim=hidden // heads,
        vocab=vocab,
    )
    bias = config.bool("add_bias_linear", default=False)
    norm_bias = not config.bool("rmsnorm", default=True)
    modules = (
        *qkv_attention(
            d,
            prefix="self_attention",
            qkv_name="query_key_value",
            o_name="dense",
            packed=("query_key_value",),
            qkv_bias=bias or config.bool("add_qkv_bias", default=False),
            o_bias=bias,
        ),
        *gated_mlp(
            hidden,
            config.int("ffn_hidden_size"),
            bias=bias,
            up="dense_h_to_4h",
            down="dense_4h_to_h",
            packed=("dense_h_to_4h",),
        ),
        *norms(hidden, *PRE_NORMS, bias=norm_bias),
    )
    length = config.int("seq_length", default=8192)
    last_norm = norm("transformer.encoder.final_layernorm", hidden, bias=norm_bias)
    return stack(
        config,
        name,
        d,
        modules,
        first=(Embedding(name="transformer.embedding", rows=vocab, width=hidden),),
        final_norm=last_norm if config.bool("post_layer_norm", default=True) else (),
        head="transformer.output_layer",
        # rope_ratio scales the base only; half of each head is rotated, whatever the config says.
        everywhere=(
            Weight(name="rotary_emb.cos_sin_cache", shape=(length, d.head_dim // 2), kind="buffer", group="other"),
        ),
        layer_prefix="transformer.encoder.layers.",
        max_position=length,
        split_ends=False,
    )


@family("CohereForCausalLM", "Cohere2ForCausalLM")
def cohere(config: Config, name: str) -> Model:
    """models/commandr.py: one norm a layer (attention and MLP in parallel), always tied, not split at its ends."""
    d = dims(config)
    qk_norm = config.bool("use_qk_norm", default=False)
    modules: list[Module] = [
        *qkv_attention(d),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, "input_layernorm"),
    ]
    if qk_norm:  # per head, so sharded with the heads
        modules += [
            Weight(name="self_attn.q_norm.weight", shape=(d.heads, d.head_dim), split=0),
            PartsWeight(name="self_attn.k_norm.weight", parts=(Heads(count=d.kv_heads, size=d.head_dim),)),
        ]
    length = config.optional_int("model_max_length") or config.int("max_position_embeddings")
    local = None
    if config.str("model_type", default="cohere") == "cohere2":
        types = alternating(config, d.layers, 4)
        # vLLM counts the token itself (sliding_window + 1).
        local = tuple(span and span + 1 for span in windows(config, d.layers, types))
    return stack(
        config,
        name,
        d,
        modules,
        local=local,
        tie=True,
        everywhere=(rotary_cache(rope(config), d.head_dim, length),),
        split_ends=False,
    )


@family("SolarForCausalLM")
def solar(config: Config, name: str) -> Model:
    """models/solar.py: Llama with residuals across blocks, which store nothing."""
    bias = attention_bias(config)
    return llama_like(config, name, qkv_bias=bias, o_bias=bias, mlp_bias=config.bool("mlp_bias", default=False))


@family("HyperCLOVAXForCausalLM")
def hyperclovax(config: Config, name: str) -> Model:
    """models/hyperclovax.py: Llama with two more norms where use_post_norm says so."""
    bias = attention_bias(config)
    post = ("post_norm1", "post_norm2") if config.bool("use_post_norm", default=False) else ()
    return llama_like(
        config,
        name,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.bool("mlp_bias", default=False),
        layer_norms=(*PRE_NORMS, *post),
    )


@family("ExaoneForCausalLM")
def exaone(config: Config, name: str) -> Model:
    """models/exaone.py: Llama under GPT-2's names."""
    d = dims(config)
    bias = attention_bias(config)
    modules = (
        *qkv_attention(d, prefix="attn.attention", o_name="out_proj", qkv_bias=bias, o_bias=bias),
        *gated_mlp(
            d.hidden,
            config.int("intermediate_size"),
            down="c_proj",
            packed=("c_fc_0", "c_fc_1"),
            bias=config.bool("mlp_bias", default=False),
        ),
        *norms(d.hidden, "ln_1", "ln_2"),
    )
    return stack(
        config,
        name,
        d,
        modules,
        local=windows(config, d.layers, per_layer=False),
        first=(Embedding(name="transformer.wte", rows=d.vocab, width=d.hidden),),
        final_norm=norm("transformer.ln_f", d.hidden),
        everywhere=llama_rotary(config, d),
        layer_prefix="model.h.",
    )


@family("Exaone4ForCausalLM")
def exaone4(config: Config, name: str) -> Model:
    """models/exaone4.py: norms after attention and MLP, norms on q and k, windows on most layers."""
    layers = config.int("num_hidden_layers")
    types = None
    if not config.has("layer_types") and config.optional_int("sliding_window"):
        types = alternating(config, layers, config.int("sliding_window_pattern", default=4))
    bias = attention_bias(config)
    return llama_like(
        config,
        name,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.bool("mlp_bias", default=False),
        qk_norm=True,
        layer_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
        local=windows(config, layers, types),
    )


@family("NemotronForCausalLM")
def nemotron(config: Config, name: str) -> Model:
    """models/nemotron.py: LayerNorm1P, an MLP without a gate, half of each head rotated."""
    d = dims(config)
    bias = attention_bias(config)
    modules = (
        *qkv_attention(d, qkv_bias=bias, o_bias=bias),
        *ungated_mlp(config, d.hidden),
        *norms(d.hidden, *PRE_NORMS, bias=True),
    )
    return stack(
        config,
        name,
        d,
        modules,
        local=windows(config, d.layers, per_layer=False),
        final_norm=norm("model.norm", d.hidden, bias=True),
        everywhere=llama_rotary(config, d, 0.5),
    )


@family("ApertusForCausalLM")
def apertus(config: Config, name: str) -> Model:
    """models/apertus.py: norms on q and k, an MLP without a gate whose activation (xIELU) has two parameters."""
    d = dims(config)
    bias = attention_bias(config)
    modules = (
        *qkv_attention(d, qkv_bias=config.bool("qkv_bias", default=bias), o_bias=bias, qk_norm=d.head_dim),
        *ungated_mlp(config, d.hidden),
        *norms(d.hidden, "attention_layernorm", "feedforward_layernorm"),
        Weight(name="mlp.act_fn.alpha_p", shape=(1,), group="mlp"),
        Weight(name="mlp.act_fn.alpha_n", shape=(1,), group="mlp"),
        Weight(name="mlp.act_fn.beta", shape=(), kind="buffer", group="mlp"),
        Weight(name="mlp.act_fn.eps", shape=(), kind="buffer", group="mlp"),
    )
    return stack(config, name, d, modules, local=windows(config, d.layers), everywhere=llama_rotary(config, d))


@family("StableLmForCausalLM", "StableLMEpochForCausalLM")
def stablelm(config: Config, name: str) -> Model:
    """models/stablelm.py: LayerNorm with bias, a quarter of each head rotated, not split at its ends."""
    return llama_like(
        config,
        name,
        qkv_bias=config.bool("use_qkv_bias", default=False),
        norm_bias=True,
        partial=0.25,
        split_ends=False,
    )


@family("OrionForCausalLM")
def orion(config: Config, name: str) -> Model:
    """models/orion.py: Llama with LayerNorm, not split at its ends."""
    return llama_like(config, name, norm_bias=True, split_ends=False)


@family("MiniCPMForCausalLM")
def minicpm(config: Config, name: str) -> Model:
    """models/minicpm.py without experts: Llama with scalings, not split at its ends."""
    if config.int("num_experts", default=0, minimum=0):
        raise InputError(
            f"{config.path('num_experts')}: MiniCPM with experts is not known to the planner; pass --ask-vllm"
        )
    return llama_like(config, name, split_ends=False)


@family("MiniCPM3ForCausalLM")
def minicpm3(config: Config, name: str) -> Model:
    """models/minicpm3.py: latent attention that is unfolded before the cache, so keys and values are stored whole."""
    d = dims(config)
    nope, turned, value = (config.int(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    q_rank, kv_rank = config.int("q_lora_rank"), config.int("kv_lora_rank")

    def linear(which: str, inputs: int, rows: int, split: Literal["column", "row", "none"]) -> Linear:
        return Linear(name=f"self_attn.{which}", inputs=inputs, outputs=(rows,), split=split, group="attention")

    modules: tuple[Module, ...] = (
        linear("q_a_proj", d.hidden, q_rank, "none"),
        *norm("self_attn.q_a_layernorm", q_rank),
        linear("q_b_proj", q_rank, d.heads * (nope + turned), "column"),
        linear("kv_a_proj_with_mqa", d.hidden, kv_rank + turned, "none"),
        *norm("self_attn.kv_a_layernorm", kv_rank),
        linear("kv_b_proj", kv_rank, d.heads * (nope + value), "column"),
        linear("o_proj", d.heads * value, d.hidden, "row"),
        AttentionScales(),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, *PRE_NORMS),
    )
    cached = replace(d, kv_heads=d.heads, head_dim=nope + turned)
    length = config.int("max_position_embeddings", default=8192)
    return stack(
        config,
        name,
        cached,
        modules,
        everywhere=(rotary_cache(rope(config), turned, length),),
        split_ends=False,
    )


@family("BaichuanForCausalLM", "BaiChuanForCausalLM")
def baichuan(config: Config, name: str) -> Model:
    """models/baichuan.py (until 0.23): W_pack; rotary positions (7B) or ALiBi (13B); not split at its ends."""
    d = dims(config)
    rotary = config.strs("architectures")[0] == "BaiChuanForCausalLM" or d.hidden == 4096
    modules: list[Module] = [
        *qkv_attention(d, qkv_name="W_pack", packed=("W_pack",)),
        *gated_mlp(d.hidden, config.int("intermediate_size")),
        *norms(d.hidden, *PRE_NORMS),
    ]
    if not rotary:
        modules.append(alibi_slopes(d.heads))
    return stack(
        config,
        name,
        d,
        modules,
        everywhere=llama_rotary(config, d) if rotary else (),
        split_ends=False,
    )


def alibi_slopes(heads: int, name: str = "self_attn.attn") -> Weight:
    """The slopes that an attention backend keeps on the GPU for ALiBi, one a head."""
    return Weight(
        name=f"{name}.impl.alibi_slopes",
        shape=(heads,),
        split=0,
        dtype="float32",
        kind="attr",
        group="attention",
    )
