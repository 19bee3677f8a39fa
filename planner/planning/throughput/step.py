"""One step of the engine: some requests decode a token each, and a chunk of a prompt may be computed beside them.

Each group of operations takes the longer of reading its weights and computing; groups, collectives and the gaps between
kernels follow one another. Outside CUDA graphs the host launches every kernel, which widens the gaps; with a piece of a
prompt, graphs are piecewise and the host launches attention.
All functions broadcast over numpy arrays. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.planning.throughput.rates import Rates
from planner.planning.throughput.work import Numbers, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Where a step's time goes."""

    weights: Array
    """Reading weights, in groups where that takes longer than computing."""
    kv: Array
    """Reading KV cache and recurrent state."""
    compute: Array
    communication: Array
    overhead: Array
    """Gaps between kernels, launches, the scheduler and the sampler."""

    @property
    def total(self) -> Array:
        """Seconds of the whole step."""
        return self.weights + self.kv + self.compute + self.communication + self.overhead


def distinct_share(share: Numbers, tokens: Numbers) -> Array:
    """The expected part of the experts that so many tokens touch, when each goes through `share` of them evenly."""
    return np.asarray(1.0 - np.power(1.0 - np.minimum(share, 1.0 - 1e-12), tokens))


def _busiest(work: Work, mean: Array, variance: Array) -> Array:
    """Of a quantity an expert has, what an expert of the busiest rank has on average, when routing is random."""
    return np.asarray(mean + work.expert_excess * np.sqrt(variance / work.rank_experts))


def step_time(
    work: Work,
    rates: Rates,
    *,
    decoding: Numbers,
    context: Numbers,
    chunk: Numbers = 0.0,
    chunk_context: Numbers = 0.0,
) -> StepTime:
    """decoding: requests that get one token, at `context` tokens each. chunk: prompt tokens, at their mean context."""
    tokens = np.asarray(decoding + chunk, dtype=float)
    together = tokens * work.expert_replicas
    # The rank with most to do keeps the others waiting.
    touched = distinct_share(work.expert_share, together)
    experts = work.expert_bytes * np.minimum(_busiest(work, touched, touched * (1.0 - touched)), 1.0)
    rows = work.expert_share * together
    expert_tokens = together * _busiest(work, rows, rows) / rows
    # A head computes one row a request, and one for a prompt that ends in this step.
    heads = decoding + np.minimum(chunk, 1.0)
    reads = (
        (work.attention_bytes / rates.attention_bandwidth, work.attention_flops * tokens / rates.attention_flops),
        (work.mlp_bytes / rates.mlp_bandwidth, work.mlp_flops * tokens / rates.mlp_flops),
        (work.head_bytes / rates.head_bandwidth, work.head_flops * heads / rates.head_flops),
        (
            experts / np.minimum(rates.expert_bandwidth, rates.expert_unpacking),
            work.expert_flops * expert_tokens / rates.expert_flops,
        ),
    )
    weights = sum((np.where(read >= compute, read, 0.0) for read, compute in reads), np.zeros(()))
    compute = sum((np.where(read >= compute, 0.0, compute) for read, compute in reads), np.zeros(()))
    kv, pairs = _decode_attention(work, rates, decoding, context)
    compute = compute + pairs + _prefill_attention(work, rates, chunk, chunk_context)
    communication = _communication(work, rates, tokens)
    gaps = (
        work.layers * rates.layer
        + work.expert_layers * rates.expert_layer
        + work.state_layers * rates.state_layer
        + work.latent_layers * rates.latent_layer
    )
    launched = work.layers * np.where(
        tokens > rates.graph_tokens, rates.launch, np.where(chunk > 0.0, rates.piecewise, 0.0)
    )
    host = rates.step + rates.sequence * decoding
    return StepTime(
        weights=np.asarray(weights),
        kv=np.asarray(kv),
        compute=np.asarray(compute),
        communication=np.asarray(communication),
        overhead=np.asarray(gaps + launched + host),
    )


def _decode_attention(work: Work, rates: Rates, decoding: Numbers, context: Numbers) -> tuple[Array, Array]:
    """(seconds of reading, seconds of computing beyond it)."""
    seen = np.minimum(context, work.window)
    nbytes = decoding * (work.kv_full * context + work.kv_window * seen + 2.0 * work.state_bytes)
    flops = decoding * (work.pair_full * context + work.pair_window * seen)
    read, compute = nbytes / rates.kv_bandwidth, flops / rates.pair_flops
    return np.where(read >= compute, read, 0.0), np.where(read >= compute, 0.0, compute)


def _prefill_attention(work: Work, rates: Rates, chunk: Numbers, context: Numbers) -> Array:
    flops = chunk * (work.prefill_full * context + work.prefill_window * np.minimum(context, work.window))
    return np.asarray(flops / rates.pair_flops)


def _communication(work: Work, rates: Rates, tokens: Array) -> Array:
    """Ring all-reduces of every token's hidden state, all-to-alls of the experts' tokens, a send between stages."""
    size = work.hidden_bytes * tokens
    reduce = rates.link_latency + 2.0 * (work.tp - 1.0) / work.tp * size / rates.link_bandwidth
    exchange = rates.link_latency + size / rates.link_bandwidth
    hops = (work.pp - 1.0) * exchange
    return np.asarray(work.reduces * reduce + work.exchanges * exchange + hops)
