"""Pieces of mixtures of experts, and of decoders whose classes ask for no pipeline stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from planner.model.architecture import Layer, Model
from planner.model.attention import LayerState
from planner.model.config import Config
from planner.model.families.common import (
    Dims,
    Ends,
    Rope,
    decoder,
    gated_mlp,
    norm,
    repeat,
    rope,
    rotary_cache,
)
from planner.model.modules import (
    Embedding,
    Experts,
    Linear,
    LmHead,
    Module,
    Weight,
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
    narrowest: int = 0


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
        router(f"{prefix}.{gate}", hidden, moe.experts, bias=gate_bias, fp32=gate_fp32, quantizable=gate_quantizable),
        Experts(
            name=f"{prefix}.experts",
            count=moe.experts,
            hidden=hidden,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            bias=expert_bias,
            packed=packed,
            narrowest=moe.narrowest,
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
    is_sparse: Callable[[int], bool] = lambda _: True,
) -> tuple[Layer, ...]:
    """Layers that differ only in whether their MLP is sparse."""

    def layer(index: int) -> Layer:
        mlp = sparse if is_sparse(index) else dense
        return Layer(modules=(*attention, *mlp, *norms), state=state)

    return repeat(number, layer, is_sparse)


def unstaged_decoder(
    config: Config,
    name: str,
    d: Ends,
    *,
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
    head = LmHead(name="lm_head", rows=d.vocab, width=d.hidden, bias=lm_head_bias, quantizable=quantizable_head)
    parts: dict[str, tuple[Module, ...]] = {
        "norm": tuple(norm("model.norm", d.hidden) if final_norm is None else final_norm),
        "lm_head": () if tied else (head,),
    }
    return decoder(
        config,
        name,
        d,
        first=(),
        final_norm=tuple(module for part in last_only for module in parts[part]),
        everywhere=(
            Embedding(name=embedding, rows=d.vocab, width=d.hidden),
            *(module for part, modules in parts.items() if part not in last_only for module in modules),
            *everywhere,
        ),
        tie=True,  # a head, if there is one, is among the parts already
        **others,  # type: ignore[arg-type]
    )


def deepseek_block(
    config: Config, moe: Moe, *, gate_fp32: bool = False, bias: bool | None = None
) -> tuple[Module, ...]:
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


def partial_rope(config: Config, otherwise: float) -> Rope:
    """The config's rotary parameters; `otherwise` is the rotated part of a head where it does not say."""
    r = rope(config)
    said = "partial_rotary_factor" in r.parameters or config.has("partial_rotary_factor")
    return r if said else replace(r, partial=otherwise)
