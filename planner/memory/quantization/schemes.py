"""How one layer is stored: a small frozen type per layout, with the size rule on it.

Each mirrors what vLLM keeps on the GPU after process_weights_after_loading (0.32/0.33), which the compute capability
decides as much as the checkpoint. Checked tensor by tensor against vLLM's own classes (tests/test_quantization.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, ClassVar, Literal

from planner.errors import Refusal
from planner.memory.quantization import kernels
from planner.memory.quantization.kernels import PackedShape, marlin_padded
from planner.model.modules import Tensor
from planner.units import ceil_div, round_up

if TYPE_CHECKING:
    from planner.model.modules import Experts, Linear, LmHead, Placement

FP32, INT32, INT64 = 4, 4, 8
Named = tuple[str, int]
"""The last part of a tensor's name, and its bytes."""


@dataclass(frozen=True)
class Matrix:
    """One linear layer on one rank: rows of each fused part, and columns."""

    name: str
    rows: tuple[int, ...]
    k: int
    full_k: int
    """Columns of the whole layer."""
    tp_size: int
    split_rows: bool
    at: Placement

    @cached_property
    def n(self) -> int:
        """Rows of all fused parts."""
        return sum(self.rows)

    @property
    def capability(self) -> int | None:
        """Compute capability x 10; None on a CPU."""
        return self.at.capability


@dataclass(frozen=True)
class Stack:
    """The experts of one layer on one rank: `count` matrices w13 [up, hidden] and w2 [hidden, width]."""

    name: str
    count: int
    shards: int
    """2 for gate and up, 1 without a gate."""
    hidden: int
    width: int
    """Intermediate size on this rank."""
    bias: bool
    experts: Experts
    at: Placement

    @property
    def up(self) -> int:
        """Rows of w13: gate and up one after the other."""
        return self.shards * self.width

    @property
    def capability(self) -> int | None:
        """Compute capability x 10; None on a CPU."""
        return self.at.capability

    def padded(self, width: int, hidden: int | None = None) -> Stack:
        """The same experts at a kernel's padded intermediate (and hidden) size."""
        return Stack(self.name, self.count, self.shards, hidden or self.hidden, width, self.bias, self.experts, self.at)

    def weights(self, bits: int) -> tuple[int, int]:
        """Bytes of w13 and of w2 at so many bits a weight."""
        return (
            self.count * self.up * self.hidden * bits // 8,
            self.count * self.hidden * self.width * bits // 8,
        )

    def biases(self, bytes_each: int) -> Iterator[Named]:
        """w13_bias [count, up] and w2_bias [count, hidden], where the experts have them."""
        if self.bias:
            yield "w13_bias", self.count * self.up * bytes_each
            yield "w2_bias", self.count * self.hidden * bytes_each


@dataclass(frozen=True)
class Stored:
    """A layout; subclasses say what it keeps of a matrix and of a stack of experts."""

    min_capability: ClassVar[int] = 75
    """Compute capability x 10 below which vLLM refuses the layout."""
    bits: ClassVar[float]
    """Bits a weight takes, without its scales."""
    expert_biases: bool = True
    """False where the method has no biases for experts, not even for a model that has (gpt-oss)."""

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """What is kept of one linear layer, bias aside. Raises Refusal where vLLM has no kernel for the shape."""
        raise NotImplementedError

    def stack(self, s: Stack) -> Iterator[Named]:
        """What is kept of a layer's experts. Raises Refusal where vLLM has no kernel for the shape."""
        raise NotImplementedError

    def bias_rows(self, m: Matrix) -> int:
        """Rows of the bias: Marlin pads it with the weight."""
        return m.n

    def linear(self, linear: Linear, rows: tuple[int, ...], inputs: int, at: Placement) -> Iterator[Tensor]:
        """The tensors of a linear layer, its bias included."""
        m = Matrix(at.prefix + linear.name, rows, inputs, linear.inputs, at.tp_size, linear.split == "column", at)
        for name, nbytes in self.matrix(m):
            yield Tensor(f"{linear.name}.{name}", nbytes)
        if linear.bias:
            yield Tensor(f"{linear.name}.bias", self.bias_rows(m) * at.dtype_bytes)

    def lm_head(self, head: LmHead, rows: int, at: Placement) -> Iterator[Tensor]:
        """The tensors of a quantized lm_head, its bias included."""
        m = Matrix(head.name, (rows,), head.width, head.width, at.tp_size, True, at)
        for name, nbytes in self.matrix(m):
            yield Tensor(f"{head.name}.{name}", nbytes)
        if head.bias:
            yield Tensor(f"{head.name}.bias", self.bias_rows(m) * at.dtype_bytes)

    def experts(self, experts: Experts, at: Placement) -> Iterator[Tensor]:
        """The tensors of a stack of experts."""
        s = Stack(
            at.prefix + experts.name,
            experts.local_count(at),
            2 if experts.gated else 1,
            experts.hidden,
            experts.local_intermediate(at),
            experts.bias and self.expert_biases,
            experts,
            at,
        )
        for name, nbytes in self.stack(s):
            yield Tensor(f"{experts.name}.{name}", nbytes)


