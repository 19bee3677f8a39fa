"""Ray Serve LLM: the LLMConfigs of `serve run FILE` and of a RayService, and files of one config.

Ray hands engine_kwargs to AsyncEngineArgs, with the model that model_loading_config names and with its own executor
(VLLMEngineConfig in ray/llm/_internal/serve/engines/vllm/vllm_models.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.engine.args import EngineArgs, find_flag
from planner.errors import InputError
from planner.gate import yaml_nodes
from planner.gate.command import Context, kept
from planner.gate.containers import installed_version
from planner.gate.launch import Launch, Word, least
from planner.gate.readers.kserve import model_of
from planner.gate.readers.pods import Place, cards_of, devices, distinct_cards, substitute
from planner.gate.readers.yaml_words import environment_of
from planner.gate.yaml_nodes import AnyNode, Scalar, Table
from planner.text import printable

LOADING = "model_loading_config"
"""The one key that every LLMConfig has."""
DECISIVE = (LOADING, "engine_kwargs", "accelerator_type", "accelerator_config", "placement_group_config", "llm_engine")
"""The keys that decide what is launched, where values may be unknown."""


def matches(document: AnyNode) -> bool:
    """Whether a document is an LLMConfig or a config of Ray Serve."""
    return isinstance(document, Table) and (LOADING in document.entries or bool(_applications(document)))


def read(document: AnyNode, place: Place) -> Iterator[Launch]:
    """The launches of a file for `serve run` or `serve deploy`, or of one LLMConfig in a file of its own."""
    if isinstance(document, Table):
        yield from _launches(document, place, _Cluster())


def service(document: Table, place: Place) -> Iterator[Launch]:
    """A RayService: the applications in serveConfigV2, on the cards of its cluster."""
    config = document.get("spec", "serveConfigV2")
    cluster = _Cluster(document.table("spec", "rayClusterConfig"))
    for inner in yaml_nodes.documents_in(config) if isinstance(config, Scalar) else (config,):
        if isinstance(inner, Table):
            yield from _launches(inner, place, cluster)


def _applications(document: Table) -> tuple[Table, ...]:
    """Ray Serve's, each with the program that it imports."""
    return tuple(one for one in document.tables("applications") if "import_path" in one.entries)


def _launches(document: Table, place: Place, cluster: _Cluster) -> Iterator[Launch]:
    found = [node for node in yaml_nodes.walk(document) if isinstance(node, Table) and LOADING in node.entries]
    for config in found:
        yield from _of_config(config, place, cluster)
    for application in _applications(document):
        yield from _not_here(application, place)


def _not_here(application: Table, place: Place) -> Iterator[Launch]:
    """Launches that an application makes of other files: of those given each is read for itself."""
    for item in application.items("args", "llm_configs"):
        if isinstance(item, Scalar) and place.lookup.read(place.source, item.text) is None:
            yield place.unreadable(item, f"its LLMConfig {printable(item.text)} is not among the files given")
    inside = list(yaml_nodes.walk(application))
    own = not application.items("args", "llm_configs") and not any(
        isinstance(node, Table) and LOADING in node.entries for node in inside
    )
    if own and any(isinstance(node, Scalar) and "vllm" in node.text.lower() for node in inside):
        path = printable(application.text("import_path"))
        yield place.unreadable(application, f"the program that it imports, {path}, decides how it launches vLLM")


# --- one LLMConfig ----------------------------------------------------------------------------------------------------


def _of_config(config: Table, place: Place, cluster: _Cluster) -> Iterator[Launch]:
    kwargs = config.table("engine_kwargs")
    words = [
        Word(text=f"{name}={yaml_nodes.plain(value)}", line=kwargs.key_lines[name])
        for name, value in kwargs.entries.items()
    ]
    context = place.context(config).with_(environment=cluster.environment, gpus=cluster.gpus)
    unknown = next((one for one in (_unknown(node) for node in yaml_nodes.walk(config)) if one), None)
    for launch in launches_of_values(yaml_nodes.plain(config), context, cluster.cards):
        if unknown is not None:
            launch = launch.with_(problem=unknown, refusal=None)
        yield launch.with_(words=tuple(words))


