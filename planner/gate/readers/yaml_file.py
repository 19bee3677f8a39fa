"""YAML files: the kind of each document decides who reads it. To add a kind: a module, and an entry in KINDS."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from planner.errors import InputError
from planner.gate import serve_config, yaml_nodes
from planner.gate.command import launches_of
from planner.gate.launch import Launch, Word
from planner.gate.readers import charts, compose, kubernetes, ray_serve, scripts
from planner.gate.readers.pods import Place
from planner.gate.source import Lookup, Source
from planner.gate.yaml_nodes import AnyNode, Scalar, Table

Kind = tuple[Callable[[AnyNode], bool], Callable[[AnyNode, Place], Iterator[Launch]]]


def read(source: Source, lookup: Lookup) -> Iterable[Launch]:
    """The launches of each document of a file."""
    template = _TEMPLATE.search(source.text)
    try:
        documents = yaml_nodes.documents(source.text, source.file)
    except InputError:
        if template is None:
            raise
        return _of_template(source)
    if template is not None and (source.path.parent.parent / "Chart.yaml").is_file():
        return _of_template(source)
    within = replace(lookup, within={**lookup.within, **_config_maps(documents, source)})
    place = Place(source=source, lookup=within, documents=documents)
    return [launch for document in documents for launch in _launches(document, place)]


def _config_maps(documents: Sequence[AnyNode], source: Source) -> dict[str, Source]:
    """The YAML files of ConfigMaps, at their lines of this file: what --config names is often mounted from one."""
    return {
        name: replace(source, text="\n" * (node.first_line - 1) + node.text)
        for document in documents
        if isinstance(document, Table) and document.text("kind") == "ConfigMap"
        for name, node in document.table("data").entries.items()
        if isinstance(node, Scalar) and not node.folded and name.endswith((".yaml", ".yml"))
    }


def _launches(document: AnyNode, place: Place) -> Iterator[Launch]:
    for matches, reader in KINDS:
        if matches(document):
            yield from reader(document, place)
            return


def _config(document: AnyNode, place: Place) -> Iterator[Launch]:
    """A file for `vllm serve --config`, which is a launch when it names its model."""
    if isinstance(document, Table):
        head = [Word(text=text, line=document.line) for text in ("vllm", "serve")]
        yield from launches_of([*head, *serve_config.words_of_table(document)], place.context(document))


KINDS: tuple[Kind, ...] = (
    (charts.matches, charts.read),
    (kubernetes.matches, kubernetes.read),
    (compose.matches, compose.read),
    (ray_serve.matches, ray_serve.read),
    (serve_config.is_config, _config),
    (scripts.matches, scripts.read),
)
"""(whether a document is of the kind, who reads it); the first that matches."""

_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.|\$|if\b|range\b|with\b|include\b|define\b|end\b|template\b|toYaml\b)")
_LAUNCH = re.compile(
    r"vllm[\"',\s-]+serve\b|vllm\.entrypoints|vllm-openai|--(model|max-model-len|tensor-parallel-size)\b"
)


def _of_template(source: Source) -> list[Launch]:
    """A Helm template is no YAML before it is rendered: one launch that cannot be judged, where vLLM first stands."""
    found = _LAUNCH.search(source.text)
    if found is None:
        return []
    line = source.text.count("\n", 0, found.start()) + 1
    problem = (
        "a Helm template, which is no YAML before it is rendered: pass the output of `helm template`, or the values"
    )
    return [Launch(file=source.file, line=line, end_line=line, problem=problem)]
