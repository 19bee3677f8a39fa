"""Quantized forms of a model: made while loading, known checkpoints of the catalogue, and ones that must be made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import hf_configs
from planner.memory.quantization.recipes import recipe_for
from planner.model.modules import Placement
from planner.planning.change import Change
from planner.request import Inputs


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A checkpoint format as its names on the Hub show it."""

    pattern: str
    name: str
    bits: float
    quality_cost: str
    cost: int
    make: str | None = None
    """The what-if recipe for a checkpoint that must be made; None where the format is not worth making."""
    least_capability: int = 0
    """Where making it is worth while."""


_FP8, _INT8 = "very small: weights and activations in fp8", "small: weights and activations in int8"
_FOUR = "moderate: weights in 4 bits"
_FORMATS = (
    _Format(pattern=r"fp8(-dynamic|-static-pertensor)?", name="fp8", bits=8, quality_cost=_FP8, cost=1),
    _Format(pattern=r"quantized\.w8a8", name="w8a8 int8", bits=8, quality_cost=_INT8, cost=1),
    _Format(
        pattern=r"gptq-int8", name="GPTQ 8-bit", bits=8.1, quality_cost="very small: weights in 8-bit integers", cost=1
    ),
    _Format(
        pattern=r"nvfp4",
        name="NVFP4",
        bits=4.5,
        quality_cost="moderate: weights and activations in 4-bit floats",
        cost=2,
        make="nvfp4",
        least_capability=100,
    ),
    _Format(pattern=r"awq(-int4)?", name="AWQ 4-bit", bits=4.25, quality_cost=_FOUR, cost=2, make="awq"),
    _Format(pattern=r"quantized\.w4a16", name="w4a16", bits=4.13, quality_cost=_FOUR, cost=2, make="w4a16"),
    _Format(pattern=r"gptq-int4", name="GPTQ 4-bit", bits=4.13, quality_cost=_FOUR, cost=2, make="gptq"),
)
"""From the smallest quality cost to the largest."""

_ONLINE = (
    Change(
        summary="--quantization fp8: weights in 8 bits, made while loading",
        quality_cost="very small: weights in fp8",
        cost=1,
        args={"quantization": "fp8"},
    ),
)
_ONLINE_ROCM = (
    Change(
        summary="--quantization fp8_per_block: weights in 8 bits, made while loading",
        quality_cost="very small: weights in fp8",
        cost=1,
        args={"quantization": "fp8_per_block"},
    ),
)
"""AMD's cards without fp8 have a kernel for blocks only."""
_ONLINE_EXPERTS = (
    Change(
        summary="--quantization experts_int8: experts in 8-bit integers, made while loading",
        quality_cost="very small: experts in int8",
        cost=1,
        args={"quantization": "experts_int8"},
    ),
)


def quantized_variants(inputs: Inputs, *, refused: bool = False) -> Iterator[Change]:
    """From the smallest quality cost to the largest; legality is for the estimate to say.

    Of a checkpoint that is quantized already: its smaller forms, and where it is refused, all its other forms.
    """
    if inputs.what_if_quantization is not None:
        return
    known = _siblings(inputs.source) if isinstance(inputs.source, str) else {}
    if inputs.quantization is None:
        yield from _ONLINE
        if inputs.gpu.kind == "rocm":
            yield from _ONLINE_ROCM
        if inputs.model.is_moe:
            yield from _ONLINE_EXPERTS
        yield from _known(known, inputs.gpu.capability, below=16)
        yield from _to_be_made(known, inputs.gpu.capability)
        return
    if inputs.args.get("quantization") is None:
        yield from _known(known, inputs.gpu.capability, below=16 if refused else _bits(inputs) - 1)


def _bits(inputs: Inputs) -> float:
    """Of a weight, without scales, in the largest matrix of the middle layers: others are often left in 16 bits."""
    model, middle = inputs.model, len(inputs.model.layers) // 2
    at = Placement(quantization=inputs.quantization, prefix=f"{model.layer_prefix}{middle}.")
    modules = [module for layer in model.layers[middle : middle + 8] for module in layer.quantizable]
    scheme = at.scheme(max(modules, key=lambda module: module.parameters)) if modules else None
    return 16.0 if scheme is None else scheme.bits


def _known(known: Mapping[str, str], capability: int | None, *, below: float) -> Iterator[Change]:
    """Of the same cost, first what the card computes in."""
    for form in sorted(_FORMATS, key=lambda form: (form.cost, (capability or 0) < form.least_capability)):
        if form.name in known and form.bits < below:
            yield Change(
                summary=f"the {form.name} checkpoint {known[form.name]}",
                quality_cost=form.quality_cost,
                cost=form.cost,
                model=known[form.name],
            )


def _to_be_made(known: Mapping[str, str], capability: int | None) -> Iterator[Change]:
    for form in _FORMATS:
        if form.make is not None and form.name not in known and (capability or 0) >= form.least_capability:
            article = "an" if form.name[0] in "AN" else "a"
            yield Change(
                summary=f"{article} {form.name} checkpoint, which must be made first (the catalogue has none)",
                quality_cost=form.quality_cost,
                cost=max(form.cost, recipe_for(form.make).quality),
                what_if_quantization=form.make,
            )


@lru_cache(maxsize=512)
def _siblings(source: str) -> Mapping[str, str]:
    """Checkpoints of the catalogue that are this model in another format, by the format's name."""
    own, _ = _split(source)
    found: dict[str, str] = {}
    for name in hf_configs.names():
        stem, form = _split(name)
        if form is not None and stem == own and name != source:
            found.setdefault(form.name, name)
    return found


@lru_cache(maxsize=1024)
def _split(name: str) -> tuple[str, _Format | None]:
    """(the model's name without its organisation, its format and the "Meta-" that some put before Llama, the format)"""
    plain = name.split("/", 1)[-1].lower().removeprefix("meta-")
    for form in _FORMATS:
        match = re.fullmatch(rf"(.+?)-{form.pattern}", plain)
        if match:
            return match[1], form
    return plain, None
