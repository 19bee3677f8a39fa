"""What a real engine reported and how fast it was: the result of a launch, and the arithmetic over raw timings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from planner.engine.soak import SoakResult


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests to run through an engine: `concurrency` in flight until `requests` are done, `rounds` times."""

    concurrency: int
    input_len: int
    output_len: int
    requests: int | None = None
    """Requests a round; twice the concurrency when not given."""
    rounds: int = 3

    @property
    def requests_a_round(self) -> int:
        """Requests of one round; two for each of the concurrent ones unless given."""
        return self.requests or 2 * self.concurrency

    def to_dict(self) -> dict[str, int]:
        """As a record keeps it, the number of requests filled in."""
        return {**asdict(self), "requests": self.requests_a_round}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Latencies in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Summary | None:
        """None when there is nothing to summarize (a request of one token has no time between tokens)."""
        if not seconds:
            return None
        ordered = sorted(second * 1000 for second in seconds)
        return cls(
            mean=fmean(ordered),
            p50=percentile(ordered, 50),
            p90=percentile(ordered, 90),
            p99=percentile(ordered, 99),
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest values."""
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """One load: throughput is the median round's; latencies are over the requests of all rounds, or, where
    `vllm bench serve` has summed them up, the median round's.

    As `vllm bench serve` defines them: TTFT from handing a request in to its first token, TPOT a request's time per
    token after the first, ITL the gaps between tokens one by one.
    """

    load: Load
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    rounds: tuple[float, ...]
    """Output tokens a second, round by round: how far the machine swings."""
    ttft_ms: Summary
    tpot_ms: Summary | None
    itl_ms: Summary | None
    e2e_ms: Summary
    preemptions: int
    failed: int = 0
    """Requests without an answer."""
    kv_cache_usage: float | None = None
    """The most of the KV cache that was seen in use, as a share; only a server tells."""

    @classmethod
    def of_bench(cls, load: Load, rounds: Sequence[Mapping[str, Any]]) -> LoadResult:
        """From the JSON of `vllm bench serve`, a round each, and the server's metrics beside it."""
        results = [round_["result"] for round_ in rounds]

        def middle(name: str) -> float:
            return median(float(result[name]) for result in results)

        def summary(name: str) -> Summary:
            return Summary(
                mean=middle(f"mean_{name}_ms"),
                p50=middle(f"p50_{name}_ms"),
                p90=middle(f"p90_{name}_ms"),
                p99=middle(f"p99_{name}_ms"),
            )

        several = load.output_len > 1
        return cls(
            load=load,
            output_tokens_per_s=middle("output_throughput"),
            total_tokens_per_s=middle("total_token_throughput"),
            requests_per_s=middle("request_throughput"),
            rounds=tuple(float(result["output_throughput"]) for result in results),
            ttft_ms=summary("ttft"),
            tpot_ms=summary("tpot") if several else None,
            itl_ms=summary("itl") if several else None,
            e2e_ms=summary("e2el"),
            preemptions=sum(round_["preemptions"] for round_ in rounds),
            failed=sum(int(result["num_prompts"]) - int(result["completed"]) for result in results),
            kv_cache_usage=max(float(round_["kv_cache_usage"]) for round_ in rounds),
        )

    @classmethod
    def of(cls, load: Load, rounds: Sequence[Mapping[str, Any]]) -> LoadResult:
        """From the child's raw timings: a round is {"duration_s", "requests": [{"submitted", "token_times", …}]}."""
        requests = [request for round_ in rounds for request in round_["requests"]]
        times = [(request["submitted"], request["token_times"]) for request in requests]
        ttft = [tokens[0] - submitted for submitted, tokens in times]
        e2e = [tokens[-1] - submitted for submitted, tokens in times]
        tpot = [(tokens[-1] - tokens[0]) / (len(tokens) - 1) for _, tokens in times if len(tokens) > 1]
        itl = [later - earlier for _, tokens in times for earlier, later in itertools.pairwise(tokens)]
        output = [_output_tokens(round_) / round_["duration_s"] for round_ in rounds]
        ttft_ms, e2e_ms = Summary.of(ttft), Summary.of(e2e)
        assert ttft_ms is not None
        assert e2e_ms is not None
        return cls(
            load=load,
            output_tokens_per_s=median(output),
            total_tokens_per_s=median(
                (_output_tokens(round_) + load.input_len * len(round_["requests"])) / round_["duration_s"]
                for round_ in rounds
            ),
            requests_per_s=median(len(round_["requests"]) / round_["duration_s"] for round_ in rounds),
            rounds=tuple(output),
            ttft_ms=ttft_ms,
            tpot_ms=Summary.of(tpot),
            itl_ms=Summary.of(itl),
            e2e_ms=e2e_ms,
            preemptions=sum(request["preemptions"] for request in requests),
        )


def _output_tokens(round_: Mapping[str, Any]) -> int:
    return sum(len(request["token_times"]) for request in round_["requests"])


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """Bytes of one rank's tensors.

    `loaded` is what the model class allocated: parameters and buffers once the weights are in, before vLLM turns
    them into what its kernels want. `resident` is what can still be seen of it afterwards. On a GPU that is what stays
    in memory. On a CPU it is not: the matrices of linear layers move into oneDNN's own packed copies, of the same
    size, which torch no longer sees.
    """

    rank: int
    loaded: int | None
    """None when vLLM's loader was not the usual one and could not be watched."""
    loaded_buffers: int
    """The part of `loaded` that is buffers: rotary caches, most of it."""
    resident: int
    model_loading: int | None
    """What "Model loading took" prints: the allocator's bytes. GPUs only."""


@dataclass(frozen=True, kw_only=True)
class KvCacheGroup:
    """One KV cache group as the engine holds it: block_size in tokens, page_size_bytes of one block of one layer."""

    kind: str
    layers: int
    block_size: int
    page_size_bytes: int


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """As the engine prints it; a number that this version of vLLM does not tell is None."""

    block_size: int
    num_blocks: int | None
    tokens: int | None
    max_concurrency: float | None
    available_kv_bytes: int | None
    """Of the rank that has least."""
    groups: tuple[KvCacheGroup, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the launch took of the machine, from outside. Bytes; of each visible GPU, where there are any."""

    devices_before: tuple[int, ...] | None
    devices_started: tuple[int, ...] | None
    devices_under_load: tuple[int, ...] | None
    """The most that was seen."""
    rss_started: int
    """Resident memory of the engine's processes."""
    rss_under_load: int

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Memory:
        """From the event of a MemoryWatch; all figures in bytes."""
        before, started = event["before"], event["started"]
        loaded = event.get("under_load", started)

        def devices(sample: Mapping[str, Any]) -> tuple[int, ...] | None:
            return tuple(sample["devices"]) if sample["devices"] is not None else None

        return cls(
            devices_before=devices(before),
            devices_started=devices(started),
            devices_under_load=devices(loaded),
            rss_started=started["rss"],
            rss_under_load=loaded["rss"],
        )


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One launch of a real engine."""

    startup_s: float | None
    """None for a server that ran already."""
    weights: tuple[RankWeights, ...]
    """Empty where a server does not tell."""
    kv_cache: KvCache
    peak_activation_bytes: int | None
    """As the engine profiled it (the largest rank). GPUs only, as is the next."""
    cuda_graph_bytes: int | None
    loads: tuple[LoadResult, ...]
    engine: Mapping[str, object]
    """Versions, device, attention backend, and every setting as vLLM resolved it."""
    printed: Mapping[str, float] = field(default_factory=dict)
    """The figures of the engine's own log (planner/logs/reader.py), by name."""
    memory: Memory | None = None
    soak: SoakResult | None = None

    @property
    def weights_bytes(self) -> tuple[int, ...]:
        """Per rank: on a GPU what is resident, on a CPU what the model class allocated, where that could be watched."""
        on_cpu = self.engine.get("device") == "cpu"
        return tuple(rank.loaded if on_cpu and rank.loaded is not None else rank.resident for rank in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """As a record keeps it; sizes in bytes."""
        return {"weights_bytes": list(self.weights_bytes), **asdict(self)}

    @classmethod
    def of(
        cls, events: Sequence[Mapping[str, Any]], loads: Sequence[Load], printed: Mapping[str, float] | None = None
    ) -> Measurement:
        """From what a launch gathered (planner/engine/in_process.py, serve.py), be it to its end or not."""
        started = next(event for event in events if event["event"] == "engine")
        ranks = next(event["ranks"] for event in events if event["event"] == "ranks")
        memory = next((event for event in events if event["event"] == "memory"), None)
        soak = next((event for event in events if event["event"] == "soak"), None)
        backends = ", ".join(sorted({backend for rank in ranks for backend in rank["attention_backends"]}))
        return cls(
            startup_s=started["startup_s"],
            weights=tuple(_rank_weights(rank) for rank in ranks),
            kv_cache=KvCache(
                **started["kv_cache"],
                available_kv_bytes=min(_known(ranks, "available_kv_bytes"), default=None),
                groups=tuple(KvCacheGroup(**group) for group in ranks[0]["kv_cache_groups"]) if ranks else (),
            ),
            peak_activation_bytes=max(_known(ranks, "peak_activation_bytes"), default=None),
            cuda_graph_bytes=max(_known(ranks, "cuda_graph_bytes"), default=None),
            loads=tuple(_load_results(events, loads)),
            engine={**started["engine"], **({"attention_backend": backends} if ranks else {})},
            printed=printed or {},
            memory=Memory.of(memory) if memory else None,
            soak=SoakResult.of(soak) if soak else None,
        )


_RESULTS = {"round": LoadResult.of, "bench": LoadResult.of_bench}


def _load_results(events: Sequence[Mapping[str, Any]], loads: Sequence[Load]) -> Iterator[LoadResult]:
    for number, load in enumerate(loads, 1):
        rounds = [event for event in events if event["event"] in _RESULTS and event["number"] == number]
        if rounds:
            yield _RESULTS[rounds[0]["event"]](load, rounds)


def _rank_weights(rank: Mapping[str, Any]) -> RankWeights:
    models = rank["loaded"]
    return RankWeights(
        rank=rank["rank"],
        loaded=None if models is None else sum(model["parameters"] + model["buffers"] for model in models),
        loaded_buffers=sum(model["buffers"] for model in models or ()),
        resident=sum(sum(model.values()) for model in rank["resident"]),
        model_loading=rank["model_loading_bytes"],
    )


def _known(ranks: Sequence[Mapping[str, Any]], key: str) -> list[int]:
    return [rank[key] for rank in ranks if rank[key] is not None]
