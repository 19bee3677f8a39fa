"""Tekton: the steps of tasks, each a container with a command or with a script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.gate.launch import Launch
from planner.gate.readers.pods import Node, Place, cards_of, container_of, launches_of_container, with_script
from planner.gate.yaml_nodes import Table, walk


def steps(document: Table, place: Place) -> Iterator[Launch]:
    """Those of a Task, or of tasks within a Pipeline and the runs of both; parameters count as their defaults."""
    spec = document.table("spec")
    node = Node(cards=cards_of(spec.table("podTemplate")))
    params = {f"params.{param.text('name')}": param.text("default") for param in spec.tables("params")}
    for table in walk(document):
        for step in table.tables("steps") if isinstance(table, Table) else ():
            container = container_of(step, place, params)
            if "computeResources" in step.entries:
                container = replace(container, resources=step.table("computeResources"))
            yield from launches_of_container(with_script(container, step.get("script")), node, place)
