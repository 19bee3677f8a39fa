"""Concurrency against context length, and its inverse: the largest context for a wanted number of sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.errors import InputError
from planner.memory.budget import Estimate
from planner.request import Inputs
from planner.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class Point:
    """What the engine would hold at one max_model_len; zeros where it would not start."""

    max_model_len: int
    tokens: int
    max_concurrency: float

    def to_dict(self) -> dict[str, Any]:
        """As an entry of a `curve`."""
        return {
            "max_model_len": self.max_model_len,
            "tokens": self.tokens,
            "max_concurrency": round(self.max_concurrency, 2),
        }


def curve(inputs: Inputs, lengths: Sequence[int] | None = None) -> tuple[Point, ...]:
    """One estimate for each length, since a longer context can take memory beside the KV cache too."""
    return tuple(_point(_at(inputs, length), length) for length in lengths or default_lengths(inputs))


def default_lengths(inputs: Inputs) -> tuple[int, ...]:
    """Powers of two from 1,024 up to what the model allows, and that limit."""
    limit = inputs.model.max_position
    powers = [1 << n for n in range(10, limit.bit_length()) if 1 << n < limit]
    return (*powers, limit)


def longest_for(inputs: Inputs, sessions: int) -> Point | None:
    """The largest max_model_len at which so many full-length requests run at once; None where there is none.

    Over all data-parallel ranks; InputError where the engine would not run so many, whatever its KV cache holds.
    """
    if sessions < 1:
        raise InputError(f"sessions = {sessions}: must be at least 1")
    engine = inputs.estimate().engine
    ranks = 1 if engine is None else engine.data_parallel_size
    if engine is not None and sessions > engine.max_num_seqs * ranks:
        raise InputError(
            f"sessions = {sessions}: the engine runs at most {engine.max_num_seqs * ranks} requests at once; "
            f"pass --max-num-seqs {ceil_div(sessions, ranks)}"
        )

    def holds(length: int) -> bool:
        return _point(_at(inputs, length), length).max_concurrency * ranks >= sessions

    low, high = 0, inputs.model.max_position
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return _point(_at(inputs, low), low) if low else None


def _at(inputs: Inputs, length: int) -> Estimate:
    return replace(inputs, args=inputs.args.with_(max_model_len=length)).estimate()


def _point(estimate: Estimate, length: int) -> Point:
    kv = estimate.kv_cache
    if kv is None or not estimate.fits:
        return Point(max_model_len=length, tokens=0, max_concurrency=0.0)
    return Point(max_model_len=length, tokens=kv.tokens, max_concurrency=kv.max_concurrency)
