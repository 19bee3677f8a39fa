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
_ROUNDS = 4
"""Of the fixed point between the requests that decode and the room they leave for prompts; more change nothing."""


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
    # While each decoding request gets a token in a step, prompts get what is left of the step's tokens. Requests move
    # on by steps: how many of them decode in one does not depend on how long it takes.
    most = limits.max_num_batched_tokens * work.pp / (1.0 + prompt / output)
    others = maximum(running - 1.0, 0.0)
    decoding = minimum(running, most)
    for _ in range(_ROUNDS):
        room = _room(work, limits, others * decoding / running)
        waiting = _ahead(output * work.pp * room / prompt, others)
        steps = ceil(prompt / room) + waiting * prompt / (work.pp * room)
        decoding = minimum(running * output / (output - 1.0 + steps), most)
    # A request that decodes or arrives sees itself and what others do (the arrival theorem), not the mean.
    beside = others * decoding / running
    mean = _mean_step(work, rates, limits, load, minimum(1.0 + beside, most), prompt, beside / output)
    own, each = _prefill_times(work, rates, limits, load, beside, prompt, beside / output)
    ahead = own + (waiting + rates.crowd * others) * each
    tpot = mean.seconds
    service = ahead + (output - 1.0) * tpot
    # Where prompts cannot keep up, as many requests as tokens fit into a step decode, and the others wait.
    service = where(decoding < most, service, maximum(service, running * tpot * output / most))
    rate = running / (service + rates.first_token)
    queued = maximum(concurrency - running, 0.0) / rate
    saturated = service - (output - 1.0) * tpot
    residual = where(running > 1.0, _left(mean), 0.0)
    ttft = rates.first_token + residual + saturated + queued
    delta = mean.mixed.total - mean.decode.total
    spread = _P90 * delta * sqrt(mean.share / maximum(output, 1.0))
    return Steady(
        running=running,
        ttft=ttft,
        queued=queued,
        ttft_p90=ttft + _P90 * _deviation(mean.share, waiting * each, queued, residual, concurrency - running),
        tpot=tpot,
        tpot_p90=tpot + spread,
        itl_p90=where(mean.share >= 0.1, mean.mixed.total, mean.decode.total),
        requests_per_s=rate,
        mixed_share=mean.share,
        decode=mean.decode,
        mixed=mean.mixed,
    )


def _mean_step(
    work: Work, rates: Rates, limits: Limits, load: Load, decoding: Numbers, prompt: Numbers, prompts: Numbers
) -> _Mean:
    """The mean of steps with and without a piece of others' prompts, of which so many come with a step, in no order
    (Poisson)."""
    batch = decoding / work.pp
    room = _room(work, limits, decoding)
    context = load.input_len + load.output_len / 2.0
    decode = step_time(work, rates, decoding=batch, context=context)
    arrivals = prompts / work.pp
    share = maximum(1.0 - exp(-arrivals * ceil(prompt / room)), minimum(arrivals * prompt / room, 1.0))
    mixed = step_time(
        work,
        rates,
        decoding=batch,
        context=context,
        chunk=maximum(minimum(arrivals * prompt / maximum(share, 1e-9), room), 1.0),
        chunk_context=_middle(load, prompt),
    )
    return _Mean(decode=decode, mixed=mixed, share=share, seconds=share * mixed.total + (1.0 - share) * decode.total)


def _left(mean: _Mean) -> Numbers:
    """Seconds until a step ends that one comes into at any time: more often into a long one."""
    squares = mean.share * mean.mixed.total**2 + (1.0 - mean.share) * mean.decode.total**2
    return squares / (2.0 * mean.seconds)


def _deviation(busy: Numbers, crowded: Numbers, queued: Numbers, residual: Numbers, ahead: Numbers) -> Numbers:
    """Of TTFT, seconds. Prompts before one's own: none, or exponential, by how often a step has one; the wait for a
    place: so many requests must end first, at random; for the running step to end: any part of it.
    """
    busy = minimum(maximum(busy, 0.05), 1.0)
    variance = crowded**2 * (2.0 - busy) / busy + queued**2 / maximum(ahead, 1.0) + residual**2 / 3.0
    return sqrt(variance)


def _ahead(decoding: Numbers, others: Numbers) -> Numbers:
    """Prompts that stand before one's own on average, when prompts are computed one after the other.

    The closed queue of so many other requests, each of which decodes between two prompts while steps full of prompts
    could compute `decoding` of them (prompts slow the decoding beside them, so that it is steps that count, not
    seconds): R = 1 + others x (R - 1/2) / (R + decoding), solved for R - 1 (Schweitzer's approximation to mean value
    analysis, for prompts of equal length: of the one being computed half is left).
    """
    b = decoding - 1.0 - others
    return (sqrt(b * b + 4.0 * (decoding - others / 2.0)) - b) / 2.0 - 1.0


def _room(work: Work, limits: Limits, decoding: Numbers) -> Numbers:
    """Tokens of prompts that a step has room for; each pipeline stage has a step of its own."""
    return maximum(limits.max_num_batched_tokens - decoding / work.pp, 1.0)


def _prefill_times(
    work: Work, rates: Rates, limits: Limits, load: Load, beside: Numbers, prompt: Numbers, prompts: Numbers
) -> tuple[Numbers, Numbers]:
    """(seconds of the steps that compute a request's own prompt, beside others' decodes and what prompts of others come
    with a step; seconds a prompt takes when prompts fill steps)."""
    batch = beside / work.pp
    room = _room(work, limits, beside)
    context = load.input_len + load.output_len / 2.0
    middle = _middle(load, prompt)
    chunks = ceil(prompt / room)

    def seconds(chunk: Numbers) -> Numbers:
        return step_time(work, rates, decoding=batch, context=context, chunk=chunk, chunk_context=middle).total

    own = prompt / chunks
    return chunks * seconds(minimum(own + prompts / work.pp * prompt, room)), prompt / room * seconds(room) / work.pp


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
