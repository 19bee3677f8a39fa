"""What commands do besides calling the planner: progress, output and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from planner.errors import InputError
from planner.files import replacing, write_text
from planner.request import Inputs
from planner.text import printable
from planner.workload import Workload


def print_curve(inputs: Inputs, sessions: int | None, form: str) -> int:
    """`vllm-fit estimate --curve` and `--sessions`: 0 when there is any context that fits."""
    from planner.planning.curve import curve, longest_for

    points = curve(inputs) if sessions is None else tuple(filter(None, [longest_for(inputs, sessions)]))
    if form == "json":
        click.echo(json.dumps([point.to_dict() for point in points], indent=2))
    elif points:
        click.echo(f"{'max_model_len':>14}{'KV cache tokens':>18}{'max concurrency':>18}")
        for point in points:
            held = f"{point.max_concurrency:.2f}x" if point.tokens else "does not fit"
            click.echo(f"{point.max_model_len:>14,}{point.tokens:>18,}{held:>18}")
    else:
        click.echo(f"no context length holds {sessions} requests at once")
    return 0 if any(point.tokens for point in points) else 1


def run_explain_log(source: str, overrides: dict[str, Any], save: bool, form: str) -> int:
    """`vllm-fit explain-log`: 0 when the launch started, 1 when it failed."""
    from planner import logs

    explanation = logs.explain(logs.read_log(Path(source)), overrides=overrides)
    click.echo(json.dumps(explanation.to_dict(), indent=2) if form == "json" else logs.explanation_text(explanation))
    if save:
        added = logs.save(explanation)
        click.echo(f"{'added to' if added else 'already in'} {logs.default_store()}", err=True)
    return 1 if explanation.outcome.word == "failed" else 0


def write_report(plans: tuple[Path, ...], output: Path, run: int | None) -> int:
    """`vllm-fit report`: the form is the ending of the output's name. run: a validation in the history."""
    import datetime

    from planner import strict_json
    from reports import FORMS, render
    from reports.measured import with_validation
    from reports.pdf import pdf_of
    from reports.view import view_of

    ending = output.suffix.lower().removeprefix(".")
    form = next((form for form in FORMS if ending in (form, *(["pdf"] if form == "html" else []))), None)
    if form is None:
        raise InputError(f"{printable(output)}: must end in one of {', '.join('.' + form for form in (*FORMS, 'pdf'))}")
    if not plans:
        raise InputError("no plan given; pass the file that `vllm-fit fit … -o PLAN.json` wrote, or several")
    contents = [strict_json.read_object(plan) for plan in plans]
    if run is not None:
        contents = [with_validation(contents, run)]
    for plan, content in zip(plans, contents, strict=True):
        try:
            view_of(content)
        except InputError as error:
            raise InputError(f"{printable(plan)}: {error}") from None
    text = render(contents, form, datetime.date.today())
    if ending == "pdf":
        with replacing(output) as temporary:
            temporary.write_bytes(pdf_of(text))
    else:
        write_text(output, text)
    return 0


def run_fit_constants(write: bool, also: tuple[Path, ...]) -> int:
    """`vllm-fit fit-constants`: prints the errors; with `write`, renews the constants file and the accuracy page."""
    from planner.calibration.fit import fit
    from planner.calibration.launches import launches
    from planner.calibration.report import accuracy_page
    from planner.logs import default_store
    from planner.memory.constants import CONSTANTS, constants, read_again

    found, left_out = launches(default_store(), *also)
    if write:
        page = _page("accuracy-memory.md")
        write_text(CONSTANTS, json.dumps(fit(found, constants()), indent=2) + "\n")
        read_again()
        launches.cache_clear()
        found, left_out = launches(default_store(), *also)
        write_text(page, accuracy_page(found, left_out))
        click.echo(f"wrote {CONSTANTS} and {page}")
    click.echo(accuracy_page(found, left_out).partition("## Launch by launch")[0].rstrip())
    return 0


def run_fit_serving(write: bool, also: tuple[Path, ...]) -> int:
    """`vllm-fit fit-constants --serving`: prints the errors; with `write`, fits again and renews file and page."""
    from planner.calibration import serving
    from planner.calibration.serving_rows import cases
    from planner.planning.throughput.rates import CONSTANTS

    found, left_out = cases(*also)
    if write:
        page = _page("accuracy-serving.md")
        with progress() as show:
            serving.write_constants(serving.fit_file(found, show))
        write_text(page, serving.accuracy_page(found, left_out))
        click.echo(f"wrote {CONSTANTS} and {page}")
    click.echo(serving.accuracy_page(found, left_out).partition("## How the rows")[0].rstrip())
    return 0


def _page(name: str) -> Path:
    page = Path(__file__).parents[1] / "docs" / name
    if not page.parent.is_dir():
        raise InputError(f"{page.parent}: no such folder; --write works in a source tree")
    return page


def print_speed_curve(inputs: Inputs, form: str) -> int:
    """`vllm-fit estimate --speed-curve`: 0 where the launch starts."""
    from planner.planning.throughput import curve, knee, speed_of

    if inputs.ask_vllm:
        raise InputError(f"{inputs.model.name}: its speed cannot be predicted: no family describes its layers")
    workload = inputs.workload or Workload()
    estimate = inputs.estimate()
    if not estimate.fits or estimate.model.is_pooling:
        why = estimate.reasons[0].message if estimate.reasons else "this model generates nothing"
        click.echo("[]" if form == "json" else why)
        return 1
    points = curve(speed_of(inputs, estimate, workload), workload)
    if form == "json":
        click.echo(json.dumps([point.to_dict() for point in points], indent=2))
        return 0
    best = knee(points)
    click.echo(f"{'at once':>8}{'running':>9}{'output tokens/s':>17}{'TTFT ms':>11}{'TPOT ms':>9}")
    for point in points:
        mark = "   knee" if point is best else ""
        click.echo(
            f"{point.concurrency:>8,.0f}{point.running:>9,.0f}{point.output_tokens_per_s:>17,.0f}"
            f"{point.ttft_ms:>11,.0f}{point.tpot_ms:>9.1f}{mark}"
        )
    return 0


@contextmanager
def progress() -> Iterator[Any]:
    """A spinner with the present step on a terminal; plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda text: status.update(printable(text))
        return
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if text != last:
            click.echo(f"  … {printable(text)}", err=True)  # one write: launches side by side report at once
            last = text

    yield show
