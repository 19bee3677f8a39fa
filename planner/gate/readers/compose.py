"""docker compose: each service that runs vLLM, with the cards that it reserves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.errors import InputError
from planner.gate import yaml_nodes
from planner.gate.command import launch_of_image, launches_of
from planner.gate.launch import Launch, Word
from planner.gate.readers.pods import Place
from planner.gate.readers.yaml_words import Replace, Variables, environment_of, listed, over, split
from planner.gate.yaml_nodes import AnyNode, Scalar, Table

_MAX_EXTENDS = 8


def matches(document: AnyNode) -> bool:
    """Whether it is a compose file: a table of services, and no Kubernetes object."""
    if not isinstance(document, Table) or document.text("kind") is not None:
        return False
    services = document.table("services").entries.values()
    return any(isinstance(one, Table) and set(one.entries) & _KEYS for one in services)


_KEYS = frozenset(("image", "build", "command", "entrypoint", "extends", "deploy"))


def read(document: AnyNode, place: Place) -> Iterator[Launch]:
    """The launches of a compose file's services, in its order."""
    if not isinstance(document, Table):
        return
    variables = _dotenv(".env", place)
    services = document.table("services")
    for name, service in services.entries.items():
        if isinstance(service, Table):
            whole = _extended(service, _Scope(services=services, place=place, interpolate=_interpolation(variables)))
            yield from _launches(whole, services.key_lines[name], _interpolation(variables), place)


def _launches(service: Table, line: int, interpolate: Replace, place: Place) -> Iterator[Launch]:
    image = service.text("image")
    environment = {**_env_files(service, interpolate, place), **environment_of(service.get("environment"), interpolate)}
    context = place.context(service, line).with_(
        environment=environment,
        image=interpolate(image)[0] if image is not None else None,
        gpus=_gpus(service, interpolate),
    )
    lines = place.source.lines
    entrypoint = _words(service.get("entrypoint"), interpolate, lines)
    command = _words(service.get("command"), interpolate, lines)
    found = launches_of([*entrypoint, *command], context) if entrypoint else launch_of_image(command, context)
    # Without a command it is there to be extended, or to be run with arguments: no launch by itself.
    yield from (launch for launch in found if command or launch.model is not None)


def _words(node: AnyNode | None, interpolate: Replace, lines: Sequence[str]) -> list[Word]:
    """A list as it is; a text as compose splits it."""
    if isinstance(node, yaml_nodes.Sequence):
        return listed(node.items, interpolate)
    return split(node, interpolate, lines) if isinstance(node, Scalar) and not node.is_null else []


# --- cards ------------------------------------------------------------------------------------------------------------


def _gpus(service: Table, interpolate: Replace) -> int | None:
    """How many cards are reserved; None for all, and where nothing says it."""
    devices = service.tables("deploy", "resources", "reservations", "devices") or service.tables("gpus")
    counts = [_count(device, interpolate) for device in devices if _is_gpu(device)]
    generic = [
        resource.number("discrete_resource_spec", "value")
        for resource in service.tables("deploy", "resources", "reservations", "generic_resources")
        if "gpu" in (resource.text("discrete_resource_spec", "kind") or "").lower()
    ]
    known = [count for count in (*counts, *generic) if count is not None]
    return sum(known) if known and len(known) == len(counts) + len(generic) else None


def _is_gpu(device: Table) -> bool:
    words = [item.text for item in device.items("capabilities") if isinstance(item, Scalar)]
    driver = device.text("driver")
    return "gpu" in words or driver in ("nvidia", "amd", "cdi") or not (words or driver)


def _count(device: Table, interpolate: Replace) -> int | None:
    if "device_ids" in device.entries:
        ids = device.items("device_ids")
        joined = [interpolate(one.text) for one in ids if isinstance(one, Scalar)]
        if any(unknown for _, unknown in joined):
            return None
        return sum(len([part for part in text.split(",") if part.strip()]) for text, _ in joined)
    text, unknown = interpolate(device.text("count") or "all")
    return int(text) if unknown is None and text.isdigit() else None


# --- extends ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scope:
    """Where a service's `extends` looks."""

    services: Table
    place: Place
    interpolate: Replace
    depth: int = 0


def _extended(service: Table, scope: _Scope) -> Table:
    """The service over the one that it extends: lists and texts replace, mappings merge."""
    extends = service.get("extends")
    if extends is None or scope.depth >= _MAX_EXTENDS:
        return service
    name = extends.text if isinstance(extends, Scalar) else service.text("extends", "service")
    file = service.text("extends", "file")
    services = scope.services if file is None else _services_of(scope.interpolate(file)[0], scope.place)
    base = services.get(name) if services is not None and name is not None else None
    if not isinstance(base, Table) or services is None:
        return service
    deeper = _Scope(services=services, place=scope.place, interpolate=scope.interpolate, depth=scope.depth + 1)
    return over(service, _extended(base, deeper))


def _services_of(file: str, place: Place) -> Table | None:
    try:
        found = place.lookup.read(place.source, file)
        documents = yaml_nodes.documents(found.text, found.file) if found is not None else []
    except InputError:  # said where that file is read for itself
        return None
    return documents[0].table("services") if documents and isinstance(documents[0], Table) else None


# --- variables --------------------------------------------------------------------------------------------------------


def _env_files(service: Table, interpolate: Replace, place: Place) -> dict[str, str | None]:
    node = service.get("env_file")
    listed_files = node.items if isinstance(node, yaml_nodes.Sequence) else (node,) if node is not None else ()
    found: dict[str, str | None] = {}
    for item in listed_files:
        name = item.text if isinstance(item, Scalar) else item.text("path") if isinstance(item, Table) else None
        if name is not None:
            found |= _dotenv(interpolate(name)[0], place)
    return found


def _dotenv(name: str, place: Place) -> dict[str, str | None]:
    """The variables of a .env file; none where it is not there, as on a machine that is not the one deployed to."""
    from io import StringIO

    try:
        found = place.lookup.read(place.source, name)
    except InputError:
        return {}
    if found is None:
        return {}
    from dotenv import dotenv_values

    return dict(dotenv_values(stream=StringIO(found.text), interpolate=True))


def _interpolation(variables: Variables) -> Replace:
    """compose's ${VAR}, ${VAR:-default}, ${VAR:+other}, $VAR and $$, with the variables of .env."""

    def replaced(text: str) -> tuple[str, str | None]:
        unknown: list[str] = []
        return _interpolated(text, variables, unknown, 0), unknown[0] if unknown else None

    return replaced


_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:?[-+?])((?:[^{}]|\$\{[^{}]*\})*))?\})")


def _interpolated(text: str, variables: Variables, unknown: list[str], depth: int) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name, operator, other = found[2] or found[3], found[4] or "", found[5] or ""
        value = variables.get(name)
        if value is None and operator.endswith("-") and depth < 4:
            return _interpolated(other, variables, unknown, depth + 1)
        if operator.endswith("+") and depth < 4:
            return _interpolated(other, variables, unknown, depth + 1) if value else ""
        if value is None:
            unknown.append(f"${{{name}}}")
            return f"${{{name}}}"
        if not value and operator == ":-" and depth < 4:
            return _interpolated(other, variables, unknown, depth + 1)
        return value

    return _VARIABLE.sub(one, text)
