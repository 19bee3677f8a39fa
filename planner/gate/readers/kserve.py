"""KServe: InferenceService with its ServingRuntime, and LLMInferenceService.

A service's arguments come after its runtime's, its variables and its image win (MergeRuntimeContainers in
pkg/controller/v1beta1/inferenceservice), and the model that `storageUri` names is mounted at /mnt/models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from planner.errors import InputError
from planner.gate.launch import Launch, Word
from planner.gate.readers.pods import (
    Container,
    Node,
    Place,
    cards_of,
    container_of,
    launches_of_container,
    substitute,
    with_model,
)
from planner.gate.readers.yaml_words import Variables, split
from planner.gate.yaml_nodes import Scalar, Table, documents
from planner.text import printable

MODEL_PATH = "/mnt/models"
_RUNTIME_KINDS = ("ServingRuntime", "ClusterServingRuntime")
_MAX_NEIGHBOURS = 200
"""Files of the same folder that are looked through for a runtime."""


def runtime(document: Table, place: Place) -> Iterator[Launch]:
    """A runtime by itself launches nothing, unless it names its model: services bring theirs."""
    node = Node(cards=cards_of(document.table("spec")))
    for table in document.tables("spec", "containers"):
        for launch in launches_of_container(container_of(table, place, {}), node, place):
            if launch.model is not None and not launch.model.startswith(MODEL_PATH):
                yield launch


def service(document: Table, place: Place) -> Iterator[Launch]:
    """An InferenceService: its own containers, or a model on a runtime."""
    predictor = document.table("spec", "predictor")
    for table in predictor.tables("containers"):
        container = container_of(table, place, {})
        yield from _served(container, container.environment.get("STORAGE_URI"), predictor, None, place)
    model = predictor.get("model")
    if isinstance(model, Table):
        yield from _on_runtime(model, predictor, place)


def llm_service(document: Table, place: Place) -> Iterator[Launch]:
    """An LLMInferenceService: `vllm serve` of spec.model with VLLM_ADDITIONAL_ARGS, decode and prefill each."""
    uri = document.text("spec", "model", "uri")
    for spec in (document.table("spec"), document.table("spec", "prefill")):
        for table in spec.tables("template", "containers"):
            if len(spec.tables("template", "containers")) == 1 or table.text("name") == "main":
                yield from _llm_container(table, spec, uri, place)


# --- InferenceService -------------------------------------------------------------------------------------------------


def _on_runtime(model: Table, predictor: Table, place: Place) -> Iterator[Launch]:
    name, kind = model.text("runtime") or "", model.text("modelFormat", "name") or ""
    found = _runtime(name, place) if name else _runtime_for(kind, place)
    uri = model.text("storageUri") or _storage(model)
    if found is None and _is_huggingface_server(name, kind):
        yield from _huggingface_server(model, predictor, uri, place)
    elif found is None:
        if "vllm" in f"{name} {kind}".lower():
            which = f"the ServingRuntime {printable(name)}" if name else "its ServingRuntime"
            problem = f"{which}, which holds vLLM's command, is not among the files given"
            yield place.unreadable(model, problem, predictor.key_lines["model"])
    else:
        table = next(iter(found.tables("spec", "containers")), None)
        if table is not None:
            merged = replace(
                _merged(table, model, _worker_sizes(predictor, found), place), line=predictor.key_lines["model"]
            )
            yield from _served(merged, uri, predictor, found, place)


def _served(
    container: Container, uri: str | None, predictor: Table, runtime_of: Table | None, place: Place
) -> Iterator[Launch]:
    """The launches of a container, with the model that is mounted for it in its place."""
    if uri is not None:
        container = with_model(container, MODEL_PATH, model_of(uri))
    cards = cards_of(predictor)
    if not cards and runtime_of is not None:
        cards = cards_of(runtime_of.table("spec"))
    pods = int(_worker_sizes(predictor, runtime_of).get("PIPELINE_PARALLEL_SIZE", "1"))
    for launch in launches_of_container(container, Node(cards=cards, pods=pods), place):
        mounted = launch.model is not None and launch.model.startswith(MODEL_PATH)
        what = "which model is mounted at /mnt/models, the file does not say"
        yield launch.with_(problem=launch.problem or what) if mounted else launch


def _worker_sizes(predictor: Table, runtime_of: Table | None) -> dict[str, str]:
    """The variables that KServe sets for an engine over several pods; none for one pod."""
    specs = [predictor.get("workerSpec"), runtime_of.get("spec", "workerSpec") if runtime_of is not None else None]
    workers = [spec for spec in specs if isinstance(spec, Table)]
    if not workers:
        return {}
    keys = {"TENSOR_PARALLEL_SIZE": "tensorParallelSize", "PIPELINE_PARALLEL_SIZE": "pipelineParallelSize"}
    return {name: str(next((size for one in workers if (size := one.number(key))), 1)) for name, key in keys.items()}


def _merged(table: Table, model: Table, sizes: Mapping[str, str], place: Place) -> Container:
    """The runtime's container under the service's. sizes: variables that KServe sets."""
    own = container_of(model, place, sizes)
    environment: Variables = {**container_of(table, place, sizes).environment, **own.environment}

    # The runtime's words may use the service's variables.
    base = container_of(table, place, environment)
    resources = own.resources if own.resources is not None and own.resources.entries else base.resources
    return replace(
        own,
        image=own.image or base.image,
        command=own.command or base.command,
        args=[*base.args, *own.args],
        environment=environment,
        resources=resources,
    )


def _runtime(name: str, place: Place) -> Table | None:
    return next((found for found in _runtimes(place) if found.text("metadata", "name") == name), None)


def _runtime_for(kind: str, place: Place) -> Table | None:
    """The one that KServe would choose: it supports the format, and may be chosen by itself."""
    for found in _runtimes(place):
        for supported in found.tables("spec", "supportedModelFormats"):
            if supported.text("name") == kind and supported.text("autoSelect") in ("true", "True"):
                return found
    return None


def _runtimes(place: Place) -> Iterator[Table]:
    """The runtimes of this file, then of the other files of its folder."""
    yield from _runtimes_in(place.documents)
    folder = place.source.path.parent
    neighbours = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))[:_MAX_NEIGHBOURS]
    for path in neighbours:
        if path.name != place.source.path.name:
            yield from _runtimes_in(_documents(path, place))


def _runtimes_in(found: Sequence[object]) -> Iterator[Table]:
    for document in found:
        if isinstance(document, Table) and document.text("kind") in _RUNTIME_KINDS:
            yield document


def _documents(path: Path, place: Place) -> Sequence[object]:
    try:
        found = place.lookup.read(place.source, path.name)
        if found is None or "ServingRuntime" not in found.text:
            return ()
        return documents(found.text, found.file)
    except InputError:  # said where that file is read for itself
        return ()


def model_of(uri: str) -> str:
    """hf://ORG/NAME[:REVISION] -> ORG/NAME; any other URI stays, for the policy to say which model it is."""
    if not uri.startswith("hf://"):
        return uri
    return uri.removeprefix("hf://").strip("/").partition(":")[0]


