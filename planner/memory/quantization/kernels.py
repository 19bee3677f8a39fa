"""Which kernel vLLM picks for a quantized layer on a GPU, and the padding that it brings: both decide the bytes.

model_executor/kernels/linear/__init__.py and layers/quantization/utils/marlin_utils.py (0.33). A capability of None (a
CPU) keeps the checkpoint's layout.

Not modelled: where this says Marlin on Hopper, vLLM 0.32 and later take Humming if its package is installed (the CUDA
wheel requires it): the same bits, other scales' order, rows padded to 256 and columns to 128, biases twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Literal

from planner.units import round_up

HOPPER, BLACKWELL = 90, 100
MARLIN_GROUPS = (-1, 32, 64, 128)
MACHETE_GROUPS = (-1, 64, 128)
TRITON_GROUPS = (-1, 32, 64, 128, 256)

PackedKernel = Literal["machete", "marlin", "exllama", "triton", "humming", "plain"]


def marlin_padded(n: int, k: int, group: int = -1) -> tuple[int, int]:
    """The padded (n, k) that Marlin's thread tiles need (marlin_utils.marlin_padded_nk)."""
    step = max(group, 1)
    candidates = (
        (round_up(n, 64), round_up(k, lcm(128, step))),
        (round_up(n, 128), round_up(k, lcm(64, step))),
    )
    return min(candidates, key=lambda nk: (nk[0] * nk[1], nk[0] + nk[1]))


def marlin_padded_experts(intermediate: int, group: int = -1) -> int:
    """The padded intermediate size of Marlin's MoE kernel (marlin_moe_padded_intermediate)."""
    return round_up(intermediate, lcm(64, max(group, 1)))


def has_fp8_cores(capability: int | None) -> bool:
    """Ada, Hopper and newer compute in fp8; None, a CPU, keeps the same layout."""
    return capability is None or capability >= 89


def fp8_weight_only(capability: int | None, *, block: bool) -> bool:
    """Whether fp8 runs as W8A16 on Marlin; CUTLASS has block scales from Hopper on only (Ada falls to Marlin)."""
    return capability is not None and capability < (HOPPER if block else 89)


@dataclass(frozen=True)
class PackedShape:
    """One matrix of packed integers: what choose_mp_linear_kernel looks at (MPLinearLayerConfig)."""

    n: int
    k: int
    full_k: int
    bits: int
    group: int
    zero_points: bool
    dtype: str

    @property
    def straddles(self) -> bool:
        """A group of inputs lies on two ranks."""
        return self.group != -1 and self.group < self.full_k and self.k % self.group != 0

    @property
    def groups(self) -> int:
        """Groups of inputs on this rank."""
        return 1 if self.group == -1 else self.k // self.group


def packed_kernel(shape: PackedShape, capability: int | None) -> PackedKernel | str:
    """The kernel for a weight-only integer layer, or the reason why none can (choose_mp_linear_kernel)."""
    if capability is None:
        return "plain"
    if capability == HOPPER and _machete(shape):
        return "machete"
    reason = _marlin_refuses(shape, capability)
    if reason is None:
        return "marlin"
    if _exllama(shape):
        return "exllama"
    if _triton(shape):
        return "triton"
    # A requirement of vLLM's CUDA wheel since 0.32; it takes any width and group, but no straddled one.
    return reason if shape.straddles else "humming"


def is_kernel(answer: str) -> bool:
    """Whether `packed_kernel` answered with a kernel, which is one word, rather than with a reason."""
    return " " not in answer


def _machete(shape: PackedShape) -> bool:
    return shape.bits in (4, 8) and shape.group in MACHETE_GROUPS and shape.k % 64 == 0 and shape.n % 128 == 0


def _marlin_refuses(shape: PackedShape, capability: int) -> str | None:
    if capability < 75 or shape.bits not in ((4,) if shape.zero_points else (4, 8)):
        return f"Quant type of {shape.bits} bits not supported by Marlin on compute capability {capability}"
    if shape.group not in MARLIN_GROUPS:
        return f"Group size ({shape.group}) not supported by Marlin, supported group sizes are: {[*MARLIN_GROUPS]}"
    if shape.straddles:
        return f"in_features per partition {shape.k} is not divisible by group_size = {shape.group}."
    return None


def _exllama(shape: PackedShape) -> bool:
    return (
        shape.dtype == "float16"
        and not shape.zero_points
        and shape.bits in (4, 8)
        and shape.group > 0
        and shape.n % (32 // shape.bits) == 0
        and shape.full_k % shape.group == 0
    )


def _triton(shape: PackedShape) -> bool:
    return (
        shape.bits == 4
        and shape.dtype in ("float16", "bfloat16")
        and shape.n % 8 == 0
        and (shape.group in TRITON_GROUPS or shape.group == shape.full_k)
        and shape.k % (shape.k if shape.group == -1 else shape.group) == 0
    )


def cutlass_experts(capability: int | None) -> bool:
    """vLLM's grouped CUTLASS GEMM in fp8: Hopper and data-centre Blackwell."""
    return capability is not None and HOPPER <= capability < 110


def marlin_experts(hidden: int, width: int, group: int) -> bool:
    """Whether Marlin takes experts of this shape (marlin_utils.check_moe_marlin_supports_config)."""
    return hidden % 128 == 0 and (group <= 0 or width % group == 0) and group in MARLIN_GROUPS
