"""Kubernetes objects whose pods launch vLLM: one entry of KINDS for each kind, and any other that holds containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from planner.gate.launch import Launch
from planner.gate.readers import dynamo, kserve, ray_serve, scripts, tekton
from planner.gate.readers.pods import (
    Node,
    Place,
    cards_of,
    container_of,
    launches_of_container,
    launches_of_pod,
    with_script,
)
from planner.gate.yaml_nodes import AnyNode, Table, walk

Read = Callable[[Table, Place], Iterator[Launch]]


def matches(document: AnyNode) -> bool:
    """Whether it is a Kubernetes object: it has a kind and an apiVersion."""
    return isinstance(document, Table) and document.text("kind") is not None and document.get("apiVersion") is not None


def read(document: AnyNode, place: Place) -> Iterator[Launch]:
    """The launches of an object."""
    if isinstance(document, Table):
        yield from KINDS.get(document.text("kind") or "", _other)(document, place)


def _pod_at(*path: str) -> Read:
    def read_pod(document: Table, place: Place) -> Iterator[Launch]:
        pod = document.table(*path)
        # Another API's kind of the same name has it elsewhere: Volcano's Job.
        return launches_of_pod(pod, place) if pod.tables("containers") else _other(document, place)

    return read_pod


def _list(document: Table, place: Place) -> Iterator[Launch]:
    for item in document.items("items"):
        yield from read(item, place)


def _leader_worker_set(document: Table, place: Place) -> Iterator[Launch]:
    """One engine over `size` pods: the leader's command decides, unless leader and workers run the same."""
    template = document.table("spec", "leaderWorkerTemplate")
    size = template.number("size") or 1
    extra = {"LWS_GROUP_SIZE": str(size), "LWS_LEADER_ADDRESS": None, "LWS_WORKER_INDEX": None}
    for part in ("leaderTemplate", "workerTemplate"):
        found = list(launches_of_pod(template.table(part, "spec"), place, pods=size, extra=extra))
        yield from found
        if found:
            return


def _config_map(document: Table, place: Place) -> Iterator[Launch]:
    """The scripts in it, which containers mount and run."""
    yield from scripts.read(document.table("data"), place)


def _ray_service(document: Table, place: Place) -> Iterator[Launch]:
    """The applications of Ray Serve, and what its pods launch by themselves."""
    yield from ray_serve.service(document, place)
    yield from _other(document, place)


def _ray_job(document: Table, place: Place) -> Iterator[Launch]:
    """The command that it runs on its cluster."""
    entrypoint = document.get("spec", "entrypoint")
    if entrypoint is not None:
        yield from scripts.read(entrypoint, place)
    yield from _other(document, place)


def _dynamo(document: Table, place: Place) -> Iterator[Launch]:
    """Services with a main container, or with whole pods."""
    yield from dynamo.graph(document, place)
    yield from _other(document, place)


def _nothing(document: Table, place: Place) -> Iterator[Launch]:  # noqa: ARG001
    return iter(())


def _other(document: Table, place: Place) -> Iterator[Launch]:
    """Kinds not known here: every pod spec anywhere in them, and Argo's templates of one container or script each."""
    for node in walk(document):
        if isinstance(node, Table) and node.tables("containers"):
            yield from launches_of_pod(node, place)
        elif isinstance(node, Table):
            for table in (node.get("container"), node.get("script")):
                if isinstance(table, Table) and "image" in table.entries:
                    container = with_script(container_of(table, place, {}), table.get("source"))
                    yield from launches_of_container(container, Node(cards=cards_of(node)), place)


KINDS: Mapping[str, Read] = {
    "Pod": _pod_at("spec"),
    "Deployment": _pod_at("spec", "template", "spec"),
    "StatefulSet": _pod_at("spec", "template", "spec"),
    "DaemonSet": _pod_at("spec", "template", "spec"),
    "ReplicaSet": _pod_at("spec", "template", "spec"),
    "Job": _pod_at("spec", "template", "spec"),
    "CronJob": _pod_at("spec", "jobTemplate", "spec", "template", "spec"),
    "List": _list,
    "LeaderWorkerSet": _leader_worker_set,
    "InferenceService": kserve.service,
    "ServingRuntime": kserve.runtime,
    "ClusterServingRuntime": kserve.runtime,
    "LLMInferenceService": kserve.llm_service,
    "LLMInferenceServiceConfig": _nothing,
    "RayService": _ray_service,
    "RayJob": _ray_job,
    "DynamoGraphDeployment": _dynamo,
    "ConfigMap": _config_map,
    "Task": tekton.steps,
    "TaskRun": tekton.steps,
    "Pipeline": tekton.steps,
    "PipelineRun": tekton.steps,
}
"""What holds the launch of each kind."""