def _storage(model: Table) -> str | None:
    """`storage: {key, path}`: a path in a bucket that only the cluster knows."""
    path = model.text("storage", "path")
    key = model.text("storage", "key")
    return f"storage://{key or ''}/{path}" if path is not None else None


# --- KServe's own server ----------------------------------------------------------------------------------------------


def _is_huggingface_server(name: str, kind: str) -> bool:
    return "huggingfaceserver" in name or (not name and kind == "huggingface")


_OWN_FLAGS = frozenset(
    "model_name model_dir backend task http_port grpc_port workers max_asyncio_workers enable_grpc "
    "return_token_type_ids return_probabilities disable_lower_case disable_special_tokens tensor_input_names "
    "return_raw_logits enable_docs_url enable_latency_logging log_config_file access_log_format "
    "predictor_host tokenizer_revision".split()
)
"""Flags of python/huggingfaceserver that vLLM does not have and that change nothing here."""
_RENAMED = {"model_id": "--model", "model_revision": "--revision"}


def _huggingface_server(model: Table, predictor: Table, uri: str | None, place: Place) -> Iterator[Launch]:
    """`vllm serve` with those arguments of KServe's server that it hands on to vLLM."""
    container = container_of(model, place, {})
    words: list[Word] = []
    problem = None
    skip = False
    for word in container.args:
        name = word.text.partition("=")[0].lstrip("-").replace("-", "_") if word.text.startswith("--") else None
        if name is None:
            words += [] if skip else [word]
            skip = False
            continue
        skip = name in _OWN_FLAGS and "=" not in word.text
        if name == "backend" and "huggingface" in word.text:
            return  # transformers, not vLLM
        if name == "max_length":
            problem = "--max_length of KServe's server is not vLLM's context; give --max_model_len"
        elif name in _RENAMED:
            words.append(replace(word, text=word.text.replace(word.text.partition("=")[0], _RENAMED[name], 1)))
        elif name not in _OWN_FLAGS:
            words.append(word)
    if uri is not None:
        words = [Word(text=model_of(uri), line=model.line), *words]
    head = [Word(text="vllm", line=model.line), Word(text="serve", line=model.line)]
    served = replace(container, line=predictor.key_lines["model"], command=[*head, *words], args=[])
    for launch in launches_of_container(served, Node(cards=cards_of(predictor)), place):
        yield launch.with_(problem=problem or launch.problem)


# --- LLMInferenceService ----------------------------------------------------------------------------------------------

_SIZES = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
    "dataLocal": "--data-parallel-size-local",
}


def _llm_container(table: Table, spec: Table, uri: str | None, place: Place) -> Iterator[Launch]:
    container = container_of(table, place, {})
    if not container.command:
        container = replace(container, command=_serve(table, spec, container, place), args=container.args)
    if uri is not None:
        container = with_model(container, MODEL_PATH, model_of(uri))
    node = Node(cards=cards_of(spec.table("template")), pods=_pods(spec))
    yield from launches_of_container(container, node, place)


def _serve(table: Table, spec: Table, container: Container, place: Place) -> list[Word]:
    """The command of KServe's preset (config/llmisvcconfig)."""
    words = [Word(text=text, line=table.line) for text in ("vllm", "serve", MODEL_PATH)]
    for key, flag in _SIZES.items():
        size = spec.get("parallelism", key)
        if isinstance(size, Scalar):
            words += [Word(text=text, line=size.line, of_key=True) for text in (flag, size.text)]
    if spec.text("parallelism", "expert") == "true":
        words.append(Word(text="--enable-expert-parallel", line=table.line))
    for variable in table.tables("env"):
        value = variable.get("value")
        if variable.text("name") == "VLLM_ADDITIONAL_ARGS" and isinstance(value, Scalar):
            words += split(value, lambda text: substitute(text, container.environment), place.source.lines)
    return words


def _pods(spec: Table) -> int:
    """A worker template makes one engine of several pods."""
    if "worker" not in spec.entries:
        return 1
    data, local = spec.number("parallelism", "data"), spec.number("parallelism", "dataLocal")
    if data is not None and local:
        return max(1, data // local)
    return spec.number("parallelism", "pipeline") or 1
