"""Models with gated delta nets beside attention: Qwen3-Next, Qwen3.5, Kimi-Linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention, RecurrentState, StateShape
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Dims,
    decoder,
    dims,
    gated_mlp,
    kv_state,
    layer_types,
    norm,
    qkv_attention,
    repeat,
    state_dtype,
)
from planner.model.families.latent import latent, mla_attention
from planner.model.families.mamba import unquantized
from planner.model.families.moe import qwen_sparse_layers
from planner.model.families.sparse import (
    W123,
    count,
    flag,
    moe_sizes,
    mtp_parameters,
    rotary,
    sparse_mlp,
    two_norms,
    unstaged_decoder,
)
from planner.model.modules import (
    Heads,
    Linear,
    Module,
    Placement,
    Tensor,
    Weight,
)

# --- gated delta nets: Qwen3-Next, Qwen3.5 -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DeltaNet:
    """The sizes of a QwenGatedDeltaNetAttention (layers/mamba/gdn/qwen_gdn_linear_attn.py)."""

    hidden: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    interleaved: bool
    """Qwen3-Next's checkpoint holds q, k, v and z in one tensor, group by group; Qwen3.5's has them apart."""

    @property
    def keys(self) -> int:
        """Width of all key heads."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of all value heads."""
        return self.value_heads * self.value_dim

    def modules(self, prefix: str = "linear_attn") -> tuple[Module, ...]:
        """Convolution, projections, per-head vectors and norm; inputs fused as the family's class fuses them."""
        qkvz = (self.keys, self.keys, self.values, self.values)
        return (
            unquantized(f"{prefix}.conv1d", self.kernel, 2 * self.keys + self.values),
            Linear(
                name=f"{prefix}.in_proj_qkvz",
                inputs=self.hidden,
                outputs=(sum(qkvz),) if self.interleaved else qkvz,
                split="column",
                group="attention",
                packed=() if self.interleaved else ("in_proj_qkv", "in_proj_z"),
            ),
            (Linear if self.interleaved else DeltaNetGates)(
                name=f"{prefix}.in_proj_ba",
                inputs=self.hidden,
                outputs=(2 * self.value_heads,) if self.interleaved else (self.value_heads, self.value_heads),
                split="column",
                group="attention",
                packed=() if self.interleaved else ("in_proj_b", "in_proj_a"),
            ),
            Weight(name=f"{prefix}.dt_bias", shape=(self.value_heads,), split=0, group="attention"),
            Weight(name=f"{prefix}.A_log", shape=(self.value_heads,), split=0, dtype="float32", group="attention"),
            *norm(f"{prefix}.norm", self.value_dim),
            Linear(
                name=f"{prefix}.out_proj",
                inputs=self.values,
                outputs=(self.hidden,),
                split="row",
                group="attention",
            ),
        )

    def recurrent(self, ssm_dtype: str = "auto") -> RecurrentState:
        """What it keeps for a request: conv [kernel - 1, 2 keys + values] and ssm [value heads, value dim, key dim]."""
        conv = StateShape(shape=(self.kernel - 1, 2 * self.keys + self.values), split=1, role="conv")
        ssm = StateShape(shape=(self.value_heads, self.value_dim, self.key_dim), split=0, role="ssm", dtype=ssm_dtype)
        return RecurrentState(type="gdn_attention", states=(conv, ssm))


class DeltaNetGates(Linear):
    """in_proj_ba of Qwen3.5, which vLLM replicates under AWQ and GPTQ: its shards would be too small for Marlin."""

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """As a linear layer's; whole on every rank where the quantization has Marlin kernels alone."""
        whole = at.capability is not None and at.quantization is not None and at.quantization.name in _MARLIN_ONLY
        return super().tensors(replace(at, tp_size=1) if whole else at)


