"""Values of Helm charts that launch vLLM: the vLLM production stack's and llm-d's model service."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from planner.gate import yaml_nodes
from planner.gate.gpus import card_of_label
from planner.gate.launch import Launch, Word
from planner.gate.readers.kserve import model_of
from planner.gate.readers.pods import (
    Container,
    Node,
    Place,
    cards_of,
    cards_of_terms,
    container_of,
    launches_of_container,
)
from planner.gate.yaml_nodes import AnyNode, Scalar, Table, walk
from planner.text import printable


def matches(document: AnyNode) -> bool:
    """Whether the document has a part that looks like a chart's values for vLLM."""
    return next(_values(document), None) is not None


def read(document: AnyNode, place: Place) -> Iterator[Launch]:
    """The launches of values, wherever they stand: by themselves, below a subchart's name, in a HelmRelease."""
    for kind, table in _values(document):
        yield from _production_stack(table, place) if kind == "stack" else _model_service(table, place)


def _values(document: AnyNode) -> Iterator[tuple[str, Table]]:
    for node in walk(document):
        if isinstance(node, Scalar):
            yield from _values_in(node)
        elif isinstance(node, Table) and node.tables("servingEngineSpec", "modelSpec"):
            yield "stack", node
        elif isinstance(node, Table) and "modelArtifacts" in node.entries and {"decode", "prefill"} & set(node.entries):
            yield "model service", node


def _values_in(node: Scalar) -> Iterator[tuple[str, Table]]:
    """Values that are a text in an Application of Argo CD, at their lines of the file."""
    if re.search(r"^(servingEngineSpec|modelArtifacts):", node.text, re.MULTILINE):
        for document in yaml_nodes.documents_in(node):
            yield from _values(document)


def _words(line: int, *texts: str) -> list[Word]:
    return [Word(text=text, line=line) for text in texts]


# --- the production stack: helm/templates/deployment-vllm-multi.yaml --------------------------------------------------

_FLAGS: Mapping[str, str] = {
    "maxModelLen": "--max-model-len",
    "dtype": "--dtype",
    "tensorParallelSize": "--tensor-parallel-size",
    "pipelineParallelSize": "--pipeline-parallel-size",
    "maxNumSeqs": "--max-num-seqs",
    "gpuMemoryUtilization": "--gpu-memory-utilization",
    "maxLoras": "--max-loras",
}
"""Keys of vllmConfig that the chart turns into a flag with their value."""
_SWITCHES = (("enableChunkedPrefill", "enable-chunked-prefill"), ("enablePrefixCaching", "enable-prefix-caching"))
"""Those that it turns into --x or --no-x; the second one into --no-x where it is left out."""


def _production_stack(values: Table, place: Place) -> Iterator[Launch]:
    spec = values.table("servingEngineSpec")
    if _is_false(spec, "enableEngine"):
        return
    for model in spec.tables("modelSpec"):
        if not _is_false(model, "enabled"):
            yield from _stack_model(model, place)


def _stack_model(model: Table, place: Place) -> Iterator[Launch]:
    url = model.get("modelURL")
    words = _words(model.line, "vllm", "serve")
    if isinstance(url, Scalar):
        words.append(Word(text=url.text, line=url.line, of_key=True))
    config = model.table("vllmConfig")
    words += _stack_flags(model, config)
    repository, tag = model.text("repository"), model.text("tag")
    base = container_of(model, place, {"VLLM_USE_V1": "0"} if config.text("v0") == "1" else {})
    resource = model.text("requestGPUType") or "nvidia.com/gpu"
    count = model.get("requestGPU")
    resources = {resource: count} if isinstance(count, Scalar) else {}
    container = replace(
        base,
        image=f"{repository}:{tag}" if repository and tag else repository,
        command=words,
        args=(),
        resources=Table(model.line, model.line, {"limits": Table(model.line, model.line, resources)}),
    )
    cards = cards_of(model) or cards_of_terms(model.tables("nodeSelectorTerms"))
    pods = config.number("pipelineParallelSize") or 1 if "raySpec" in model.entries else 1
    yield from launches_of_container(container, Node(cards=cards, pods=pods), place)


def _stack_flags(model: Table, config: Table) -> Iterator[Word]:
    if model.text("enableLoRA") == "true":
        yield from _words(model.line, "--enable-lora")
    for key, name in _SWITCHES:
        value = config.get(key)
        if isinstance(value, Scalar):
            yield Word(text=f"--{name}" if value.value is True else f"--no-{name}", line=value.line, of_key=True)
        elif config.entries and key == "enablePrefixCaching":
            yield from _words(config.line, f"--no-{name}")
    for key, flag in _FLAGS.items():
        value = config.get(key)
        if isinstance(value, Scalar):
            yield from (Word(text=text, line=value.line, of_key=True) for text in (flag, value.text))
    for item in config.items("extraArgs"):
        if isinstance(item, Scalar):
            yield Word(text=item.text, line=item.first_line)


