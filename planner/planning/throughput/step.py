"""One step of the engine: some requests decode a token each, and a chunk of a prompt may be computed beside them.

Each group of operations takes the longer of reading its weights and computing; on CPUs the root of the sum of their
squares, within 15 % of which vLLM's kernels mostly lie, where they take up to half as long again as the longer. Groups,
collectives and the gaps between kernels follow one another. Outside CUDA graphs the host launches every kernel, which
widens the gaps; with a piece of a prompt, graphs are piecewise and the host launches attention.
All functions take floats or numpy arrays, over which they broadcast. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.planning.throughput.elementwise import maximum, minimum, power, sqrt, where
from planner.planning.throughput.rates import Rates
from planner.planning.throughput.work import Numbers, Work


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Where a step's time goes."""

    weights: Numbers
    """Reading weights, in groups where that takes longer than computing."""
    kv: Numbers
    """Reading KV cache and recurrent state."""
    compute: Numbers
    communication: Numbers
    overhead: Numbers
    """Gaps between kernels, launches, the scheduler and the sampler."""

    @property
    def total(self) -> Numbers:
        """Seconds of the whole step."""
        return self.weights + self.kv + self.compute + self.communication + self.overhead


def distinct_share(share: Numbers, tokens: Numbers) -> Numbers:
    """The expected part of the experts that so many tokens touch, when each goes through `share` of them evenly."""
    left: Numbers = power(1.0 - minimum(share, 1.0 - 1e-12), tokens)
    return 1.0 - left


def _busiest(work: Work, mean: Numbers, variance: Numbers) -> Numbers:
    """Of a quantity an expert has, what an expert of the busiest rank has on average, when routing is random."""
    excess: Numbers = work.expert_excess * sqrt(variance / work.rank_experts)
    return mean + excess


def _computed(work: Work, rates: Rates, rows: Numbers, touched: Numbers) -> Numbers:
    """Rows that an expert of the busiest rank computes, of which it has `rows` on average: whole tiles. Kernels choose
    tiles near the rows there are, up to a largest (moe_align_block_size and get_default_config, vLLM 0.32.0)."""
    busiest = _busiest(work, rows, rows)
    return busiest + minimum(busiest, touched * rates.expert_tile)


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
    tokens = decoding + chunk
    together = tokens * work.expert_replicas
    # The rank with most to do keeps the others waiting.
    touched = distinct_share(work.expert_share, together)
    experts = work.expert_bytes * minimum(_busiest(work, touched, touched * (1.0 - touched)), 1.0)
    rows = work.expert_share * together
    expert_tokens = together * _computed(work, rates, rows, touched) / rows
    # A head computes one row a request, and one for a prompt that ends in this step.
    heads = decoding + minimum(chunk, 1.0)
    reads = (
        (work.attention_bytes / rates.attention_bandwidth, work.attention_flops * tokens / rates.attention_flops),
        (work.mlp_bytes / rates.mlp_bandwidth, work.mlp_flops * tokens / rates.mlp_flops),
        (work.head_bytes / rates.head_bandwidth, work.head_flops * heads / rates.head_flops),
        (
            experts / minimum(rates.expert_bandwidth, rates.expert_unpacking),
            work.expert_flops * expert_tokens / rates.expert_flops,
        ),
    )
    times = [(read >= compute, _product(rates, read, compute)) for read, compute in reads]
    weights = sum((where(is_read, seconds, 0.0) for is_read, seconds in times), 0.0)
    compute = sum((where(is_read, 0.0, seconds) for is_read, seconds in times), 0.0)
    kv, pairs = _decode_attention(work, rates, decoding, context)
    compute = compute + pairs + _prefill_attention(work, rates, chunk, chunk_context)
    communication = _communication(work, rates, tokens)
    gaps = (
        work.layers * rates.layer
        + work.expert_layers * (rates.expert_layer + rates.expert_backend)
        + work.state_layers * rates.state_layer
        + work.latent_layers * rates.latent_layer
    )
    graphed = where(chunk > 0.0, rates.piecewise, rates.decode_launch)
    launched = work.layers * where(tokens > rates.graph_tokens, rates.launch, graphed)
    host = rates.step + rates.sequence * decoding
    return StepTime(
        weights=weights,
        kv=kv,
        compute=compute,
        communication=communication,
        overhead=gaps + launched + host,
    )


def _product(rates: Rates, read: Numbers, compute: Numbers) -> Numbers:
    """Seconds of products that read and compute so long each."""
    longer = maximum(read, compute)
    return longer + rates.interference * (sqrt(read * read + compute * compute) - longer)


def _decode_attention(work: Work, rates: Rates, decoding: Numbers, context: Numbers) -> tuple[Numbers, Numbers]:
    """(seconds of reading, seconds of computing beyond it)."""
    seen = minimum(context, work.window)
    nbytes = decoding * (work.kv_full * context + work.kv_window * seen + 2.0 * work.state_bytes)
    flops = decoding * (work.pair_full * context + work.pair_window * seen)
    read, compute = nbytes / rates.kv_bandwidth, flops / rates.pair_flops
    return where(read >= compute, read, 0.0), where(read >= compute, 0.0, compute)


def _prefill_attention(work: Work, rates: Rates, chunk: Numbers, context: Numbers) -> Numbers:
    flops = chunk * (work.prefill_full * context + work.prefill_window * minimum(context, work.window))
    return flops / rates.pair_flops


def _communication(work: Work, rates: Rates, tokens: Numbers) -> Numbers:
    """All-reduces of every token's hidden state, all-to-alls of the experts' tokens, a send between stages.

    A small all-reduce goes in one step, each rank reading all others'; a large one in two, each reducing a part
    (cross_device_reduce_1stage and _2stage, csrc/custom_all_reduce.cuh, vLLM 0.11.0).
    """
    seconds = work.hidden_bytes * tokens / rates.link_bandwidth
    once = rates.link_latency + (work.tp - 1.0) * seconds
    twice = 2.0 * rates.link_latency + 2.0 * (work.tp - 1.0) / work.tp * seconds
    reduce = minimum(once, twice)
    exchange = rates.link_latency + seconds
    hops = (work.pp - 1.0) * exchange
    norms = work.norm_reduces * rates.link_latency
    return work.reduces * reduce + norms + work.exchanges * exchange + hops