_MARLIN_ONLY = ("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "inc", "auto-round")


def _delta_net(config: Config, *, interleaved: bool) -> DeltaNet:
    return DeltaNet(
        hidden=config.int("hidden_size"),
        key_heads=config.int("linear_num_key_heads"),
        value_heads=config.int("linear_num_value_heads"),
        key_dim=config.int("linear_key_head_dim"),
        value_dim=config.int("linear_value_head_dim"),
        kernel=config.int("linear_conv_kernel_dim"),
        interleaved=interleaved,
    )


def _gated_attention(config: Config, d: Dims) -> tuple[Module, ...]:
    """Qwen3NextAttention: as many gate rows as query rows (attn_output_gate), norms on q and k."""
    gated = flag(config, "attn_output_gate", otherwise=True)
    kv = Heads(count=d.kv_heads, size=d.head_dim)
    qkv = Linear(
        name="self_attn.qkv_proj",
        inputs=d.hidden,
        outputs=(d.heads * d.head_dim * (2 if gated else 1), kv, kv),
        split="column",
        bias=flag(config, "qkv_bias"),
        group="attention",
        packed=("q_proj", "k_proj", "v_proj"),
    )
    return (qkv, *qkv_attention(d, qk_norm=d.head_dim)[1:])


def _full_attention(config: Config, layers: int) -> tuple[bool, ...]:
    """Which layers attend: layer_types, or every full_attention_interval-th."""
    types = layer_types(config, layers)
    if types is None:
        every = count(config, "full_attention_interval", 4) or 4
        return tuple((index + 1) % every == 0 for index in range(layers))
    for kind in types:
        if kind not in ("linear_attention", "full_attention"):
            raise config.error(
                "layer_types", f"has an unknown layer type {kind!r}; known: linear_attention, full_attention"
            )
    return tuple(kind == "full_attention" for kind in types)


def _delta_net_layers(
    config: Config,
    d: Dims,
    net: DeltaNet,
    is_sparse: Callable[[int], bool],
    ssm_dtype: str = "auto",
) -> tuple[Layer, ...]:
    """Layers that attend or are a gated delta net, with a sparse or a dense MLP."""
    attends = _full_attention(config, d.layers)
    sparse = _qwen_block(config, d.hidden) if any(map(is_sparse, range(d.layers))) else ()
    dense = () if all(map(is_sparse, range(d.layers))) else gated_mlp(d.hidden, config.int("intermediate_size"))
    attention, state = _gated_attention(config, d), net.recurrent(ssm_dtype)
    scales: tuple[Weight, ...] = ()
    if flag(config, "layer_scale"):
        scales = tuple(Weight(name=f"{part}_layer_scale", shape=(1, 1, d.hidden)) for part in ("attn", "ffn"))

    def layer(index: int) -> Layer:
        mixing = attention if attends[index] else net.modules()
        mlp = sparse if is_sparse(index) else dense
        return Layer(
            modules=(*mixing, *mlp, *two_norms(d.hidden), *scales),
            state=kv_state(d) if attends[index] else state,
        )

    return repeat(d.layers, layer, lambda index: (attends[index], is_sparse(index)))


def _qwen_block(config: Config, hidden: int) -> tuple[Module, ...]:
    """Qwen3NextSparseMoeBlock: a gated shared expert; the gate is there even without the expert."""
    return sparse_mlp(
        hidden,
        moe_sizes(config, count="num_experts"),
        shared=count(config, "shared_expert_intermediate_size"),
        shared_name="shared_expert",
        shared_gate=True,
    )


def _qwen_mtp(config: Config, d: Dims, layers: Sequence[Layer], number: int) -> dict[str, int]:
    """Layers that only models/qwen3_next_mtp.py and qwen3_5_mtp.py load: attention, a projection, three norms."""
    attending = next((layer for layer in layers if isinstance(layer.state, KVAttention)), None)
    if not number or attending is None:
        return {}
    return {"MTP layers": number * attending.parameters + 2 * d.hidden * d.hidden + 3 * d.hidden}


@family("Qwen3NextForCausalLM")
def qwen3_next(config: Config, name: str) -> Model:
    """models/qwen3_next.py: three gated delta nets to one attention layer, all with experts by default."""
    d = dims(config)
    layers = _delta_net_layers(config, d, _delta_net(config, interleaved=True), qwen_sparse_layers(config))
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers,
        last_only=("norm",),
        tie=False,
        everywhere=(rotary(config, d.head_dim),),
        # The config does not say that the checkpoint has one.
        extra_parameters=_qwen_mtp(config, d, layers, 1),
    )


@family("Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM")
def qwen3_5(config: Config, name: str) -> Model:
    """models/qwen3_5.py, text only."""
    return qwen3_5_text(config, name)


def qwen3_5_text(config: Config, name: str, **others: Any) -> Model:
    """The decoder of models/qwen3_5.py, alone or as the language model of a vision-language one.

    The model type alone decides whether its MLPs are sparse.
    """
    d = dims(config)
    sparse = "moe" in config.str("model_type")
    ssm = state_dtype(config, "mamba_ssm_dtype", "auto")
    net = _delta_net(config, interleaved=False)
    layers = _delta_net_layers(config, d, net, lambda _: sparse, ssm)
    # Positions never exceed the tokens, so no room for four times as many (mrope_positions_factor).
    cache = rotary(config, d.head_dim, positions_factor=1)
    return unstaged_decoder(
        config,
        name,
        d,
        layers=layers,
        last_only=("norm", "lm_head"),
        everywhere=(cache,),
        extra_parameters=_qwen_mtp(config, d, layers, count(config, "mtp_num_hidden_layers")),
        **others,
    )