def launches_of_values(config: Mapping[str, Any], context: Context, cards: Sequence[str] = ()) -> list[Launch]:
    """The launch that an LLMConfig of these values makes, on each of the cards: those given, else its accelerator's."""
    if str(config.get("llm_engine", "vLLM")).lower() != "vllm" or "sglang" in str(config.get("server_cls", "")).lower():
        return []
    kwargs, runtime = _mapping(config, "engine_kwargs"), _mapping(config, "runtime_env")
    model, problem = _model(_mapping(config, LOADING))
    args: Mapping[str, Any] = {}
    refusal = next((said for name, value in kwargs.items() if (said := _refused(name, value))), None)
    try:
        args = EngineArgs({**_of_engine(kwargs), "distributed_executor_backend": "ray"})
    except InputError as error:
        refusal = refusal or str(error)
    kind, accelerator = _mapping(config, "accelerator_config").get("kind"), str(config.get("accelerator_type") or "")
    if kind == "tpu" or _OTHER_ACCELERATORS.match(accelerator):
        problem = problem or f"it runs on {printable(accelerator or 'a TPU')}, whose memory is not known here"
    variables = {str(name): str(value) for name, value in _mapping(runtime, "env_vars").items()}
    gpus = least(context.gpus, _bundled(_mapping(config, "placement_group_config")))
    launch = Launch(
        file=context.source.file,
        line=context.line,
        end_line=context.end_line,
        model=model,
        args={name: value for name, value in args.items() if name != "hf_token"},
        environment=kept({**context.environment, **variables}),
        gpus=gpus,
        whole_cluster=gpus is not None,
        version=installed_version(["install", *map(str, _items(runtime, "pip"))]) or context.version,
        problem=problem,
        refusal=refusal,
    )
    named = ("cpu",) if kind == "cpu" else tuple(cards) or (cards_called(accelerator) if accelerator else ())
    return [launch.with_(gpu=card) for card in named or (context.gpu,)]


def _refused(name: str, value: Any) -> str | None:
    """What Ray says of an engine argument that it sets by itself."""
    if name in ("model", "served_model_name"):
        return f"{name} is not allowed in engine_kwargs, use model_loading_config"
    if name == "distributed_executor_backend" and value not in (None, "ray"):
        return "distributed_executor_backend other than ray is not allowed in engine_kwargs"
    return None


def _model(loading: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(the model, why it is not known): model_source, a place in a bucket or a name on the Hub; else model_id."""
    source = loading.get("model_source")
    if isinstance(source, Mapping):
        source = source.get("bucket_uri")
    name = source if source is not None else loading.get("model_id")
    return (model_of(name), None) if isinstance(name, str) and name else (None, "it names no model")


def _of_engine(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not the API server's."""
    return {name: value for name, value in kwargs.items() if not _is_of_server(name)}


def _is_of_server(name: str) -> bool:
    flag = find_flag(f"--{name}")
    return flag is not None and flag.of_server


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _unknown(node: AnyNode) -> str | None:
    """Why a value is left open: "${MAX_LEN}", which something else than Ray replaces."""
    found = substitute(node.text, {})[1] if isinstance(node, Scalar) else None
    return f"line {node.line}: {printable(found)} is not set in the file" if found else None


def cards_called(accelerator: str) -> tuple[str, ...]:
    """Ray's accelerator type in the catalogue's terms (ray/util/accelerators/accelerators.py): any of these."""
    return _CARDS.get(accelerator, (re.sub(r"-(OAM|HF)$", "", accelerator),))


_CARDS: Mapping[str, tuple[str, ...]] = {
    "A10": ("A10G",),
    "A100": ("A100-SXM4-40GB", "A100-SXM4-80GB"),
    "V100": ("V100-SXM2-16GB", "V100-SXM2-32GB"),
    "RTX-PRO-6000": ("RTX PRO 6000 Blackwell Server Edition",),
}
_OTHER_ACCELERATORS = re.compile(r"TPU|aws-neuron|Ascend|Intel|MXC")


def _bundled(group: Mapping[str, Any]) -> int | None:
    """The GPUs of a placement group that is written out, a part of one as one; None where Ray makes them itself."""
    bundles = [one for one in _items(group, "bundles") if isinstance(one, Mapping)]
    sizes = [size for one in bundles if isinstance(size := one.get("GPU", 0), int | float) and 0 < size < 10_000]
    return sum(max(1, int(size)) for size in sizes) if sizes else None


def _items(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    found = values.get(key)
    return found if isinstance(found, list) else ()


# --- the cluster of a RayService --------------------------------------------------------------------------------------


class _Cluster:
    """What KubeRay's groups of pods give together; nothing is known without them."""

    cards: tuple[str, ...] = ()
    gpus: int | None = None
    """None also where one of the groups may grow without bound."""
    environment: Mapping[str, str | None]

    def __init__(self, config: Table | None = None) -> None:
        self.environment = {}
        if config is None:
            return
        grows = config.text("enableInTreeAutoscaling") == "true"
        counts: list[int | None] = []
        cards: list[tuple[str, ...]] = []
        for group in (config.table("headGroupSpec"), *config.tables("workerGroupSpecs")):
            pod = group.table("template", "spec")
            for container in pod.tables("containers")[:1]:
                count, _ = devices(container.table("resources"))
                if count:
                    pods = _pods(group, grows=grows) if "groupName" in group.entries else 1
                    counts.append(count * pods if pods is not None else None)
                    cards.append(cards_of(pod))
                    self.environment = {**self.environment, **environment_of(container.get("env"))}
        known = [count for count in counts if count is not None]
        self.gpus = sum(known) or None if len(known) == len(counts) else None
        self.cards = distinct_cards([card for named in cards for card in named]) if all(cards) else ()


def _pods(group: Table, *, grows: bool) -> int | None:
    count = group.number("maxReplicas" if grows else "replicas")
    return count * (group.number("numOfHosts") or 1) if count is not None else None
