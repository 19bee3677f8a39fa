"""A launch through vLLM's own parser and config validation, up to where the engine would start."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import stand_ins


def check(request: Mapping[str, Any], folder: str) -> tuple[dict[str, Any], Any]:
    """({"model", "args"}, vLLM's config) of a launch; raises as vLLM does.

    request: "serve", the words after `vllm serve`, or "llm", the arguments of the LLM class; "names", the engine
    arguments to give back as vLLM read them. folder: put in the place of the model that the launch names.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from vllm.usage.usage_lib import UsageContext

    given = _parsed(request["serve"]) if "serve" in request else argparse.Namespace(**request["llm"])
    asked, given.model = given.model, folder
    given.skip_tokenizer_init, given.load_format = True, "dummy"
    if getattr(given, "distributed_executor_backend", None) == "ray":  # a package of its own, which vLLM's images have
        stand_ins.add("ray")
        sys.modules.pop("vllm.v1.executor.ray_utils", None)
    if "serve" in request:
        args, usage = AsyncEngineArgs.from_cli_args(given), UsageContext.OPENAI_API_SERVER
    else:
        args, usage = EngineArgs(**vars(given)), UsageContext.LLM_CLASS
    config = args.create_engine_config(usage_context=usage)
    return {"model": asked, "args": {name: _plain(getattr(args, name)) for name in request.get("names", ())}}, config


def _parsed(words: Sequence[str]) -> Any:
    """As `vllm serve` does it: --config files, then the flags, then its own checks."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser, said = FlexibleArgumentParser(), io.StringIO()
    make_arg_parser(parser.add_subparsers(dest="subparser", parser_class=FlexibleArgumentParser).add_parser("serve"))
    try:
        with contextlib.redirect_stderr(said):
            args = parser.parse_args(["serve", *words])
    except SystemExit as stop:
        raise ValueError(said.getvalue().strip().rpartition("\n")[2]) from stop
    if getattr(args, "model_tag", None) is not None:
        args.model = args.model_tag
    validate_parsed_serve_args(args)
    return args


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, default=str))
