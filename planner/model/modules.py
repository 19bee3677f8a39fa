"""What vLLM allocates for one module on one rank: the small frozen types that know their own tensors.

A family (planner/model/families) describes a model as a list of these; everything else sums over them. Each type states
which class of vLLM it mirrors. Names are vLLM's own parameter prefixes, with the layer's prefix left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Literal, Protocol

from planner.errors import Refusal
from planner.units import DTYPE_BYTES, round_up

if TYPE_CHECKING:
    from planner.memory.quantization import Quantization, Scheme

Group = Literal["embedding", "lm_head", "attention", "mlp", "experts", "norms", "vision", "other"]
GROUPS: tuple[Group, ...] = ("embedding", "lm_head", "attention", "mlp", "experts", "norms", "vision", "other")
Kind = Literal["param", "buffer", "attr"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One storage on one rank: parameters, buffers, and what else stays allocated after loading ("attr")."""

    name: str
    nbytes: int
    kind: Kind = "param"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a module is built: everything about a rank and an engine that its tensors depend on."""

    tp_size: int = 1
    expert_parallel_size: int = 1
    """Ranks over which whole experts are distributed; 1 without --enable-expert-parallel."""
    dtype: str = "bfloat16"
    capability: int | None = None
    """Compute capability x 10 (90 for H100); None on a CPU. Decides which kernel keeps which layout."""
    quantization: Quantization | None = None
    vllm_version: tuple[int, int, int] = (0, 33, 0)
    """Which kernels an installation has."""
    prefix: str = ""
    """vLLM's prefix of the layer being built, "model.layers.3."; quantization ignore lists are matched against it."""
    max_num_batched_tokens: int = 2048
    """Sizes the buffers that a few models allocate while they are built (EngineBuffer)."""
    max_num_seqs: int = 128
    enable_lora: bool = False
    """Adapters rule out some expert kernels, and with them their layouts."""
    towers_on_every_stage: bool = False
    """Encoders of images are built on all pipeline stages: vLLM before 0.33, or its V1 model runner."""

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one element in the model's dtype."""
        return DTYPE_BYTES[self.dtype]

    def scheme(self, module: Linear | Experts | LmHead) -> Scheme | None:
        """How this module's weights are stored; None for the model's own dtype."""
        if self.quantization is None:
            return None
        return self.quantization.scheme_for(module, self)


def divide(n: int, by: int, flag: str = "--tensor-parallel-size") -> int:
    """n / by; where it does not divide, vLLM's own refusal (distributed/utils.py ensure_divisibility, 0.33)."""
    if n % by:
        raise Refusal("not_divisible", f"{n} is not divisible by {by}", flag)
    return n // by


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The rows of one part of a fused projection that is sharded by whole heads, replicated where tp exceeds them."""

    count: int
    size: int

    @property
    def rows(self) -> int:
        """Rows of all heads, before sharding."""
        return self.count * self.size

    def local(self, tp: int) -> int:
        """Heads on one rank (QKVParallelLinear, layers/linear.py:1053, 0.33)."""
        if tp >= self.count:
            if tp % self.count:
                raise Refusal(
                    "kv_heads_not_divisible",
                    f"the {self.count} KV heads can neither be divided by nor replicated over "
                    f"tensor parallel size {tp}",
                    "--tensor-parallel-size",
                )
            return 1
        if self.count % tp:
            raise Refusal(
                "kv_heads_not_divisible",
                f"the number of KV heads ({self.count}) must be divisible by tensor parallel size ({tp})",
                "--tensor-parallel-size",
            )
        return self.count // tp


@dataclass(frozen=True, kw_only=True)
class Linear:
    """ColumnParallel, MergedColumnParallel, QKVParallel, RowParallel and ReplicatedLinear (layers/linear.py)."""

    name: str
    inputs: int
    outputs: tuple[int | Heads, ...]
    """Rows of each fused part (gate and up; q, k and v)."""
    split: Literal["column", "row", "none"]
    bias: bool = False
    group: Group = "mlp"
    packed: tuple[str, ...] = ()
    """The checkpoint's names of the fused parts ("q_proj", ...), for ignore lists; empty for a plain linear."""
    quantizable: bool = True
    """False where vLLM builds the layer without a quantization config."""

    @property
    def rows(self) -> int:
        """Rows of all fused parts, before sharding."""
        return sum(part.rows if isinstance(part, Heads) else part for part in self.outputs)

    @property
    def parameters(self) -> int:
        """rows x inputs, and the bias."""
        return self.rows * (self.inputs + self.bias)

    def local_rows(self, tp: int) -> tuple[int, ...]:
        """Rows of each part on one rank."""
        if self.split != "column":
            return tuple(part.rows if isinstance(part, Heads) else part for part in self.outputs)
        return tuple(
            part.local(tp) * part.size if isinstance(part, Heads) else divide(part, tp) for part in self.outputs
        )

    def local_inputs(self, tp: int) -> int:
        """Columns on one rank. Raises Refusal where a row-parallel layer's do not divide."""
        return divide(self.inputs, tp) if self.split == "row" else self.inputs

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """weight [local rows, local inputs] and bias in the model's dtype, or what the scheme keeps."""
        rows, inputs = self.local_rows(at.tp_size), self.local_inputs(at.tp_size)
        scheme = at.scheme(self) if self.quantizable else None
        if scheme is None:
            yield Tensor(f"{self.name}.weight", sum(rows) * inputs * at.dtype_bytes)
            if self.bias:  # a row-parallel bias is whole on every rank
                yield Tensor(f"{self.name}.bias", sum(rows) * at.dtype_bytes)
        else:
            yield from scheme.linear(self, rows, inputs, at)


