"""MXFP4 checkpoints such as gpt-oss: only the experts are quantized (layers/quantization/mxfp4.py, 0.33)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.memory.quantization import Quantization, Scheme, method
from planner.memory.quantization.kernels import HOPPER
from planner.memory.quantization.schemes import FP32, BlockFloat, Matrix, Named, Stack
from planner.units import round_up

if TYPE_CHECKING:
    from planner.model.modules import Experts, Placement


@dataclass(frozen=True, kw_only=True)
class HopperLayout:
    """What OpenAI's Triton kernels make of gpt-oss's experts on Hopper, as one release brings them along."""

    since: tuple[int, int]
    align: int
    """Multiple to which the packed weights are padded on both sides (hopper_value.py swizzle_data)."""
    scale_run: int
    """Multiple of scale groups on the contracted side (hopper_scale.py; utils/mxfp4_utils.py since 0.26)."""
    keeps_scales: bool
    """The checkpoint's scales stay beside the swizzled ones: only the weights were deleted until 0.24 (oracle/mxfp4.py
    convert_to_mxfp4_moe_kernel_format; quantization/mxfp4.py until 0.18)."""


HOPPER_LAYOUTS = (
    HopperLayout(since=(0, 12), align=1, scale_run=2, keeps_scales=True),
    HopperLayout(since=(0, 17), align=64, scale_run=2, keeps_scales=True),
    HopperLayout(since=(0, 22), align=1, scale_run=2, keeps_scales=True),
    HopperLayout(since=(0, 25), align=1, scale_run=2, keeps_scales=False),
    HopperLayout(since=(0, 26), align=1, scale_run=4, keeps_scales=False),
)
"""Oldest first: third_party/triton_kernels of the wheels 0.12 to 0.33."""
_SCALE_ROWS = 256
"""HopperMXScaleLayout: 32 rows for each of eight warps."""


@dataclass(frozen=True)
class Mxfp4Experts(BlockFloat):
    """4-bit floats with an e8m0 scale per 32, in the layout of one of two kernels (fused_moe/oracle/mxfp4.py).

    OpenAI's Triton kernels on Hopper and data-centre Blackwell: biases in fp32, the intermediate size rounded to 64,
    on Hopper weights and scales swizzled (HopperLayout). Marlin elsewhere: the intermediate size rounded to 128, the
    hidden size to 256, biases in the model's dtype.
    """

    width: int = 4
    group: int = 32
    scalars: int = 0
    triton: bool = False
    """The model's activation has Triton kernels (gpt-oss's clamped SwiGLU)."""

    def matrix(self, m: Matrix) -> Iterator[Named]:
        """Never asked for: these checkpoints leave linear layers in the model's dtype."""
        raise NotImplementedError("mxfp4 checkpoints leave linear layers in the model's dtype")

    def on_triton(self, at: Placement) -> bool:
        """vLLM has brought triton_kernels along since 0.12 (third_party); before, Marlin is what an install has.

        LoRA adapters have no Triton kernels here either.
        """
        capable = at.capability is not None and HOPPER <= at.capability < 120
        return self.triton and capable and not at.enable_lora and at.vllm_version >= (0, 12)

    def stack(self, s: Stack) -> Iterator[Named]:
        """w13 and w2 at half a byte a weight, an e8m0 scale per 32, padded to the kernel's tiles."""
        if self.on_triton(s.at):
            yield from self._triton(s.padded(round_up(s.width, 64)))
        else:
            yield from self._plain(s.padded(round_up(s.width, 128), round_up(s.hidden, 256)), s.at.dtype_bytes)

    def _triton(self, p: Stack) -> Iterator[Named]:
        if p.capability != HOPPER:
            yield from self._plain(p, FP32)
            return
        layout = [each for each in HOPPER_LAYOUTS if p.at.vllm_version >= each.since][-1]

        def packed(contracted: int, rows: int) -> int:
            return p.count * round_up(contracted // 2, layout.align) * round_up(rows, layout.align)

        def swizzled(contracted: int, rows: int) -> int:
            return p.count * round_up(contracted // self.group, layout.scale_run) * round_up(rows, _SCALE_ROWS)

        yield "w13_weight", packed(p.hidden, p.up)
        yield "w2_weight", packed(p.width, p.hidden)
        yield from p.biases(FP32)
        if layout.keeps_scales:
            yield from self._scales(p)
        yield "w13_precision_config", swizzled(p.hidden, p.up)
        yield "w2_precision_config", swizzled(p.width, p.hidden)

    def _plain(self, p: Stack, bias_bytes: int) -> Iterator[Named]:
        w13, w2 = p.weights(self.width)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield from p.biases(bias_bytes)
        yield from self._scales(p)

    def _scales(self, p: Stack) -> Iterator[Named]:
        yield "w13_weight_scale", p.count * p.up * (p.hidden // self.group)
        yield "w2_weight_scale", p.count * p.hidden * (p.width // self.group)


MXFP4_EXPERTS = Mxfp4Experts()
MODELOPT_EXPERT_SCALARS = (("w13_weight_scale_2", 1), ("w2_weight_scale_2", 1))
NVFP4_EXPERTS = BlockFloat(width=4, group=16, scalars=4, expert_scalars=MODELOPT_EXPERT_SCALARS)
_GPT_OSS_EXPERTS = Mxfp4Experts(triton=True)


@method("mxfp4", "gpt_oss_mxfp4")
@dataclass(frozen=True, kw_only=True, eq=False)
class Mxfp4Checkpoint(Quantization):
    """Experts in 4 bits; attention, router, embeddings and lm_head in the model's dtype."""

    name = "mxfp4"
    min_capability = 80
    dtypes = ("bfloat16",)

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:  # noqa: ARG002
        """None: linear layers stay in the model's dtype."""
        return None

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        """4 bits, on OpenAI's kernels for gpt-oss alone."""
        return _GPT_OSS_EXPERTS if experts.layout == "gpt_oss" else MXFP4_EXPERTS
