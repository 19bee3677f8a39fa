"""What the KV cache holds in each row, and whether that is enough: plan_kv_cache over arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from planner.engine.defaults import Engine
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.plan import demand_of
from planner.planning.sweep.shapes import Ints, Shapes

REASONS = (
    "",
    "no_cache_blocks",
    "kv_too_small_for_one_request",
    "out_of_memory",
    "free_memory_below_requested",
    "oom_graph_capture",
)
"""Codes of Reason; a row holds the place of its own."""


class NoCache:
    """An encoder: the weights and the profile run must fit."""

    def __init__(self, available: list[Ints], kv_cache_dtype: str = "auto") -> None:
        room = np.minimum.reduce(available)
        self.reason = np.where(room > 0, 0, REASONS.index("out_of_memory"))
        self.tightest: Any = np.zeros(len(room), dtype=np.int64)
        self.bytes_per_block: Any = 0
        self.blocks: Any = 0
        self.tokens: Any = 0
        self.concurrency: Any = 0.0
        self.kv_cache_dtype = kv_cache_dtype

    def concurrency_at(self, _length: int, /) -> Any:
        """Requests that hold so many tokens at once; infinite where nothing is cached."""
        return np.inf


class Nothing(NoCache):
    """Attention-free, nothing recurrent either: one null block."""

    def __init__(self, available: list[Ints], kv_cache_dtype: str) -> None:
        super().__init__(available, kv_cache_dtype)
        self.reason = np.zeros(len(self.reason), dtype=np.int64)
        self.blocks = 1


class Held(NoCache):
    """Blocks of a layout; `engine` is the launch's for one of the rows."""

    def __init__(
        self, layout: Layout, kv_cache_dtype: str, engine: Engine, available: list[Ints], shapes: Shapes, rows: Ints
    ) -> None:
        self.kv_cache_dtype = kv_cache_dtype
        one = demand_of(engine, layout)
        batches = one.in_flight // engine.max_num_batched_tokens
        tokens: Any = shapes.max_num_batched_tokens[rows]
        length: Any = shapes.max_model_len[rows]
        demand = replace(one, max_model_len=length, in_flight=tokens * batches, encoder_tokens=tokens)
        room: Any = available
        per_block = np.array(layout.bytes_per_block)
        self.blocks = np.maximum(0, np.broadcast_to(layout.num_blocks(room), len(rows)))
        self.tokens, self.concurrency = layout.capacity(self.blocks, demand)
        counts = [r // p if p else np.full(len(rows), 1 << 62) for r, p in zip(room, per_block, strict=True)]
        narrowest = np.argmin(counts, axis=0)
        # budget.Estimate.tightest counts blocks a stage holds, plan_kv_cache what it could: they differ below zero.
        self.tightest = np.argmin(
            [np.maximum(0, r // p) if p else np.zeros(len(rows)) for r, p in zip(room, per_block, strict=True)], axis=0
        )
        self.bytes_per_block = per_block[narrowest]
        self.reason = self._failures(layout, room, demand, per_block)
        self._layout, self._demand = layout, demand

    def concurrency_at(self, length: int, /) -> Any:
        """As for NoCache; broadcasts over the rows."""
        return self._layout.capacity(self.blocks, self._demand.with_len(length))[1]

    def _failures(self, layout: Layout, room: Any, demand: Any, per_block: Ints) -> Ints:
        """start_up_failure: of the first stage that is too small."""
        no_blocks, small = REASONS.index("no_cache_blocks"), REASONS.index("kv_too_small_for_one_request")
        if layout.rules.length_check == "tokens":
            short = demand.max_model_len > self.blocks * layout.block_size
            return np.where(self.blocks <= 0, no_blocks, np.where(short, small, 0))
        reason = np.zeros(len(self.blocks), dtype=np.int64)
        needed = layout.bytes_needed(demand)
        for stage, left in enumerate(layout.checked(room)):
            if not per_block[stage]:
                continue
            here = np.where(left <= 0, no_blocks, np.where(needed[stage] > left, small, 0))
            reason = np.where(reason == 0, here, reason)
        return reason
