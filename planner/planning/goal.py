"""What a plan must reach, and an estimate in the few numbers that a rung is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from planner.errors import InputError, Reason
from planner.memory.budget import Estimate
from planner.request import Inputs
from planner.units import GIB, ceil_div, gib

GPUS_PER_NODE = 8
_MOST_GPUS, _MOST_REQUESTS = 16_384, 10**9


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the plan must reach, on which cards."""

    gpus: int = 1
    concurrency: float = 1.0
    """Requests at once, over all engines."""
    input_len: int | None = None
    output_len: int | None = None
    """Tokens of one request; without both, requests are as long as max_model_len allows."""
    margin_bytes: int = 0
    """KV cache per GPU that must be left over: how wrong the estimate may be."""
    engines: int = 1
    """Independent engines behind a balancer, each with an equal share of the cards and of the requests."""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    """Limits on the predicted mean time to the first token and between tokens (planner.planning.speed_goal)."""
    output_tokens_per_s: float | None = None
    """At least so many are wanted, of all engines together with `concurrency` requests at once."""
    gpus_per_node: int = GPUS_PER_NODE
    """Tensor parallel stays within a node; more cards than this need Ray."""

    @property
    def request_len(self) -> int | None:
        """Tokens that one request holds at its end; None: max_model_len."""
        if self.input_len is None and self.output_len is None:
            return None
        return (self.input_len or 0) + (self.output_len or 0)

    @property
    def gpus_per_engine(self) -> int:
        """GPUs for each of the engines."""
        return self.gpus // self.engines

    @property
    def per_engine(self) -> float:
        """Requests at once that each engine must hold."""
        return self.concurrency if self.engines == 1 else float(ceil_div(math.ceil(self.concurrency), self.engines))

    @property
    def shortest_context(self) -> int:
        """The least max_model_len that is of any use."""
        return self.request_len or 1024

    @property
    def wants_speed(self) -> bool:
        """Whether it has limits that only a prediction of speed can be held against (planner.planning.speed_goal)."""
        return any(limit is not None for limit in (self.ttft_ms, self.tpot_ms, self.output_tokens_per_s))

    def met(self, estimate: Estimate) -> bool:
        """Whether it starts and holds the requests, however fast."""
        return estimate.fits and self.missing(estimate) is None

    def missing(self, estimate: Estimate) -> Reason | None:
        """What an estimate that starts still lacks of room for the requests; None when nothing."""
        kv, engine = estimate.kv_cache, estimate.engine
        if kv is None or engine is None:
            return None
        length = self.request_len or kv.max_model_len
        if length > kv.max_model_len:
            return Reason(
                code="request_longer_than_context",
                message=f"a request of {length:,} tokens is longer than max_model_len ({kv.max_model_len:,})",
                flag="--max-model-len",
            )
        running = engine.max_num_seqs * engine.data_parallel_size
        if running < self.per_engine:
            return Reason(
                code="max_num_seqs",
                message=f"the engine runs at most {running} requests at once (max_num_seqs), "
                f"{self.per_engine:g} are wanted",
                flag="--max-num-seqs",
            )
        held = self.held(estimate)
        if held >= self.per_engine:
            return None
        return Reason(
            code="concurrency",
            message=f"the KV cache holds {held:.2f} requests of {length:,} tokens{self._margin_words}, "
            f"{self.per_engine:g} are wanted",
            flag="--max-model-len" if self.request_len is None else "--kv-cache-dtype",
        )

    @property
    def _margin_words(self) -> str:
        return f" with {gib(self.margin_bytes)} GiB left over" if self.margin_bytes else ""

    def held(self, estimate: Estimate) -> float:
        """Requests of the goal's length that one engine (all its data-parallel ranks) holds at once."""
        kv, engine = estimate.kv_cache, estimate.engine
        if kv is None or engine is None:
            return math.inf
        length = min(self.request_len or kv.max_model_len, kv.max_model_len)
        return kv.concurrency_at(length, self.margin_bytes) * engine.data_parallel_size

    def checked(self, inputs: Inputs) -> Goal:
        """InputError where no plan can have this goal."""
        if not 1 <= self.gpus <= _MOST_GPUS:
            raise InputError(f"gpus = {self.gpus}: must be between 1 and {_MOST_GPUS:,}")
        if not 0 < self.concurrency <= _MOST_REQUESTS:
            raise InputError(f"concurrency = {self.concurrency:g}: must be above 0 and at most {_MOST_REQUESTS:,}")
        if self.engines < 1 or self.gpus % self.engines:
            raise InputError(f"engines = {self.engines}: must divide the number of cards ({self.gpus})")
        if self.margin_bytes < 0:
            raise InputError(f"margin = {self.margin_bytes / GIB:g} GiB: must be at least 0")
        if self.gpus_per_node < 1:
            raise InputError(f"gpus_per_node = {self.gpus_per_node}: must be at least 1")
        for name in ("ttft_ms", "tpot_ms", "output_tokens_per_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} = {value:g}: must be above 0")
        length, limit = self.request_len, inputs.model.max_position
        if length is not None and not 1 <= length <= limit:
            raise InputError(
                f"input_len + output_len = {length:,}: must be between 1 and what the model allows ({limit:,})"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """As `goal` of a plan; times in ms, sizes in bytes."""
        return {
            "gpus": self.gpus,
            "concurrency": self.concurrency,
            "input_len": self.input_len,
            "output_len": self.output_len,
            "margin_bytes": self.margin_bytes,
            "engines": self.engines,
            "ttft_ms": self.ttft_ms,
            "tpot_ms": self.tpot_ms,
            "output_tokens_per_s": self.output_tokens_per_s,
            "gpus_per_node": self.gpus_per_node,
        }


def finite(requests: float) -> float | None:
    """Requests at once as JSON has them; None: any number."""
    return round(requests, 2) if math.isfinite(requests) else None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An estimate in the few numbers a rung is judged by."""

    status: str
    available_kv_bytes: int | None
    tokens: int
    max_concurrency: float
    held: float = 0.0
    """Requests of the goal's length at once."""

    @classmethod
    def of(cls, estimate: Estimate, goal: Goal) -> Snapshot:
        """The figures of an estimate; zeros where it does not fit or caches nothing."""
        kv = estimate.kv_cache
        if not estimate.fits:
            kv = None
        held = goal.held(estimate) if kv is not None else 0.0
        return cls(
            status=estimate.status,
            available_kv_bytes=min((rank.available_kv_bytes for rank in estimate.ranks), default=None),
            tokens=kv.tokens if kv is not None else 0,
            max_concurrency=kv.max_concurrency if kv is not None else 0.0,
            held=held if math.isfinite(held) else 0.0,
        )

    def to_dict(self) -> dict[str, Any]:
        """As `before` and `after` of a step."""
        return {
            "status": self.status,
            "available_kv_bytes": self.available_kv_bytes,
            "tokens": self.tokens,
            "max_concurrency": round(self.max_concurrency, 2),
            "held": round(self.held, 2),
        }
