"""Trials and measurements made up for tests: a launch that measured exactly what was predicted, at a given speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from planner.engine.launch import LaunchError, Listener
from planner.engine.measure import KvCache, LoadResult, Measurement, RankWeights, Summary
from planner.memory.budget import Estimate
from planner.request import prepare
from planner.validate.run import Outcome, Outcomes
from planner.validate.trial import Options, Trial, for_device, trial_of

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
OPTIONS = Options(device="cpu", rounds=1)


def trial(label: str = "one", goal: Mapping[str, object] | None = None, **args: object) -> Trial:
    return trial_of(label, for_device(prepare({"model": SMALL, "gpu": "cpu", **args}), "cpu"), OPTIONS, goal)


def measured(
    estimate: Estimate, *, extra_weights: int = 0, trial: Trial | None = None, tokens_per_s: float = 10.0
) -> Measurement:
    """As the engine would have told it."""
    kv = estimate.kv_cache
    assert kv is not None
    weights = estimate.stages[0].parameter_bytes + extra_weights
    return Measurement(
        startup_s=1,
        weights=(RankWeights(rank=0, loaded=weights, loaded_buffers=0, resident=0, model_loading=None),),
        kv_cache=KvCache(
            block_size=kv.block_size,
            num_blocks=kv.num_blocks,
            tokens=kv.tokens,
            max_concurrency=round(kv.max_concurrency, 2),
            available_kv_bytes=estimate.ranks[0].available_kv_bytes,
            groups=(),
        ),
        peak_activation_bytes=None,
        cuda_graph_bytes=None,
        loads=tuple(load_result(load, tokens_per_s) for load in (trial.loads if trial else ())),
        engine={"device": "cpu"},
    )


def load_result(load: object, tokens_per_s: float) -> LoadResult:
    latency = Summary(mean=1000 / tokens_per_s, p50=1.0, p90=1.0, p99=1.0)
    return LoadResult(
        load=load,  # type: ignore[arg-type]
        output_tokens_per_s=tokens_per_s,
        total_tokens_per_s=2 * tokens_per_s,
        requests_per_s=1.0,
        rounds=(tokens_per_s,),
        ttft_ms=latency,
        tpot_ms=latency,
        itl_ms=latency,
        e2e_ms=latency,
        preemptions=0,
    )


class Pretended:
    """A place where trials end as they are told to, and which remembers what it was given."""

    def __init__(self, end: Callable[[Trial], Outcome | BaseException]) -> None:
        self._end = end
        self.launched: list[str] = []

    def launch_all(self, trials: Sequence[Trial], listen: Callable[[Trial], Listener]) -> Outcomes:
        for one in trials:
            self.launched.append(one.label)
            listener = listen(one)
            measurement = measured(one.estimate)
            listener.on_event(
                {
                    "event": "engine",
                    "startup_s": 2.0,
                    "engine": {},
                    "kv_cache": {
                        "block_size": measurement.kv_cache.block_size,
                        "num_blocks": measurement.kv_cache.num_blocks,
                        "tokens": measurement.kv_cache.tokens,
                        "max_concurrency": measurement.kv_cache.max_concurrency,
                    },
                }
            )
            listener.on_event({"event": "ranks", "ranks": []})
            outcome = self._end(one)
            if isinstance(outcome, BaseException):
                raise outcome
            yield one, outcome


def well(tokens_per_s: Mapping[str, float] | None = None) -> Callable[[Trial], Outcome]:
    """Every launch measures what was predicted; speeds by label."""

    def end(one: Trial) -> Outcome:
        speed = (tokens_per_s or {}).get(one.label, 10.0)
        return Outcome(measurement=measured(one.estimate, trial=one, tokens_per_s=speed))

    return end


def failing(message: str, log: str = "") -> Callable[[Trial], Outcome]:
    return lambda _: Outcome(error=LaunchError(message, log=log))