# --- 8 bits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fp8(Stored):
    """Weights in e4m3 with fp32 scales per tensor, output channel or block; W8A16 on Marlin without fp8 cores.

    quantization/fp8.py, compressed_tensors_w8a8_fp8.py, modelopt.py KFp8*, online/fp8.py; marlin_utils_fp8.py.
    """

    scales: Literal["tensor", "channel", "block"] = "tensor"
    static: bool = False
    """The checkpoint holds a scale of the activations."""
    block: tuple[int, int] = (128, 128)
    weight_only: bool = False
    """Activations stay in 16 bits: Marlin whatever the GPU (compressed_tensors_w8a16_fp8.py)."""
    must_divide: Literal["inputs", "shards", "all inputs", "nothing"] = "shards"
    """What blocks must divide: the inputs of a rank; these and each part of its rows; modelopt's rule; nothing."""
    whole_blocks: bool = False
    """Rows are padded to whole blocks (modelopt's FP8_PB_WO, online/fp8.py)."""
    has_marlin: bool = True
    """False where vLLM's method fails in Marlin's preparation."""
    scale_bytes: int = FP32
    """Of one scale of a block; 1 where the checkpoint stores powers of two (DeepSeek V4)."""
    cutlass_experts: bool = False
    """The method lets CUTLASS run the experts, which then keep three strides an expert (fused_moe/oracle/fp8.py)."""

    bits = 8

    def on_marlin(self, capability: int | None) -> bool:
        """Whether linear layers run as W8A16 on Marlin, which packs and pads the weight."""
        if capability is None:
            return False
        return self.weight_only or kernels.fp8_weight_only(capability, block=self.scales == "block")

    def bias_rows(self, m: Matrix) -> int:
        """Marlin's padded rows, else the layer's own."""
        return marlin_padded(m.n, m.k, self._group)[0] if self.on_marlin(m.capability) else m.n

    @property
    def _group(self) -> int:
        return self.block[1] if self.scales == "block" else -1

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """weight [n, k] in e4m3; fp32 scales, one, [n] or [n / block, k / block], on Marlin in the model's dtype."""
        if self.scales == "block":
            self._check(m)
        if self.on_marlin(m.capability):
            if not self.has_marlin:
                raise Refusal(
                    "modelopt_fp8_capability",
                    "'QKVParallelLinear' object has no attribute 'orig_dtype' (vLLM cannot run this ModelOpt FP8 "
                    "algorithm on GPUs without native support for it)",
                    "--quantization",
                )
            n, k = marlin_padded(m.n, m.k, self._group)
            yield "weight", n * k
            yield "weight_scale", n * (k // self._group if self.scales == "block" else 1) * m.at.dtype_bytes
            return
        n, k = m.n, m.k
        if self.scales == "block":
            n = round_up(n, self.block[0]) if self.whole_blocks else n
            yield "weight", n * k
            yield "weight_scale_inv", ceil_div(n, self.block[0]) * ceil_div(k, self.block[1]) * self.scale_bytes
            return
        n, k = round_up(n, 16), round_up(k, 16)  # scaled_mm/cutlass.py pads to what CUTLASS can align
        yield "weight", n * k
        yield "weight_scale", FP32 * (n if self.scales == "channel" else 1)
        if self.static:
            yield "input_scale", FP32

    def _check(self, m: Matrix) -> None:
        """fp8_utils.validate_fp8_block_shape."""
        rows, columns = self.block
        if self.must_divide == "all inputs" and m.k % columns:
            raise Refusal(
                "fp8_block_shape",
                f"FP8_PB_WO requires in divisible by {columns}, got {m.k}",
                "--tensor-parallel-size",
            )
        if self.must_divide in ("all inputs", "nothing"):
            return
        if m.k != m.full_k and m.k % columns:
            raise _not_divisible("input_size_per_partition", m.k, f"block_k = {columns}")
        split = m.split_rows and m.tp_size > 1
        if self.must_divide == "inputs" and len(m.rows) > 1:
            return  # ColumnParallelLinear._maybe_allow_fp8_block_shape_mismatch
        parts = m.rows if split else m.rows[:-1]
        for part in parts:
            if part % rows:
                raise _not_divisible("output_partition_size", part, f"block_n = {rows}")

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 [count, up, hidden] and w2 [count, hidden, width] in e4m3, the scales of each as for a matrix."""
        if self.scales == "block" and self.must_divide == "nothing":
            s = s.padded(round_up(s.width, self.block[0]), round_up(s.hidden, self.block[1]))
        block = self._expert_block(s) if self.scales == "block" else self.block
        if not kernels.has_fp8_cores(s.capability):  # Triton has blocks on Ada too, unlike the linear kernels
            if block != self.block:  # only Triton takes finer ones
                raise Refusal(
                    "no_fp8_experts_kernel",
                    "No FP8 MoE backend supports the deployment configuration.",
                    "--tensor-parallel-size",
                )
            yield from self._marlin_stack(s)
            return
        w13, w2 = s.weights(8)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield from s.biases(s.at.dtype_bytes)
        if self.scales == "block":
            rows, columns = block
            up = s.shards * ceil_div(s.width, rows)
            yield "w13_weight_scale_inv", s.count * up * ceil_div(s.hidden, columns) * FP32
            yield "w2_weight_scale_inv", s.count * ceil_div(s.hidden, rows) * ceil_div(s.width, columns) * FP32
        elif self.scales == "channel":
            yield "w13_weight_scale", s.count * s.up * FP32
            yield "w2_weight_scale", s.count * s.hidden * FP32
        else:
            yield "w13_weight_scale", s.count * FP32
            yield "w2_weight_scale", s.count * FP32
        if self.static:
            yield "w13_input_scale", FP32
            yield "w2_input_scale", FP32
        if self.cutlass_experts and self.scales != "block" and kernels.cutlass_experts(s.capability):
            for name in ("ab_strides1", "ab_strides2", "c_strides1"):
                yield name, s.count * INT64

    def _marlin_stack(self, s: Stack) -> Iterator[Named]:
        """marlin_utils_fp8.prepare_fp8_moe_layer_for_marlin."""
        p = s.padded(kernels.marlin_padded_experts(s.width, self._group))
        groups13 = groups2 = 1
        if self.scales == "block":
            groups13, groups2 = s.hidden // self.block[1], p.width // self.block[1]
        w13, w2 = p.weights(8)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield from s.biases(s.at.dtype_bytes)
        yield "w13_weight_scale", s.count * groups13 * p.up * s.at.dtype_bytes
        yield "w2_weight_scale", s.count * groups2 * s.hidden * s.at.dtype_bytes
        if self.static:
            yield "w13_input_scale", FP32
            yield "w2_input_scale", FP32

    def _expert_block(self, s: Stack) -> tuple[int, int]:
        """The block of the experts' scales; since 0.29 finer where a rank's share is not whole ones (oracle/fp8.py)."""
        rows, columns = self.block
        sharded = s.at.tp_size > 1 and s.at.expert_parallel_size == 1
        if s.width % rows == 0 and (not sharded or s.width % columns == 0):
            return rows, columns
        refined = self.must_divide != "shards" and s.at.vllm_version >= (0, 29)
        fine = gcd(rows, columns, s.width, s.hidden) if refined else 0
        if fine >= 32:
            return fine, fine
        if s.width % rows:
            raise Refusal(
                "fp8_block_experts",
                f"The output_size of gate's and up's weight = {s.width} is not divisible by weight quantization "
                f"block_n = {rows}.",
                "--tensor-parallel-size",
            )
        return rows, columns


def _not_divisible(what: str, size: int, block: str) -> Refusal:
    return Refusal(
        "fp8_block_shape",
        f"Weight {what} = {size} is not divisible by weight quantization {block}.",
        "--tensor-parallel-size",
    )


@dataclass(frozen=True)
class Int8(Stored):
    """W8A8 in int8 with fp32 scales (compressed_tensors_w8a8_int8.py, kernels/linear/scaled_mm/cutlass.py)."""

    per_channel: bool = True
    static: bool = False
    symmetric: bool = True
    """Of the activations."""

    bits = 8

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """weight [n, k] in int8, scales in fp32; asymmetric activations add azp_adj [n], static ones their scale."""
        yield "weight", m.n * m.k
        # Per-tensor scales of fused parts are spread over their rows.
        yield "weight_scale", FP32 * (m.n if self.per_channel or len(m.rows) > 1 else 1)
        if self.static:
            yield "input_scale", FP32
        if not self.symmetric:
            if self.static:
                yield "input_zero_point", INT32
            yield "azp_adj", INT32 * m.n

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 [count, up, hidden] and w2 [count, hidden, width] in int8, an fp32 scale per output channel."""
        w13, w2 = s.weights(8)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield "w13_weight_scale", s.count * s.up * FP32
        yield "w2_weight_scale", s.count * s.hidden * FP32
        yield from s.biases(s.at.dtype_bytes)


# --- packed integers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed(Stored):
    """Weight-only integers, packed into int32, with 16-bit scales per group or channel: GPTQ and its kin.

    kernels/linear/mixed_precision (Machete on Hopper, Marlin elsewhere); fused_moe/oracle/int_wna16.py for experts.
    """

    width: int = 4
    group: int = 128
    """-1: one group for all inputs."""
    zero_points: bool = False
    stores_zeros: bool = False
    """The checkpoint has zero points although they mean nothing (GPTQ): Machete keeps them, Marlin drops them."""
    shape_tensor: bool = False
    """compressed-tensors keeps weight_shape, two int64."""

    @property
    def bits(self) -> float:  # type: ignore[override]
        """Of the checkpoint: 4 or 8, for some methods others."""
        return self.width

    def shape(self, m: Matrix) -> PackedShape:
        """What the choice of a kernel looks at."""
        return PackedShape(m.n, m.k, m.full_k, self.width, self.group, self.zero_points, m.at.dtype)

    def kernel(self, m: Matrix) -> str:
        """The kernel that vLLM picks. Raises Refusal, with vLLM's reasons, where none takes the shape."""
        shape = self.shape(m)
        kernel = kernels.packed_kernel(shape, m.capability)
        if not kernels.is_kernel(kernel):
            raise Refusal(
                "no_wna16_kernel",
                f"Failed to find a kernel that can implement the WNA16 linear layer. Reasons: {kernel}",
                "--tensor-parallel-size" if shape.straddles else "--quantization",
            )
        if self.shape_tensor and shape.straddles:
            raise straddled(m, self.group)
        return kernel

    def bias_rows(self, m: Matrix) -> int:
        """Marlin's padded rows, else the layer's own."""
        return marlin_padded(m.n, m.k, self.group)[0] if self.kernel(m) == "marlin" else m.n

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """qweight [n, k] packed into int32, scales [n, groups] in the model's dtype, zeros if the kernel keeps them."""
        kernel = self.kernel(m)
        n, k, groups = m.n, m.k, self.shape(m).groups
        if kernel == "marlin":
            n, k = marlin_padded(n, k, self.group)
            groups = 1 if self.group == -1 else k // self.group
        yield "qweight", n * ceil_div(k * self.width, 32) * INT32
        yield "scales", n * groups * m.at.dtype_bytes
        if self.zero_points and kernel == "machete":  # expanded and multiplied by the scales
            yield "qzeros", n * groups * m.at.dtype_bytes
        elif self.zero_points or (self.stores_zeros and kernel != "marlin"):
            yield "qzeros", ceil_div(n * self.width, 32) * groups * INT32
        if self.shape_tensor:
            yield "weight_shape", 16

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 and w2 packed into int32, scales per group in the model's dtype; as moe_wna16.py where Marlin cannot."""
        if not kernels.marlin_experts(s.hidden, s.width, self.group):
            yield from self._fallback_stack(s)
            return
        p = s.padded(kernels.marlin_padded_experts(s.width, self.group))
        groups13, groups2 = (1, 1) if self.group == -1 else (s.hidden // self.group, p.width // self.group)
        w13, w2 = p.weights(self.width)
        yield "w13_qweight", w13
        yield "w2_qweight", w2
        yield "w13_scales", s.count * groups13 * p.up * s.at.dtype_bytes
        yield "w2_scales", s.count * groups2 * s.hidden * s.at.dtype_bytes
        if self.zero_points or self.stores_zeros:
            yield "w13_qzeros", s.count * groups13 * (p.up * self.width // 32) * INT32
            yield "w2_qzeros", s.count * groups2 * (s.hidden * self.width // 32) * INT32
        if self.shape_tensor:
            yield "w13_weight_shape", s.count * 2 * s.at.dtype_bytes
            yield "w2_weight_shape", s.count * 2 * s.at.dtype_bytes
        yield from p.biases(s.at.dtype_bytes)

    def _fallback_stack(self, s: Stack) -> Iterator[Named]:
        """moe_wna16.py: bytes of two weights, and a group halved until it divides both sizes."""
        group = self.group
        while group > 0 and (s.width % group or s.hidden % group):
            group //= 2
        if self.shape_tensor or group < 32:
            raise Refusal(
                "no_wna16_experts_kernel",
                "No WNA16 MoE backend supports the deployment configuration.",
                "--tensor-parallel-size",
            )
        w13, w2 = s.weights(self.width)
        yield "w13_qweight", w13
        yield "w2_qweight", w2
        yield "w13_scales", s.count * s.up * (s.hidden // group) * s.at.dtype_bytes
        yield "w2_scales", s.count * s.hidden * (s.width // group) * s.at.dtype_bytes
        if self.zero_points:
            yield "w13_qzeros", s.count * (s.up * self.width // 8) * (s.hidden // group)
            yield "w2_qzeros", s.count * (s.hidden * self.width // 8) * (s.width // group)


@dataclass(frozen=True)
class PackedFp8Activations(Packed):
    """4-bit weights with fp8 activations: CUTLASS on Hopper only (compressed_tensors_w4a8_fp8.py)."""

    min_capability: ClassVar[int] = kernels.HOPPER

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """weight [n, k / 2], eight copies of an fp8 scale per 128 inputs, an fp32 scale per output channel."""
        if m.n % 128 or m.k % 128 or self.group != 128 or m.capability != kernels.HOPPER:
            raise Refusal(
                "no_wna16_kernel",
                "Failed to find a kernel that can implement the WNA16 linear layer. Reasons: CutlassW4A8LinearKernel "
                f"cannot implement due to: K and N must be divisible by 128, got ({m.k}, {m.n}); it needs group_size "
                "128 and compute capability 9.0",
                "--tensor-parallel-size",
            )
        yield "weight_packed", m.n * m.k // 2
        yield "weight_scale", m.n * (m.k // 128) * 8  # fp8, each packed eight times
        yield "weight_chan_scale", m.n * FP32
        yield "weight_shape", 16

    def stack(self, s: Stack) -> Iterator[Named]:
        """As for a matrix, of each expert. Raises Refusal where a size is no multiple of 256."""
        for what, size in (("intermediate_size_per_partition", s.width), ("hidden_size", s.hidden)):
            if size % 256:
                raise Refusal("w4a8_experts_shape", f"{what}={size} must be divisible by 256", "--tensor-parallel-size")
        w13, w2 = s.weights(4)
        yield "w13_weight_packed", w13
        yield "w2_weight_packed", w2
        yield "w13_weight_scale", s.count * s.up * (s.hidden // self.group) * 8
        yield "w2_weight_scale", s.count * s.hidden * (s.width // self.group) * 8
        yield "w13_weight_chan_scale", s.count * s.up * FP32
        yield "w2_weight_chan_scale", s.count * s.hidden * FP32


def straddled(m: Matrix, group: int) -> Refusal:
    """distributed/utils.py verify_group_size_divides_partition."""
    return Refusal(
        "group_not_divisible",
        f"Weight input_size_per_partition={m.k} for layer '{m.name}' is not divisible by group_size={group}. This "
        "happens when tensor_parallel_size splits the layer input into shards that are not a whole number of quant "
        "groups. Consider reducing tensor_parallel_size.",
        "--tensor-parallel-size",
    )


@dataclass(frozen=True)
class Awq(Packed):
    """AWQ: packed integers that fall back to AWQ's own layout where Marlin has no kernel (auto_awq.py)."""

    def kernel(self, m: Matrix) -> str:
        """Marlin's where it takes the shape, else AWQ's own. Raises Refusal where that is not aligned either."""
        shape = self.shape(m)
        if m.capability is None:
            return "plain"
        if self.group in kernels.MARLIN_GROUPS and self.zero_points and not shape.straddles:
            return super().kernel(m)
        if m.k % (m.full_k if self.group == -1 else self.group):
            raise _awq_unaligned("input")
        if m.n % 8:
            raise _awq_unaligned("output")
        return "awq"


def _awq_unaligned(side: str) -> Refusal:
    return Refusal(
        "awq_not_aligned",
        f"The {side} size is not aligned with the quantized weight shape. This can be caused by too large tensor "
        "parallel size.",
        "--tensor-parallel-size",
    )


# --- small floats with scales per short block ------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockFloat(Stored):
    """NVFP4, MXFP4 and MXFP8: a one-byte scale per 16 or 32 weights (marlin_utils_fp4.py, kernels/linear/nvfp4 …)."""

    width: int = 4
    group: int = 16
    scalars: int = 1
    """fp32 scalars kept beside the weight: NVFP4's global scale; with fp4 activations three more."""
    expert_scalars: tuple[tuple[str, int], ...] = ()
    """fp32 scalars kept for each expert."""
    whole_groups: bool = True
    """A width that is no multiple of the group is refused (modelopt.py); compressed-tensors does not look."""

    @property
    def bits(self) -> float:  # type: ignore[override]
        """Of the checkpoint: 4 or 8."""
        return self.width

    def on_marlin(self, capability: int | None) -> bool:
        """Before Blackwell no card computes in these formats: Marlin reads them as weights only."""
        return capability is not None and capability < kernels.BLACKWELL

    def bias_rows(self, m: Matrix) -> int:
        """Marlin's padded rows, else the layer's own."""
        return marlin_padded(m.n, m.k, self.group)[0] if self.on_marlin(m.capability) else m.n

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """weight [n, k] in 4 or 8 bits, a one-byte scale per group [n, k / group], and the fp32 scalars."""
        if m.k % self.group and self.whole_groups:
            raise Refusal(
                "block_float_shape",
                f"Unsupported model when in features size is not multiple of {self.group}",
                "--tensor-parallel-size",
            )
        n, k = m.n, m.k
        if self.on_marlin(m.capability):
            n, k = marlin_padded(n, k, self.group)
        yield "weight", n * k * self.width // 8
        yield "weight_scale", n * (k // self.group)
        for i in range(self.scalars):
            yield f"global_scale_{i}", FP32

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 and w2 in 4 or 8 bits, a one-byte scale per group, and the fp32 scalars of each expert."""
        p = s.padded(round_up(s.width, self._expert_tile(s.hidden))) if self.on_marlin(s.capability) else s
        w13, w2 = p.weights(self.width)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield "w13_weight_scale", s.count * p.up * (s.hidden // self.group)
        # The scales were made for the width as it is; padding adds the whole groups that it holds.
        groups = s.width // self.group + (p.width - s.width) // self.group
        yield "w2_weight_scale", s.count * s.hidden * groups
        yield from s.biases(s.at.dtype_bytes)
        for name, each in self.expert_scalars:
            yield name, s.count * each * FP32

    def _expert_tile(self, hidden: int) -> int:
        """What Marlin's preparation pads experts to: prepare_{mxfp8,nvfp4,moe_fp4}_..._for_marlin differ."""
        if self.width == 8:
            return 64
        if self.group == 32:
            return 1
        return 64 if hidden % 128 == 0 else 128
