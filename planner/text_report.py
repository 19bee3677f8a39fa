"""An estimate, and how fast its launch is, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.text import printable
from planner.units import GIB

if TYPE_CHECKING:
    from planner.memory.budget import Estimate
    from planner.request import Inputs


def estimate_text(estimate: Estimate, warning: str | None = None) -> str:
    """The verdict first, then where the memory goes, then the KV cache."""
    lines = [_headline(estimate), ""]
    lines += [f"  {reason.message}" + (f"  [{reason.flag}]" if reason.flag else "") for reason in estimate.reasons]
    if estimate.reasons:
        lines.append("")
    lines += _memory_lines(estimate) + _kv_lines(estimate)
    lines += [f"note: {printable(note, 400)}" for note in estimate.model.notes]
    lines += [f"assumed for {term}: {printable(what, 600)}" for term, what in estimate.assumed.items()]
    lines += [f"warning: {text}" for text in (*estimate.warnings, *([warning] if warning else []))]
    return "\n".join(lines).rstrip()


def throughput_text(inputs: Inputs, estimate: Estimate) -> str:
    """How fast the launch serves the workload, what limits it and what it costs; a sentence where nothing is known."""
    from planner.errors import InputError

    try:
        found = inputs.throughput(estimate)
    except InputError as error:
        return f"Speed: {error}"
    if found is None:
        return "Speed: none, the launch does not start or generates nothing"
    point, load = found.point, found.workload
    rate = load.request_rate
    asked = f"{rate:g} requests/s" if rate is not None else f"{point.concurrency:,.0f} at once"
    ranges = {
        figure: f"[{low:,.{digits}f} to {high:,.{digits}f}]"
        for (figure, (low, high)), digits in zip(found.ranges.items(), (0, 1, 0), strict=True)
    }
    lines = [
        f"Speed: {asked}, {load.input_len:,} tokens in, {load.output_len:,} out ({found.speed.basis}; in brackets "
        "where four of five measurements are expected)",
        f"  output {point.output_tokens_per_s:,.0f} tokens/s {ranges['output']}, {found.per_user:,.1f} a request, "
        f"{point.output_tokens_per_s / found.gpus:,.0f} a GPU; with prompts {point.total_tokens_per_s:,.0f}",
        f"  TTFT {point.ttft_ms:,.0f} ms {ranges['ttft']}, p90 {point.ttft_p90_ms:,.0f}"
        + (f", of it in the queue {point.queued_ms:,.0f}" if point.queued_ms >= 1 else ""),
        f"  TPOT {point.tpot_ms:.1f} ms {ranges['tpot']}, p90 {point.tpot_p90_ms:.1f}; "
        f"ITL p50 {point.itl_p50_ms:.1f}, p90 {point.itl_p90_ms:.1f}",
        f"  {point.running:,.0f} run at once; {found.bound_by}",
        f"  the knee: {found.knee.concurrency:,.0f} at once, {found.knee.output_tokens_per_s:,.0f} tokens/s",
    ]
    cost = found.cost_per_million(point.output_tokens_per_s)
    if cost is not None:
        total = found.cost_per_million(point.total_tokens_per_s)
        lines.append(f"  cost per million output tokens {cost:.2f}, per million with prompts {total:.2f}")
    lines += [f"  note: {text}" for text in found.notes]
    return "\n".join(lines)


def _headline(estimate: Estimate) -> str:
    name = printable(estimate.model.name)
    verdict = {"fits": "fits", "does_not_fit": "does not fit", "refused": "is refused by vLLM"}[estimate.status]
    engine = estimate.engine
    if engine is None:
        return f"{name} {verdict} on {estimate.gpu.name}"
    count = engine.gpus_per_replica
    cards = f"{count} x {estimate.gpu.name}" if count > 1 else estimate.gpu.name
    close = f"\n{estimate.verdict}" if estimate.verdict.startswith("too close") else ""
    return f"{name} {verdict} on {cards} (vLLM {engine.vllm_version}, {engine.dtype}){close}"


def _memory_lines(estimate: Estimate) -> list[str]:
    extra, weights = estimate.overhead, estimate.weights
    if extra is None or weights is None:
        return []
    rank, basis = estimate.ranks[estimate.tightest], estimate.basis
    lines = ["Memory per GPU, GiB"]
    if estimate.gpu.memory_bytes is not None:
        how = f"{estimate.gpu.memory_basis}: {estimate.gpu.memory_note}"
        lines.append(_row("GPU memory as vLLM sees it", estimate.gpu.memory_bytes, how))
    if estimate.requested_bytes is not None and estimate.engine is not None:
        share = f"utilization {estimate.engine.gpu_memory_utilization:g}"
        lines.append(_row("requested", estimate.requested_bytes, share))
    rows = [
        ("weights (model loading)", rank.loading_bytes, basis.get("weights", "")),
        ("peak activation", extra.activation_peak, basis.get("activation_peak", "")),
        ("engine buffers", extra.persistent, basis.get("activation_peak", "")),
        ("non-torch", extra.non_torch, basis.get("non_torch", "")),
        ("CUDA graphs", extra.cuda_graph, basis.get("cuda_graph", "")),
    ]
    lines += [_row(name, size, how) for name, size, how in rows if size]
    how = basis.get("available_kv", "")
    low, high = estimate.available_range or (0, 0)
    if low != high:
        how += f", expected {_gib(low)} to {_gib(high)}"
    lines.append(_row("available for KV cache", rank.available_kv_bytes, how))
    if estimate.offloaded_bytes:
        lines.append(_row("weights kept in host memory", estimate.offloaded_bytes, "--cpu-offload-gb"))
    if estimate.outside_budget_bytes:
        lines.append(_row("used beyond the requested share", estimate.outside_budget_bytes, "CUDA graphs, buffers"))
    lines.append(f"  weights: {weights.tensor_bytes:,} bytes per GPU")
    return [*lines, ""]


def _kv_lines(estimate: Estimate) -> list[str]:
    kv = estimate.kv_cache
    if kv is None or not estimate.fits:
        return []
    backend = f", {kv.attention_backend}" if kv.attention_backend else ""
    return [
        f"GPU KV cache size: {kv.tokens:,} tokens, Maximum concurrency for {kv.max_model_len:,} tokens per request: "
        f"{kv.max_concurrency:.2f}x",
        f"  {kv.num_blocks:,} blocks of {kv.block_size} tokens, {kv.bytes_per_block:,} bytes each "
        f"(KV cache {kv.kv_cache_dtype}{backend})",
        f"  one full-length request takes {_gib(kv.bytes_for_one_request)} GiB",
    ]


def _row(name: str, size: int, how: str) -> str:
    return f"  {name:<30}{_gib(size):>9}   {how}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
