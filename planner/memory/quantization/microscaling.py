"""MXFP4 checkpoints such as gpt-oss: only the experts are quantized (layers/quantization/mxfp4.py, 0.33)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.memory.quantization import Facts, Quantization, Scheme, method
from planner.memory.quantization.kernels import HOPPER
from planner.memory.quantization.schemes import FP32, BlockFloat, Matrix, Named, Stack
from planner.units import round_up

if TYPE_CHECKING:
    from planner.model.modules import Experts, Placement


@dataclass(frozen=True)
class Mxfp4Experts(BlockFloat):
    """4-bit floats with an e8m0 scale per 32, in the layout of one of two kernels (fused_moe/oracle/mxfp4.py).

    OpenAI's Triton kernels on Hopper and data-centre Blackwell: w13 and w2 swizzled, biases in fp32, the intermediate
    size rounded to 64. Marlin elsewhere: rounded to 128, the hidden size to 256, biases in the model's dtype.
    """

    width: int = 4
    group: int = 32
    scalars: int = 0
    triton: bool = False
    """The model's activation has Triton kernels (gpt-oss's clamped SwiGLU)."""

    def matrix(self, m: Matrix) -> Iterator[Named]:
        raise NotImplementedError("mxfp4 checkpoints leave linear layers in the model's dtype")

    def on_triton(self, at: Placement) -> bool:
        """vLLM has brought triton_kernels along since 0.12 (third_party); before, Marlin is what an install has.

        LoRA adapters have no Triton kernels here either.
        """
        capable = at.capability is not None and HOPPER <= at.capability < 120
        return self.triton and capable and not at.enable_lora and at.vllm_version >= (0, 12)

    def stack(self, s: Stack) -> Iterator[Named]:
        if self.on_triton(s.at):
            p, bias_bytes = s.padded(round_up(s.width, 64)), FP32
        else:
            p, bias_bytes = s.padded(round_up(s.width, 128), round_up(s.hidden, 256)), s.at.dtype_bytes
        w13, w2 = p.weights(4)
        yield "w13_weight", w13
        yield "w2_weight", w2
        yield from p.biases(bias_bytes)
        # Hopper's scale layout holds whole runs of four groups on the contracted side, and of 256 rows (32 for each of
        # eight warps) on the other (utils/mxfp4_utils.py _swizzle_mxfp4 and triton_kernels' HopperMXScaleLayout).
        swizzled = self.on_triton(s.at) and s.capability == HOPPER
        run, rows = (4, 256) if swizzled else (1, 1)
        across, down = round_up(p.hidden // 32, run), round_up(p.width // 32, run)
        yield "w13_weight_scale", s.count * across * round_up(p.up, rows)
        yield "w2_weight_scale", s.count * down * round_up(p.hidden, rows)


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
    facts = Facts("4-bit floating point experts, scaled per 32", 4.25, 1)

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:  # noqa: ARG002
        return None

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:  # noqa: ARG002
        return _GPT_OSS_EXPERTS if experts.layout == "gpt_oss" else MXFP4_EXPERTS
