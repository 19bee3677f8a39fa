"""Quantized forms of a model: made while loading, known checkpoints of the catalogue, and ones that must be made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import hf_configs


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to get fewer bytes for each weight."""

    summary: str
    quality_cost: str
    args: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    what_if_quantization: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A checkpoint format as its names on the Hub show it."""

    pattern: str
    name: str
    quality_cost: str
    make: str | None = None
    """The what-if recipe for a checkpoint that must be made; None where the format is not worth making."""


_FORMATS = (
    _Format(pattern=r"fp8(-dynamic)?", name="fp8", quality_cost="very small: weights and activations in fp8"),
    _Format(pattern=r"quantized\.w8a8", name="w8a8 int8", quality_cost="small: weights and activations in int8"),
    _Format(pattern=r"awq(-int4)?", name="AWQ 4-bit", quality_cost="moderate: weights in 4 bits", make="awq"),
    _Format(pattern=r"quantized\.w4a16", name="w4a16", quality_cost="moderate: weights in 4 bits"),
    _Format(pattern=r"gptq-int4", name="GPTQ 4-bit", quality_cost="moderate: weights in 4 bits"),
)


def quantized_variants(source: object) -> Iterator[Variant]:
    """From the smallest quality cost to the largest; legality is for the estimate to say."""
    yield Variant(
        summary="--quantization fp8: weights in 8 bits, made while loading",
        quality_cost="very small: weights in fp8",
        args={"quantization": "fp8"},
    )
    known = _siblings(source) if isinstance(source, str) else {}
    for form in _FORMATS:
        if form.name in known:
            yield Variant(
                summary=f"the {form.name} checkpoint {known[form.name]}",
                quality_cost=form.quality_cost,
                model=known[form.name],
            )
    for form in _FORMATS:
        if form.make is not None and form.name not in known:
            yield Variant(
                summary=f"an {form.name} checkpoint, which must be made first (none is in the catalogue)",
                quality_cost=form.quality_cost,
                what_if_quantization=form.make,
            )


def _siblings(source: str) -> dict[str, str]:
    """Checkpoints of the catalogue that are this model in another format, by the format's name."""
    stem = _stem(source)
    found: dict[str, str] = {}
    for name in hf_configs.names():
        for form in _FORMATS:
            match = re.fullmatch(rf"(.+?)-{form.pattern}", name.split("/", 1)[1], re.IGNORECASE)
            if match and _stem(match[1]) == stem:
                found.setdefault(form.name, name)
    return found


def _stem(name: str) -> str:
    """The model's name without its organisation and the "Meta-" that some put before Llama."""
    return name.split("/", 1)[-1].lower().removeprefix("meta-")
