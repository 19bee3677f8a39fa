"""`vllm-fit …`: parsing and printing only. Exit codes: 0 fits, 1 does not fit or refused, 2 wrong input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from planner import __version__
from planner.errors import InputError, bug
from planner.gate.formats import FORMATS
from planner.options import (
    LIMITS,
    WORKLOAD,
    Between,
    output_file,
    output_option,
    overrides_from,
    refuse,
    request_from,
    request_options,
    speed_limits,
)
from planner.text import flag, printable

FITS, DOES_NOT, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_FLAGS = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
_MORE = "Every other flag is one of `vllm serve`, under its own name."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    try:
        code = cli.main(args=list(argv) if argv is not None else None, standalone_mode=False)
        sys.stdout.flush()  # a full disk shows here, not after the last chance to say so
    except InputError as error:
        code = _fail(str(error))
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        code = _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
        print("vllm-fit: interrupted", file=sys.stderr)
    except BrokenPipeError:
        sys.stderr.close()
        code = DOES_NOT
    except OSError as error:
        code = _fail(f"{error.filename or 'standard output'}: {(error.strerror or str(error)).lower()}")
    except Exception as error:  # noqa: BLE001 - a person is not shown a traceback
        code = _fail(str(bug(error)))
    sys.exit(code or 0)


def _fail(message: str) -> int:
    print(f"vllm-fit: {printable(message, 4000)}", file=sys.stderr)
    return WRONG_INPUT


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vllm-fit")
def cli() -> None:
    """Will this model start on these GPUs, with which flags, for how many users? vLLM's own answer, before a launch."""


