"""A load from its first request to its last, step by step: what `validate` and `vllm bench serve` send an engine.

Their requests are all of one length, and their clients start together. They stay together: prompts come in waves, of
which the steady state of clients in no order (steady.py) knows nothing. As there, a step takes what step.py says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from planner.planning.throughput.rates import Rates
from planner.planning.throughput.steady import Limits, Load
from planner.planning.throughput.step import step_time
from planner.planning.throughput.work import Work


@dataclass(frozen=True, kw_only=True)
class Course:
    """What clients saw. Seconds."""

    duration: float
    """From the first request handed in to the last token."""
    ttft: tuple[float, ...]
    queued: tuple[float, ...]
    """The part of TTFT spent waiting for a place."""
    tpot: tuple[float, ...]
    """Of each request; empty where outputs have one token."""
    gaps: tuple[tuple[float, int], ...]
    """Between tokens one by one: (seconds, how many of them)."""


@dataclass(kw_only=True)
class _Request:
    prompt: float
    """Tokens to compute."""
    cached: float
    """Tokens before them."""
    output: int
    handed_in: float
    arrives: float
    """At the scheduler."""
    admitted: float = 0.0
    computed: float = 0.0
    tokens: int = 0
    first: float = 0.0
    last: float = 0.0


def course(work: Work, rates: Rates, limits: Limits, load: Load, lengths: Sequence[tuple[int, int]]) -> Course:
    """`load.concurrency` clients of one replica send requests of these lengths (input, output), each its next when its
    last is done. The load's own lengths are not looked at. Not for pipeline stages, which have several steps under way.

    Steps are scheduled as vLLM's are (vllm/v1/core/sched/scheduler.py, 0.32.0): whoever decodes gets a token, prompts
    get what is left of the step's tokens in the order in which they came, in pieces where they must.
    """
    return _Engine(work, rates, limits, load).run(lengths)


class _Engine:
    def __init__(self, work: Work, rates: Rates, limits: Limits, load: Load) -> None:
        self.work, self.rates, self.load = work, rates, load
        self.places = int(min(float(limits.max_num_seqs), max(float(limits.fits), 1.0)))
        self.budget = float(limits.max_num_batched_tokens)
        self.now = 0.0
        self.waiting: deque[_Request] = deque()
        self.running: list[_Request] = []
        self.gaps: list[tuple[float, int]] = []

    def run(self, lengths: Sequence[tuple[int, int]]) -> Course:
        to_come, done = deque(lengths), list[_Request]()
        self._hand_in(to_come, ceil(float(self.load.concurrency)))
        while self.waiting or self.running:
            self._admit()
            finished = self._step()
            done += finished
            self._hand_in(to_come, len(finished))
        return Course(
            duration=self.now,
            ttft=tuple(one.first - one.handed_in for one in done),
            queued=tuple(one.admitted - one.arrives for one in done),
            tpot=tuple((one.last - one.first) / (one.output - 1) for one in done if one.output > 1),
            gaps=tuple(self.gaps),
        )

    def _hand_in(self, to_come: deque[tuple[int, int]], clients: int) -> None:
        """One after the other: an engine that waits for work begins with the first."""
        for place in range(min(clients, len(to_come))):
            input_len, output_len = to_come.popleft()
            cached = float(self.load.cached) * input_len
            request = _Request(
                prompt=max(input_len - cached, 1.0),
                cached=cached,
                output=output_len,
                handed_in=self.now,
                arrives=self.now + float(self.rates.first_token) + place * float(self.rates.sequence),
            )
            self.waiting.append(request)

    def _admit(self) -> None:
        if not self.running:
            self.now = max(self.now, self.waiting[0].arrives)
        while self.waiting and self.waiting[0].arrives <= self.now and len(self.running) < self.places:
            request = self.waiting.popleft()
            request.admitted = self.now
            self.running.append(request)

    def _step(self) -> list[_Request]:
        """One step with a piece of a prompt, or equal ones until something changes; the requests that end with it."""
        decoding = [request for request in self.running if request.tokens]
        chunk, context = self._compute_prompts(self.budget - len(decoding))
        steps = 1 if chunk else min(request.output - request.tokens for request in decoding)
        seconds = self._seconds(decoding, steps, chunk, context)
        if not chunk and self.waiting and len(self.running) < self.places:
            steps = min(steps, 1 + int(max(self.waiting[0].arrives - self.now, 0.0) / seconds))
        self.now += steps * seconds
        for request in decoding:
            self.gaps.append((self.now - (steps - 1) * seconds - request.last, 1))
            if steps > 1:
                self.gaps.append((seconds, steps - 1))
            request.tokens += steps
            request.last = self.now
        for request in self.running:
            if not request.tokens and request.computed > request.prompt - 0.5:  # of a token, not a rounding
                request.tokens, request.first, request.last = 1, self.now, self.now
        finished = [request for request in self.running if request.tokens == request.output]
        self.running = [request for request in self.running if request.tokens < request.output]
        return finished

    def _compute_prompts(self, room: float) -> tuple[float, float]:
        """(tokens of prompts in this step, their mean context)."""
        chunk = seen = 0.0
        for request in self.running:
            piece = min(request.prompt - request.computed, room - chunk)
            if piece > 0.0:
                seen += piece * (request.cached + request.computed + piece / 2.0)
                request.computed += piece
                chunk += piece
        return chunk, seen / chunk if chunk else 0.0

    def _seconds(self, decoding: list[_Request], steps: int, chunk: float, chunk_context: float) -> float:
        number = len(decoding)
        held = sum(request.cached + request.prompt + request.tokens + steps / 2.0 for request in decoding)
        return float(
            step_time(
                self.work,
                self.rates,
                decoding=float(number),
                context=held / max(number, 1),
                chunk=chunk,
                chunk_context=chunk_context,
            ).total
        )
