"""Which rule of KV cache planning holds in which vLLM version: one entry per change, read from the wheels themselves.

Sources: v1/core/kv_cache_utils.py (kv_cache_planning.py in 0.33), v1/kv_cache_interface.py, v1/engine/core.py of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from planner.engine.version import VllmVersion

CONVERT = "Hybrid KV cache manager is disabled but failed to convert the KV cache specs to one unified type."
PROMOTE = "Failed to promote local KV cache specs to one unified type."


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How one version plans. The defaults are those of the oldest version known."""

    tokens: Literal["blocks", "groups", "concurrency"] = "blocks"
    """Printed "KV cache size": blocks x block size; the same divided by the groups; concurrency x max_model_len."""
    concurrency: Literal["tokens", "blocks"] = "tokens"
    """Tokens / max_model_len, or blocks / blocks of one request."""
    length_check: Literal["tokens", "bytes"] = "tokens"
    """0.6, 0.7 (V0): max_model_len against the tokens that the blocks hold; then bytes against bytes."""
    everything_full: bool = True
    """0.6, 0.7 (V0): every attention layer is stored like full attention."""
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
    hybrid_by_backend: bool = False
    """Block sizes of Mamba hybrids follow the attention backend; before, multiples of 16 (MLA: 64)."""
    hybrid_mla_alignment: int = 1
    """What the block size of an MLA hybrid is at least a multiple of."""
    hybrid_every_backend: bool = False
    """… and a multiple of the smallest block of every backend."""
    mamba_modes: tuple[str, ...] = ("none",)
    """mamba_cache_mode values: "none"; with prefix caching "all" (a state per block) or "align" (two, and drafts)."""
    mamba_all_first: bool = False
    """Models that can take "all" do so by default."""
    mamba2_checkpoint: bool = False
    """Mamba 2 holds one more block, for a state exported from inside a prefill."""
    gdn_checkpoint: bool = False
    """Gated delta net too, on FlashInfer, and blocks become multiples of 64."""
    common_block_size: bool = False
    """All backends of a model agree on a block size; before, the first layer's decided."""
    window_blocks: bool = False
    """Sliding-window layers choose a kernel block of their own."""
    backend_block_size: bool = False
    """The attention backend decides the block size; before, a table for MLA."""
    mixed_dtypes: bool = False
    """Blocks grow where layers of several KV dtypes share a pool."""
    layer_tuples: bool = False
    """DeepSeek-V4: a block has room for every page size apart, and requests are counted in bytes of the first group."""
    common_layout: bool = False
    """All backends must share a KV cache layout."""
    not_uniform: str = CONVERT
    """Where a model cannot do without the hybrid manager."""
    wording: str = "0.6"
    """Which sentences of planner.memory.kv_cache.messages."""


_CHANGES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((0, 8), {"length_check": "bytes", "everything_full": False, "wording": "0.8"}),
    ((0, 9), {"hybrid": True, "tokens": "groups", "concurrency": "blocks", "wording": "0.9"}),
    ((0, 11), {"mixed_full": True, "round_robin": True, "mamba_modes": ("none", "all")}),
    ((0, 12), {"unify_pages": True, "larger_group": (5, 4)}),
    ((0, 14), {"padding_needed": True, "auto_fit": True, "wording": "0.14"}),
    ((0, 15), {"mamba_modes": ("none", "align", "all"), "mamba_all_first": True}),
    ((0, 18), {"larger_group": (3, 2), "backend_block_size": True}),
    ((0, 20), {"hybrid_by_backend": True, "layer_tuples": True}),
    ((0, 21), {"tokens": "concurrency", "override_in_check": True}),
    ((0, 22), {"wording": "0.24"}),
    ((0, 25), {"window_blocks": True, "mixed_dtypes": True}),
    ((0, 26), {"concurrent_batches": True}),
    ((0, 27), {"hybrid_mla_alignment": 128, "not_uniform": PROMOTE}),
    ((0, 28), {"mamba_all_first": False}),
    ((0, 29), {"null_block": True, "layer_tuples": False}),
    ((0, 30), {"common_layout": True}),
    ((0, 31), {"common_block_size": True}),
    ((0, 32), {"hybrid_every_backend": True, "mamba2_checkpoint": True, "mamba_modes": ("none", "align")}),
    ((0, 33), {"gdn_checkpoint": True}),
)
"""(first version, what it changed)."""


@cache
def rules(version: VllmVersion) -> Rules:
    """What a version of vLLM does: the oldest rules and what each version up to it changed."""
    found = Rules()
    for since, changed in _CHANGES:
        if version >= since:
            found = replace(found, **changed)
    return found