@cli.command(context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option("--concurrency", type=int, help="Requests at once.")
@click.option("--curve", is_flag=True, help="Concurrency for each context length, instead of one point.")
@click.option("--speed-curve", is_flag=True, help="Tokens/s and latency for each number of requests at once.")
@click.option("--sessions", type=click.IntRange(1), help="The largest context that holds so many requests at once.")
@click.option("--batch", help="A file of requests, one JSON object a line, or - for standard input.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def estimate(
    words: tuple[str, ...],
    batch: str | None,
    curve: bool,
    speed_curve: bool,
    sessions: int | None,
    form: str,
    **options: Any,
) -> int:
    """What vLLM would make of one launch: weights, KV cache and overhead per GPU, and whether it starts."""
    from planner import request as requests

    if batch is not None:
        return _batch(batch, words, {"curve": curve, "speed_curve": speed_curve, "sessions": sessions, **options})
    inputs = requests.prepare(request_from(words, options))
    if curve or sessions is not None:
        from planner.commands import print_curve

        return print_curve(inputs, sessions, form)
    if speed_curve:
        from planner.commands import print_speed_curve

        return print_speed_curve(inputs, form)
    if inputs.ask_vllm:
        click.echo("asking the installed vLLM, which takes about a minute the first time …", err=True)
    if inputs.gpu.kind == "cpu" and inputs.workload is not None:
        from planner.hardware.cpu_speed import remembered

        if remembered() is None:
            click.echo("measuring what this CPU can do, a few seconds, once …", err=True)
    result = inputs.estimate()
    if form == "json":
        click.echo(json.dumps(requests.answer_of(inputs, result), indent=2))
    else:
        from planner.text_report import estimate_text, throughput_text

        click.echo(estimate_text(result, requests.checkpoint_disagreement(inputs)))
        if inputs.workload is not None:
            click.echo("\n" + throughput_text(inputs, result))
    return FITS if result.fits else DOES_NOT


def _batch(source: str, words: tuple[str, ...], options: dict[str, Any]) -> int:
    from planner import strict_json
    from planner.request import answer_lines

    others = [*words, *(flag(name) for name, value in options.items() if value not in (None, False))]
    if others:
        raise InputError(f"unexpected {printable(others[0])}: with --batch, each line of the file is a whole request")
    code = FITS
    with strict_json.open_lines(source) as lines:
        for answer in answer_lines(lines):
            click.echo(json.dumps(answer))
            code = max(code, WRONG_INPUT if answer["status"] == "error" else answer["status"] != "fits")
    return code


@cli.command(context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option(
    "--gpus", type=click.IntRange(1), help="How many of these cards there are; default: as many as the flags ask for."
)
@click.option("--concurrency", type=float, default=1, show_default=True, help="Requests to hold at once.")
@click.option("--margin-gib", type=float, default=0, help="KV cache per GPU that must be left over.")
@speed_limits
@click.option("--gpus-per-node", type=int, help="Tensor parallel stays within a node; 8 by default.")
@click.option("--engines", type=click.IntRange(1), help="So many independent engines, instead of the best number.")
@click.option("--keep", multiple=True, help="A flag that must stay as it is (several times).")
@click.option("--forbid", multiple=True, help="A rung not to take: kv-cache-dtype, quantization … (several times).")
@click.option("--order", multiple=True, help="A rung to try before the others (several times, in order).")
@click.option("--alternatives", is_flag=True, help="Also the best launches for fewer cards and other quality costs.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@output_option("The plan as JSON.")
def fit(
    words: tuple[str, ...],
    gpus: int | None,
    concurrency: float,
    margin_gib: float,
    gpus_per_node: int | None,
    engines: int | None,
    keep: tuple[str, ...],
    forbid: tuple[str, ...],
    order: tuple[str, ...],
    alternatives: bool,
    form: str,
    output: Path | None,
    **options: Any,
) -> int:
    """The smallest legal change that makes a model fit: the ladder, rung by rung, and the `vllm serve` line.

    The cards are used from the start, by the largest legal tensor parallel size or, for many requests, by several
    engines; --tensor-parallel-size and --engines say otherwise. With --input-len and --output-len a request is so long;
    without, as long as --max-model-len.
    """
    from planner import plan_commands as commands

    limits = {name: options.pop(name) for name in LIMITS}
    request = request_from(words, options)
    sizes = {"gpus": gpus, "engines": engines, "gpus_per_node": gpus_per_node}
    goal = commands.goal_of(request, concurrency, margin_gib, **sizes, **limits)
    if output == Path("-"):
        form, output = "json", None
    climb = {"keep": commands.kept(keep), "order": order, "forbid": forbid, "one_way": engines is not None}
    return commands.run_fit(request, goal, climb, form, output, show_alternatives=alternatives)


@cli.command(context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option("--concurrency", type=float, default=1, show_default=True, help="Requests to hold at once.")
@click.option("--margin-gib", type=float, default=0, help="KV cache per GPU that must be left over.")
@speed_limits
@click.option("--prices", type=click.Path(path_type=Path), help="Card and price per hour: JSON, YAML or CSV.")
@click.option("--forbid", multiple=True, help="A rung not to take: kv-cache-dtype, quantization … (several times).")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="So many lines of text.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def recommend(
    words: tuple[str, ...],
    concurrency: float,
    margin_gib: float,
    prices: Path | None,
    forbid: tuple[str, ...],
    top: int,
    form: str,
    **options: Any,
) -> int:
    """Which cards, and how many of each, would do for a goal: --gpu names some, comma-separated; else all."""
    from planner import plan_commands as commands

    limits = {name: options.pop(name) for name in LIMITS}
    request = request_from(words, options)
    goal = commands.goal_of(request, concurrency, margin_gib, **limits)
    return commands.run_recommend(request, goal, prices, forbid, form, top)


@cli.command(context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option("--tensor-parallel-size", help="1,2,4")
@click.option("--pipeline-parallel-size", help="1,2")
@click.option("--quantization", help="default,fp8,what-if:awq,model:NAME")
@click.option("--kv-cache-dtype", help="auto,fp8")
@click.option("--max-model-len", help="4k,8k or 4096:131072:4096 (from, to, step)")
@click.option("--max-num-seqs", help="64,256")
@click.option("--max-num-batched-tokens", help="2048,8192")
@click.option("--concurrency", type=int, help="Requests at once, of which the speed is to be said.")
@output_option("FILE.csv or FILE.parquet.")
def sweep(words: tuple[str, ...], output: Path | None, **options: Any) -> int:
    """Every combination of comma-separated values (--gpu too), estimated, as a table."""
    from planner.plan_commands import run_sweep

    grid = {name: options.pop(name) for name in ("gpu", *_SWEPT)}
    return run_sweep(request_from(words, options), grid, output_file(output))


_SWEPT = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "quantization",
    "kv_cache_dtype",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
)


@cli.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["serve", "yaml", "compose", "kubernetes", "python"]),
    default="serve",
    show_default=True,
)
@output_option("Write it to a file.")
def commands(plan: Path, form: str, output: Path | None) -> int:
    """A plan file (`vllm-fit fit … -o PLAN.json`) as what people deploy: a command, YAML, Kubernetes, Python …"""
    from planner.plan_commands import run_commands

    return run_commands(plan, form, output_file(output))


@cli.command(context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to launch; this machine's GPU if it has one.")
@click.option("--serve", is_flag=True, help="With `vllm serve` and `vllm bench serve`, instead of in process.")
@click.option("--attach", metavar="URL", help="Launch nothing: read a vLLM server that runs.")
@click.option("--log", type=click.Path(path_type=Path), help="With --attach: the server's log.")
@click.option("--load", is_flag=True, help="With --attach: also put the load on it, if it is on this machine.")
@click.option("--concurrency", help="Requests in flight under load, several to try: 1,4,16. Default: the plan's, or 4.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Times each load is run.")
@click.option("--soak", type=Between(0.01, 1440), metavar="MINUTES", help="Then twice the load for so long.")
@click.option(
    "--timeout", type=Between(1, 10**7), default=900, show_default=True, help="Seconds for start and load of each."
)
@click.option("--anyway", is_flag=True, help="Launch also what is predicted not to start.")
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="CPU engines at once.")
@click.option("--ray", metavar="ADDRESS", help='Over a Ray cluster: its address, "auto", or "local".')
@click.option("--best", default="output-tokens-per-s", show_default=True, help="What makes the winner of several.")
@click.option("--again", is_flag=True, help="Of several plans, launch also those with a result in the history.")
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), help="The history's file.")
@click.option("--dry-run", is_flag=True, help="Print what would be started.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def validate(words: tuple[str, ...], **options: Any) -> int:
    """Launch real vLLM engines and show what they measured beside the prediction.

    For a model and flags, or for plan files: those of `fit -o`, of `recommend --format json`, or lists of them.
    Several are launched one after another, side by side where there are GPUs, and end with a winner.
    """
    from planner.validate.commands import run_validate

    given = {name: options.pop(name) for name in _VALIDATE}
    refuse(options, WORKLOAD, "is for `estimate`: a load is --concurrency requests at once")
    return run_validate(
        words, given, lambda: request_from(words, options), lambda words: overrides_from(words, options)
    )


_VALIDATE = (
    "device serve attach log load concurrency input_len output_len rounds soak timeout anyway parallel ray best again "
    "store dry_run vllm_version form"
).split()


_STATUSES = ("measured", "failed", "timeout", "interrupted", "not_started", "running")


@cli.command()
@click.argument("run", type=int, required=False)
@click.option("--model", help="Only runs of models whose name has this in it.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only these.")
@click.option("--last", type=click.IntRange(1), help="Only the newest so many.")
@click.option("--store", type=click.Path(dir_okay=False, path_type=Path), help="The history's file.")
@click.option(
    "--export",
    nargs=2,
    type=(click.Choice(["launches", "serving"]), click.Path(dir_okay=False, path_type=Path)),
    metavar="launches|serving FILE",
    help="Write what was measured as rows for `fit-constants --also FILE`.",
)
@click.option("--format", "form", type=click.Choice(["text", "json", "csv"]), default="text")
def history(
    run: int | None,
    model: str | None,
    status: str | None,
    last: int | None,
    store: Path | None,
    export: tuple[str, Path] | None,
    form: str,
) -> int:
    """The validations of this machine: all, or one RUN in full."""
    from planner.validate.commands import run_history
    from planner.validate.store import Store

    filters = {"model": model, "status": status, "last": last}
    return run_history(Store(store, create=False), run, filters, form, export)


@cli.command("explain-log", context_settings=_FLAGS, epilog=_MORE)
@request_options
@click.option("--save", is_flag=True, help="Add the launch to your own measurements.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def explain_log(words: tuple[str, ...], save: bool, form: str, **options: Any) -> int:
    """Read the start-up LOG of a vLLM: its figures beside the predicted ones, and why it failed and what fixes it.

    The first word is the file; --gpu and the rest say what the log does not.
    """
    from planner.commands import run_explain_log

    if not words:
        raise InputError("no log given; pass the file that vLLM's output went to")
    overrides = overrides_from(words[1:], options)
    return run_explain_log(words[0], overrides, save, form)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--gpu", help="The card of launches whose file names none.")
@click.option("--gpus", type=click.IntRange(0), help="How many there are, where the file does not say.")
@click.option("--vllm-version", help="Which vLLM, where no image tag says; the newest known by default.")
@click.option("--policy", type=click.Path(path_type=Path), help="The policy; vllm-fit.yaml here or above by default.")
@click.option("--unknown", type=click.Choice(["fail", "warn"]), help="What a launch that cannot be judged does.")
@click.option("--offline", is_flag=True, help="Models of the catalogue and of the local Hub cache only.")
@click.option(
    "--timeout", type=Between(0, 10**7), default=60, show_default=True, help="Seconds for all look-ups on the Hub."
)
@click.option("--changed-since", metavar="REV", help="Only launches that changed since this revision, and how.")
@click.option("--policy-schema", is_flag=True, help="Print the JSON Schema of vllm-fit.yaml, for editors, and end.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text")
@output_option("Write it to a file.")
def gate(paths: tuple[Path, ...], form: str, output: Path | None, policy_schema: bool, **options: Any) -> int:
    """Read deployment files, find every vLLM launch in them, and fail where one would not start or breaks the policy.

    PATHS are files or folders; this folder by default. Exit code 0: all pass, 1: a launch fails, 2: wrong input.
    """
    from planner.gate.cli import print_schema, run_gate

    if policy_schema:
        return print_schema(output_file(output))
    return run_gate(paths, form, output_file(output), options)


@cli.command("fit-constants")
@click.option("--write", is_flag=True, help="Write the constants file and its page in docs/, in a source tree.")
@click.option("--serving", is_flag=True, help="Those of the speed model, on measured serving, instead of memory's.")
@click.option(
    "--also",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your own measurements besides (`history --export`; several times).",
)
def fit_constants(write: bool, serving: bool, also: tuple[Path, ...]) -> int:
    """Fit the few constants on measured launches, and show how wrong they are on launches of other sources."""
    from planner.commands import run_fit_constants, run_fit_serving

    return run_fit_serving(write, also) if serving else run_fit_constants(write, also)


@cli.command()
@click.argument("plans", nargs=-1, type=click.Path(path_type=Path), metavar="PLAN.json…")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="fit.html, .pdf (printed by Chromium), .md, .json or .csv",
)
@click.option("--run", type=int, help="With what this run of `vllm-fit history` measured.")
def report(plans: tuple[Path, ...], output: Path, run: int | None) -> int:
    """Plan files (`vllm-fit fit … -o PLAN.json`) as one report to attach to a capacity request."""
    from planner.commands import write_report

    return write_report(plans, output, run)


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
def ui(port: int) -> int:
    """The what-if page in a browser, served on this machine only."""
    from app.serve import run

    return run(port)


@cli.command()
def gpus() -> None:
    """The cards of the catalogue."""
    from planner.hardware.catalogue import all_gpus
    from planner.units import gib

    for gpu in all_gpus():
        memory = f"{gib(gpu.memory_bytes)} GiB" if gpu.memory_bytes else "memory unknown"
        click.echo(f"{gpu.name:52} {memory:>16}  {gpu.compute_capability or '-'}")


@cli.command()
def models() -> None:
    """The models of the catalogue."""
    import hf_configs

    for name in hf_configs.names():
        click.echo(name)


if __name__ == "__main__":
    main()
