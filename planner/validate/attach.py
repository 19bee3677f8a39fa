"""A vLLM server that runs already: read through its HTTP side and its log, compared, never stopped."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from planner.engine.api import Metrics, Server, is_loopback, number, whole
from planner.engine.bench import Bench
from planner.engine.launch import Device, LaunchSpec, printed
from planner.engine.measure import Measurement
from planner.engine.process import Session
from planner.engine.serve import MetricsWatch, rounds
from planner.engine.workplace import environment
from planner.errors import InputError
from planner.request import prepare
from planner.text import printable
from planner.validate import record as records
from planner.validate.record import Record
from planner.validate.store import Store
from planner.validate.text import record_text
from planner.validate.trial import Options, trial_of

_POLL_S = 0.2


def run_attach(given: Mapping[str, Any], options: Options, flags: Mapping[str, Any], store: Store) -> int:
    """`vllm-fit validate --attach URL`: 0 when every exact prediction was met, 1 when not."""
    log = _log_text(flags["log"])
    with Server(flags["attach"]) as server:
        if flags["load"] and not is_loopback(server.url):
            raise InputError(f"--load: {server.url} is not on this machine, and a load is only put on 127.0.0.1")
        seen = _Seen(server=server, model=server.model(), version=server.version(), metrics=server.metrics(), log=log)
        inputs = prepare(_request(seen, given, options))
        # The server runs, whatever is predicted of it.
        device: Device = "cpu" if inputs.gpu.kind == "cpu" else "cuda"
        trial = trial_of(_name(seen), inputs, replace(options, device=device, anyway=True))
        loads = trial.loads if flags["load"] else ()
        record = {**records.begun(trial), "way": "attach", "weights": "what the server has loaded"}
        run = store.add(record)
        events = [*_events(seen), *(_loaded(seen, trial.spec) if loads and trial.spec else ())]
        measured = Measurement.of(events, loads, printed=printed(log) if log else {})
        record = records.with_measurement(record, trial, measured, complete=True)
        store.update(run, record)
    click.echo(json.dumps(record, indent=2) if flags["form"] == "json" else _text(record, seen))
    return 0 if record["agrees"] else 1


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the server says of itself."""

    server: Server
    model: Mapping[str, Any]
    version: str
    metrics: Metrics
    log: str


def _log_text(path: Path | None) -> str:
    if path is None:
        return ""
    from planner.logs import read_log

    return read_log(path)


def _name(seen: _Seen) -> str:
    return printable(seen.model.get("id") or "a server")


def _request(seen: _Seen, given: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What is given on the command line or in a plan, else what the log says, else what the server says."""
    from planner.logs.prediction import ask
    from planner.logs.reader import read

    config = seen.metrics.cache_config
    told: dict[str, Any] = {
        "model": str(seen.model.get("root") or seen.model.get("id")),
        "max_model_len": seen.model.get("max_model_len"),
        "vllm_version": seen.version,
        "usage": "server",
        "gpu_memory_utilization": number(config.get("gpu_memory_utilization")),
        "kv_cache_memory_bytes": whole(config.get("kv_cache_memory_bytes")),
    }
    if config.get("cache_dtype") not in (None, "auto", "None"):
        told["kv_cache_dtype"] = config["cache_dtype"]
    if seen.log:
        told |= dict(ask(read(seen.log)[0], {}, None).request)
        if "CPU KV cache size: " in seen.log:
            told["gpu"] = "cpu"
    elif is_loopback(seen.server.url) and not given.get("gpu"):
        told |= _gpu_here()
    # A plan's version is what it was made for, not what runs.
    request = {**told, **given, "vllm_version": str(options.version or told["vllm_version"])}
    if not request.get("gpu"):
        raise InputError("which card the server runs on is not known: pass --gpu (or --log with its start-up log)")
    return {name: value for name, value in request.items() if value is not None}


def _gpu_here() -> dict[str, str]:
    from planner.hardware.detect import this_machine

    found = this_machine()
    return {"gpu": found[0]} if found else {}


def _events(seen: _Seen) -> list[dict[str, Any]]:
    metrics = seen.metrics
    engine = {"vllm_version": seen.version, "max_model_len": seen.model.get("max_model_len")}
    cache = {
        "block_size": metrics.block_size,
        "num_blocks": metrics.num_blocks,
        "tokens": metrics.tokens,
        "max_concurrency": metrics.max_concurrency,
    }
    return [
        {"event": "engine", "startup_s": None, "engine": engine, "kv_cache": cache},
        {"event": "ranks", "ranks": []},
    ]


def _loaded(seen: _Seen, spec: LaunchSpec) -> Iterator[dict[str, Any]]:
    """The load, by vLLM's own generator, with what the server's metrics said meanwhile."""
    watch = MetricsWatch(seen.server)
    tokenizer = str(seen.model.get("root") or seen.model.get("id"))

    def wait(load_generator: Session) -> bool:
        load_generator.wait(_POLL_S)
        watch.look()
        if time.monotonic() > deadline:
            raise InputError(f"the load was not finished after {spec.timeout_s:g} s")
        return load_generator.exit_code() is None

    with tempfile.TemporaryDirectory(prefix="vllm-fit-") as name:
        folder = Path(name)
        deadline = time.monotonic() + spec.timeout_s
        client = environment(spec, folder) | {"VLLM_LOGGING_LEVEL": "WARNING"}
        bench = Bench(seen.server.url, str(seen.model.get("id")), tokenizer, folder)
        planned = rounds(spec.loads)
        results = bench.run([round_.run for round_ in planned], Path(sys.executable), client, wait)
        for round_, result in zip(planned, results, strict=True):
            told = watch.take()
            if round_.counts:
                yield {"event": "bench", "number": round_.number, "result": result, **told, "memory": []}


def _text(record: Record, seen: _Seen) -> str:
    now = seen.metrics
    return (
        f"{record_text(record)}\n"
        f"Now: {now.running} requests running, {now.waiting} waiting, {now.kv_cache_usage:.1%} of the KV cache in use, "
        f"{now.preemptions} preemptions since it started"
    )
