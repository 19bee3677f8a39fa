"""`vllm serve --config FILE` as the words that vLLM makes of it (load_config_file in utils/argparse_utils.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from planner.engine.args import find_flag
from planner.errors import InputError
from planner.gate import yaml_nodes
from planner.gate.launch import Word
from planner.gate.source import Source
from planner.gate.yaml_nodes import AnyNode, Scalar, Sequence, Table


def words_of(source: Source) -> list[Word]:
    """The words of a config file that a command names. InputError for one that vLLM could not read."""
    documents = yaml_nodes.documents(source.text, source.file)
    if len(documents) != 1 or not isinstance(documents[0], Table):
        raise InputError(f"{source.file}: a config of vllm serve is one mapping of flags to values")
    return [replace(word, file=source.file) for word in words_of_table(documents[0])]


def words_of_table(table: Table) -> list[Word]:
    """The words of a config that is the launch's own file."""
    return [word for key, value in table.entries.items() for word in _words(key, value, table.key_lines[key])]


def is_config(document: AnyNode) -> bool:
    """Whether a document can be nothing else: it names a model, and every key is a flag of vLLM's."""
    if not isinstance(document, Table) or "model" not in document.entries or len(document.entries) < 2:
        return False
    return all(find_flag(f"--{key}") is not None for key in document.entries)


def _words(key: str, node: AnyNode, line: int) -> Iterator[Word]:
    flag = Word(text=f"--{key}", line=line)
    if isinstance(node, Scalar):
        value = node.value
        # vLLM passes over `enable-x: false`: it looks for --no-enable-x in the parser above that of `serve`.
        if value is not False:
            yield flag
        if not isinstance(value, bool):
            yield Word(text=str(value), line=node.line)
    elif isinstance(node, Sequence):
        if node.items:
            yield flag
        for item in node.items:
            yield Word(text=str(yaml_nodes.plain(item)), line=item.line)
    else:
        yield flag
        yield Word(text=json.dumps(yaml_nodes.plain(node)), line=node.line)