@dataclass(frozen=True, kw_only=True)
class Fp32Gate(Linear):
    """GateLinear(force_fp32_compute=True): fp32 weights where no kernel computes in fp32 from the model's dtype.

    Only Hopper (9.0) and Blackwell (10.x) have one (layers/fused_moe/router/gate_linear.py, 0.33).
    """

    quantizable: bool = False

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """weight [rows, inputs], whole on every rank, in fp32 or the model's dtype."""
        has_kernel = at.capability is not None and (at.capability == 90 or at.capability // 10 == 10)
        itemsize = at.dtype_bytes if has_kernel and not self.bias else 4
        yield Tensor(f"{self.name}.weight", self.parameters * itemsize)


@dataclass(frozen=True, kw_only=True)
class Experts:
    """FusedMoE's stacked expert weights, w13 [E, 2I, H] and w2 [E, H, I] (layers/fused_moe)."""

    name: str
    count: int
    hidden: int
    intermediate: int
    top_k: int
    gated: bool = True
    bias: bool = False
    packed: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    quantizable: bool = True
    narrowest: int = 0
    """The model pads the intermediate size so that tensor parallelism leaves no rank less than this (Kimi K3)."""
    layout: str = "default"
    """Which rules of rounding apply ("gpt_oss" where the router's kernels pad); see quantization."""
    group: Group = "experts"

    @property
    def parameters(self) -> int:
        """Of all experts, as a checkpoint counts them."""
        per_expert = (3 if self.gated else 2) * self.hidden * self.intermediate
        if self.bias:
            per_expert += (2 if self.gated else 1) * self.intermediate + self.hidden
        return self.count * per_expert

    def local_count(self, at: Placement) -> int:
        """Experts on rank 0, the fullest (expert_map_manager.py:66, 0.33)."""
        ep = at.expert_parallel_size
        return self.count // ep + (1 if self.count % ep else 0)

    def local_intermediate(self, at: Placement) -> int:
        """The intermediate size on one rank, whole with expert parallelism. Raises Refusal."""
        if at.expert_parallel_size > 1:
            return self.intermediate
        floor = self.narrowest if at.tp_size > 1 else 0
        return max(floor, self.intermediate // at.tp_size if floor else divide(self.intermediate, at.tp_size))

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """The local experts' w13, w2 and biases, or what the scheme keeps; the int32 map of expert parallelism."""
        scheme = at.scheme(self) if self.quantizable else None
        if scheme is not None:
            yield from scheme.experts(self, at)
        else:
            experts, width = self.local_count(at), self.local_intermediate(at)
            up = (2 if self.gated else 1) * width
            yield Tensor(f"{self.name}.w13_weight", experts * up * self.hidden * at.dtype_bytes)
            yield Tensor(f"{self.name}.w2_weight", experts * self.hidden * width * at.dtype_bytes)
            if self.bias:
                yield Tensor(f"{self.name}.w13_bias", experts * up * at.dtype_bytes)
                yield Tensor(f"{self.name}.w2_bias", experts * self.hidden * at.dtype_bytes)
        if at.expert_parallel_size > 1:
            yield Tensor(f"{self.name}.expert_map", self.count * 4, "buffer")


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """VocabParallelEmbedding (layers/vocab_parallel_embedding.py): rows padded to 64, then divided by tp."""

    name: str
    rows: int
    width: int
    padding: int = 64
    group: Group = "embedding"
    split: bool = True
    """False for a plain nn.Embedding: whole and unpadded on every rank."""

    @property
    def parameters(self) -> int:
        """rows x width, without vLLM's padding."""
        return self.rows * self.width

    def local_rows(self, tp: int) -> int:
        """Rows on one rank, padding included."""
        return divide(round_up(self.rows, self.padding), tp) if self.split else self.rows

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """weight [local rows, width] in the model's dtype."""
        yield Tensor(f"{self.name}.weight", self.local_rows(at.tp_size) * self.width * at.dtype_bytes)


@dataclass(frozen=True, kw_only=True)
class LmHead(Embedding):
    """ParallelLMHead: as the embedding, with an optional bias, sharded too."""

    group: Group = "lm_head"
    bias: bool = False
    packed: tuple[str, ...] = ()
    quantizable: bool = True
    """False where vLLM builds the head without a quantization config."""

    @property
    def parameters(self) -> int:
        """rows x width and the bias, without vLLM's padding."""
        return self.rows * (self.width + self.bias)

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """weight [local rows, width] and bias in the model's dtype, or what the head's scheme keeps instead."""
        scheme = at.scheme(self) if self.quantizable else None
        rows = self.local_rows(at.tp_size)
        if scheme is None:
            yield Tensor(f"{self.name}.weight", rows * self.width * at.dtype_bytes)
            if self.bias:
                yield Tensor(f"{self.name}.bias", rows * at.dtype_bytes)
        else:
            yield from scheme.lm_head(self, rows, at)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Any other parameter or buffer: norms, routers, convolutions, rotary caches, sinks."""

    name: str
    shape: tuple[int, ...]
    split: int | None = None
    """The dimension that tensor parallelism divides; None: whole on every rank."""
    dtype: str | None = None
    """None: the model's dtype."""
    kind: Kind = "param"
    group: Group = "norms"
    counted: bool = True
    """False for what vLLM adds that no checkpoint stores."""
    shape_before: tuple[tuple[int, int], tuple[int, ...]] | None = None
    """(a version, the shape that older ones give it)."""

    @property
    def elements(self) -> int:
        """Elements before sharding."""
        return prod(self.shape)

    @property
    def parameters(self) -> int:
        """Its elements; 0 for buffers and for what vLLM adds to the checkpoint."""
        return self.elements if self.kind == "param" and self.counted else 0

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """The tensor, with the split dimension divided. Raises Refusal where tp does not divide it."""
        shape = self.shape
        if self.shape_before is not None and at.vllm_version < self.shape_before[0]:
            shape = self.shape_before[1]
        if self.split is not None:
            local = divide(shape[self.split], at.tp_size)
            shape = (*shape[: self.split], local, *shape[self.split + 1 :])
        yield Tensor(self.name, prod(shape) * DTYPE_BYTES[self.dtype or at.dtype], self.kind)


@dataclass(frozen=True, kw_only=True)
class HeadsWeight:
    """A vector that is sharded with whole heads, replicated where tp exceeds them (a norm over the whole key width)."""

    name: str
    heads: Heads
    group: Group = "norms"

    @property
    def parameters(self) -> int:
        """Elements of all heads."""
        return self.heads.rows

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """A vector [local heads x size] in the model's dtype."""
        yield Tensor(self.name, self.heads.local(at.tp_size) * self.heads.size * at.dtype_bytes)


@dataclass(frozen=True, kw_only=True)
class PartsWeight:
    """A vector of parts, each sharded evenly or with whole heads, as the rows of the linear that it scales."""

    name: str
    parts: tuple[int | Heads, ...]
    kind: Kind = "param"
    group: Group = "norms"

    @property
    def parameters(self) -> int:
        """Elements of all parts; 0 for a buffer."""
        if self.kind != "param":
            return 0
        return sum(part.rows if isinstance(part, Heads) else part for part in self.parts)

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """A vector as long as the local rows of the linear, in the model's dtype."""
        rows = sum(
            part.local(at.tp_size) * part.size if isinstance(part, Heads) else divide(part, at.tp_size)
            for part in self.parts
        )
        yield Tensor(self.name, rows * at.dtype_bytes, self.kind)


@dataclass(frozen=True, kw_only=True)
class AttentionScales:
    """The fp32 scalars every vLLM Attention keeps: q/k/v/prob scales, and two more for host-side backends.

    The last two are called _k_scale_cpu and _v_scale_cpu but are created on the model's device
    (layers/attention/attention.py:152, 0.33).
    """

    name: str = "self_attn.attn"
    group: Group = "attention"
    parameters: int = field(default=0, init=False)

    def tensors(self, at: Placement) -> Iterator[Tensor]:  # noqa: ARG002 - the same wherever it is
        """Six fp32 scalars, 24 bytes."""
        for scale in ("_k_scale", "_v_scale", "_q_scale", "_prob_scale"):
            yield Tensor(f"{self.name}.{scale}", 4, "buffer")
        for scale in ("_k_scale_cpu", "_v_scale_cpu"):
            yield Tensor(f"{self.name}.{scale}", 4, "attr")


@dataclass(frozen=True, kw_only=True)
class MlaValueCopy:
    """The dequantized copy of kv_b_proj that MLA keeps beside a quantized one, W_UK and W_UV in one storage.

    Of an unquantized kv_b_proj both are views (layers/attention/mla_attention.py process_weights_after_loading, 0.33).
    """

    name: str
    kv_b_proj: Linear
    group: Group = "attention"
    parameters: int = field(default=0, init=False)

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """W_UV of all kv_b_proj's local rows in the model's dtype; nothing beside an unquantized kv_b_proj."""
        if at.scheme(self.kv_b_proj) is not None:
            rows = sum(self.kv_b_proj.local_rows(at.tp_size))
            yield Tensor(f"{self.name}.W_UV", rows * self.kv_b_proj.inputs * at.dtype_bytes)


@dataclass(frozen=True, kw_only=True)
class EngineBuffer:
    """A buffer that a model allocates while it is built and whose rows come from the engine's limits.

    rows: "tokens" for max_num_batched_tokens, "requests" for max_num_seqs, at most that of tokens.
    """

    name: str
    rows: Literal["tokens", "requests"]
    extra_rows: int = 0
    width: int | Heads = 1
    depth: int = 1
    dtype: str | None = "int32"
    """None: the model's dtype."""
    group: Group = "other"
    parameters: int = field(default=0, init=False)

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """depth buffers [rows + extra_rows, width], counted as one."""
        rows = at.max_num_batched_tokens
        if self.rows == "requests":
            rows = min(rows, at.max_num_seqs)
        width = self.width.local(at.tp_size) if isinstance(self.width, Heads) else self.width
        nbytes = (rows + self.extra_rows) * width * self.depth * DTYPE_BYTES[self.dtype or at.dtype]
        yield Tensor(self.name, nbytes, "attr")


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Equal modules built several times over, as the blocks of an encoder: `name` + "0.", "1." … prefixes theirs."""

    name: str
    count: int
    modules: tuple[Module, ...]
    group: Group = "vision"

    @property
    def parameters(self) -> int:
        """Of all repetitions."""
        return self.count * sum(module.parameters for module in self.modules)

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """The modules' tensors, once for each repetition, under prefixes of their own for quantizations to look at."""
        if at.quantization is None:
            tensors = [tensor for module in self.modules for tensor in module.tensors(at)]
            for _ in range(self.count):
                yield from tensors
            return
        for index in range(self.count):
            inside = replace(at, prefix=f"{at.prefix}{self.name}{index}.")
            for module in self.modules:
                yield from module.tensors(inside)


class Module(Protocol):
    """What a family lists: something with a name, a group, parameters (as a checkpoint counts them) and tensors."""

    @property
    def name(self) -> str:
        """vLLM's name of the parameter or the module, without the layer's prefix."""
        ...

    @property
    def group(self) -> Group:
        """Which part of an answer's `weights` it counts to."""
        ...

    @property
    def parameters(self) -> int:
        """Elements that a checkpoint stores, before sharding."""
        ...

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """What is allocated on one rank, in bytes. Raises Refusal where vLLM would not build it there."""
        ...
