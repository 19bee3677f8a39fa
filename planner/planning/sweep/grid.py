"""What is swept over, and the request that a row of the table stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from planner.errors import InputError

LARGEST_GRID = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values of each dimension; None is vLLM's own default, or what the request gives."""

    gpu: tuple[str, ...] = ()
    """Empty: the request's card."""
    tensor_parallel_size: tuple[int | None, ...] = (None,)
    pipeline_parallel_size: tuple[int | None, ...] = (None,)
    quantization: tuple[str | None, ...] = (None,)
    """Methods of --quantization; "what-if:awq" for a checkpoint to be made, "model:NAME" for another checkpoint."""
    kv_cache_dtype: tuple[str | None, ...] = (None,)
    max_model_len: tuple[int | None, ...] = (None,)
    max_num_seqs: tuple[int | None, ...] = (None,)
    max_num_batched_tokens: tuple[int | None, ...] = (None,)

    @property
    def size(self) -> int:
        """How many combinations it has."""
        counts = (len(getattr(self, entry.name)) for entry in fields(self))
        return math.prod(max(1, count) for count in counts)

    def checked(self) -> Grid:
        """InputError where a dimension is empty, a length none, or the table too large for memory."""
        for entry in fields(self):
            if entry.name != "gpu" and not getattr(self, entry.name):
                raise InputError(f"{entry.name}: no values to sweep over")
        if self.size > LARGEST_GRID:
            raise InputError(f"{self.size:,} combinations: at most {LARGEST_GRID:,} fit in one table")
        if any(length is not None and length < 1 for length in self.max_model_len):
            raise InputError("max_model_len: a sweep needs lengths of at least 1")
        return self


LAUNCH = ("tensor_parallel_size", "pipeline_parallel_size", "kv_cache_dtype")
SHAPE = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")
"""Its dimensions that change the weights or the layout of the KV cache, and those that only arithmetic depends on."""


def request_of_row(request: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The request whose `estimate` a row of the table is. 0 in a refused row: what vLLM would have filled in."""
    made = {**request, "gpu": row["gpu"]}
    made |= quantized(str(row["quantization"]) if row["quantization"] else None)
    return made | {name: row[name] for name in (*LAUNCH, *SHAPE) if row[name]}


def quantized(label: str | None) -> dict[str, Any]:
    """What a value of Grid.quantization stands for in a request."""
    kind, _, name = (label or "").partition(":")
    if kind == "what-if":
        return {"what_if_quantization": name}
    if kind == "model":
        return {"model": name}
    return {"quantization": label} if label else {}
