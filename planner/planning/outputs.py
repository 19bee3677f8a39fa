"""A plan in the forms people deploy: command line, vLLM's config file, compose, Kubernetes, Python. One entry each.

Nothing here decides anything: a form writes down the launch it is given, quoted for whatever reads it.
"""

from __future__ import annotations

import json
import pprint
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import strict_json
from planner.engine.args import EngineArgs, flag_of, takes_several
from planner.engine.defaults import Engine, resolve
from planner.errors import InputError, Refusal
from planner.model.source import Source
from planner.planning.goal import GPUS_PER_NODE
from planner.request import Inputs, prepare
from planner.text import printable
from planner.units import ceil_div

PORT = 8000
_RAY_PORT = 6379
_HOME_IN_CONTAINER = "/root"
"""Of the user as whom vLLM's images run (its docs/deployment/docker.md mounts caches there)."""
_CACHE = f"{_HOME_IN_CONTAINER}/.cache"
_MOUNTED = "/model"
"""Where a folder of this machine is in a container."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a container needs for one kind of cards."""

    image: str
    resource: str | None = None
    """Kubernetes' name of a card; None: there are none."""
    devices: tuple[str, ...] = ()
    """Files of theirs, where no driver of the container engine brings them in."""
    groups: tuple[str, ...] = ()
    """That may open those."""
    visible: str | None = None
    """The variable that chooses among them."""


