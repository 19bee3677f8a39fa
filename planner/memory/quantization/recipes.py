"""What the same model would be as a quantized checkpoint: the usual recipe of each format (`--what-if-quantization`).

One table; nothing here has been seen in a checkpoint, so what comes of it is marked `assumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.memory.quantization import Quantization, quantization
from planner.model.modules import Experts

if TYPE_CHECKING:
    from planner.model.architecture import Model

_KEPT = (
    r"lm_head",
    r"embed_tokens",
    r"(^|\.)(gate|router|shared_expert_gate)$",
    r"(^|\.)(visual|vision_tower|vision_model|multi_modal_projector|mm_projector|audio_tower|embed_vision)\.",
)
"""What every recipe leaves in 16 bits: embeddings, lm_head, routers, vision and audio towers."""


@dataclass(frozen=True)
class Recipe:
    """How a format's tools quantize a model unless told otherwise."""

    what: str
    """How it stores a weight, for people."""
    quality: int
    """What it costs: 1 hardly measurable, 2 small, 3 noticeable on hard tasks."""
    parameters: Callable[[int], Mapping[str, object]]
    """The quantization_config that such a checkpoint would have, for a size of groups."""
    min_capability: int = 75
    """Below it vLLM refuses the checkpoint."""


def _group(weights: Mapping[str, object], inputs: Mapping[str, object] | None, form: str) -> Mapping[str, object]:
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "input_activations": inputs}
        },
        "ignore": [f"re:.*{pattern}" for pattern in _KEPT],
    }


def _int(bits: int, **others: object) -> dict[str, object]:
    return {"num_bits": bits, "type": "int", **others}


def _float(bits: int, **others: object) -> dict[str, object]:
    return {"num_bits": bits, "type": "float", **others}


def _awq(group: int) -> Mapping[str, object]:
    kept = ("lm_head", ".gate.", "router", "shared_expert_gate", "visual.", "vision_", "multi_modal_projector")
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "modules_to_not_convert": [*kept],
    }


def _gptq(bits: int, group: int) -> Mapping[str, object]:
    return {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "sym": True,
        "desc_act": False,
        "dynamic": {f"-:.*{pattern}": {} for pattern in _KEPT},
    }


RECIPES: Mapping[str, Recipe] = {
    "fp8": Recipe(
        "8-bit floating point weights (a scale per channel) and activations",
        1,
        lambda _: _group(_float(8, strategy="channel"), _float(8, strategy="token", dynamic=True), "float-quantized"),
    ),
    "fp8_block": Recipe(
        "8-bit floating point weights in blocks of 128 x 128, as DeepSeek and Qwen publish them",
        1,
        lambda _: _group(
            _float(8, strategy="block", block_structure=[128, 128]),
            _float(8, strategy="group", group_size=128, dynamic=True),
            "float-quantized",
        ),
    ),
    "w8a8": Recipe(
        "8-bit integer weights (a scale per channel) and activations",
        1,
        lambda _: _group(_int(8, strategy="channel"), _int(8, strategy="token", dynamic=True), "int-quantized"),
    ),
    "w8a16": Recipe(
        "8-bit integer weights in groups of 128, 16-bit activations",
        1,
        lambda group: _group(_int(8, strategy="group", group_size=group), None, "pack-quantized"),
    ),
    "gptq-int8": Recipe("8-bit integer weights (GPTQ) in groups of 128", 1, lambda group: _gptq(8, group)),
    "nvfp4": Recipe(
        "4-bit floating point weights and activations, scaled per 16",
        2,
        lambda _: _group(
            _float(4, strategy="tensor_group", group_size=16),
            _float(4, strategy="tensor_group", group_size=16, dynamic="local"),
            "nvfp4-pack-quantized",
        ),
    ),
    "mxfp4": Recipe(
        "4-bit floating point weights, scaled per 32",
        3,
        lambda _: _group(
            _float(4, strategy="group", group_size=32, scale_dtype="torch.uint8"), None, "mxfp4-pack-quantized"
        ),
    ),
    "awq": Recipe("4-bit integer weights with zero points in groups of 128, chosen by activations", 2, _awq),
    "gptq": Recipe("4-bit integer weights (GPTQ) in groups of 128", 2, lambda group: _gptq(4, group)),
    "w4a16": Recipe(
        "4-bit integer weights in groups of 128, 16-bit activations",
        2,
        lambda group: _group(_int(4, strategy="group", group_size=group), None, "pack-quantized"),
    ),
}
"""By the name that `--what-if-quantization` takes, the gentlest first."""

_SAME = {"int8": "w8a8", "int4": "w4a16", "gptq-int4": "gptq", "fp4": "nvfp4"}


def what_if(model: Model, name: str) -> Quantization:
    """The Quantization of an imagined checkpoint of this model. InputError where the format is unknown."""
    recipe = recipe_for(name)
    made = quantization(recipe.parameters(_group_size(model)), model, f"--what-if-quantization {name}")
    return replace(made, assumed=True)


def _group_size(model: Model) -> int:
    """128, or the largest smaller group that divides every layer's inputs: what the tools fall back to."""
    inputs: set[int] = set()
    for layer in model.layers:
        for module in layer.quantizable:
            inputs |= {module.hidden, module.intermediate} if isinstance(module, Experts) else {module.inputs}
    return next((size for size in (128, 64, 32) if not any(n % size for n in inputs)), 32)


def recipe_for(name: str) -> Recipe:
    """The recipe of a format. InputError with the known ones."""
    key = name.lower().replace("_", "-") if name.lower() not in RECIPES else name.lower()
    key = _SAME.get(key, key)
    if key not in RECIPES:
        raise InputError(f"--what-if-quantization {name}: unknown format; known are {', '.join(RECIPES)}")
    return RECIPES[key]
