"""A pod's containers become launches: command, args, env, `$(VAR)`, resources, and the node that it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from planner.errors import InputError
from planner.gate.command import Context, launch_of_image, launches_of
from planner.gate.gpus import OTHER_ACCELERATORS, card_of_label, card_of_resource
from planner.gate.launch import Launch, Word
from planner.gate.readers.yaml_words import Replace, Variables, environment_of, listed
from planner.gate.source import Lookup, Source
from planner.gate.yaml_nodes import AnyNode, Scalar, Table
from planner.hardware.catalogue import find_gpu


@dataclass(frozen=True, kw_only=True)
class Place:
    """The file that is read, all of its documents, and what may be read besides."""

    source: Source
    lookup: Lookup
    documents: Sequence[AnyNode] = ()

    def context(self, node: AnyNode, line: int | None = None) -> Context:
        """For a launch that is a part of the file: it begins at its container or service, not at its command."""
        return Context(
            source=self.source, lookup=self.lookup, line=line or node.line, end_line=node.end_line, settle=True
        )

    def unreadable(self, node: AnyNode, problem: str, line: int | None = None) -> Launch:
        """A launch of which only that it is there is known."""
        return Launch(file=self.source.file, line=line or node.line, end_line=node.end_line, problem=problem)


@dataclass(frozen=True, kw_only=True)
class Container:
    """What a container gives to its command, whatever the keys are called."""

    node: Table
    line: int
    image: str | None
    command: Sequence[Word] = ()
    args: Sequence[Word] = ()
    environment: Variables = field(default_factory=dict)
    resources: Table | None = None
    gpus: int | None = None
    """Where something else than the resources says it."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a pod asks of its node."""

    cards: tuple[str, ...] = ()
    """The cards that it may get, as labels name them; empty: whatever there is."""
    pods: int = 1
    """Pods that are one engine."""


def launches_of_pod(spec: Table, place: Place, *, pods: int = 1, extra: Variables | None = None) -> Iterator[Launch]:
    """The launches of a pod's containers. extra: variables that a controller sets."""
    node = Node(cards=cards_of(spec), pods=pods)
    for table in spec.tables("containers"):
        yield from launches_of_container(container_of(table, place, extra or {}), node, place)


def container_of(table: Table, place: Place, extra: Variables) -> Container:
    """A container as Kubernetes writes it."""
    environment = _environment(table, place, extra)

    def substituted(text: str) -> tuple[str, str | None]:
        return substitute(text, environment)

    return Container(
        node=table,
        line=table.line,
        image=table.text("image"),
        command=words_at(table, "command", substituted),
        args=words_at(table, "args", substituted),
        environment=environment,
        resources=table.table("resources"),
    )


def with_script(container: Container, script: AnyNode | None) -> Container:
    """A container that runs a script, where one is given, in the place of a command."""
    if not isinstance(script, Scalar):
        return container
    text, _ = substitute(script.text, container.environment)
    words = [Word(text=word, line=script.first_line) for word in ("sh", "-c", text)]
    return replace(container, command=words, args=())


def launches_of_container(container: Container, node: Node, place: Place) -> Iterator[Launch]:
    """The launches of one container, on each of the cards that it may get."""
    count, kind = devices(container.resources)
    if container.gpus is not None:
        count = container.gpus
    context = place.context(container.node, container.line).with_(
        environment=container.environment,
        image=container.image,
        gpus=count * node.pods if count is not None else None,
        gpus_here=count,
    )
    for card in _devices_named(distinct_cards(node.cards), kind):
        on_card = context.with_(gpu=card)
        found = (
            launches_of([*container.command, *container.args], on_card)
            if container.command
            else launch_of_image(container.args, on_card)
        )
        other = _other_accelerator(container.resources)
        for launch in distinct(found):
            yield launch.with_(problem=f"it runs on {other}, whose memory is not known here") if other else launch


def distinct(launches: Sequence[Launch]) -> list[Launch]:
    """Those of two branches of a script, or of two runs of a matrix, that are the same launch count once."""
    kept: list[Launch] = []
    for launch in launches:
        if not any(replace(launch, words=other.words) == other for other in kept):
            kept.append(launch)
    return kept


