"""The YAML of `vllm serve --config` as words of a command line: load_config_file in vLLM's utils/argparse_utils.py."""

from __future__ import annotations

import json

from planner.engine.args import find_flag
from planner.errors import InputError
from planner.gate import yaml_nodes
from planner.gate.launch import Word
from planner.gate.source import Source


def words_of(source: Source) -> list[Word]:
    """Its flags, at their lines in that file. InputError for what vLLM could not read either."""
    documents = yaml_nodes.documents(source.text, source.file)
    if not documents:
        return []
    table = documents[0]
    if not isinstance(table, yaml_nodes.Table) or len(documents) > 1:
        raise InputError(f"{source.file}: a config of vllm serve is one mapping of flags to values")
    words: list[Word] = []
    for key, node in table.entries.items():
        texts = _flag(key, yaml_nodes.plain(node))
        words += [Word(text=text, line=table.key_lines[key], file=source.file) for text in texts]
    return words


def _flag(key: str, value: object) -> list[str]:
    if value is True:
        return [f"--{key}"]
    if value is False:  # until 0.33 vLLM passes over those that it has no --no-… for
        return [f"--no-{key}"] if find_flag(f"--no-{key}") is not None else []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)] if value else []
    return [f"--{key}", json.dumps(value) if isinstance(value, dict) else str(value)]
