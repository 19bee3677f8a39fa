"""Continuous batching in a steady state: what runs at once, how often a prompt is computed beside it, what waits.

A closed loop: `concurrency` clients each send a request when their last one is done. Little's law then ties throughput
to latency: requests/s = concurrency / (TTFT + output tokens x TPOT). All functions take floats or numpy
arrays, over which they broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from planner.planning.throughput.elementwise import ceil, exp, isfinite, maximum, minimum, sqrt, where
from planner.planning.throughput.rates import Rates
from planner.planning.throughput.step import StepTime, step_time
from planner.planning.throughput.work import Numbers, Work

_P90 = 1.28
"""Standard deviations from the mean; for an exponential wait that comes only sometimes it is near the truth too."""
_ROUNDS = 6
"""Of the fixed point between the batch that decodes and the time of a step; more change nothing visible."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What clients ask of one replica. Lengths in tokens."""

    concurrency: Numbers
    input_len: Numbers
    output_len: Numbers
    cached: Numbers = 0.0
    """The share of a prompt that prefix caching saves."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the engine allows on one replica."""

    max_num_seqs: Numbers
    max_num_batched_tokens: Numbers
    fits: Numbers
    """Requests of the load's mean length that the KV cache holds at once."""


@dataclass(frozen=True, kw_only=True)
class Steady:
    """The steady state of one replica. Seconds."""

    running: Numbers
    """Requests admitted at once."""
    ttft: Numbers
    queued: Numbers
    """The part of TTFT spent waiting for a place."""
    ttft_p90: Numbers
    tpot: Numbers
    tpot_p90: Numbers
    itl_p90: Numbers
    requests_per_s: Numbers
    mixed_share: Numbers
    """The share of steps that compute a part of a prompt."""
    decode: StepTime
    mixed: StepTime


@dataclass(frozen=True, kw_only=True)
class _Mean:
    """A mean step while so many requests decode."""

    decode: StepTime
    mixed: StepTime
    share: Numbers
    seconds: Numbers


def steady(work: Work, rates: Rates, limits: Limits, load: Load) -> Steady:
    """The steady state; `concurrency` of 1 is a single stream."""
    concurrency = load.concurrency
    output = load.output_len
    prompt = maximum(load.input_len * (1.0 - load.cached), 1.0)
    running = minimum(minimum(concurrency, limits.max_num_seqs), maximum(limits.fits, 1.0))
    # While each decoding request gets a token in a step, prompts get what is left of the step's tokens.
    most = limits.max_num_batched_tokens * work.pp / (1.0 + prompt / output)
    decoding = minimum(running, most)
    rate: Numbers = 0.0
    others = maximum(running - 1.0, 0.0)
    beside = others * decoding / running
    mean = _mean_step(work, rates, limits, load, minimum(1.0 + beside, most), prompt, rate, rate)
    for _ in range(_ROUNDS):
        own, each = _prefill_times(work, rates, limits, load, beside, prompt)
        busy = output * mean.seconds
        ahead = _waiting(own, busy, others * each) + rates.crowd * others * each
        latest = minimum(running / (ahead + busy), most / busy)
        rate = where(rate > 0.0, sqrt(rate * latest), latest)
        decoding = minimum(rate * busy, most)
        # A request that decodes or arrives sees itself and what others do (the arrival theorem), not the mean.
        beside = others * decoding / running
        seen = minimum(1.0 + beside, most)
        mean = _mean_step(work, rates, limits, load, seen, prompt, rate * others / running, each)
    tpot = mean.seconds
    service = ahead + (output - 1.0) * tpot
    # Where prompts cannot keep up, as many requests as tokens fit into a step decode, and the others wait.
    service = where(decoding < most, service, maximum(service, running * tpot * output / most))
    rate = running / (service + rates.first_token)
    queued = maximum(concurrency - running, 0.0) / rate
    saturated = service - (output - 1.0) * tpot
    residual = where(running > 1.0, 0.5 * tpot, 0.0)
    ttft = rates.first_token + residual + saturated + queued
    crowded = maximum(saturated - own, 0.0)
    delta = mean.mixed.total - mean.decode.total
    spread = _P90 * delta * sqrt(mean.share / maximum(output, 1.0))
    return Steady(
        running=running,
        ttft=ttft,
        queued=queued,
        ttft_p90=ttft + _P90 * _deviation(mean.share, crowded, queued, residual, concurrency - running),
        tpot=tpot,
        tpot_p90=tpot + spread,
        itl_p90=where(mean.share >= 0.1, mean.mixed.total, mean.decode.total),
        requests_per_s=rate,
        mixed_share=mean.share,
        decode=mean.decode,
        mixed=mean.mixed,
    )