def substitute(text: str, environment: Variables) -> tuple[str, str | None]:
    """Kubernetes' `$(VAR)`; `$$(VAR)` is no variable, and one that nothing sets stays as it is."""
    unknown: list[str] = []

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return found[0][1:]
        value = environment.get(found[2])
        if value is None:
            unknown.append(found[0])
            return found[0]
        return value

    replaced = re.sub(r"\$(\$)?\(([A-Za-z_][\w.-]*)\)", one, text)
    template = _TEMPLATE.search(replaced)
    return replaced, unknown[0] if unknown else template[0] if template else None


_TEMPLATE = re.compile(r"\$\{\w+\}|\{\{[^{}]+\}\}")
"""What envsubst or another tool replaces before Kubernetes sees it: Kubernetes itself knows no such variables."""


def words_at(table: Table, key: str, replace_in: Replace) -> list[Word]:
    """The words of `command` or `args`; a text instead of a list counts as one word."""
    node = table.get(key)
    return listed([node] if isinstance(node, Scalar) and not node.is_null else table.items(key), replace_in)


def cards_of(spec: Table) -> tuple[str, ...]:
    """The cards that nodeSelector and required node affinity of a pod's spec leave; none where they say nothing."""
    selector = spec.table("nodeSelector")
    for label, value in selector.entries.items():
        card = card_of_label(label, value.text) if isinstance(value, Scalar) else None
        if card:
            return (card,)
    return cards_of_terms(
        spec.tables("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    )


def cards_of_terms(terms: Sequence[Table]) -> tuple[str, ...]:
    """The cards of node selector terms, of which any one is enough."""
    cards: list[str] = []
    for term in terms:
        named = [
            card
            for expression in term.tables("matchExpressions")
            if expression.text("operator") == "In"
            for value in expression.items("values")
            if isinstance(value, Scalar) and (card := card_of_label(expression.text("key") or "", value.text))
        ]
        if not named:
            return ()
        cards += named
    return tuple(cards)


def _devices_named(cards: Sequence[str], kind: str) -> Sequence[str | None]:
    """The cards, or the slices of those that can be cut so."""
    if not kind:
        return cards or (None,)
    slices = [card if "MIG" in card else f"{card} {kind}" for card in cards]
    return [name for name in slices if _is_known(name)] or slices or (kind,)


def _is_known(name: str) -> bool:
    try:
        return find_gpu(name) is not None
    except InputError:
        return False


def distinct_cards(names: Sequence[str]) -> tuple[str, ...]:
    """One name for each card."""
    known: dict[str, str] = {}
    for name in names:
        try:
            known.setdefault(find_gpu(name).name, name)
        except InputError:
            known.setdefault(name, name)
    return tuple(known.values())


def _environment(table: Table, place: Place, extra: Variables) -> dict[str, str | None]:
    environment: dict[str, str | None] = dict(extra)
    for entry in table.tables("envFrom"):
        name = entry.text("configMapRef", "name")
        environment |= _config_map(name, place) if name is not None else {}
    for variable in table.tables("env"):
        name, value = variable.text("name"), variable.get("value")
        if name is not None:
            text, unknown = substitute(value.text, environment) if isinstance(value, Scalar) else (None, None)
            environment[name] = text if unknown is None else None
    return environment


def _config_map(name: str, place: Place) -> dict[str, str | None]:
    for document in place.documents:
        if isinstance(document, Table) and (document.text("kind"), document.text("metadata", "name")) == (
            "ConfigMap",
            name,
        ):
            return environment_of(document.table("data"))
    return {}


def devices(resources: Table | None) -> tuple[int | None, str]:
    """(how many GPUs, which slices of one: "MIG 3g.40gb" or "") that limits, else requests, give."""
    if resources is None:
        return None, ""
    for part in ("limits", "requests"):
        for name in resources.table(part).entries:
            kind = card_of_resource(name)
            if kind is not None:
                return resources.number(part, name), kind
    return None, ""


def _other_accelerator(resources: Table | None) -> str | None:
    given: Mapping[str, AnyNode] = {} if resources is None else resources.table("limits").entries
    return next((what for name, what in OTHER_ACCELERATORS.items() if name in given), None)


def with_model(container: Container, at: str, model: str) -> Container:
    """The same container, with a model in the place of the path where a controller mounts it."""

    def one(word: Word) -> Word:
        text = re.sub(rf"(?<![\w/]){re.escape(at)}(?![\w/-])", lambda _: model, word.text)
        return replace(word, text=text)

    return replace(
        container,
        command=[one(word) for word in container.command],
        args=[one(word) for word in container.args],
        environment={
            name: value if value is None or value.rstrip("/") != at else model
            for name, value in container.environment.items()
        },
    )
