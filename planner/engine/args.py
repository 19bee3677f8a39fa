"""EngineArgs: vLLM's flags under vLLM's names, read from a request or a `vllm serve` line, and printed as one.

The table of flags is vLLM's own (data/engine_args.json, made by tools/make_engine_args.py), and which version has which
was read off its wheels (data/flag_versions.json, made by tools/make_flag_versions.py).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from planner import strict_json
from planner.engine.version import VllmVersion, parse_version
from planner.errors import InputError
from planner.text import did_you_mean, has_hidden, nearest, printable, shown

JsonValue = Any
"""A value as JSON has it: engine arguments are passed on to vLLM as they were given."""


class EngineArgs(Mapping[str, JsonValue]):
    """The engine arguments a person gave, under vLLM's Python names; what is absent or None, vLLM decides by itself."""

    def __init__(self, values: Mapping[str, JsonValue] | None = None, **more: JsonValue) -> None:
        every = {**(values or {}), **more}
        if every.get("max_model_len") == "auto":
            every["max_model_len"] = -1
        for name, value in every.items():
            _check(name, value)
        self._values = {name: value for name, value in every.items() if value is not None}

    def __getitem__(self, name: str) -> JsonValue:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(json.dumps(self._values, sort_keys=True))

    def __repr__(self) -> str:
        return f"EngineArgs({self._values!r})"

    def to_dict(self) -> dict[str, JsonValue]:
        """A copy, which a sweep makes tens of thousands of: faster than `dict`, which asks for every key."""
        return self._values.copy()

    def with_(self, **changes: JsonValue) -> EngineArgs:
        """A copy with these changes; None takes an argument back."""
        return EngineArgs({**self._values, **changes})

    def to_flags(self) -> list[str]:
        """As words of a command line, in the order given."""
        words: list[str] = []
        for name, value in self._values.items():
            words += _flag_words(name, value)
        return words

    def serve_command(self, model: str) -> str:
        """The `vllm serve` line, quoted for a shell."""
        return shlex.join(["vllm", "serve", model, *self.to_flags()])


def parse_flags(words: Sequence[str]) -> tuple[EngineArgs, list[str]]:
    """Flags of a `vllm serve` line -> (engine arguments, positional words). InputError on unknown or bad flags.

    Server flags (--port …) are accepted and left out: they do not change the engine.
    """
    flat, nested = _split_nested(words)
    namespace, rest = _parser().parse_known_args(flat)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        flag = unknown[0].partition("=")[0]
        hint = did_you_mean(nearest(flag, _flags(), 2)) if flag.startswith("--") else ""
        raise InputError(f"unknown flag {printable(flag)}{hint or '; see `vllm serve --help`'}")
    values = {name: value for name, value in vars(namespace).items() if name not in _table()["server"]}
    for name, path, value in nested:
        target = values
        for key in (name, *path[:-1]):
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise InputError(f"{flag_of(name)}.{'.'.join(path)}: {printable(key)} is given as {shown(target)} too")
        target[path[-1]] = value
    return EngineArgs(values), rest


def engine_arg_names() -> frozenset[str]:
    """Every engine argument of the newest vLLM known and those that older ones had, under their Python names."""
    return frozenset(_engine_table())


def flag_of(name: str) -> str:
    """An argument's flag on the command line."""
    return str(_engine_table()[name]["flags"][0])


@dataclass(frozen=True, kw_only=True)
class Flag:
    """What a flag of `vllm serve` takes."""

    name: str
    kind: str
    """int, human_int, float, str, json, or bool for one that takes no value."""
    several: bool
    """Whether it takes several words."""
    of_server: bool
    """Whether it concerns the API server alone, not the engine."""


def find_flag(word: str) -> Flag | None:
    """The flag that a word is, however its dashes are written; None for none of vLLM's."""
    return _flags().get(word.replace("_", "-"))


