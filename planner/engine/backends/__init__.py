"""Which attention backend vLLM chooses for a layer, which block sizes it takes, and which --kv-cache-dtype is legal.

Mirrors platforms/cuda.py _get_backend_priorities and get_attn_backend_cls (0.33). backend.py: what can be asked of one;
table.py: all of them, an entry each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import lcm

from planner.engine.backends.backend import Backend, Query
from planner.engine.backends.table import BACKENDS
from planner.engine.version import VllmVersion
from planner.errors import Refusal

__all__ = ["BACKENDS", "Backend", "Query", "check_layouts", "common_block_size", "distinct", "old_block_size", "select"]


def priorities(query: Query) -> tuple[str, ...]:
    """Backends in vLLM's order of preference (platforms/cuda.py _get_backend_priorities, 0.33)."""
    if not query.mla:
        if query.major == 10:
            order = ("FLASHINFER", "FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "TURBOQUANT")
            return ("TRITON_FLASHINFER", *order) if query.mm_prefix else order
        order = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION", "TURBOQUANT")
        return ("TRITON_FLASH_ATTN", *order) if query.mm_prefix and query.major == 9 else order
    if query.major == 10:
        return (
            "FLASHINFER_MLA",
            "TOKENSPEED_MLA",
            "CUTLASS_MLA",
            "FLASH_ATTN_MLA",
            "FLASHMLA",
            "TRITON_MLA",
            *_sparse_on_blackwell(query),
        )
    if query.major == 12:
        return ("TRITON_MLA", "FLASHINFER_MLA_SPARSE_SM120")
    tail = ("FLASH_ATTN_MLA_SPARSE", "FLASHMLA_SPARSE")
    other = ("FLASHINFER_MLA_SPARSE_SM90",)
    dense = ("FLASH_ATTN_MLA", "FLASHMLA", "FLASHINFER_MLA", "TRITON_MLA")
    return (*dense, *other, *tail) if query.head_size == 512 else (*dense, *tail, *other)


def _sparse_on_blackwell(query: Query) -> tuple[str, ...]:
    if query.quantized:
        return ("FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE")
    if query.heads <= 16:
        return ("FLASH_ATTN_MLA_SPARSE_FA4", "FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE")
    return ("FLASHMLA_SPARSE", "FLASHINFER_MLA_SPARSE")


def select(query: Query, wanted: str | None = None) -> Backend:
    """The backend that serves this layer; Refusal with vLLM's sentence where none does."""
    if wanted is not None and wanted in BACKENDS:
        reasons = BACKENDS[wanted].reasons(query)
        if reasons:
            raise Refusal(
                "attention_backend_invalid",
                f"Selected backend AttentionBackendEnum.{wanted} is not valid for this configuration. "
                f"Reason: {reasons}",
                "--attention-backend",
            )
        return _built(BACKENDS[wanted], query)
    refused: dict[str, list[str]] = {}
    for name in priorities(query):
        reasons = BACKENDS[name].reasons(query)
        if not reasons:
            return _built(BACKENDS[name], query)
        refused[name] = reasons
    listed = ", ".join(f"{name}: [{', '.join(reasons)}]" for name, reasons in refused.items())
    raise Refusal(
        "no_attention_backend",
        f"No valid attention backend found for cuda with {_config(query)}. Reasons: {{{listed}}}.",
        "--kv-cache-dtype" if query.quantized else None,
    )


def _built(backend: Backend, query: Query) -> Backend:
    refusal = backend.implementation(query)
    if refusal is not None:
        raise Refusal("kv_cache_dtype_needs_capability", refusal, "--kv-cache-dtype")
    return backend


def _config(query: Query) -> str:
    """AttentionSelectorConfig as vLLM prints it."""
    return (
        f"AttentionSelectorConfig(head_size={query.head_size}, dtype=torch.{query.dtype}, "
        f"kv_cache_dtype={query.kv_cache_dtype}, block_size={query.block_size}, use_mla={query.mla}, "
        f"has_sink={query.sinks}, use_sparse={query.sparse}, use_mm_prefix={query.mm_prefix}, "
        "use_per_head_quant_scales=False, attn_type=AttentionType.DECODER, "
        f"has_sliding_window={query.sliding_window}, use_non_causal=False, use_batch_invariant=False, "
        "use_kv_connector=False, use_adaptive_verification=False, use_pcp=False, "
        f"use_dcp={query.dcp > 1}, use_rswa=False)"
    )


def common_block_size(chosen: Sequence[tuple[Backend, Query]], default: int) -> int:
    """The smallest block size that every backend takes (platforms/interface.py, 0.33)."""
    if len(chosen) == 1:
        backend, query = chosen[0]
        return backend.preferred_block_size(query, default)
    if all(backend.takes_block_size(query, default) for backend, query in chosen):
        return default
    candidates = sorted({lcm(*sizes) for sizes in product(*(b.block_sizes(q) for b, q in chosen))})
    for size in candidates:
        if all(backend.takes_block_size(query, size) for backend, query in chosen):
            return size
    raise Refusal("no_common_block_size", "The attention backends share no supported KV cache block size.", None)


def check_layouts(chosen: Sequence[tuple[Backend, Query]]) -> None:
    """Refusal where a model's backends share no KV cache layout (get_supported_kv_cache_layouts, 0.33)."""
    lists = [layouts for backend, query in chosen if (layouts := backend.layouts(query)) is not None]
    if lists and not set.intersection(*map(set, lists)):
        listed = [list(layouts) for layouts in lists]
        raise Refusal(
            "no_common_kv_layout",
            f"No KV cache layout satisfies every supported set: {listed}.",
            "--kv-cache-dtype",
        )


def old_block_size(version: VllmVersion, capability: int, given: int, *, mla: bool, sparse: bool) -> int:
    """Before 0.18 a table set the block size for MLA (platforms/cuda.py check_and_update_config)."""
    if not mla or version < (0, 8):
        return given
    if sparse:
        return 64
    major = capability // 10
    if major == 10 and version >= (0, 10):
        return given if given % 128 == 0 else 128
    return given if major != 9 or given % 64 == 0 else 64


def distinct(chosen: Iterable[tuple[Backend, Query]]) -> list[tuple[Backend, Query]]:
    """One entry per backend, in layer order, asked for the largest head, as a model's own head size is."""
    found: dict[str, tuple[Backend, Query]] = {}
    for backend, query in chosen:
        known = found.get(backend.name)
        if known is None or query.head_size > known[1].head_size:
            found[backend.name] = (backend, query)
    return list(found.values())
