"""Models with multi-head latent attention: DeepSeek V2 to V3.2, Kimi-K2, GLM-4.7-Flash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from planner.model.architecture import Layer, Model
from planner.model.attention import MLAttention
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Ends,
    Rope,
    decoder,
    gated_mlp,
    norm,
    repeat,
    rope,
)
from planner.model.families.sparse import (
    count,
    deepseek_block,
    deepseek_sparse_layers,
    flag,
    layers_of,
    moe_sizes,
    mtp_parameters,
    rotary,
    two_norms,
)
from planner.model.modules import (
    AttentionScales,
    EngineBuffer,
    Linear,
    MlaValueCopy,
    Module,
    Weight,
)


@dataclass(frozen=True, kw_only=True)
class Latent(Ends):
    """The sizes of multi-head latent attention, under DeepSeek's names."""

    kv_lora: int
    q_lora: int | None
    nope: int
    rope: int
    value: int

    def state(self, index_head_dim: int | None = None) -> MLAttention:
        """Its latent KV cache; index_head_dim is that of DeepSeek V3.2's sparse indexer."""
        return MLAttention(
            heads=self.heads,
            kv_lora_rank=self.kv_lora,
            qk_rope_head_dim=self.rope,
            qk_nope_head_dim=self.nope,
            v_head_dim=self.value,
            index_head_dim=index_head_dim,
        )


def latent(config: Config) -> Latent:
    """Reads MLA's keys. Raises InputError, naming the key, for one that is missing or wrong."""
    return Latent(
        hidden=config.int("hidden_size"),
        heads=config.int("num_attention_heads"),
        vocab=config.int("vocab_size"),
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
    kv_b = column(f"{prefix}.kv_b_proj", m.kv_lora, m.heads * (m.nope + m.value))
    modules: list[Module] = []
    if m.q_lora is None:
        modules += [
            whole(f"{prefix}.kv_a_proj_with_mqa", m.hidden, m.kv_lora + m.rope),
            column(f"{prefix}.q_proj", m.hidden, queries),
        ]
    else:
        modules += [
            replace(
                whole(f"{prefix}.fused_qkv_a_proj", m.hidden, m.q_lora, m.kv_lora + m.rope),
                packed=("q_a_proj", "kv_a_proj_with_mqa"),
            ),
            *norm(f"{prefix}.q_a_layernorm", m.q_lora),
            column(f"{prefix}.q_b_proj", m.q_lora, queries),
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


def whole(name: str, inputs: int, *outputs: int) -> Linear:
    """A ReplicatedLinear: whole on every rank."""
    return Linear(name=name, inputs=inputs, outputs=outputs, split="none", group="attention")


def column(name: str, inputs: int, *outputs: int) -> Linear:
    """A ColumnParallelLinear: its rows are divided by tp."""
    return Linear(name=name, inputs=inputs, outputs=outputs, split="column", group="attention")


def deepseek_rope(config: Config) -> Rope:
    """DeepSeek's classes turn every rope type but the default into their own yarn."""
    r = rope(config)
    return r if r.type == "default" else replace(r, type="deepseek_yarn")


@family("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "MistralLarge3ForCausalLM")
def deepseek(config: Config, name: str) -> Model:
    """models/deepseek_v2.py: latent attention, dense layers first, then routed and shared experts."""
    return deepseek_text(config, name)


def deepseek_text(
    config: Config, name: str, *, gate_fp32: bool = False, bias: bool | None = None, **others: Any
) -> Model:
    """The decoder of models/deepseek_v2.py, alone or as the language model of a vision-language one.

    gate_fp32, bias: of the router (deepseek_block).
    """
    m, number = latent(config), config.int("num_hidden_layers")
    layers = layers_of(
        number,
        mla_attention(m),
        deepseek_block(config, moe_sizes(config, count="n_routed_experts"), gate_fp32=gate_fp32, bias=bias),
        two_norms(m.hidden),
        m.state(),
        dense=gated_mlp(m.hidden, config.int("intermediate_size")),
        is_sparse=deepseek_sparse_layers(config),
    )
    return decoder(
        config,
        name,
        m,
        layers=layers,
        tie=False,
        everywhere=(rotary(config, m.rope, deepseek_rope(config)),),
        extra_parameters=mtp_parameters(config, m.hidden, m.vocab, layers[-1].parameters),
        **others,
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
        whole(f"{prefix}.wq_b", m.q_lora or 0, i.head_dim * i.heads),
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
    m, number = latent(config), config.int("num_hidden_layers")
    if m.q_lora is None:
        raise config.error("q_lora_rank", "is missing; the sparse indexer needs it")
    indexer = Indexer(
        heads=config.int("index_n_heads"), head_dim=config.int("index_head_dim"), top_k=config.int("index_topk")
    )
    attention = mla_attention(m, inner="self_attn")
    sparse, dense = (
        deepseek_block(config, moe_sizes(config, count="n_routed_experts")),
        gated_mlp(m.hidden, config.int("intermediate_size")),
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
        m,
        layers=layers,
        tie=False,
        everywhere=(cache, *second, top_k),
        extra_parameters=mtp_parameters(config, m.hidden, m.vocab, layers[-1].parameters),
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
    return deepseek_text(config, name, gate_fp32=True, bias=True)
