"""NVIDIA Dynamo: the workers of a DynamoGraphDeployment that run vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.gate.launch import Launch
from planner.gate.readers.pods import Node, Place, cards_of, container_of, launches_of_container
from planner.gate.yaml_nodes import Table


def graph(document: Table, place: Place) -> Iterator[Launch]:
    """Each service's mainContainer, on the cards that the service asks for (v1alpha1; later ones hold pods)."""
    for service in document.table("spec", "services").entries.values():
        if isinstance(service, Table):
            yield from _service(service, place)


def _service(service: Table, place: Place) -> Iterator[Launch]:
    pod = service.table("extraPodSpec")
    table = pod.table("mainContainer")
    if not table.entries:
        return
    container = container_of(table, place, {})
    gpus = service.number("resources", "limits", "gpu")
    nodes = service.number("multinode", "nodeCount") or 1
    yield from launches_of_container(replace(container, gpus=gpus), Node(cards=cards_of(pod), pods=nodes), place)
