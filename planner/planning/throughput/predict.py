"""An estimate and a workload in, a Throughput out: what is printed, plotted and put under "throughput" in an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from planner.planning.throughput.course import course
from planner.planning.throughput.rates import Rates, generation, host_bandwidth, rates_for
from planner.planning.throughput.spread import Spread, class_of, spreads_of
from planner.planning.throughput.steady import Limits, Load, Steady, at_rate, steady
from planner.planning.throughput.step import StepTime
from planner.planning.throughput.work import Numbers, Work, work_of

if TYPE_CHECKING:
    from planner.memory.budget import Estimate
    from planner.request import Inputs
    from planner.workload import Workload

KNEE_SHARE = 0.8
"""The knee: the smallest concurrency with this share of the most output tokens/s that the engine reaches."""

_WORTH_SAYING = 0.1
"""The share of the time between tokens from which on prompts are named as a reason."""

_KEYS = {"output": "output_tokens_per_s", "tpot": "tpot_ms", "ttft": "ttft_ms"}

_BINDS = {
    "weights": "memory bandwidth, reading weights",
    "kv": "memory bandwidth, reading KV cache",
    "compute": "compute",
    "communication": "communication between GPUs",
    "overhead": "overhead: kernel launches and the scheduler",
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a step model needs of one launch; made once, asked for any number of loads."""

    work: Work
    rates: Rates
    limits: Limits
    replicas: int
    gpus: int
    basis: str
    """fitted where the generation has measurements; assumed where it borrows those of others, or reads host memory."""
    host_share: float
    """The part of the layers' weights that stays in host memory."""
    spreads: Mapping[str, Spread]
    """Of "output", "tpot" and "ttft", on measurements of such launches that were left out of the fit."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The steady state at one load, over all data-parallel replicas. Tokens/s and milliseconds."""

    concurrency: float
    running: float
    """Requests that run at once; the others queue."""
    output_tokens_per_s: float
    total_tokens_per_s: float
    """With prompt tokens, those of cached prefixes too."""
    requests_per_s: float
    ttft_ms: float
    queued_ms: float
    """The part of TTFT spent waiting for a place."""
    ttft_p90_ms: float
    tpot_ms: float
    tpot_p90_ms: float
    itl_p50_ms: float
    itl_p90_ms: float

    def to_dict(self) -> dict[str, float]:
        """To four digits: times in ms, rates in tokens/s."""
        return {name: _digits(value) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How fast one launch serves one workload, what limits it, and what it costs."""

    point: Point
    gpus: int
    decode_shares: Mapping[str, float]
    """Of a step without prompts: weights, kv, compute, communication, overhead."""
    bound_by: str
    """What limits: a sentence."""
    speed: Speed
    workload: Workload
    sustained: bool = True
    """False where the request rate asked for is more than the engine serves."""
    notes: tuple[str, ...] = ()
    """What the figures leave out, and what the engine would refuse."""

    @cached_property
    def knee(self) -> Point:
        """Where more requests at once begin to pay little."""
        return knee(curve(self.speed, self.workload))

    @property
    def errors(self) -> Mapping[str, float]:
        """Median errors by figure, on measurements of such launches that were left out of the fit."""
        return {figure: spread.error for figure, spread in self.speed.spreads.items()}

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Where four of five measurements are expected: output tokens/s, TPOT and TTFT in milliseconds."""
        values = {"output": self.point.output_tokens_per_s, "tpot": self.point.tpot_ms, "ttft": self.point.ttft_ms}
        return {figure: self.speed.spreads[figure].range_of(value) for figure, value in values.items()}

    @property
    def per_user(self) -> float:
        """Output tokens/s that one running request gets."""
        return 1e3 / self.point.tpot_ms

    def cost_per_million(self, tokens_per_s: float) -> float | None:
        """Price of a million tokens at this rate, in the currency of its GPU hour, to four digits; None without one."""
        if self.workload.price_per_gpu_hour is None:
            return None
        return _digits(self.workload.price_per_gpu_hour * self.gpus / (tokens_per_s * 3600.0) * 1e6)

    def to_dict(self) -> dict[str, Any]:
        """As `throughput` of an answer (docs/contract.md)."""
        costs = {"output_tokens": self.point.output_tokens_per_s, "tokens": self.point.total_tokens_per_s}
        return {
            **self.point.to_dict(),
            "output_tokens_per_s_per_user": _digits(self.per_user),
            "output_tokens_per_s_per_gpu": _digits(self.point.output_tokens_per_s / self.gpus),
            "bound_by": self.bound_by,
            "decode_shares": {name: round(share, 3) for name, share in self.decode_shares.items()},
            "knee_concurrency": round(self.knee.concurrency),
            "knee_output_tokens_per_s": _digits(self.knee.output_tokens_per_s),
            "sustained": self.sustained,
            "gpus": self.gpus,
            **{f"cost_per_million_{of}": self.cost_per_million(rate) for of, rate in costs.items()},
            "basis": self.speed.basis,
            "error": {_KEYS[figure]: error for figure, error in self.errors.items()},
            "range": {_KEYS[figure]: [_digits(low), _digits(high)] for figure, (low, high) in self.ranges.items()},
            "notes": list(self.notes),
            "workload": self.workload.to_dict(),
        }


def predict(inputs: Inputs, estimate: Estimate, workload: Workload) -> Throughput | None:
    """None for a launch that does not start, or that generates nothing (embedding models)."""
    if not estimate.fits or estimate.engine is None or estimate.model.is_pooling:
        return None
    speed = speed_of(inputs, estimate, workload)
    load, sustained = load_of(workload, float(speed.replicas)), True
    if workload.request_rate is not None:
        rate = workload.request_rate / speed.replicas
        load = at_rate(speed.work, speed.rates, speed.limits, load, rate)
    found = steady(speed.work, speed.rates, speed.limits, load)
    if workload.request_rate is not None:
        sustained = bool(found.requests_per_s >= 0.98 * rate)
    shares = _shares(found.decode)
    return Throughput(
        point=_point(found, load, speed),
        gpus=speed.gpus,
        decode_shares=shares,
        bound_by=_bound_by(shares, found, speed, load, sustained=sustained),
        speed=speed,
        workload=workload,
        sustained=sustained,
        notes=_notes(estimate, speed, workload),
    )


def sent_together(found: Throughput, requests: int) -> Throughput:
    """The same for a run of so many requests of one length, by clients that start together (course.py). Pipeline stages
    are left to the steady state; and a request rate, with which clients come one by one."""
    speed, workload = found.speed, found.workload
    if speed.work.pp != 1.0 or workload.request_rate is not None:
        return found
    import numpy as np

    load = load_of(workload, float(speed.replicas))
    lengths = ceil(requests / speed.replicas) * [(workload.input_len, workload.output_len)]
    seen = course(speed.work, speed.rates, speed.limits, load, lengths)
    rate = requests / seen.duration

    ttft, queued = np.array(seen.ttft), np.array(seen.queued)
    point = replace(
        found.point,
        output_tokens_per_s=rate * workload.output_len,
        total_tokens_per_s=rate * (workload.output_len + workload.input_len),
        requests_per_s=rate,
        ttft_ms=1e3 * float(ttft.mean()),
        queued_ms=1e3 * float(queued.mean()),
        ttft_p90_ms=1e3 * float(np.percentile(ttft, 90)),
    )
    if seen.tpot:  # with one token there is nothing between tokens
        tpot, gaps = np.array(seen.tpot), np.array(sorted(seen.gaps))
        p50, p90 = gaps[np.searchsorted(gaps[:, 1].cumsum() / gaps[:, 1].sum(), (0.5, 0.9)), 0]
        point = replace(
            point,
            tpot_ms=1e3 * float(tpot.mean()),
            tpot_p90_ms=1e3 * float(np.percentile(tpot, 90)),
            itl_p50_ms=1e3 * float(p50),
            itl_p90_ms=1e3 * float(p90),
        )
    return replace(found, point=point)


def _notes(estimate: Estimate, speed: Speed, workload: Workload) -> tuple[str, ...]:
    notes = []
    tokens, kv = workload.input_len + workload.output_len, estimate.kv_cache
    if kv is not None and tokens > kv.max_model_len:
        notes.append(
            f"a request of {tokens:,} tokens is longer than max_model_len, {kv.max_model_len:,}: vLLM refuses it; "
            "the figures are those of a larger --max-model-len"
        )
    if speed.host_share:
        notes.append(
            f"{speed.host_share:.0%} of the layers' weights are read from host memory in every step, at "
            f"{host_bandwidth(estimate.gpu) / 1e9:,.0f} GB/s by the data sheet: no measurement of it is in the fit"
        )
    if estimate.engine is not None and estimate.engine.args.get("speculative_config"):
        notes.append(
            "speculative decoding is not in these figures: what it gains depends on how many drafts are accepted"
        )
    return tuple(notes)


def speed_of(inputs: Inputs, estimate: Estimate, workload: Workload) -> Speed:
    """The numbers of this launch. InputError where the card's bandwidth is not known."""
    engine = estimate.engine
    assert engine is not None
    work, kernels = work_of(estimate, inputs.quantization)
    rates, known = rates_for(inputs.gpu, engine, kernels)
    return Speed(
        work=work,
        rates=rates,
        limits=limits_of(estimate, workload.mean_len),
        replicas=engine.data_parallel_size,
        gpus=engine.gpus_per_replica * engine.data_parallel_size,
        basis="fitted" if known else "assumed",
        host_share=kernels.host_share,
        spreads=spreads_of(class_of(generation(inputs.gpu), experts=bool(work.expert_layers))),
    )


def curve(speed: Speed, workload: Workload, concurrencies: Sequence[int] | None = None) -> tuple[Point, ...]:
    """The steady state at each concurrency: powers of two, by default, up to one that all cannot run at once."""
    wanted = concurrencies or _default_concurrencies(speed)
    load = load_of(workload, float(speed.replicas))
    loads = [replace(load, concurrency=number / speed.replicas) for number in wanted]
    return tuple(_point(steady(speed.work, speed.rates, speed.limits, load), load, speed) for load in loads)


def knee(points: Sequence[Point]) -> Point:
    """Where more requests at once begin to pay little: the first with KNEE_SHARE of the best."""
    best = max(point.output_tokens_per_s for point in points)
    return next(point for point in points if point.output_tokens_per_s >= KNEE_SHARE * best)


def limits_of(estimate: Estimate, mean_len: float) -> Limits:
    """What one replica runs at once at this mean number of tokens a request holds."""
    engine, kv = estimate.engine, estimate.kv_cache
    assert engine is not None
    return Limits(
        max_num_seqs=float(engine.max_num_seqs),
        max_num_batched_tokens=float(engine.max_num_batched_tokens),
        fits=inf if kv is None else kv.concurrency_at(max(1, round(mean_len))),
    )


def load_of(workload: Workload, replicas: Numbers) -> Load:
    """Of one replica, one value a launch."""
    return Load(
        concurrency=workload.concurrency / replicas,
        input_len=float(workload.input_len),
        output_len=float(workload.output_len),
        cached=workload.prefix_hit_rate,
    )


def _default_concurrencies(speed: Speed) -> list[int]:
    most = min(float(speed.limits.max_num_seqs), max(float(speed.limits.fits), 1.0)) * speed.replicas
    return [1 << n for n in range(min(12, max(0, int(most)).bit_length() + 1))]


def _point(found: Steady, load: Load, speed: Speed) -> Point:
    n, prompt, output = speed.replicas, float(load.input_len), float(load.output_len)
    rate = n * float(found.requests_per_s)
    return Point(
        concurrency=n * float(load.concurrency),
        running=n * float(found.running),
        output_tokens_per_s=rate * output,
        total_tokens_per_s=rate * (output + prompt),
        requests_per_s=rate,
        ttft_ms=1e3 * float(found.ttft),
        queued_ms=1e3 * float(found.queued),
        ttft_p90_ms=1e3 * float(found.ttft_p90),
        tpot_ms=1e3 * float(found.tpot),
        tpot_p90_ms=1e3 * float(found.tpot_p90),
        itl_p50_ms=1e3 * float(found.mixed.total if found.mixed_share >= 0.5 else found.decode.total),
        itl_p90_ms=1e3 * float(found.itl_p90),
    )


def _shares(step: StepTime) -> dict[str, float]:
    total = float(step.total)
    return {name: float(getattr(step, name)) / total for name in _BINDS}


def _bound_by(shares: Mapping[str, float], found: Steady, speed: Speed, load: Load, *, sustained: bool) -> str:
    """What limits, first the decode step, then what keeps requests out of it."""
    first = max(shares, key=lambda name: shares[name])
    memory = shares["weights"] + shares["kv"]
    if memory >= max(shares["compute"], shares["communication"], shares["overhead"]):
        text = (
            f"decode is bound by memory bandwidth: {shares['weights'] / memory:.0%} weights, "
            f"{shares['kv'] / memory:.0%} KV cache ({memory:.0%} of the step)"
        )
    else:
        text = f"decode is bound by {_BINDS[first]} ({shares[first]:.0%} of the step)"
    parts = [text]
    prompts = 1.0 - float(found.decode.total / found.tpot)
    if prompts >= _WORTH_SAYING:
        parts.append(f"the prompts of other requests take {prompts:.0%} of the time between tokens")
    if not sustained:
        parts.append("the request rate is more than the engine serves: the queue grows without end")
    elif load.concurrency > 1.02 * found.running:
        what = "the KV cache" if speed.limits.fits < speed.limits.max_num_seqs else "--max-num-seqs"
        parts.append(f"{what} lets {float(found.running) * speed.replicas:.0f} requests run, the others queue")
    return "; ".join(parts)


def _digits(value: float) -> float:
    """Four significant digits: more would pretend a precision that nothing here has."""
    return float(f"{value:.4g}")
