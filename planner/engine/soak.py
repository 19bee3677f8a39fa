"""What a load that was kept up for a while did to an engine: errors, preemptions, slower answers, growing memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from planner.units import gib

LATENCY_DRIFT = 0.20
"""Answers of the last third may take so much longer than those of the first before it is called a drift."""
MEMORY_GROWTH = 0.05
"""Likewise memory: the share by which the last third of the time may need more than the second."""
PREEMPTED = 0.01
"""Preemptions, as a share of requests, from which on the KV cache is called too small for the load."""


@dataclass(frozen=True, kw_only=True)
class SoakResult:
    """Measured over one soak. Milliseconds and bytes."""

    concurrency: int
    seconds: float
    requests: int
    failed: int
    errors: tuple[str, ...]
    """Different ones, at most five."""
    preemptions: int
    kv_cache_usage: float
    output_tokens_per_s: float
    e2e_p50_ms: tuple[float, float, float]
    """Of the requests begun in the first, second and last third."""
    rss: tuple[int, int, int]
    """Median in each third."""
    devices: tuple[int, int, int] | None
    """Of all visible GPUs together."""

    @property
    def findings(self) -> tuple[str, ...]:
        """What is wrong, a sentence each; nothing where the engine held."""
        found = []
        if self.failed:
            told = f": {self.errors[0]}" if self.errors else ""
            found.append(f"{self.failed} of {self.requests} requests failed{told}")
        if self.preemptions > PREEMPTED * self.requests:
            found.append(
                f"{self.preemptions} preemptions in {self.requests} requests: the KV cache is too small for "
                f"{self.concurrency} at once"
            )
        first, _, last = self.e2e_p50_ms
        if first and last > (1 + LATENCY_DRIFT) * first:
            found.append(f"answers became slower: median {first:,.0f} ms at first, {last:,.0f} ms at last")
        for what, thirds in (("host memory", self.rss), ("GPU memory", self.devices)):
            # The first third still fills caches and pools.
            if thirds is not None and thirds[2] > (1 + MEMORY_GROWTH) * thirds[1] > 0:
                found.append(f"{what} grew from {gib(thirds[1])} to {gib(thirds[2])} GiB")
        return tuple(found)

    @property
    def held(self) -> bool:
        """Whether nothing grew, slowed down or failed."""
        return not self.findings

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> SoakResult:
        """From a detailed result of `vllm bench serve`, and what was seen meanwhile."""
        result, samples = event["result"], event["memory"]
        requests = int(result["num_prompts"])
        times = result.get("start_times") or range(requests)  # older versions only keep their order
        begun = sorted(zip(times, _latencies(result), result["errors"], strict=True))
        latencies = [1000 * seconds for _, seconds, error in begun if not error]
        devices = [sum(sample["devices"]) for sample in samples if sample["devices"] is not None]
        return cls(
            concurrency=int(result["max_concurrency"]),
            seconds=float(result["duration"]),
            requests=requests,
            failed=requests - int(result["completed"]),
            errors=tuple(dict.fromkeys(error[-300:] for error in result["errors"] if error))[:5],
            preemptions=event["preemptions"],
            kv_cache_usage=event["kv_cache_usage"],
            output_tokens_per_s=float(result["output_throughput"]),
            e2e_p50_ms=_thirds(latencies),
            rss=_whole(_thirds([sample["rss"] for sample in samples])),
            devices=_whole(_thirds(devices)) if devices else None,
        )


def _latencies(result: Mapping[str, Any]) -> list[float]:
    """Seconds from a request's start to its last token."""
    return [ttft + sum(gaps) for ttft, gaps in zip(result["ttfts"], result["itls"], strict=True)]


def _thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """The median of each third, in order; of fewer than three values, zeros."""
    size = len(values) // 3
    if not size:
        return (0.0, 0.0, 0.0)
    return (median(values[:size]), median(values[size : 2 * size]), median(values[-size:]))


def _whole(values: tuple[float, float, float]) -> tuple[int, int, int]:
    first, second, third = (round(value) for value in values)
    return (first, second, third)
