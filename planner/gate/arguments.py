"""The arguments of `vllm serve` and of the API server, with what the file leaves open set aside.

A variable that the file does not set is no obstacle where its value changes nothing (--port $PORT); where it does, the
launch has a problem that names it.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planner.engine.args import Flag, find_flag, parse_flags
from planner.engine.version import NEWEST, parse_version
from planner.errors import InputError
from planner.gate.launch import Word
from planner.gate.source import Lookup, Source
from planner.text import printable


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What the words say."""

    model: str | None
    args: Mapping[str, Any]
    words: Sequence[Word]
    problem: str | None = None
    refusal: str | None = None
    """vLLM would not take the command line."""


MAX_WORDS = 2_000
"""Of a command line; long ones have about a hundred."""
_MAX_MESSAGE = 1_000
"""vLLM's own may repeat a value of any length."""


def parsed(words: Sequence[Word], source: Source, lookup: Lookup, version: str | None) -> Parsed:
    """Read the words after `vllm serve` or the API server's module."""
    if len(words) > MAX_WORDS:
        return Parsed(model=None, args={}, words=(), problem=f"a command of {len(words):,} words")
    every, problem = _with_config(words, source, lookup)
    known, undecided = _known(every)
    problem = problem or undecided
    refusal = None
    model = None
    args: dict[str, Any] = {}
    try:
        read, positional = parse_flags([word.text for word in known])
        args = dict(read)
        model = args.pop("model", None)
        model = positional[0] if positional else model
        if len(positional) > 1:
            refusal = f"unrecognized arguments: {printable(' '.join(positional[1:]))}"
    except (InputError, argparse.ArgumentError) as error:
        said = printable(error, _MAX_MESSAGE)
        if _is_newest(version):
            refusal = said
        else:  # an older version may have had the flag
            problem = problem or said
    if model is None and problem is None and refusal is None:
        problem = "it names no model"
    if model is None:
        model = _likely_model(known)
    for name in _SECRET_ARGUMENTS:
        args.pop(name, None)
    return Parsed(model=model, args=args, words=every, problem=problem, refusal=refusal)


_SECRET_ARGUMENTS = ("hf_token",)
WITHOUT_EFFECT = frozenset(
    "allowed_local_media_path chat_template disable_log_requests disable_log_stats download_dir enable_log_requests "
    "generation_config hf_token master_addr master_port node_rank data_parallel_address data_parallel_rpc_port "
    "data_parallel_rank data_parallel_start_rank data_parallel_size_local otlp_traces_endpoint reasoning_parser "
    "pooler_config reasoning_parser_plugin seed served_model_name structured_outputs_config tokenizer tokenizer_mode "
    "tokenizer_revision".split()
)
"""Engine arguments whose values change neither memory nor speed."""


def _is_newest(version: str | None) -> bool:
    try:
        return version is None or parse_version(version)[:2] == NEWEST[:2]
    except InputError:
        return False


def _likely_model(words: Sequence[Word]) -> str | None:
    """The model of a command line that cannot be read, to name the launch."""
    texts = [word.text for word in words]
    for text, following in itertools.pairwise([*texts, ""]):
        if re.match(r"--model(=|$)", text):
            return text.partition("=")[2] or following or None
    return texts[0] if texts and not texts[0].startswith("-") else None


def _known(words: Sequence[Word]) -> tuple[list[Word], str | None]:
    """(the words that the file decides, the first thing it leaves open that matters)"""
    known: list[Word] = []
    problem = None
    index = 0
    while index < len(words):
        taken = _extent(words, index)
        group = words[index : index + taken]
        index += taken
        unknown = next((word for word in group if word.unknown is not None), None)
        if unknown is None:
            known += group
        elif not _harmless(group[0]):
            problem = problem or _left_open(group[0], unknown)
    return known, problem


def _extent(words: Sequence[Word], index: int) -> int:
    """How many words belong together: a flag and its values."""
    flag = _flag(words[index])
    if flag is None or "=" in words[index].text or flag.kind == "bool":
        return 1
    if not flag.several:
        return 2
    end = index + 1
    while end < len(words) and not words[end].text.startswith("-"):
        end += 1
    return end - index


def _flag(word: Word) -> Flag | None:
    head = word.text.partition("=")[0]
    return find_flag(head) if head.startswith("-") else None


def _harmless(word: Word) -> bool:
    flag = _flag(word)
    return flag is not None and (flag.of_server or flag.name in WITHOUT_EFFECT)


def _left_open(first: Word, unknown: Word) -> str:
    head = first.text.partition("=")[0]
    what = printable(unknown.unknown)
    if what.endswith(")") and " (" in what:  # it says why
        return f"line {unknown.line}: {what}"
    if head.startswith("--") and first.text != first.unknown:
        return f"line {unknown.line}: {printable(head)} is {what}, which the file does not set"
    return f"line {unknown.line}: {what} is not set in the file"


def _with_config(words: Sequence[Word], source: Source, lookup: Lookup) -> tuple[list[Word], str | None]:
    """The words with those of `--config FILE` before them, so that the command line wins, as in vLLM."""
    for index, word in enumerate(words):
        if word.text.partition("=")[0] != "--config":
            continue
        rest = [*words[:index], *words[index + _extent(words, index) :]]
        file = word.text.partition("=")[2] or (words[index + 1].text if index + 1 < len(words) else "")
        try:
            found = lookup.read(source, file)
            if found is None:
                return rest, f"line {word.line}: its --config file {printable(file)} is not among the files given"
            from planner.gate.serve_config import words_of  # needs PyYAML

            return [*words_of(found), *rest], None
        except InputError as error:
            return rest, f"its --config file: {error}"
    return list(words), None
