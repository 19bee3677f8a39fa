"""What `fit`, `recommend`, `sweep` and `commands` do besides calling the planner: options, output, exit codes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planner.engine.args import engine_arg_names, human_int
from planner.errors import InputError
from planner.planning.goal import Goal
from planner.request import prepare
from planner.text import did_you_mean, flag, nearest, printable
from planner.units import GIB

if TYPE_CHECKING:
    from planner.planning.alternatives import Option


def goal_of(
    request: dict[str, Any],
    concurrency: float,
    margin: float,
    *,
    gpus: int | None = None,
    engines: int | None = None,
    **more: Any,
) -> Goal:
    """The goal of a command line. --input-len and --output-len are in the workload; more: other fields of a Goal."""
    load = request.pop("workload", {})
    other = next((key for key in load if key not in ("input_len", "output_len")), None)
    if other is not None:
        raise InputError(f"{flag(other)} is for `estimate`: a plan is for --concurrency requests at once")
    asked = math.prod(request.get(f"{kind}_parallel_size") or 1 for kind in ("tensor", "pipeline", "data"))
    asked *= engines or 1
    if not 0 <= margin < 1e6:
        raise InputError(f"--margin-gib {margin:g}: must be a number of GiB from 0")
    if gpus is not None and gpus < asked:
        raise InputError(f"--gpus {gpus}: the other flags ask for {asked}")
    return Goal(
        gpus=asked if gpus is None else gpus,
        concurrency=concurrency,
        input_len=load.get("input_len"),
        output_len=load.get("output_len"),
        margin_bytes=round(margin * GIB),
        engines=engines or 1,
        **{name: value for name, value in more.items() if value is not None},
    )


def kept(flags: tuple[str, ...]) -> frozenset[str]:
    """--keep: engine arguments under their Python names. InputError for one that vLLM does not have."""
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags]
    for name in names:
        if name not in engine_arg_names():
            hint = did_you_mean([near.replace("_", "-") for near in nearest(name, engine_arg_names())])
            raise InputError(f"--keep {printable(name)}: vLLM has no such flag{hint}")
    return frozenset(names)


def run_fit(
    request: dict[str, Any],
    goal: Goal,
    climb: Mapping[str, Any],
    form: str,
    output: Path | None,
    *,
    show_alternatives: bool,
) -> int:
    """`vllm-fit fit`: 0 with a plan, 1 without. climb: the other arguments of fit_with_replicas."""
    from planner.planning.replicas import fit_with_replicas
    from planner.planning.suggestions import suggestions

    inputs = prepare(request)
    plan = fit_with_replicas(inputs, goal, **climb)
    ideas = suggestions(plan.inputs, plan.goal, plan.estimate) if plan.met else ()
    others: Sequence[Option] = ()
    if show_alternatives:
        from planner.planning.alternatives import alternatives

        others = alternatives(inputs, goal.checked(inputs))

    def text() -> str:
        more = {"alternatives": [option.to_dict() for option in others]} if show_alternatives else {}
        return json.dumps({**plan.to_dict(), "suggestions": [idea.to_dict() for idea in ideas], **more}, indent=2)

    if output is not None:
        from planner.files import write_text

        write_text(output, text() + "\n")
    if form == "json":
        click.echo(text())
    else:
        from planner.planning.text import alternatives_text, plan_text, splits_text, suggestions_text

        more = [*splits_text(plan), *suggestions_text(ideas), *alternatives_text(others)]
        click.echo("\n".join([plan_text(plan), *more]))
    return 0 if plan.met else 1


def run_recommend(
    request: dict[str, Any], goal: Goal, prices: Path | None, forbid: tuple[str, ...], form: str, top: int
) -> int:
    """`vllm-fit recommend`: 0 when any card will do, else 1."""
    from planner.hardware.catalogue import find_gpu
    from planner.planning.prices import read_prices
    from planner.planning.recommend import recommend, worth_trying
    from planner.planning.text import recommendations_text

    named = [find_gpu(name) for name in (request.get("gpu") or "").split(",") if name.strip()]
    of_one = [key for key in ("gpu_memory_gib", "compute_capability") if key in request]
    if of_one and len(named) != 1:
        raise InputError(f"{flag(of_one[0])} is that of one card: name it, and no other, with --gpu")
    inputs = prepare({**request, "gpu": (named or worth_trying())[0].name})
    cards = [inputs.gpu] if len(named) == 1 else named
    found = recommend(inputs, goal.checked(inputs), cards, read_prices(prices) if prices else None, forbid=forbid)
    if form == "json":
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        click.echo(recommendations_text(found, goal, top))
    return 0 if found else 1


def values_of(name: str, text: str) -> tuple[Any, ...]:
    """ "1,2,4", "4k:32k:4k" (from, to, step), "auto,fp8"; "default" is vLLM's own."""
    values: list[Any] = []
    for word in text.split(","):
        word = word.strip()
        bounds = re.fullmatch(r"([^:]+):([^:]+):([^:]+)", word)
        if word in ("", "default"):
            values.append(None)
        elif name in ("quantization", "kv_cache_dtype", "gpu"):
            values.append(word)
        elif bounds:
            start, stop, step = (_whole(name, part) for part in bounds.groups())
            if len(range(start, stop + 1, step)) > 10**6:
                raise InputError(f"{flag(name)} {printable(word)}: more than a million values")
            values += range(start, stop + 1, step)
        else:
            values.append(_whole(name, word))
    return tuple(dict.fromkeys(values))


def _whole(name: str, word: str) -> int:
    import argparse

    try:
        number = int(human_int(word))
    except (ValueError, argparse.ArgumentTypeError):
        number = 0
    if number < 1:
        raise InputError(f"{flag(name)} {printable(word)}: must be whole numbers, e.g. 1,2,4 or 4k:32k:4k")
    return number


def run_sweep(request: dict[str, Any], grid: Mapping[str, str | None], output: Path | None) -> int:
    """`vllm-fit sweep`: CSV on standard output, or a .csv or .parquet file; 0 when anything fits."""
    from planner.planning.sweep import Grid, sweep

    ending = output.suffix.lower() if output is not None else ".csv"
    if ending not in (".csv", ".parquet"):
        raise InputError(f"{printable(output)}: must end in .csv or .parquet")
    table = sweep(request, Grid(**{name: values_of(name, text) for name, text in grid.items() if text is not None}))
    if output is None:
        click.echo(table.to_csv(index=False), nl=False)
    else:
        from planner.files import replacing

        with replacing(output) as file:
            table.to_csv(file, index=False) if ending == ".csv" else table.to_parquet(file, index=False)
        click.echo(f"{len(table):,} combinations, {int((table['status'] == 'fits').sum()):,} fit: {output}", err=True)
    return 0 if bool((table["status"] == "fits").any()) else 1


def run_commands(plan: Path, form: str, output: Path | None) -> int:
    """`vllm-fit commands`: a plan in one of the forms that people deploy."""
    from planner.planning.outputs import read_plan, write

    text = write(read_plan(plan), form)
    if output is None:
        click.echo(text, nl=False)
    else:
        from planner.files import write_text

        write_text(output, text)
    return 0
