"""Layers -> KV cache groups: the layers of one group share a block table, and all groups share one pool of blocks.

Mirrors get_kv_cache_groups and what it calls (v1/core/kv_cache_planning.py, 0.33).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from planner.errors import Refusal
from planner.memory.kv_cache.specs import (
    CannotUnifyError,
    ChunkedSpec,
    Demand,
    FullSpec,
    MLASpec,
    SlidingSpec,
    Spec,
    StateSpec,
)
from planner.memory.kv_cache.versions import Rules
from planner.units import ceil_div


@dataclass(frozen=True, kw_only=True)
class CacheLayer:
    """One entry of vLLM's kv_cache_spec: which model layer it belongs to, and what it keeps."""

    index: int
    spec: Spec


@dataclass(frozen=True, kw_only=True, eq=False)
class CacheGroup:
    """Layers that share a block table."""

    layers: tuple[CacheLayer, ...]

    @cached_property
    def specs(self) -> tuple[Spec, ...]:
        """The distinct specs of its layers."""
        return tuple(dict.fromkeys(layer.spec for layer in self.layers))

    @property
    def kind(self) -> str:
        """The kind of its layers; "full_attention" for a mixture, as vLLM's UniformTypeKVCacheSpecs reports itself."""
        kinds = dict.fromkeys(spec.kind for spec in self.specs)
        return next(iter(kinds)) if len(kinds) == 1 else "full_attention"

    @property
    def block_size(self) -> int:
        """Tokens of one block, which all layers of a group share."""
        return self.specs[0].block_size

    def page(self, stage: range | None = None) -> int:
        """Bytes of one block over the group's layers (those of one pipeline stage)."""
        return sum(layer.spec.page for layer in self.layers if stage is None or layer.index in stage)

    def blocks(self, demand: Demand) -> int:
        """Blocks that one request of full length holds in this group."""
        counts = [spec.blocks(demand) for spec in self.specs]
        if len(counts) == 1:
            return counts[0]
        if all(isinstance(count, int) for count in counts):
            return max(counts)
        import numpy as np

        return np.maximum.reduce(counts)  # type: ignore[no-any-return]


def cache_groups(
    layers: Sequence[CacheLayer], rules: Rules, *, hybrid_manager: bool, packed: bool = False
) -> tuple[CacheGroup, ...]:
    """The groups that vLLM forms. packed: pages of several sizes lie side by side in a block (DeepSeek-V4)."""
    if rules.everything_full:
        layers = [
            replace(layer, spec=_as_full(layer.spec, None))
            for layer in layers
            if not isinstance(layer.spec, StateSpec)  # V0 keeps recurrent states outside its blocks
        ]
    if not layers:
        return ()
    if not hybrid_manager or not rules.hybrid:
        layers = promoted(layers)
        if not _is_uniform(layer.spec for layer in layers):
            raise Refusal("hybrid_manager_needed", rules.not_uniform, "--disable-hybrid-kv-cache-manager")
    uniform = _is_uniform(layer.spec for layer in layers)
    if rules.hybrid and not (rules.mixed_full if uniform else rules.unify_pages):
        _check_pages(layers)
    if uniform:
        return (CacheGroup(layers=tuple(layers)),)
    if packed and rules.layer_tuples:
        return _layer_tuples(layers)
    if packed and len({layer.spec.page for layer in layers}) > 1:
        return _packed(layers)
    try:
        return _hybrid(unified(layers), rules)
    except CannotUnifyError:
        return (CacheGroup(layers=tuple(promoted(layers))),)


def _check_pages(layers: Sequence[CacheLayer]) -> None:
    """v1/core/kv_cache_utils.py get_kv_cache_config, 0.9 to 0.11, ends in a NotImplementedError without a word."""
    pages = sorted({layer.spec.page for layer in layers})
    if len(pages) > 1:
        raise Refusal(
            "unequal_kv_pages",
            f"NotImplementedError: this version of vLLM has no KV cache for layers whose blocks differ in size "
            f"({', '.join(f'{page:,}' for page in pages)} bytes); 0.12 has",
        )


def promoted(layers: Sequence[CacheLayer]) -> list[CacheLayer]:
    """Windows and chunks stored like full attention, where the model has full attention too."""
    if not any(isinstance(layer.spec, FullSpec) for layer in layers):
        return list(layers)
    full = {layer.spec.block_size for layer in layers if isinstance(layer.spec, FullSpec)}
    block_size = full.pop() if len(full) == 1 else None
    return [
        replace(layer, spec=_as_full(layer.spec, block_size))
        if isinstance(layer.spec, SlidingSpec | ChunkedSpec)
        else layer
        for layer in layers
    ]


