"""Mamba 1 and Mamba 2 mixers, and the models that are made of nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from planner.errors import Refusal
from planner.model.architecture import Layer, Model
from planner.model.attention import RecurrentState, StateShape
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Ends,
    norm,
    repeat,
)
from planner.model.families.sparse import (
    unstaged_decoder,
)
from planner.model.modules import (
    Heads,
    Kind,
    Linear,
    Module,
    Weight,
)

# --- Mamba 1 -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mamba1:
    """The sizes of a MambaMixer (layers/mamba/mamba_mixer.py); none of its linears is ever quantized."""

    hidden: int
    intermediate: int
    state: int
    kernel: int
    time_step_rank: int
    conv_bias: bool
    bias: bool
    norms: Literal["weighted", "plain", "none"]
    """Of the time step, B and C; plain ones have no parameter, but vLLM keeps a tensor of ones for each."""

    def modules(self, prefix: str = "mixer") -> tuple[Module, ...]:
        """Convolution, projections, A, D (mamba_mixer.py), and the norms of dt, B and C where there are any."""
        rank, state = self.time_step_rank, self.state
        kind: Kind = "param" if self.norms == "weighted" else "attr"
        norms = tuple(
            Weight(name=f"{prefix}.{part}_layernorm.weight", shape=(size,), kind=kind)
            for part, size in (("dt", rank), ("b", state), ("c", state))
        )
        return (
            unquantized(f"{prefix}.conv1d", self.kernel, self.intermediate, bias=self.conv_bias),
            unquantized(f"{prefix}.in_proj", self.hidden, self.intermediate, self.intermediate, bias=self.bias),
            unquantized(f"{prefix}.x_proj", self.intermediate, rank + 2 * state, split="row"),
            unquantized(f"{prefix}.dt_proj", rank, self.intermediate, bias=True),
            Weight(
                name=f"{prefix}.A",
                shape=(self.intermediate, state),
                split=0,
                dtype="float32",
                group="attention",
            ),
            Weight(name=f"{prefix}.D", shape=(self.intermediate,), split=0, group="attention"),
            unquantized(f"{prefix}.out_proj", self.intermediate, self.hidden, split="row", bias=self.bias),
            *(() if self.norms == "none" else norms),
        )

    def recurrent(self) -> RecurrentState:
        """What it keeps for a request: conv [kernel - 1, intermediate] and ssm [intermediate, state]."""
        conv = StateShape(shape=(self.kernel - 1, self.intermediate), split=1, role="conv", grows=False)
        ssm = StateShape(shape=(self.intermediate, self.state), split=0, role="ssm")
        return RecurrentState(type="mamba1", states=(conv, ssm))


def unquantized(name: str, inputs: int, *outputs: int | Heads, split: str = "column", bias: bool = False) -> Linear:
    """A linear of a mixer that vLLM builds without a quantization config."""
    return Linear(
        name=name,
        inputs=inputs,
        outputs=outputs,
        split=split,  # type: ignore[arg-type]
        bias=bias,
        group="attention",
        quantizable=False,
    )


# --- Mamba 2 -------------------------------------------------------------------------------------------------------


class Groups(Heads):
    """Mamba 2's groups: divided by tensor parallelism, or replicated where there is only one."""

    def local(self, tp: int) -> int:
        """Groups on one rank: one group is replicated. Raises Refusal where tp does not divide several."""
        if self.count % tp and self.count != 1:
            raise Refusal(
                "mamba_groups_not_divisible",
                "If tensor parallel world size does not divide num_groups, then num_groups must equal 1.",
                "--tensor-parallel-size",
            )
        return self.count // tp if self.count % tp == 0 else 1


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """The sizes of a MambaMixer2 (layers/mamba/mamba_mixer2.py)."""

    hidden: int
    intermediate: int
    state: int
    kernel: int
    groups: int
    heads: int
    head_dim: int
    conv_bias: bool
    bias: bool
    gated_norm: bool = True

    def modules(self, prefix: str = "mixer") -> tuple[Module, ...]:
        """Convolution, projections, per-head vectors and the gated norm (mamba_mixer2.py)."""
        group = Groups(count=self.groups, size=self.state)
        in_proj = Linear(
            name=f"{prefix}.in_proj",
            inputs=self.hidden,
            outputs=(self.intermediate, self.intermediate, group, group, self.heads),
            split="column",
            bias=self.bias,
            group="attention",
        )
        out_proj = Linear(
            name=f"{prefix}.out_proj",
            inputs=self.intermediate,
            outputs=(self.hidden,),
            split="row",
            bias=self.bias,
            group="attention",
        )
        gated = (Weight(name=f"{prefix}.norm.weight", shape=(self.intermediate,), split=0),)
        return (
            unquantized(f"{prefix}.conv1d", self.kernel, self.intermediate, group, group, bias=self.conv_bias),
            in_proj,
            *(self._per_head(f"{prefix}.{name}", dtype) for name, dtype in _MAMBA2_VECTORS),
            out_proj,
            *(gated if self.gated_norm else ()),
        )

    def _per_head(self, name: str, dtype: str | None) -> Weight:
        return Weight(name=name, shape=(self.heads,), split=0, dtype=dtype, group="attention")

    def recurrent(self, ssm_dtype: str = "auto") -> RecurrentState:
        """Kept for a request: conv [kernel - 1, intermediate + 2 groups x state], ssm [heads, head dim, state]."""
        conv = StateShape(
            shape=(self.kernel - 1, self.intermediate),
            split=1,
            role="conv",
            groups=Groups(count=self.groups, size=2 * self.state),
        )
        ssm = StateShape(shape=(self.heads, self.head_dim, self.state), split=0, role="ssm", dtype=ssm_dtype)
        return RecurrentState(type="mamba2", states=(conv, ssm))


