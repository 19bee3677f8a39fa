"""Which rule of KV cache planning holds in which vLLM version: one entry per change, read from the wheels themselves.

Sources: v1/core/kv_cache_utils.py (kv_cache_planning.py in 0.33), v1/kv_cache_interface.py, v1/engine/core.py of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from planner.engine.version import VllmVersion


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How one version plans. The defaults are those of the oldest version known."""

    tokens: Literal["blocks", "groups", "concurrency"] = "blocks"
    """Printed "KV cache size": blocks x block size; the same divided by the groups; concurrency x max_model_len."""
    concurrency: Literal["tokens", "blocks"] = "tokens"
    """Tokens / max_model_len, or blocks / blocks of one request."""
    length_check: Literal["tokens", "bytes"] = "tokens"
    """0.6, 0.7 (V0): max_model_len against the tokens that the blocks hold; then bytes against bytes."""
    hybrid: bool = False
    """Groups of layers that share one pool; before, sliding windows are stored like full attention."""
    mixed_full: bool = False
    """Layers that differ in page size but not in kind form one group."""
    unify_pages: bool = False
    """Smaller pages are made larger to match; before, unequal pages are refused."""
    round_robin: bool = False
    """Layers are dealt out to the groups of their kind instead of cut into runs."""
    larger_group: tuple[int, int] | None = None
    """The larger kind's layer count becomes the group size below this ratio to the smaller one's (3, 2): 1.5."""
    padding_needed: bool = False
    """What one request needs counts the padding of short groups."""
    concurrent_batches: bool = False
    """Windows are charged for every batch in flight, not for one."""
    auto_fit: bool = False
    """max_model_len "auto"."""
    null_block: bool = False
    """One block is held back when checking whether a request fits."""
    override_in_check: bool = False
    """num_gpu_blocks_override replaces the memory in the length check too."""
    wording: str = "0.6"
    """Which sentences of planner.memory.kv_cache.messages."""


_CHANGES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((0, 8), {"length_check": "bytes", "wording": "0.8"}),
    (
        (0, 9),
        {"hybrid": True, "tokens": "groups", "concurrency": "blocks", "wording": "0.9"},
    ),
    ((0, 11), {"mixed_full": True, "round_robin": True}),
    ((0, 12), {"unify_pages": True, "larger_group": (5, 4)}),
    ((0, 14), {"padding_needed": True, "auto_fit": True, "wording": "0.14"}),
    ((0, 18), {"larger_group": (3, 2)}),
    ((0, 20), {"override_in_check": True}),
    ((0, 21), {"tokens": "concurrency"}),
    ((0, 24), {"wording": "0.24"}),
    ((0, 26), {"concurrent_batches": True}),
    ((0, 29), {"null_block": True}),
)
"""(first version, what it changed)."""


@cache
def rules(version: VllmVersion) -> Rules:
    found = Rules()
    for since, changed in _CHANGES:
        if version >= since:
            found = replace(found, **changed)
    return found