_PLATFORMS: Mapping[str, Platform] = {
    "cuda": Platform(image="vllm/vllm-openai", resource="nvidia.com/gpu"),
    "rocm": Platform(
        image="vllm/vllm-openai-rocm",
        resource="amd.com/gpu",
        devices=("/dev/kfd", "/dev/dri"),
        groups=("video",),
        visible="HIP_VISIBLE_DEVICES",
    ),
    "xpu": Platform(
        image="vllm/vllm-openai-xpu",
        resource="gpu.intel.com/xe",
        devices=("/dev/dri",),
        groups=("video",),
        visible="ZE_AFFINITY_MASK",
    ),
    "cpu": Platform(image="vllm/vllm-openai-cpu"),
}
"""By vLLM's platform (Gpu.kind)."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is to be launched, and how often."""

    model: str
    args: EngineArgs
    engine: Engine
    gpu: str
    kind: str
    """vLLM's platform: cuda, rocm …"""
    engines: int = 1
    gpus_per_node: int = GPUS_PER_NODE
    folder: str | None = None
    """Of this machine, absolute, that holds the model; None for a Hub id."""
    notes: tuple[str, ...] = ()
    """What must be done first, each a sentence: written as comments."""

    @property
    def gpus(self) -> int:
        """Cards of one engine."""
        return self.engine.gpus_per_replica * self.engine.data_parallel_size

    @property
    def nodes(self) -> int:
        """Machines that one engine spans."""
        return ceil_div(self.gpus, self.gpus_per_node)

    @property
    def gpus_on_node(self) -> int:
        """Cards of each of these machines: whole tensor-parallel groups, since those talk in every layer."""
        tensor = self.engine.tensor_parallel_size
        return min(self.gpus_per_node, ceil_div(self.gpus // tensor, self.nodes) * tensor)

    @property
    def words(self) -> list[str]:
        """The `vllm serve` command line as words."""
        return ["vllm", "serve", self.model, *self.args.to_flags()]

    @property
    def name(self) -> str:
        """As a DNS label."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.model.rsplit("/", 1)[-1].lower()).strip("-")
        return f"vllm-{plain}"[:50].strip("-")

    @property
    def platform(self) -> Platform:
        """What a container needs for these cards. InputError where vLLM has no image for them."""
        if self.kind not in _PLATFORMS:
            raise InputError(f"vLLM publishes no container image for {self.gpu}: pass serve, yaml or python")
        return _PLATFORMS[self.kind]

    @property
    def image(self) -> str:
        """The name of vLLM's own container image of this version."""
        return f"{self.platform.image}:v{self.engine.vllm_version}"


def launch_of(inputs: Inputs, engines: int = 1, gpus_per_node: int = GPUS_PER_NODE) -> Launch:
    """The launch of a plan. InputError where it is no launch that vLLM takes, or of a model that is only numbers."""
    if not isinstance(inputs.source, str):
        raise InputError("a model known only by its numbers cannot be launched: name a checkpoint")
    try:
        quantized = inputs.quantization is not None
        engine = resolve(inputs.model, inputs.gpu, inputs.args, inputs.version, inputs.usage, quantized=quantized)
    except Refusal as refusal:
        raise InputError(f"vLLM refuses this launch: {refusal}") from refusal
    local = inputs.loaded is not None and inputs.loaded.source in (Source.FOLDER, Source.FILE)
    notes = []
    if inputs.what_if_quantization:
        notes.append(
            f"make a checkpoint of {printable(inputs.model_source)} in {inputs.what_if_quantization} first, "
            "and put its path in the model's place"
        )
    return Launch(
        model=inputs.model_source,
        args=inputs.args,
        engine=engine,
        gpu=inputs.gpu.name,
        kind=inputs.gpu.kind,
        engines=engines,
        gpus_per_node=gpus_per_node,
        folder=str(Path(inputs.model_source).absolute()) if local else None,
        notes=tuple(notes),
    )


def launch_of_plan(plan: Mapping[str, Any], where: str) -> Launch:
    """The launch in a plan file. InputError where it holds none."""
    request, goal = plan.get("request"), plan.get("goal")
    if "plan" not in plan or not isinstance(request, dict):
        raise InputError(f"{where}: not a plan of vllm-fit: it has no request")
    if not plan.get("met", True):
        raise InputError(f"{where}: this plan does not reach its goal, so there is nothing to launch")
    counts = {"engines": plan.get("engines", 1)}
    counts["gpus_per_node"] = goal.get("gpus_per_node", GPUS_PER_NODE) if isinstance(goal, dict) else GPUS_PER_NODE
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 100_000:
            raise InputError(f"{where}: {name} must be a whole number of at least 1")
    return launch_of(prepare(request), **counts)


def read_plan(path: Path) -> Launch:
    """The launch in a plan file on disk."""
    return launch_of_plan(strict_json.read_object(path), str(path))


def write(launch: Launch, form: str) -> str:
    """The launch in one of FORMS, ending in a newline."""
    return FORMS[form](launch)


def _comments(launch: Launch, *more: str) -> str:
    return "".join(f"# {printable(line, 300)}\n" for line in (*launch.notes, *more))


# --- the forms --------------------------------------------------------------------------------------------------------


def serve(launch: Launch) -> str:
    """A line for a shell; what it cannot say stands above it as comments."""
    more = [f"{launch.engines} such engines, each on {_cards(launch)}, behind a load balancer"]
    return _comments(launch, *(more if launch.engines > 1 else ())) + shlex.join(launch.words) + "\n"


def config_file(launch: Launch) -> str:
    """For `vllm serve --config FILE`: what its load_config_file turns into the same flags.

    It passes over `enable-x: false` (0.32 looks for --no-enable-x in the parser of `vllm`, not of `vllm serve`), so
    `no-enable-x: true` is written.
    """
    values: dict[str, Any] = {"model": launch.model}
    for name, value in launch.args.items():
        if value is False:
            values |= {word.removeprefix("--"): True for word in EngineArgs({name: value}).to_flags()}
        elif value is not None:
            values[flag_of(name).removeprefix("--")] = _config_value(value, listed=takes_several(name))
    return _comments(launch, "vllm serve --config THIS_FILE") + _yaml(values)


def _config_value(value: Any, *, listed: bool) -> Any:
    """A list is several words there, so a JSON list goes as text."""
    return json.dumps(value) if isinstance(value, list) and not listed else value


def compose(launch: Launch) -> str:
    """docker compose: one service for each engine, on cards of its own."""
    nodes = ceil_div(launch.gpus * launch.engines, launch.gpus_per_node)
    if launch.platform.resource is not None and nodes > 1:
        raise InputError(f"docker compose runs on one machine, this launch needs {nodes}: use kubernetes")
    services = {}
    for index in range(launch.engines):
        name = launch.name if launch.engines == 1 else f"{launch.name}-{index}"
        services[name] = _service(launch, index)
    return _comments(launch) + _yaml({"services": services})


def _service(launch: Launch, index: int) -> dict[str, Any]:
    platform, first = launch.platform, index * launch.gpus
    cards = [str(card) for card in range(first, first + launch.gpus)]
    mounts: list[Any] = [f"~/.cache/huggingface:{_CACHE}/huggingface"]
    if launch.folder is not None:
        mounts.append({"type": "bind", "source": _dollars(launch.folder), "target": _MOUNTED, "read_only": True})
    service: dict[str, Any] = {
        "image": launch.image,
        "entrypoint": ["vllm", "serve"],  # older images begin with api_server, which takes no model as a word
        "command": _in_container(launch),
        "ports": [f"{PORT + index}:{PORT}"],
        "ipc": "host",
        "volumes": mounts,
        "environment": {"HF_TOKEN": "${HF_TOKEN:-}"},
        "restart": "unless-stopped",
    }
    if platform.visible is not None:
        service["devices"] = list(platform.devices)
        service["group_add"] = list(platform.groups)
        service["environment"][platform.visible] = ",".join(cards)
    elif platform.resource is not None:
        device = {"driver": "nvidia", "device_ids": cards, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service


def _in_container(launch: Launch) -> list[str]:
    """What follows `vllm serve` there."""
    model = launch.model if launch.folder is None else _MOUNTED
    return [_dollars(word) for word in (model, *launch.args.to_flags(), "--port", str(PORT))]


def _dollars(word: str) -> str:
    """Compose and Kubernetes both replace $NAME or $(NAME), and read $$ as one dollar."""
    return word.replace("$", "$$")


def kubernetes(launch: Launch) -> str:
    """A Deployment with a replica for each engine; a LeaderWorkerSet with Ray where one takes several nodes."""
    workload = _deployment(launch) if launch.nodes == 1 else _leader_worker_set(launch)
    selector = {"app": launch.name} if launch.nodes == 1 else {"app": launch.name, "role": "leader"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": launch.name},
        "spec": {"selector": selector, "ports": [{"port": PORT, "targetPort": PORT}]},
    }
    more = [] if launch.folder is None else [f"{launch.folder} is mounted from the node: it must be there"]
    return _comments(launch, *more) + _yaml(workload) + "---\n" + _yaml(service)


def _deployment(launch: Launch) -> dict[str, Any]:
    labels = {"app": launch.name}
    container = _container(launch, launch.gpus) | {
        "command": ["vllm", "serve"],
        "args": _in_container(launch),
        **_probes(),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": launch.name, "labels": labels},
        "spec": {
            "replicas": launch.engines,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(launch, container)},
        },
    }


def _leader_worker_set(launch: Launch) -> dict[str, Any]:
    words = shlex.join(["vllm", "serve", *_in_container(launch)])
    leader = f"ray start --head --port={_RAY_PORT} && {words}"
    worker = f"until ray start --address=$(LWS_LEADER_ADDRESS):{_RAY_PORT} --block; do sleep 5; done"

    def template(role: str, command: str, more: dict[str, Any]) -> dict[str, Any]:
        container = _container(launch, launch.gpus_on_node) | {"command": ["sh", "-c", command], **more}
        return {"metadata": {"labels": {"app": launch.name, "role": role}}, "spec": _pod(launch, container)}

    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": launch.name},
        "spec": {
            "replicas": launch.engines,
            "leaderWorkerTemplate": {
                "size": launch.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": template("leader", leader, _probes()),
                "workerTemplate": template("worker", worker, {}),
            },
        },
    }


def _container(launch: Launch, gpus: int) -> dict[str, Any]:
    resource = launch.platform.resource
    count = {resource: gpus}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "cache", "mountPath": _CACHE}]
    if launch.folder is not None:
        mounts.append({"name": "model", "mountPath": _MOUNTED})
    token = {"secretKeyRef": {"name": "huggingface", "key": "token", "optional": True}}
    return {
        "name": "vllm",
        "image": launch.image,
        "env": [{"name": "HF_TOKEN", "valueFrom": token}],
        "ports": [{"containerPort": PORT}],
        **({"resources": {"limits": count, "requests": count}} if resource is not None else {}),
        "volumeMounts": mounts,
    }


