"""What `validate` and `history` do besides calling the rest: options, progress, output, exit codes."""

from __future__ import annotations

import csv
import io
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
import psutil

from planner.engine import workplace
from planner.engine.args import EngineArgs
from planner.engine.launch import Device, EngineSupport, platform_supports_engine
from planner.engine.version import parse_version
from planner.errors import InputError
from planner.files import write_text
from planner.request import prepare
from planner.text import flag, printable
from planner.units import gib
from planner.validate.candidates import Candidate, read_candidates
from planner.validate.record import Record
from planner.validate.run import Place, ThisMachine, ended_by_sigterm, run, visible_gpus
from planner.validate.store import Store, summary
from planner.validate.text import history_text, ranking_text, record_text
from planner.validate.trial import Options, Trial, for_device, trial_of
from planner.validate.winner import AIMS, rank


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the command line says besides the candidates and their options."""

    store: Path | None
    again: bool
    parallel: int
    ray: str | None
    best: str
    dry_run: bool
    form: str


def run_validate(
    words: Sequence[str],
    given: Mapping[str, Any],
    request: Callable[[], dict[str, Any]],
    overrides: Callable[[Sequence[str]], dict[str, Any]],
) -> int:
    """`vllm-fit validate`. words: plan files, or a model and flags, of which `request` makes the request and
    `overrides` the part that is given, where a plan or a running server tells the rest."""
    choices = Choices(**{field.name: given[field.name] for field in fields(Choices)})
    if choices.best not in AIMS:
        raise InputError(f"--best {printable(choices.best)}: must be one of {', '.join(AIMS)}")
    if given["attach"] is None and (given["log"] or given["load"]):
        raise InputError("--log and --load go with --attach")
    files = _plan_files(words)
    extra = next(iter(overrides(())), None) if files else None
    if extra is not None:
        raise InputError(f"unexpected {flag(extra)}: a plan brings its own")
    if given["attach"] is not None:
        from planner.validate.attach import run_attach

        launching = next((name for name in _LAUNCHING if given[name]), None)
        if launching is not None:
            raise InputError(f"{flag(launching)} goes with a launch, and --attach makes none")
        if len(files) > 1:
            raise InputError("--attach compares one server with one plan")
        plan = dict(read_candidates(files[0])[0].request) if files else overrides(words)
        return run_attach(plan, _options("cpu", given), given, Store(choices.store))
    candidates = [candidate for path in files for candidate in read_candidates(path)]
    if not files:
        found = request()
        candidates = [Candidate(label=str(found["model"]), request=found)]
    if choices.ray is not None:
        from planner.validate.ray_cluster import ray_cluster

        with ray_cluster(choices.ray) as cluster:
            return run_trials(candidates, _options(given["device"] or cluster.device, given), choices, cluster)
    device, support = _device(given["device"])
    if not support:
        return plans_alone(candidates, support, _options(device, given), choices.form)
    here = ThisMachine(gpus=visible_gpus() if device == "cuda" else (), parallel=choices.parallel)
    return run_trials(candidates, _options(device, given), choices, here)


_LAUNCHING = ("device", "serve", "soak", "anyway", "ray", "again", "dry_run")


def _plan_files(words: Sequence[str]) -> list[Path]:
    """The words, where the first is a file of plans; a config.json is a model."""
    from planner import strict_json

    if not words or not words[0].endswith(".json") or not Path(words[0]).is_file():
        return []
    where = printable(words[0])
    content = strict_json.parse(strict_json.read_bytes(Path(words[0]), where), where, infinity=True)
    if isinstance(content, Mapping) and not {"plan", "plans", "serve"} & set(content):
        return []
    flag = next((word for word in words if word.startswith("-")), None)
    if flag is not None:
        raise InputError(f"unexpected {printable(flag)}: a plan brings its own flags")
    return [Path(word) for word in words]


def _options(device: Device, given: Mapping[str, Any]) -> Options:
    for name in ("input_len", "output_len"):
        if given[name] is not None and not 1 <= given[name] <= 10**9:
            raise InputError(f"{flag(name)} {given[name]}: must be a whole number of at least 1")
    return Options(
        device=device,
        way="serve" if given["serve"] or given["soak"] is not None else "in_process",
        concurrency=_numbers(given["concurrency"]),
        input_len=given["input_len"],
        output_len=given["output_len"],
        rounds=given["rounds"],
        soak_minutes=given["soak"],
        timeout_s=given["timeout"],
        anyway=given["anyway"],
        version=parse_version(given["vllm_version"]) if given["vllm_version"] else None,
    )


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= 10_000 for word in words):
        raise InputError(f"--concurrency {printable(text)}: must be whole numbers from 1 to 10,000, like 1,4,16")
    return tuple(dict.fromkeys(int(word) for word in words))


def _device(name: str | None) -> tuple[Device, EngineSupport]:
    """The device to launch on, and whether an engine for it is here."""
    if name is None:
        name = "cuda" if platform_supports_engine("cuda") else "cpu"
    device: Device = "cuda" if name == "cuda" else "cpu"
    return device, platform_supports_engine(device)


def plans_alone(candidates: Sequence[Candidate], support: EngineSupport, options: Options, form: str) -> int:
    """No engine can be started here: the predictions without proof."""
    from planner.text_report import estimate_text

    click.echo(f"vllm-fit: no engine to launch here: {support.reason}. The plan alone:", err=True)
    fits = True
    for candidate in candidates:
        inputs = prepare({"gpu": "cpu", **candidate.request})
        inputs = replace(inputs, version=options.version or inputs.version)
        if inputs.gpu.kind == "cpu":
            inputs = for_device(inputs, "cpu", version=inputs.version)
        estimate = inputs.estimate()
        click.echo(json.dumps(estimate.to_dict(), indent=2) if form == "json" else estimate_text(estimate))
        fits = fits and estimate.fits
    return 0 if fits else 1


def run_trials(candidates: Sequence[Candidate], options: Options, choices: Choices, place: Place) -> int:
    """`vllm-fit validate`: 0 when every launch did as predicted, 1 when one did not."""
    trials = trials_of(candidates, options)
    store = Store(choices.store)
    several = len(trials) > 1
    if choices.dry_run:
        click.echo("\n\n".join(dry_run_text(trial, _known(store, trial, choices, several)) for trial in trials))
        return 0
    if not several and trials[0].spec is None:
        raise InputError(trials[0].obstacle or "nothing to launch")
    found: list[Record] = []
    again = choices.again or not several
    with (
        ended_by_sigterm(),
        _progress(several) as show,
        closing(run(trials, place, store, again=again, on_progress=show)) as records,
    ):
        for record in records:
            found.append(record)
            if choices.form == "text" and several:
                click.echo(record_text(record) + "\n")
    ranking = rank(found, AIMS[choices.best]) if several else None
    if choices.form == "json":
        told = [_without_log(record) for record in found]
        answer = {"results": told, "ranking": ranking.to_dict() if ranking else None} if several else told[0]
        click.echo(json.dumps(answer, indent=2))
        for record in found:
            if record["error"]:
                click.echo(
                    f"vllm-fit: {printable(record['label'])}: {printable(record['error']['message'], 800)}", err=True
                )
    elif several:
        click.echo(ranking_text(ranking) if ranking else "no candidate reached its goal")
    else:
        click.echo(record_text(found[0]))
    return 0 if all(record["agrees"] and _held(record) for record in found) else 1


def _held(record: Record) -> bool:
    return bool(record.get("soak", {}).get("held", True))


def trials_of(candidates: Sequence[Candidate], options: Options) -> list[Trial]:
    """Each candidate as a launch on this machine; those that become the same launch here are made once."""
    trials: dict[str, Trial] = {}
    for candidate in candidates:
        request = _on_this_machine(candidate.request, options.device)
        inputs = for_device(prepare(request), options.device, options.way, options.version)
        trial = trial_of(candidate.label, inputs, options, candidate.goal)
        if trial.key in trials:
            click.echo(f"vllm-fit: {trial.label} is the same launch here as {trials[trial.key].label}", err=True)
        trials.setdefault(trial.key, trial)
    return list(trials.values())


def _on_this_machine(request: Mapping[str, Any], device: Device) -> dict[str, Any]:
    if device == "cpu":
        return {**request, "gpu": "cpu"}
    from planner.hardware.detect import this_machine

    if request.get("gpu"):
        return dict(request)
    found = this_machine()
    if not found:
        raise InputError("no GPU is seen on this machine; pass --gpu with its name, or --device cpu")
    return {**request, "gpu": found[0]}


def _known(store: Store, trial: Trial, choices: Choices, several: bool) -> Record | None:
    return None if choices.again or not several else store.result(trial.key)


def dry_run_text(trial: Trial, known: Record | None) -> str:
    """What would be started, and whether there is room for it."""
    spec = trial.spec
    lines = [f"{printable(trial.label)}: {'a real engine on ' + trial.device if spec else 'nothing would be started'}"]
    if known is not None:
        lines.append(f"  not launched again: run {known['id']} of {known['started']} has its result (--again)")
    if spec is None:
        return "\n".join([*lines, f"  {printable(trial.obstacle, 800)}"])
    args = EngineArgs(workplace.engine_args(spec, has_checkpoint=spec.model_path is not None))
    words = ["vllm", "serve", str(spec.model_path or spec.name), *args.to_flags()]
    if spec.way == "serve":
        lines.append(f"  {shlex.join([*words, '--host', '127.0.0.1', '--port', 'FREE'])}")
    else:
        lines.append(f"  in process, as: {shlex.join(words)}")
    lines.append(f"  {printable(trial.weights, 300)}")
    if trial.gpus:
        lines.append(f"  GPUs: {trial.gpus}")
    lines += [
        f"  load: {load.concurrency} at once, {load.input_len} tokens in, {load.output_len} out, "
        f"{load.rounds} rounds of {load.requests_a_round} requests"
        for load in spec.loads
    ]
    if spec.soak is not None:
        lines.append(f"  soak: {spec.soak.concurrency} at once for {spec.soak.minutes:g} min")
    needs = workplace.room_needed(spec)
    if needs:
        parts = ", ".join(f"{gib(size)} for {what}" for what, size in needs.items())
        available = gib(psutil.virtual_memory().available)
        lines.append(f"  memory: {gib(sum(needs.values()))} GiB ({parts}); {available} GiB are available")
    folder = tempfile.gettempdir()
    lines.append(f"  at most {spec.seconds:g} s; files in {folder}, removed at the end")
    return "\n".join(lines)


def _without_log(record: Record) -> Record:
    """The log of a failed start is long: it is in the history and in its file."""
    error = record["error"]
    return {**record, "error": {key: value for key, value in error.items() if key != "log"}} if error else record


# --- history ----------------------------------------------------------------------------------------------------------


def run_history(
    store: Store, run_id: int | None, filters: Mapping[str, Any], form: str, export: tuple[str, Path] | None
) -> int:
    """`vllm-fit history`: the runs, one run in full, or an export of what was measured.

    2 where a run is damaged: it is named after the others; of an export nothing is written then.
    """
    if run_id is not None:
        record = store.get(run_id)
        if record is None:
            raise InputError(f"{printable(store.path)} has no run {run_id}; `vllm-fit history` lists them")
        click.echo(json.dumps(record, indent=2) if form == "json" else record_text(record))
        return 0
    damaged: list[InputError] = []
    runs = store.runs(**filters, on_damage=None if export else damaged.append)
    if export is not None:
        from planner.validate.export import EXPORTS

        kind, path = export
        rows = EXPORTS[kind](runs)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        click.echo(f"{len(rows)} rows for fit-constants in {printable(path)}", err=True)
    elif form == "json":
        click.echo(json.dumps([_without_log(record) for record in runs], indent=2))
    elif form == "csv":
        click.echo(_csv(runs), nl=False)
    else:
        click.echo(history_text(runs))
    for error in damaged:
        click.echo(f"vllm-fit: {error}", err=True)
    return 2 if damaged else 0


def _csv(runs: Sequence[Record]) -> str:
    rows = [summary(run) for run in runs]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_CSV_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_CSV_COLUMNS = (
    "id started status model label device way vllm_version agrees weights_bytes kv_cache_tokens startup_s concurrency "
    "output_tokens_per_s ttft_ms error"
).split()


@contextmanager
def _progress(several: bool) -> Iterator[Callable[[Trial, str], None]]:
    from planner.commands import progress

    with progress() as show:
        yield lambda trial, text: show(f"{trial.label}: {text}" if several else text)
