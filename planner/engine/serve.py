"""`vllm serve` as users run it, on a free port of 127.0.0.1, loaded by `vllm bench serve`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from planner.engine.api import Server, reserved_port
from planner.engine.args import EngineArgs
from planner.engine.bench import CHILD, Bench
from planner.engine.course import Course
from planner.engine.measure import Load
from planner.engine.process import Session
from planner.engine.spec import Soak
from planner.engine.workplace import engine_args, environment, model_folder
from planner.errors import InputError

_METRICS_EVERY_S = 0.5
_DYING_S = 5.0
"""How long a server that does not answer is given to say why."""


def run(course: Course) -> None:
    """Starts the server, reads it, loads it."""
    spec, folder = course.spec, course.folder
    model, has_checkpoint = model_folder(spec, folder)
    if spec.config is not None:
        from planner.engine.tokenizer import write_tokenizer

        write_tokenizer(model, spec.config)
    commands = folder / "serve.json"
    surroundings = environment(spec, folder) | {"VLLM_SERVER_DEV_MODE": "1"}  # for /collective_rpc, on this machine
    with reserved_port() as port:
        words = serve_words(course, str(model), has_checkpoint, port)
        commands.write_text(json.dumps([words]), encoding="utf-8")
        command = [str(spec.engine_python), str(CHILD), str(commands), str(folder / "served")]
        began = time.monotonic()
        with (
            Session(command, surroundings, cwd=folder, log=course.log) as session,
            Server(f"http://127.0.0.1:{port}") as server,
        ):
            while not server.healthy():
                if not course.wait(session):
                    raise course.failure(session.exit_code())
            try:
                _describe(course, server, time.monotonic() - began)
                course.memory.mark("started", session.id)
                bench = Bench(server.url, str(server.model()["id"]), str(model), folder)
                client = environment(spec, folder) | {"VLLM_LOGGING_LEVEL": "WARNING"}
                Traffic(course, session, server, bench, client).run()
            except InputError as error:  # it no longer answers
                session.wait(_DYING_S)
                code = session.exit_code()
                raise (course.error(str(error)) if code is None else course.failure(code)) from error
            course.add(course.memory.event())


def serve_words(course: Course, model: str, has_checkpoint: bool, port: int) -> list[str]:
    """The command line, without the word `vllm`."""
    args = {"served_model_name": course.spec.name, **engine_args(course.spec, has_checkpoint)}
    args["worker_extension_cls"] = "vllm_fit_probe.Probe"
    place = ["--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log"]
    return ["serve", model, *EngineArgs(args).to_flags(), *place]


def _describe(course: Course, server: Server, startup_s: float) -> None:
    """The same events as of an engine in process; what a server does not tell is left out."""
    metrics = server.metrics()
    ranks = [rank for rank in server.rpc("vllm_fit_report") if isinstance(rank, dict)]
    engine: dict[str, Any] = ranks[0]["engine"] if ranks else {"vllm_version": server.version()}
    course.add(
        {
            "event": "engine",
            "startup_s": startup_s,
            "engine": {**engine, "max_model_len": server.model().get("max_model_len")},
            "kv_cache": {
                "block_size": metrics.block_size or engine.get("block_size"),
                "num_blocks": metrics.num_blocks,
                "tokens": metrics.tokens,
                "max_concurrency": metrics.max_concurrency,
            },
        }
    )
    course.add({"event": "ranks", "ranks": ranks})
    if engine.get("pipeline_parallel_size", 1) > 1 and engine.get("device") == "cpu":
        server.rpc("vllm_fit_allocate_pipeline_buffers")


@dataclass
class Traffic:
    """The loads of a launch, each result beside what the server's metrics said meanwhile."""

    course: Course
    session: Session
    server: Server
    bench: Bench
    client: dict[str, str]

    def run(self) -> None:
        """The loads one after another, each after a warm-up, then the soak."""
        loads = self.course.spec.loads
        if loads:
            self.course.say(f"load 1/{len(loads)}: warming up")
            for round_, result in zip(rounds(loads), self._results([r.run for r in rounds(loads)]), strict=True):
                if round_.counts:
                    self.course.add({"event": "bench", "number": round_.number, **result})
                self.course.say(f"load {round_.number}/{len(loads)}: {round_.next_words}")
        if self.course.spec.soak is not None:
            self._soak(self.course.spec.soak)

    def _soak(self, soak: Soak) -> None:
        """As many requests as take the given time, by the speed of a short run before."""
        load = Load(concurrency=soak.concurrency, input_len=soak.input_len, output_len=soak.output_len, rounds=1)
        self.course.say(f"soak: {soak.concurrency} at once, how fast")
        (first,) = self._results([(load, 90_001)])
        rate = float(first["result"]["request_throughput"])
        requests = max(4 * soak.concurrency, math.ceil(60 * soak.minutes * rate))
        self.course.say(f"soak: {requests} requests, {soak.concurrency} at once, about {soak.minutes:g} min")
        (result,) = self._results([(replace(load, requests=requests), 90_002)], detailed=True)
        self.course.add({"event": "soak", "soak": vars(soak), **result})

    def _results(self, runs: Sequence[tuple[Load, int]], *, detailed: bool = False) -> Iterator[dict[str, Any]]:
        watch = MetricsWatch(self.server)
        memory_from = self.course.memory.look(self.session.id).at

        def wait(load_generator: Session) -> bool:
            if not self.course.wait(self.session):
                raise self.course.failure(self.session.exit_code())
            watch.look()
            return load_generator.exit_code() is None

        for result in self.bench.run(runs, self.course.spec.engine_python, self.client, wait, detailed=detailed):
            samples = self.course.memory.since(memory_from)
            memory_from = samples[-1].at if samples else memory_from
            yield {"result": result, **watch.take(), "memory": [vars(sample) for sample in samples]}


class MetricsWatch:
    """Preemptions and the fullest the KV cache was, from one `take` to the next."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._last = server.metrics()
        self._usage = 0.0
        self._looked = 0.0

    def look(self) -> None:
        """Takes the cache's usage, twice a second at most; the highest is kept."""
        if time.monotonic() - self._looked < _METRICS_EVERY_S:
            return
        self._looked = time.monotonic()
        with suppress(InputError):  # a server under load may be late; one that has ended is noticed elsewhere
            self._usage = max(self._usage, self._server.metrics().kv_cache_usage)

    def take(self) -> dict[str, Any]:
        """Preemptions since the last call, and the highest share (0 to 1) of the KV cache in use seen since."""
        now = self._server.metrics()
        told = {"preemptions": now.preemptions - self._last.preemptions, "kv_cache_usage": self._usage}
        self._last, self._usage = now, 0.0
        return told


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of the load generator."""

    number: int
    """Of its load, from 1."""
    run: tuple[Load, int]
    """What to run, with which seed."""
    counts: bool
    """False for a warm-up."""
    next_words: str
    """What comes after it, for people."""


def rounds(loads: Sequence[Load]) -> list[Round]:
    """A warm-up, then the rounds of each load; prompts of their own for each, since a cached prefix is faster."""
    made = []
    for number, load in enumerate(loads, 1):
        warm_up = replace(load, requests=load.concurrency, output_len=min(load.output_len, 8))
        for index in range(load.rounds + 1):
            after = "done" if index == load.rounds else f"round {index + 1}/{load.rounds}"
            run = (load if index else warm_up, 1000 * number + index)
            made.append(Round(number=number, run=run, counts=index > 0, next_words=after))
    return made
