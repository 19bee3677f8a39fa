"""FP8 checkpoints: quant_method "fp8" (model_executor/layers/quantization/fp8.py, 0.33)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from planner.errors import InputError
from planner.memory.quantization import Quantization, Scheme, method
from planner.memory.quantization.microscaling import MXFP4_EXPERTS, NVFP4_EXPERTS
from planner.memory.quantization.names import NameList, skipped
from planner.memory.quantization.schemes import FP32, Fp8
from planner.model.modules import Experts


@method("fp8", "deepseek_v4_fp8")
@dataclass(frozen=True, kw_only=True, eq=False)
class Fp8Checkpoint(Quantization):
    """Weights in e4m3, scaled per tensor or per block of 128 x 128."""

    name = "fp8"
    min_capability = 75

    def __post_init__(self) -> None:
        _ = self.scheme, self.ignored

    @cached_property
    def scheme(self) -> Fp8:
        """Per block where weight_block_size is given, else per tensor. Raises InputError."""
        static = self.choice("activation_scheme", ("static", "dynamic")) == "static"
        block = self.parameters.get("weight_block_size")
        if block is None:
            return Fp8(scales="tensor", static=static)
        rows, columns = self._block(block)
        if static:
            raise InputError(
                f"{self.key('activation_scheme')} = 'static': block-wise quantization (weight_block_size) only has "
                "the dynamic activation scheme"
            )
        return Fp8(
            scales="block",
            block=(rows, columns),
            must_divide="inputs",
            scale_bytes=1 if self._is_deepseek_v4 else FP32,
        )

    def _block(self, block: object) -> tuple[int, int]:
        if (
            isinstance(block, list | tuple)
            and len(block) == 2
            and all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in block)
        ):
            return block[0], block[1]
        raise InputError(f"{self.key('weight_block_size')} = {block!r}: must be two whole numbers, e.g. [128, 128]")

    @cached_property
    def ignored(self) -> NameList:
        """ignored_layers, or modules_to_not_convert."""
        return self.names("ignored_layers", "modules_to_not_convert")

    def linear_scheme(self, name: str, packed: Sequence[str]) -> Scheme | None:
        """Left alone where the whole name, or that of every fused part, is listed."""
        return None if skipped(self.ignored, self.ignored.exact, name, packed) else self.scheme

    @property
    def _is_deepseek_v4(self) -> bool:
        """Whose config is read by a class of its own (vllm/models/deepseek_v4/quant_config.py), for fp4 experts."""
        layers = self.model.layers if self.model is not None else ()
        return any(isinstance(m, Experts) and m.layout == "deepseek_v4" for m in (layers[-1].modules if layers else ()))

    def experts_scheme(self, name: str, experts: Experts) -> Scheme | None:
        """In fp8; DeepSeek V4's in 4 bits."""
        if skipped(self.ignored, self.ignored.exact, name, ()):
            return None
        if experts.layout == "deepseek_v4":
            nvfp4 = str(self.parameters.get("moe_quant_algo")).upper() == "NVFP4"
            return NVFP4_EXPERTS if nvfp4 else MXFP4_EXPERTS
        return MXFP4_EXPERTS if self.parameters.get("store_dtype") == "mxfp4" else self.scheme