_MAMBA2_VECTORS: tuple[tuple[str, str | None], ...] = (("A", "float32"), ("D", None), ("dt_bias", None))


# --- pure Mamba ----------------------------------------------------------------------------------------------------


def _mamba_model(config: Config, name: str, layers: tuple[Layer, ...], hidden: int, vocab: int, **others: Any) -> Model:
    return unstaged_decoder(
        config,
        name,
        Ends(hidden=hidden, heads=0, vocab=vocab),
        layers=layers,
        embedding="backbone.embeddings",
        final_norm=norm("backbone.norm_f", hidden),
        quantizable_head=False,
        layer_prefix="backbone.layers.",
        **others,
    )


@family("MambaForCausalLM", "FalconMambaForCausalLM")
def mamba(config: Config, name: str) -> Model:
    """models/mamba.py; Falcon-Mamba's norms on the time step, B and C have no weights."""
    hidden = config.int("hidden_size")
    rank = config.raw("time_step_rank")
    mixer = Mamba1(
        hidden=hidden,
        intermediate=config.int("intermediate_size", int(config.number("expand", 2)) * hidden),
        state=config.int("state_size"),
        kernel=config.int("conv_kernel"),
        time_step_rank=-(-hidden // 16) if rank == "auto" or rank is None else config.int("time_step_rank"),
        conv_bias=config.bool("use_conv_bias"),
        bias=config.bool("use_bias"),
        norms="plain" if config.str("model_type") == "falcon_mamba" else "none",
    )
    layer = Layer(modules=(*mixer.modules(), *norm("norm", hidden)), state=mixer.recurrent())
    return _mamba_model(
        config, name, repeat(config.int("num_hidden_layers"), lambda _: layer), hidden, config.int("vocab_size")
    )


@family("Mamba2ForCausalLM")
def mamba2(config: Config, name: str) -> Model:
    """models/mamba2.py."""
    hidden = config.int("hidden_size")
    mixer = Mamba2(
        hidden=hidden,
        intermediate=config.int("intermediate_size", int(config.number("expand") * hidden)),
        state=config.int("state_size"),
        kernel=config.int("conv_kernel"),
        groups=config.int("n_groups"),
        heads=config.int("num_heads"),
        head_dim=config.int("head_dim"),
        conv_bias=config.bool("use_conv_bias"),
        bias=config.bool("use_bias"),
    )
    layer = Layer(modules=(*mixer.modules(), *norm("norm", hidden)), state=mixer.recurrent())
    layers = repeat(config.int("num_hidden_layers"), lambda _: layer)
    return _mamba_model(config, name, layers, hidden, config.int("vocab_size"), supports_pp=False)
