"""Options that several commands share, and the request that a command line is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from planner.errors import InputError
from planner.text import flag

_NUMBERS = {
    "parameters": 'Instead of a model: its size ("8B"), or the numbers below.',
    "hidden_size": "Of a model known only by numbers.",
    "num_hidden_layers": "Likewise.",
    "num_attention_heads": "Likewise.",
    "num_key_value_heads": "Likewise.",
    "intermediate_size": "Likewise.",
    "vocab_size": "Likewise.",
}
WORKLOAD = ("input_len", "output_len", "concurrency", "request_rate", "prefix_hit_rate", "price_per_gpu_hour")
"""Options that are keys of a request's workload."""
LIMITS = ("ttft_ms", "tpot_ms", "output_tokens_per_s")
"""Those of speed_limits: fields of a Goal."""


def request_options(command: Any) -> Any:
    """The options of a request that are not engine arguments; the rest of the line is `words`."""
    for option in reversed(
        (
            click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="MODEL [FLAGS OF vllm serve]"),
            click.option("--gpu", help="The card: H100, L40S, 4090 … (`vllm-fit gpus` lists them)."),
            click.option("--gpu-memory-gib", type=float, help="What vLLM sees of it, if not the catalogue's figure."),
            click.option("--gpu-memory-used-gib", type=float, help="What other processes hold of each card."),
            click.option("--compute-capability", help='For a card the catalogue lacks, e.g. "9.0".'),
            click.option("--vllm-version", help="Which vLLM; the newest known by default."),
            click.option("--usage", type=click.Choice(["server", "offline"]), help="`vllm serve`, or the LLM class."),
            click.option(
                "--ask-vllm", is_flag=True, default=None, help="Let an installed vLLM size an unknown architecture."
            ),
            click.option("--what-if-quantization", help="As if a checkpoint in this format had been made."),
            click.option("--input-len", type=int, help="Prompt tokens of a request."),
            click.option("--output-len", type=int, help="Generated tokens of a request."),
            click.option("--request-rate", type=float, help="Requests a second, instead of --concurrency."),
            click.option("--prefix-hit-rate", type=float, help="Share of prompt tokens that prefix caching finds."),
            click.option("--price-per-gpu-hour", type=float, help="For the cost per million tokens, in any currency."),
            *(click.option(flag(name), name, help=text) for name, text in _NUMBERS.items()),
        )
    ):
        command = option(command)
    return command


def request_from(words: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """A request out of the command line: one positional word is the model, flags are engine arguments."""
    from planner.engine.args import parse_flags

    args, positional = parse_flags(words)
    request: dict[str, Any] = dict(args)
    if positional:
        request["model"] = positional[0]
    if len(positional) > 1:
        raise InputError(f"unexpected argument {positional[1]!r}: one model at a time")
    numbers = {name: _number(name, options.pop(name)) for name in _NUMBERS if options.get(name) is not None}
    if numbers and "model" in request:
        raise InputError(f"{flag(next(iter(numbers)))} describes a model, and {request['model']} names one: pass one")
    if numbers:
        request["model"] = numbers
    if "model" not in request:
        raise InputError("no model given; pass a catalogue name, a folder, a config.json or a Hub id")
    load = {key: options.pop(key) for key in WORKLOAD if options.get(key) is not None}
    if load:
        request["workload"] = load
    request |= {key: value for key, value in options.items() if value is not None}
    return request


def overrides_from(words: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """What the command line says of a launch that a file or a server tells of; a positional word is its model."""
    from planner.engine.args import parse_flags

    refuse(options, _NUMBERS, "describes a model that has no config; pass this one's name, folder or config.json")
    refuse(options, WORKLOAD, "is for `estimate`: a start-up log tells of no load")
    args, positional = parse_flags(words)
    given = {key: value for key, value in options.items() if value is not None}
    return {**dict(args), **({"model": positional[0]} if positional else {}), **given}


def refuse(options: dict[str, Any], names: Iterable[str], why: str) -> None:
    """InputError for the first of these that was given to a command that cannot heed it."""
    for name in names:
        if options.get(name) is not None:
            raise InputError(f"{flag(name)} {why}")


def speed_limits(command: Any) -> Any:
    """The options of a goal that is about speed."""
    for option in (
        click.option("--output-tokens-per-s", type=float, help="So many output tokens/s are wanted, of all requests."),
        click.option("--tpot-ms", "--itl-ms", "tpot_ms", type=float, help="Limit on the mean time between tokens."),
        click.option("--ttft-ms", type=float, help="Limit on the predicted mean time to the first token."),
    ):
        command = option(command)
    return command


def output_option(what: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """-o FILE."""
    kind = click.Path(dir_okay=False, path_type=Path)
    return click.option("-o", "--output", type=kind, metavar="FILE", help=f"{what} - is standard output.")


def output_file(output: Path | None) -> Path | None:
    """None is standard output."""
    return None if output == Path("-") else output


class Between(click.FloatRange):
    """A number between two: click lets nan pass, which is neither below nor above."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click.FloatRange does."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("nan is no number.", param, ctx)
        return number


def _number(name: str, text: str) -> str | int:
    """A size as the request wants it: a whole number, but for `parameters`, which may be "8B"."""
    return int(text) if name != "parameters" and text.isdecimal() and len(text) < 20 else text