# --- Kimi Linear ---------------------------------------------------------------------------------------------------


def _kimi_delta(hidden: int, heads: int, head_dim: int, kernel: int) -> tuple[tuple[Module, ...], RecurrentState]:
    """KimiGatedDeltaNetAttention (layers/mamba/gdn/kimi_gdn_linear_attn.py), without the full-rank gate of Kimi-K3."""
    width = heads * head_dim
    whole = Heads(count=1, size=head_dim)  # one "head", so on every rank

    def column(name: str, inputs: int, *outputs: int | Heads, packed: tuple[str, ...] = ()) -> Linear:
        return Linear(
            name=f"self_attn.{name}",
            inputs=inputs,
            outputs=outputs,
            split="column",
            group="attention",
            packed=packed,
        )

    parts = ("q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj")
    fp32 = {"split": 0, "dtype": "float32", "group": "attention"}
    modules: tuple[Module, ...] = (
        column("in_proj_qkvgfab", hidden, width, width, width, heads, whole, packed=parts),
        column("f_b_proj", head_dim, width),
        Weight(name="self_attn.dt_bias", shape=(width,), **fp32),  # type: ignore[arg-type]
        Weight(name="self_attn.conv1d.weight", shape=(3 * width, 1, kernel), **fp32),  # type: ignore[arg-type]
        Weight(name="self_attn.A_log", shape=(heads,), **fp32),  # type: ignore[arg-type]
        Linear(name="self_attn.g_a_proj", inputs=hidden, outputs=(head_dim,), split="none", group="attention"),
        column("g_b_proj", head_dim, width),
        *norm("self_attn.o_norm", head_dim),
        Linear(name="self_attn.o_proj", inputs=width, outputs=(hidden,), split="row", group="attention"),
    )
    conv = StateShape(shape=(kernel - 1, 3 * width), split=1, role="conv")
    ssm = StateShape(shape=(heads, head_dim, head_dim), split=0, role="ssm", dtype="float32")
    return modules, RecurrentState(type="kda", states=(conv, ssm))


@family("KimiLinearForCausalLM")
def kimi_linear(config: Config, name: str) -> Model:
    """vllm/models/kimi_k3 as Kimi-Linear uses it: delta nets, and latent attention without positions."""
    m, number = latent(config), config.int("num_hidden_layers")
    linear = config.section("linear_attn_config")
    delta = set(linear.ints("kda_layers"))  # counted from 1
    modules, recurrent = _kimi_delta(
        m.hidden, linear.int("num_heads"), linear.int("head_dim"), linear.int("short_conv_kernel_size")
    )
    moe = moe_sizes(config, count="num_experts", top_k="num_experts_per_token")
    moe = replace(moe, narrowest=count(config, "min_moe_intermediate_per_partition", 256))
    sparse = sparse_mlp(
        m.hidden,
        moe,
        prefix="block_sparse_moe",
        bias_at="block_sparse_moe.gate",
        shared=moe.intermediate * count(config, "num_shared_experts"),
        packed=W123,
    )
    dense = gated_mlp(m.hidden, config.int("intermediate_size"))
    attention = (
        *mla_attention(m, inner="self_attn"),
        *(
            Weight(name=f"self_attn.{scale}", shape=(1,), kind="buffer", dtype="float32", group="attention")
            for scale in ("_one_scale", "_q_scale_inv", "_k_scale_inv")
        ),
    )
    first, every = count(config, "first_k_dense_replace"), count(config, "moe_layer_freq", 1) or 1

    def kind(index: int) -> tuple[bool, bool]:
        return index + 1 in delta, index >= first and index % every == 0

    def layer(index: int) -> Layer:
        is_delta, is_sparse = kind(index)
        return Layer(
            modules=(
                *(modules if is_delta else attention),
                *(sparse if is_sparse else dense),
                *two_norms(m.hidden),
            ),
            state=recurrent if is_delta else m.state(),
        )

    layers = repeat(number, layer, kind)
    return decoder(
        config,
        name,
        m,
        layers=layers,
        tie=flag(config, "tie_word_embeddings"),
        extra_parameters=mtp_parameters(config, m.hidden, m.vocab, layers[-1].parameters),
    )