# --- llm-d's model service: charts/llm-d-modelservice/templates/_helpers.tpl ------------------------------------------


def _model_service(values: Table, place: Place) -> Iterator[Launch]:
    multinode = values.text("multinode") == "true"
    for role in ("decode", "prefill"):
        spec = values.table(role)
        if not _is_false(spec, "create"):
            for table in spec.tables("containers"):
                yield from _role_container(table, spec, values, multinode=multinode, place=place)


def _role_container(table: Table, spec: Table, values: Table, *, multinode: bool, place: Place) -> Iterator[Launch]:
    sizes = _Parallelism(spec.table("parallelism"))
    extra = {"TP_SIZE": str(sizes.tensor), "DP_SIZE": str(sizes.data), "DP_SIZE_LOCAL": str(sizes.local)}
    base = container_of(table, place, {**extra, "LWS_WORKER_INDEX": None, "LWS_LEADER_ADDRESS": None})
    command, args = _role_command(table, sizes, values, base)
    if command is None:
        yield place.unreadable(table, _WHERE_MODEL.format(printable(values.text("modelArtifacts", "uri") or "(none)")))
        return
    container = replace(base, command=command, args=[_rendered(word, values) for word in args])
    if not _gives_cards(container):
        container = replace(container, gpus=sizes.tensor * sizes.local)
    cards = _accelerators(spec.table("acceleratorTypes")) or cards_of(spec) or cards_of(spec.table("extraConfig"))
    yield from launches_of_container(container, Node(cards=cards, pods=sizes.workers if multinode else 1), place)


_WHERE_MODEL = "its model lies at {}, and the file does not say which it is"


def _role_command(
    table: Table, sizes: _Parallelism, values: Table, base: Container
) -> tuple[list[Word] | None, list[Word]]:
    """(command, args) as the chart makes them; no command where it cannot be known which model it serves."""
    kind = table.text("modelCommand") or "custom"
    if kind == "custom":
        return list(base.command), list(base.args)
    model = _artifact(values)
    if model is None:
        return None, []
    words = _words(table.line, "vllm", "serve", model)
    for flag, size in (
        ("--tensor-parallel-size", sizes.tensor),
        ("--data-parallel-size", sizes.data),
        ("--data-parallel-size-local", sizes.local),
    ):
        if size > 1:
            words += _words(table.line, flag, str(size))
    return words, list(base.args)


def _artifact(values: Table) -> str | None:
    """The model of modelArtifacts.uri: hf://ORG/NAME, or pvc+hf://CLAIM/…/ORG/NAME; a path for pvc://."""
    uri = _template(values.text("modelArtifacts", "uri") or "", values).replace('"', "")
    protocol, _, rest = uri.partition("://")
    if protocol == "hf":
        return model_of(uri)
    if protocol == "pvc+hf" and rest.count("/") >= 2:
        return "/".join(rest.split("/")[-2:])
    if protocol == "pvc":
        mount = values.text("modelArtifacts", "mountPath") or "/model-cache"
        return f"{mount}/{rest.partition('/')[2]}"
    return None


class _Parallelism:
    """The sizes of a role, with the chart's defaults for those left out."""

    def __init__(self, table: Table) -> None:
        data, local, workers = (table.number(key) for key in ("data", "dataLocal", "workers"))
        self.tensor = table.number("tensor") or 1
        self.data = data or (local or 1) * (workers or 1 if local else 1)
        self.local = local or (max(1, data // workers) if data and workers else data or 1)
        self.workers = workers or (max(1, data // local) if data and local else 1)


def _gives_cards(container: Container) -> bool:
    resources = container.resources
    return resources is not None and any(
        "gpu" in name or "mig-" in name for part in ("limits", "requests") for name in resources.table(part).entries
    )


def _accelerators(types: Table) -> tuple[str, ...]:
    key = types.text("labelKey") or ""
    values = (value.text for value in types.items("labelValues") if isinstance(value, Scalar))
    return tuple(card for value in values if (card := card_of_label(key, value)))


def _rendered(word: Word, values: Table) -> Word:
    text = _template(word.text, values)
    unknown = re.search(r"\{\{.*?\}\}", text)
    return replace(word, text=text, unknown=unknown[0] if unknown else word.unknown)


def _template(text: str, values: Table) -> str:
    """A text with `{{ .Values.a.b }}` replaced by what the values say; other expressions stay."""
    return re.sub(
        r"\{\{-?\s*\.Values\.([\w.]+)\s*(?:\|\s*quote\s*)?-?\}\}",
        lambda found: values.text(*found[1].split(".")) or found[0],
        text,
    )


def _is_false(table: Table, key: str) -> bool:
    node = table.get(key)
    return isinstance(node, Scalar) and node.value is False
