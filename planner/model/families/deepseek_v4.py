"""DeepSeek V4: sliding windows beside compressed caches, hyper-connections, routing by token id in the first layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.model.architecture import Layer, Model
from planner.model.attention import CompressedAttention
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Ends,
    Rope,
    decoder,
    norm,
    repeat,
    rotary_cache,
)
from planner.model.families.latent import column, deepseek_rope, whole
from planner.model.families.sparse import (
    W123,
    count,
    moe_sizes,
    per_layer,
    sparse_mlp,
)
from planner.model.modules import (
    Embedding,
    EngineBuffer,
    Group,
    Linear,
    Module,
    Placement,
    Tensor,
    Weight,
    divide,
)


@dataclass(frozen=True, kw_only=True)
class PaddedSinks:
    """attn_sink of DeepSeek V4: fp32, padded to the 64 or 128 heads that FlashMLA's sparse decode kernel takes."""

    name: str
    heads: int
    group: Group = "attention"

    @property
    def parameters(self) -> int:
        """One for each head."""
        return self.heads

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """A vector of 64 or 128 fp32 values."""
        yield Tensor(self.name, 4 * (64 if divide(self.heads, at.tp_size) <= 64 else 128))


def _v4_compressor(hidden: int, head_dim: int, ratio: int, prefix: str) -> tuple[Module, ...]:
    """DeepseekCompressor (vllm/models/deepseek_v4/compressor.py): twice as wide where windows overlap, at ratio 4."""
    width = (2 if ratio == 4 else 1) * head_dim
    return (
        Weight(name=f"{prefix}.ape", shape=(ratio, width), dtype="float32", group="attention"),
        replace(whole(f"{prefix}.fused_wkv_wgate", hidden, width, width), quantizable=False),
        *norm(f"{prefix}.norm", head_dim),
    )


def _v4_attention(config: Config, ratio: int) -> tuple[Module, ...]:
    """DeepseekV4Attention (vllm/models/deepseek_v4/attention.py); ratio 4 adds an indexer to the compressor."""
    hidden, heads, head_dim = config.int("hidden_size"), config.int("num_attention_heads"), config.int("head_dim")
    q_lora, o_lora, groups = config.int("q_lora_rank"), config.int("o_lora_rank"), config.int("o_groups")
    fused = whole("attn.fused_wqa_wkv", hidden, q_lora, head_dim)
    modules: list[Module] = [
        PaddedSinks(name="attn.attn_sink", heads=heads),
        replace(fused, packed=("wq_a", "wkv")),
        *norm("attn.q_norm", q_lora),
        column("attn.wq_b", q_lora, heads * head_dim),
        *norm("attn.kv_norm", head_dim),
        column("attn.wo_a", heads * head_dim // groups, groups * o_lora),
        Linear(name="attn.wo_b", inputs=groups * o_lora, outputs=(hidden,), split="row", group="attention"),
    ]
    if ratio > 1:
        modules += _v4_compressor(hidden, head_dim, ratio, "attn.compressor")
    if ratio == 4:
        index_heads, index_dim = config.int("index_n_heads"), config.int("index_head_dim")
        modules += [
            whole("attn.indexer.wq_b", q_lora, index_dim * index_heads),
            replace(whole("attn.indexer.weights_proj", hidden, index_heads), quantizable=False),
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
    hidden, number = config.int("hidden_size"), config.int("num_hidden_layers")
    vocab, heads, mult = config.int("vocab_size"), config.int("num_attention_heads"), config.int("hc_mult")
    moe, hashed = moe_sizes(config, count="n_routed_experts"), count(config, "num_hash_layers", 3)
    ratios = _v4_ratios(config, number)
    shared = moe.intermediate * count(config, "n_shared_experts")
    table = Weight(name="ffn.gate.tid2eid", shape=(vocab, moe.top_k), dtype="int32", group="mlp")
    noaux = config.optional_str("topk_method") == "noaux_tc"

    plain, scaled = _v4_rotary(config)

    def layer(ratio: int, is_hashed: bool) -> Layer:
        return Layer(
            shared=(scaled if ratio > 1 else plain,),
            modules=(
                *_v4_attention(config, ratio),
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
                compress_ratio=ratio,
                index_head_dim=config.int("index_head_dim") if ratio == 4 else None,
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
        Ends(hidden=hidden, heads=heads, vocab=vocab),
        layers=repeat(number, lambda i: layer(ratios[i], i < hashed), lambda i: (ratios[i], i < hashed)),
        first=(Embedding(name="model.embed_tokens", rows=vocab, width=hidden), broadcast),
        tie=False,
        everywhere=(
            EngineBuffer(name="model.topk_indices_buffer", rows="tokens", width=config.int("index_topk")),
            *head,
        ),
        extra_parameters=_v4_mtp(config, hidden, mult, layer(1, False).parameters),
    )


def _v4_mtp(config: Config, hidden: int, mult: int, layer: int) -> dict[str, int]:
    """Layers that only deepseek_v4/nvidia/mtp.py loads: two projections, three norms and mixing of their own."""
    number = count(config, "num_nextn_predict_layers")
    extra = 2 * hidden * hidden + 3 * hidden + mult * mult * hidden + mult + 1
    return {"MTP layers": number * (layer + extra)} if number else {}


def _v4_rotary(config: Config) -> tuple[Module, Module]:
    """fp32 caches: of sliding-window layers, without scaling, and of compressed layers, with it."""
    positions, width = config.int("max_position_embeddings"), config.int("qk_rope_head_dim")
    plain = rotary_cache(Rope(parameters={}), width, positions, dtype="float32")
    scaled = rotary_cache(
        deepseek_rope(config), width, positions, name="compress_rotary_emb", rotary_dim=width, dtype="float32"
    )
    return plain, scaled