def _probes() -> dict[str, Any]:
    health = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        "startupProbe": {**health, "periodSeconds": 10, "failureThreshold": 360},
        "readinessProbe": {**health, "periodSeconds": 5},
        "livenessProbe": {**health, "periodSeconds": 30, "failureThreshold": 5},
    }


def _pod(launch: Launch, container: dict[str, Any]) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "cache", "emptyDir": {}},
    ]
    if launch.folder is not None:
        volumes.append({"name": "model", "hostPath": {"path": launch.folder, "type": "Directory"}})
    return {"containers": [container], "volumes": volumes}


def python(launch: Launch) -> str:
    """The LLM class, whose own batch defaults are larger than the server's: those of the plan are written out."""
    if launch.engine.data_parallel_size > 1 and launch.args.get("distributed_executor_backend") != "external_launcher":
        raise InputError("the LLM class takes no data_parallel_size in one process (entrypoints/llm.py): pass serve")
    values: dict[str, Any] = {"model": launch.model, **launch.args}
    if launch.engine.usage == "server":
        values.setdefault("max_num_seqs", launch.engine.max_num_seqs)
        values.setdefault("max_num_batched_tokens", launch.engine.max_num_batched_tokens)
    lines = [f"    {name}={pprint.pformat(value, width=100)},\n" for name, value in values.items()]
    return f"{_comments(launch)}from vllm import LLM\n\nllm = LLM(\n{''.join(lines)})\n"


def _cards(launch: Launch) -> str:
    return f"{launch.gpus} x {launch.gpu}" if launch.gpus > 1 else f"one {launch.gpu}"


def _yaml(value: Any) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        """Without anchors: what appears twice is written twice."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
            return True

    return str(yaml.dump(value, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120))


FORMS: Mapping[str, Callable[[Launch], str]] = {
    "serve": serve,
    "yaml": config_file,
    "compose": compose,
    "kubernetes": kubernetes,
    "python": python,
}
"""By the name that `vllm-fit commands --format` takes."""