def _mean_step(
    work: Work,
    rates: Rates,
    limits: Limits,
    load: Load,
    decoding: Numbers,
    prompt: Numbers,
    prompts_per_s: Numbers,
    each: Numbers,
) -> _Mean:
    """The mean of steps with and without a piece of others' prompts, of which `prompts_per_s` arrive.

    As long as they are few they arrive in no order (Poisson); when the queue for prompts hardly empties, the share of
    the time that it holds one decides: `each` is the seconds a prompt then takes.
    """
    batch = decoding / work.pp
    room = maximum(limits.max_num_batched_tokens - batch, 1.0)
    context = load.input_len + load.output_len / 2.0
    decode = step_time(work, rates, decoding=batch, context=context)
    full = each * room / prompt * work.pp
    used = minimum(prompts_per_s * each, 1.0)
    queued = used * decode.total / maximum(used * decode.total + (1.0 - used) * full, 1e-12)
    arrivals = prompts_per_s / work.pp * ((1.0 - queued) * decode.total + queued * full)
    share = maximum(1.0 - exp(-arrivals * ceil(prompt / room)), queued)
    chunk = minimum(arrivals * prompt / maximum(share, 1e-9), minimum(room, maximum(prompt, room * used)))
    mixed = step_time(
        work,
        rates,
        decoding=batch,
        context=context,
        chunk=maximum(chunk, 1.0),
        chunk_context=_middle(load, prompt),
    )
    return _Mean(decode=decode, mixed=mixed, share=share, seconds=share * mixed.total + (1.0 - share) * decode.total)


def _deviation(busy: Numbers, crowded: Numbers, queued: Numbers, residual: Numbers, ahead: Numbers) -> Numbers:
    """Of TTFT, seconds. Prompts before one's own: none, or exponential, by how often a step has one; the wait for a
    place: so many requests must end first, at random; for the running step to end: any part of it.
    """
    busy = minimum(maximum(busy, 0.05), 1.0)
    variance = crowded**2 * (2.0 - busy) / busy + queued**2 / maximum(ahead, 1.0) + residual**2 / 3.0
    return sqrt(variance)


def _waiting(alone: Numbers, busy: Numbers, others: Numbers) -> Numbers:
    """Seconds until a prompt is done, when prompts are computed one after the other.

    The closed queue of the prompts of requests that decode for `busy` seconds between them: R = alone + others x
    (R - alone / 2) / (R + busy), solved for R (Schweitzer's approximation to mean value analysis, for prompts of equal
    length: of the one being computed half is left). `alone` is a prompt nobody stands before; `others`, the time all
    other prompts take.
    """
    b = busy - alone - others
    return (sqrt(b * b + 4.0 * alone * (busy - others / 2.0)) - b) / 2.0


def _prefill_times(
    work: Work, rates: Rates, limits: Limits, load: Load, beside: Numbers, prompt: Numbers
) -> tuple[Numbers, Numbers]:
    """(seconds to compute a request's own prompt beside others' decodes, the same when prompts fill steps)."""
    batch = beside / work.pp
    room = maximum(limits.max_num_batched_tokens - batch, 1.0)
    context = load.input_len + load.output_len / 2.0
    middle = _middle(load, prompt)
    chunks = ceil(prompt / room)

    def seconds(chunk: Numbers) -> Numbers:
        return step_time(work, rates, decoding=batch, context=context, chunk=chunk, chunk_context=middle).total

    return chunks * seconds(prompt / chunks), prompt / room * seconds(room) / work.pp


def _middle(load: Load, prompt: Numbers) -> Numbers:
    """Mean context of a prompt's tokens: what was cached, and half of the rest."""
    return load.input_len - prompt / 2.0


def at_rate(
    work: Work, rates: Rates, limits: Limits, load: Load, request_rate: Numbers, requests: Numbers = inf
) -> Load:
    """The load with the concurrency that a request rate (requests/s of one replica) leads to; NaN leaves it alone.

    Found by halves, since the rate served rises with the concurrency until the engine is saturated.
    `requests`: of a short run, whose last request ends a latency after the last has come: fewer are at once on average.
    """
    low: Numbers = 1.0
    high = minimum(minimum(limits.max_num_seqs, maximum(limits.fits, 1.0)), 4096.0)
    for _ in range(_HALVINGS):
        between = sqrt(low * high)
        served = steady(work, rates, limits, replace(load, concurrency=between)).requests_per_s
        missed = served * (1.0 / request_rate + between / served / requests) < 1.0
        low, high = where(missed, between, low), where(missed, high, between)
    return replace(load, concurrency=where(isfinite(request_rate), high, load.concurrency))


_HALVINGS = 9
"""To 2 % of the concurrency for a few hundred requests."""
