"""Bytes -> blocks, tokens, concurrency: plain arithmetic over a Layout, which also broadcasts over numpy arrays.

Mirrors get_kv_cache_configs, get_max_concurrency_for_kv_cache_config and get_kv_cache_capacity (v1/core, 0.33) and
_report_kv_cache_config of the versions before 0.21.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from planner.memory.kv_cache.groups import CacheGroup
from planner.memory.kv_cache.specs import Demand, smaller
from planner.memory.kv_cache.versions import Rules
from planner.units import ceil_div


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """How the cache is laid out: all that depends on the model and the flags but not on the memory."""

    groups: tuple[CacheGroup, ...]
    stages: tuple[range, ...]
    """Layers of each pipeline stage."""
    block_size: int
    rules: Rules
    dcp: int = 1
    blocks_override: int | None = None
    """num_gpu_blocks_override"""
    packed: bool = False
    """Whether pages of several sizes lie side by side in a block (DeepSeek-V4)."""

    @cached_property
    def bytes_per_block(self) -> tuple[int, ...]:
        """Of each stage: groups overlay each other, so the widest one counts. 0 where a stage caches nothing."""
        if self.packed and self.rules.layer_tuples:
            return tuple(self._room_for_every_page(stage) for stage in self.stages)
        return tuple(max((group.page(stage) for group in self.groups), default=0) for stage in self.stages)

    def _room_for_every_page(self, stage: range) -> int:
        """Groups overlay each other only page size by page size (_get_kv_cache_config_packed, 0.24)."""
        slots: Counter[int] = Counter()
        for group in self.groups:
            slots |= Counter(layer.spec.page for layer in group.layers if layer.index in stage)
        return sum(page * count for page, count in slots.items())

    def blocks_per_request(self, demand: Demand) -> int:
        """Blocks that one request of full length holds, over all groups."""
        if self.packed and self.rules.layer_tuples:
            return ceil_div(sum(group.blocks(demand) * group.page() for group in self.groups), self.groups[0].page())
        return sum(group.blocks(demand) for group in self.groups)

    def bytes_needed(self, demand: Demand) -> tuple[int, ...]:
        """Bytes that one request of full length needs on each stage."""
        if self.rules.padding_needed:
            blocks = self.blocks_per_request(demand)
            return tuple(per_block * blocks for per_block in self.bytes_per_block)
        return tuple(
            sum(
                layer.spec.page * layer.spec.blocks(demand)
                for group in self.groups
                for layer in group.layers
                if layer.index in stage
            )
            for stage in self.stages
        )

    def num_blocks(self, available: Sequence[int]) -> int:
        """Blocks of the pool: the tightest stage decides."""
        if self.blocks_override is not None:
            return self.blocks_override
        counts = [
            room // per_block for room, per_block in zip(available, self.bytes_per_block, strict=True) if per_block
        ]
        fewest = counts[0]
        for count in counts[1:]:
            fewest = smaller(fewest, count)
        return fewest

    def checked(self, available: Sequence[int]) -> tuple[int, ...]:
        """Bytes that the start-up check compares with what a request needs."""
        held = self.rules.null_block
        if self.blocks_override is not None and self.rules.override_in_check:
            return tuple((self.blocks_override - held) * per_block for per_block in self.bytes_per_block)
        return tuple(room - held * per_block for room, per_block in zip(available, self.bytes_per_block, strict=True))

    def fits(self, available: Sequence[int], demand: Demand) -> bool:
        """Whether one request of full length fits; available: as `checked` returns it."""
        return all(
            need <= room
            for need, room, per_block in zip(self.bytes_needed(demand), available, self.bytes_per_block, strict=True)
            if per_block
        )

    def longest(self, available: Sequence[int], demand: Demand, limit: int) -> int:
        """The largest max_model_len up to limit with which one request fits; 0 for none (vLLM's binary search)."""
        if not self.fits(available, demand.with_len(1)):
            return 0
        low, high = 1, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(available, demand.with_len(middle)):
                low = middle
            else:
                high = middle - 1
        return low

    def capacity(self, num_blocks: int, demand: Demand) -> tuple[int, float]:
        """(tokens, concurrency) as vLLM prints them. Floats, since vLLM rounds through them."""
        length = demand.max_model_len
        if self.rules.tokens == "concurrency":
            concurrency = num_blocks / self.blocks_per_request(demand)
            tokens = concurrency * length
            return (int(tokens) if isinstance(tokens, float) else tokens.astype("int64")), concurrency
        block_size = min(group.block_size for group in self.groups)
        if self.rules.tokens == "groups":
            tokens = num_blocks // len(self.groups) * block_size * self.dcp
        else:
            tokens = num_blocks * block_size
        if self.rules.concurrency == "tokens":
            return tokens, tokens / length
        return tokens, num_blocks / self.blocks_per_request(demand)