def _as_full(spec: Spec, block_size: int | None) -> FullSpec:
    return FullSpec(
        block_size=block_size or spec.block_size,
        token_bytes=spec.token_bytes,
        shape=spec.shape,
        padded=spec.padded,
    )


def _is_uniform(specs: Iterable[Spec]) -> bool:
    return len({spec.uniform_key for spec in specs}) == 1


def unified(layers: Sequence[CacheLayer]) -> list[CacheLayer]:
    """All pages made the size of the largest (unify_kv_cache_spec_page_size)."""
    page = max(layer.spec.page for layer in layers)
    return [layer if layer.spec.page == page else replace(layer, spec=layer.spec.unified(page)) for layer in layers]


def _hybrid(layers: Sequence[CacheLayer], rules: Rules) -> tuple[CacheGroup, ...]:
    """Groups of equally many layers of one kind (_get_kv_cache_groups_uniform_page_size)."""
    buckets: dict[Spec, list[CacheLayer]] = {}
    for layer in layers:
        buckets.setdefault(layer.spec, []).append(layer)
    size = group_size([len(bucket) for bucket in buckets.values()], rules)
    groups = []
    for bucket in buckets.values():
        count = ceil_div(len(bucket), size)
        for i in range(count):
            part = bucket[i::count] if rules.round_robin else bucket[i * size : (i + 1) * size]
            groups.append(CacheGroup(layers=tuple(part)))
    return tuple(groups)


def _packed(layers: Sequence[CacheLayer]) -> tuple[CacheGroup, ...]:
    """One group per kind, split where a kind repeats one pattern of pages (_get_packed_kv_cache_groups)."""
    buckets: dict[tuple[object, ...], dict[int, list[CacheLayer]]] = {}
    for layer in layers:
        buckets.setdefault(layer.spec.uniform_key, {}).setdefault(layer.spec.page, []).append(layer)
    counts = {key: {len(names) for names in pages.values()} for key, pages in buckets.items()}
    repeats = [max(counts[key]) for key in buckets if len(counts[key]) == 1]
    mixed = [max(counts[key]) for key, pages in buckets.items() if len(counts[key]) == 1 and len(pages) > 1]
    size = least_padding(repeats, max(mixed)) if mixed else None
    groups = []
    for key, pages in buckets.items():
        split = ceil_div(max(counts[key]), size) if size is not None and len(counts[key]) == 1 else 1
        if split == 1:
            groups.append(CacheGroup(layers=tuple(layer for page in pages.values() for layer in page)))
            continue
        pattern = list(zip(*pages.values(), strict=True))
        groups += [
            CacheGroup(layers=tuple(layer for repeat in pattern[i::split] for layer in repeat)) for i in range(split)
        ]
    return tuple(groups)


def _layer_tuples(layers: Sequence[CacheLayer]) -> tuple[CacheGroup, ...]:
    """0.20-0.28: DeepSeek-V4's windows padded to the pages of its compressed caches, which come first.

    v1/core/kv_cache_utils.py _get_kv_cache_groups_uniform_groups (0.24).
    """
    whole = [layer for layer in layers if isinstance(layer.spec, MLASpec)]
    sizes = sorted({layer.spec.page for layer in whole})
    buckets: dict[tuple[object, ...], dict[int, list[CacheLayer]]] = {}
    for layer in layers:
        if not isinstance(layer.spec, MLASpec):
            page = min(size for size in sizes if size >= layer.spec.page)
            padded = replace(layer, spec=replace(layer.spec, padded=page))
            buckets.setdefault(layer.spec.uniform_key, {}).setdefault(page, []).append(padded)
    least = max(Counter(layer.spec.page for layer in whole).values())
    size = least_padding([least, *(max(map(len, pages.values())) for pages in buckets.values())], least)
    groups = [CacheGroup(layers=tuple(whole))]
    for pages in buckets.values():
        pattern = list(zip(*pages.values(), strict=True))
        split = ceil_div(len(pattern), size)
        groups += [
            CacheGroup(layers=tuple(layer for repeat in pattern[i::split] for layer in repeat)) for i in range(split)
        ]
    return tuple(groups)


def least_padding(counts: Sequence[int], least: int) -> int:
    """The size from `least` on that pads these counts least; of equals the largest (_approximate_gcd)."""
    sizes = range(least, max(counts) + 1)
    return max(sizes, key=lambda size: (-sum(-count % size for count in counts), size), default=least)


def group_size(counts: Sequence[int], rules: Rules) -> int:
    """Layers in a group: as many as the rarest kind has, or the commonest where that is not much more."""
    least, most = min(counts), max(counts)
    if rules.larger_group is not None:
        numerator, denominator = rules.larger_group
        if most * denominator < least * numerator:
            return most
    return least
