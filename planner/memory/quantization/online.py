"""Quantizing a 16-bit checkpoint while loading it (layers/quantization/online/, experts_int8.py; 0.33).

`--quantization fp8` on a checkpoint without a quantization_config is fp8_per_tensor. Weights are quantized layer by
layer, so no 16-bit copy of the model is ever on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from planner.errors import Refusal
from planner.memory.quantization import Quantization, Scheme, online_method
from planner.memory.quantization.kernels import BLACKWELL, has_fp8_cores
from planner.memory.quantization.microscaling import MXFP4_EXPERTS
from planner.memory.quantization.schemes import BlockFloat, Fp8, Int8, Matrix, Named, Stack

if TYPE_CHECKING:
    from planner.model.modules import Experts


@dataclass(frozen=True, kw_only=True, eq=False)
class Online(Quantization):
    """One layout for all linear layers that are built with a quantization config, one for experts."""

    name: ClassVar[str] = "online"
    min_capability: ClassVar[int] = 75
    of_linears: ClassVar[Scheme | None]
    of_experts: ClassVar[Scheme | None]

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:  # noqa: ARG002
        """The same for all linear layers."""
        return self.of_linears

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        """The same for all experts."""
        return self.of_experts


@dataclass(frozen=True)
class Fp8PerChannel(Fp8):
    """Refused on GPUs without fp8 cores: Marlin has no per-token activations."""

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """As Fp8's. Raises Refusal on cards without fp8 cores."""
        self._check_cores(m.capability)
        return super().matrix(m)

    def stack(self, s: Stack) -> Iterator[Named]:
        """As Fp8's. Raises Refusal on cards without fp8 cores."""
        self._check_cores(s.capability)
        return super().stack(s)

    def _check_cores(self, capability: int | None) -> None:
        if not has_fp8_cores(capability):
            raise Refusal(
                "fp8_per_channel_capability",
                "FP8 PTPC online quant requires a kernel that honors per-token activation quantization; MarlinFP8 is "
                "W8A16 weight-only. Requires SM89+ for Cutlass FP8 or ROCm MI3xx for rowwise scaled_mm.",
                "--quantization",
            )


@dataclass(frozen=True)
class Nvfp4PerToken(BlockFloat):
    """NVFP4 experts; only data-centre Blackwell has the kernel."""

    min_capability: ClassVar[int] = BLACKWELL

    def stack(self, s: Stack) -> Iterator[Named]:
        """As BlockFloat's. Raises Refusal on all cards but data-centre Blackwell."""
        if s.capability is not None and s.capability // 10 != 10:
            raise Refusal(
                "nvfp4_per_token_capability",
                "nvfp4_per_token online quantization requires a Blackwell (SM100) GPU.",
                "--quantization",
            )
        return super().stack(s)


@online_method("fp8", "fp8_per_tensor")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineFp8(Online):
    """W8A8 with one scale a weight (online/fp8.py Fp8PerTensorOnlineLinearMethod)."""

    of_linears = of_experts = Fp8(scales="tensor")


@online_method("fp8_per_block")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineFp8Block(Online):
    """W8A8 in blocks of 128 x 128, rows padded to whole blocks."""

    of_linears = of_experts = Fp8(scales="block", must_divide="nothing", whole_blocks=True)


@online_method("fp8_per_channel")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineFp8Channel(Online):
    """W8A8 with a scale per output channel; no Marlin, so Ada and newer only."""

    of_linears = Fp8PerChannel(scales="channel")
    of_experts = Fp8PerChannel(scales="channel", cutlass_experts=True)


@online_method("mxfp8")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineMxfp8(Online):
    """8-bit floats with an e8m0 scale per 32; W8A16 on Marlin before Blackwell."""

    of_linears = of_experts = BlockFloat(width=8, group=32, scalars=0)


@online_method("mxfp4")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineMxfp4(Online):
    """4-bit floats with an e8m0 scale per 32; W4A16 on Marlin before Blackwell."""

    of_linears = BlockFloat(width=4, group=32, scalars=0)
    of_experts = MXFP4_EXPERTS


@online_method("int8_per_channel_weight_only", "experts_int8")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineInt8Experts(Online):
    """Experts alone, with a scale per output channel (experts_int8.py)."""

    min_capability = 80
    of_linears = None
    of_experts = Int8()


@online_method("nvfp4_per_token")
@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineNvfp4Experts(Online):
    """A model without experts is left as it is, on any card."""

    of_linears = None
    of_experts = Nvfp4PerToken(scalars=0)