@cache
def unknown_to(name: str, version: VllmVersion) -> str | None:
    """Why this version's `vllm serve` does not take an argument's flag, in a few words; None where it does.

    Judged by the versions that were read: between two of them a flag is taken to be there.
    """
    versions = _read("flag_versions.json")
    gone, not_yet = versions["gone_in"].get(name), versions["not_yet_in"].get(name)
    if gone is not None and version >= parse_version(gone):
        return f"gone since {gone}"
    return f"not yet in {not_yet}" if not_yet is not None and version <= parse_version(not_yet) else None


def takes_several(name: str) -> bool:
    """Whether its flag takes several words."""
    return "nargs" in _engine_table()[name]


def _check(name: str, value: JsonValue) -> None:
    """InputError when vLLM has no such argument, or could not read this value for it."""
    if isinstance(value, int | float):
        _check_number(name, value)
    else:
        _check_value(name, value)


@lru_cache(maxsize=4096, typed=True)
def _check_number(name: str, value: float) -> None:
    """A sweep asks of the same few again and again."""
    _check_value(name, value)


def _check_value(name: str, value: JsonValue) -> None:
    entry = _engine_table().get(name)
    if entry is None:
        raise InputError(f"unknown key {printable(name)}{did_you_mean(nearest(name, _engine_table(), 2))}")
    if value is None:
        return
    kind, many = entry["kind"], "nargs" in entry
    for one in value if many and isinstance(value, list) else [value]:
        if not _fits(kind, one):
            raise InputError(f"{name} = {shown(one)}: must be {_KIND_WORDS[kind]}")
    if name.endswith(("_kwargs", "_per_prompt")) and not isinstance(value, dict):
        raise InputError(f"{name} = {shown(value)}: must be a JSON object")
    choices = entry.get("choices")
    if choices and kind == "str" and str(value) not in (*choices, *OTHER_CHOICES.get(name, ())):
        raise InputError(f"{name} = {shown(value)}: must be one of {', '.join(choices)}")
    low = _MINIMUM.get(name)
    if low is not None and isinstance(value, int | float) and value < low and (name, value) not in _SPECIAL:
        raise InputError(f"{name} = {value}: must be at least {low}")
    if name == "gpu_memory_utilization" and not 0 < value <= 1:
        raise InputError(f"{name} = {value}: must be above 0 and at most 1")


_KIND_WORDS = {
    "int": "a whole number",
    "human_int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text without control characters",
    "json": "a JSON value",
}
OTHER_CHOICES: Mapping[str, Mapping[str, tuple[int, int] | None]] = {
    "all2all_backend": {"mori": (0, 24)},
    "convert": {"reward": (0, 17)},
    "mamba_cache_mode": {"all": (0, 32)},
    "moe_backend": {"flashinfer_moe_ep_mega_cutedsl": (0, 32), "aiter_triton_mxfp4_mxfp4": None},
    "prefix_caching_hash_algo": {"builtin": (0, 10)},
    "spec_method": {"step5_mtp": None},
}
"""Values that the version of the table does not take, and the first one read that no longer does (config/ of the wheels
0.9 to 0.33); None for what came later."""
_MINIMUM = {
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "max_model_len": 1,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "block_size": 1,
    "kv_cache_memory_bytes": 1,
    "num_gpu_blocks_override": 1,
    "cpu_offload_gb": 0,
    "kv_offloading_size": 0,
    "swap_space": 0,
    "max_loras": 1,
    "max_lora_rank": 1,
}
_SPECIAL = {("max_model_len", -1)}
"""Values below the minimum that mean something: -1 is `auto`."""


def _fits(kind: str, value: JsonValue) -> bool:
    if kind in ("int", "human_int"):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str) and not has_hidden(value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _flag_words(name: str, value: JsonValue) -> list[str]:
    entry = _engine_table()[name]
    flag = entry["flags"][0]
    if entry["kind"] == "bool" and isinstance(value, bool):
        negative = next((f for f in entry["flags"] if f.startswith("--no-")), None)
        if value:
            return [flag]
        return [negative] if negative else []
    if isinstance(value, list) and "nargs" in entry:
        return [flag, *map(str, value)]
    if isinstance(value, dict | list) or entry["kind"] == "json":
        return [flag, json.dumps(value)]
    return [flag, str(value)]


@cache
def _read(name: str) -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "data" / name).read_text(encoding="utf-8"))
    return table


