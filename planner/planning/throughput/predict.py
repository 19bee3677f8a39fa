"""An estimate and a workload in, a Throughput out."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from planner.memory.kv_cache import concurrency_curve
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from planner.planning.throughput.steady import Limits

if TYPE_CHECKING:
    from planner.memory.budget import Estimate
    from planner.request import Inputs


def limits_of(inputs: Inputs, estimate: Estimate, mean_len: float) -> Limits:
    """What one replica runs at once at this mean number of tokens a request holds."""
    engine = estimate.engine
    assert engine is not None
    return Limits(
        max_num_seqs=float(engine.max_num_seqs),
        max_num_batched_tokens=float(engine.max_num_batched_tokens),
        fits=requests_that_fit(inputs, estimate, mean_len),
    )


def requests_that_fit(inputs: Inputs, estimate: Estimate, mean_len: float) -> float:
    """Requests of this length that the KV cache holds at once; infinite where nothing is cached."""
    engine, quant = estimate.engine, inputs.quantization
    if engine is None or estimate.kv_cache is None or not estimate.kv_cache.groups:
        return inf
    own = checkpoint_kv_dtype(quant.parameters, engine.vllm_version) if quant is not None else None
    room = [rank.available_kv_bytes for rank in estimate.ranks]
    length = max(1, round(mean_len))
    points = concurrency_curve(estimate.model, engine, inputs.gpu, room, [length], checkpoint_kv_dtype=own)
    return points[0][2] if points else inf