def _table() -> dict[str, dict[str, Any]]:
    return _read("engine_args.json")


@cache
def _engine_table() -> dict[str, dict[str, Any]]:
    return {**_read("flag_versions.json")["more"], **_table()["engine"]}


@cache
def _flags() -> dict[str, Flag]:
    server = _table()["server"]
    return {
        flag: Flag(name=name, kind=entry["kind"], several=entry.get("nargs") in ("+", "*"), of_server=name in server)
        for name, entry in {**server, **_engine_table()}.items()
        for flag in entry["flags"]
    }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


@cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vllm serve", add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    for name, entry in {**_table()["server"], **_engine_table()}.items():
        if not entry["flags"]:
            continue
        if entry["kind"] == "bool":
            positive = [f for f in entry["flags"] if not f.startswith("--no-")]
            if len(positive) < len(entry["flags"]):
                parser.add_argument(*positive, dest=name, action=argparse.BooleanOptionalAction)
            else:
                parser.add_argument(*positive, dest=name, action="store_true")
        else:
            # What the API server makes of its own is none of the engine's business.
            read = str if name in _table()["server"] else _READERS[entry["kind"]]
            parser.add_argument(*entry["flags"], dest=name, type=read, nargs=entry.get("nargs"))
    return parser


def _split_nested(
    words: Iterable[str],
) -> tuple[list[str], list[tuple[str, list[str], JsonValue]]]:
    """Take `--some-config.key value` (and -O3) apart; spell `--some_flag` as `--some-flag`, as vLLM's parser does."""
    by_flag = {flag: name for name, entry in _engine_table().items() for flag in entry["flags"]}
    flat: list[str] = []
    nested: list[tuple[str, list[str], JsonValue]] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        head, _, value = word.partition("=")
        if head.startswith("--"):
            stem, *path = head.split(".")
            head = ".".join([stem.replace("_", "-"), *path])
        if re.fullmatch(r"-O\d", word):
            flat += ["--optimization-level", word[2:]]
        elif head.startswith("-") and "." in head and head.split(".")[0] in by_flag:
            stem, *path = head.split(".")
            if "=" not in word:
                if not queue:
                    raise InputError(f"{head}: expected a value")
                value = queue.pop(0)
            nested.append((by_flag[stem], path, _loose(value)))
        else:
            flat.append(f"{head}={value}" if "=" in word and head.startswith("--") else word if "=" in word else head)
    return flat, nested


def _loose(text: str) -> JsonValue:
    try:
        return strict_json.parse(text, "")
    except InputError:
        return text


def human_int(text: str) -> int | str:
    """vLLM's human_readable_int: 1k = 1,000, 1K = 1,024, 25.6k = 25,600; "auto" is -1 (engine/arg_utils.py)."""
    if text.strip().lower() in ("auto", "-1"):
        return -1
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT])", text.strip())
    if not match:
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"not a whole number: {shown(text)}") from None
    number, suffix = match.groups()
    power = "kmgt".index(suffix.lower()) + 1
    if suffix.islower():
        scaled = float(number) * int(1000**power)
        if not math.isfinite(scaled):
            raise argparse.ArgumentTypeError(f"too large: {shown(text)}")
        return int(scaled)
    if "." in number:
        raise argparse.ArgumentTypeError(f"decimals need a lower-case suffix: {shown(text)}")
    return int(number) * int(1024**power)


def _json(text: str) -> JsonValue:
    try:
        return strict_json.parse(text, shown(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_READERS: dict[str, Any] = {"int": int, "human_int": human_int, "float": float, "str": str, "json": _json}
