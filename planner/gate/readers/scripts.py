"""Scripts inside YAML: GitHub, GitLab, CircleCI and Azure pipelines, Ansible, SkyPilot, dstack, cloud-init.

What they share: texts that a shell reads, below mappings that set variables and say image and cards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from planner.gate.bash.walk import launches_in
from planner.gate.command import Context, launch_of_image, launches_of
from planner.gate.launch import Launch, least
from planner.gate.readers.matrix import Run, runs_of
from planner.gate.readers.pods import Place, distinct, distinct_cards
from planner.gate.readers.yaml_words import environment_of, listed, over, split
from planner.gate.yaml_nodes import AnyNode, Scalar, Sequence, Table

_VARIABLES = ("env", "envs", "variables", "environment", "vars")
"""Keys under which a mapping sets variables for what it holds."""
_NO_SCRIPTS = frozenset(("name", "description", "uses", "image", "key", "path", "paths", "url", "title", "model"))
"""Keys whose texts no shell reads."""


def matches(document: AnyNode) -> bool:
    """Any table or list: commands of pipelines may stand anywhere in it."""
    return isinstance(document, Table | Sequence)


def read(document: AnyNode, place: Place) -> Iterator[Launch]:
    """The launches of every script in a document, in its order."""
    around = _Around(context=place.context(document).with_(settle=False))
    yield from _walk(_with_extends(document), around, place, "")


def _with_extends(document: AnyNode) -> AnyNode:
    """GitLab's jobs over those that they extend, which by themselves do not run when they are hidden (.name)."""
    if not isinstance(document, Table):
        return document
    used: set[str] = set()
    entries = {name: _extended(job, document, used, 0) for name, job in document.entries.items()}
    kept = {name: job for name, job in entries.items() if not (name.startswith(".") and name in used)}
    return Table(document.line, document.end_line, kept, document.key_lines)


def _extended(job: AnyNode, document: Table, used: set[str], depth: int) -> AnyNode:
    if not isinstance(job, Table) or "extends" not in job.entries or depth >= _MAX_EXTENDS:
        return job
    extends = job.get("extends")
    names = extends.items if isinstance(extends, Sequence) else (extends,)
    for name in reversed([name.text for name in names if isinstance(name, Scalar)]):  # the last one wins
        base = _extended(document.entries[name], document, used, depth + 1) if name in document.entries else None
        if isinstance(base, Table):
            used.add(name)
            job = over(job, base)
    return job


_MAX_EXTENDS = 11
"""As GitLab allows."""


@dataclass(frozen=True, kw_only=True)
class _Around:
    """What the mappings around a script say."""

    context: Context
    texts: Mapping[str, str] = field(default_factory=dict)
    """The variables that are known."""
    cards: tuple[str, ...] = ()
    in_run: bool = False
    """Whether a matrix is around: one within another would multiply."""

    def in_one(self, run: Run, *, variables: bool) -> _Around:
        """Within one run of a matrix. variables: whether scripts see what it sets."""
        context = self.context
        if variables:
            context = context.with_(environment={**context.environment, **run})
        return replace(self, context=context, texts={**self.texts, **run}, in_run=True)

    def inside(self, table: Table) -> _Around:
        """Within one more mapping."""
        environment = dict(self.context.environment)
        for key in _VARIABLES:
            environment |= environment_of(table.get(key), self.expression)
        cards, gpus = _accelerators(table)
        if gpus is not None:
            environment |= {name: str(gpus) for name in ("SKYPILOT_NUM_GPUS_PER_NODE", "DSTACK_GPUS_NUM")}
        image = table.text("image") or table.text("container") or table.text("container", "image")
        texts = {name: value for name, value in {**self.texts, **environment}.items() if value is not None}
        return replace(
            self,
            context=self.context.with_(
                environment=environment,
                image=self.expression(image)[0] if image else self.context.image,
                gpus=gpus if gpus is not None else self.context.gpus,
            ),
            texts=texts,
            cards=cards or self.cards,
        )

    def expression(self, text: str) -> tuple[str, str | None]:
        """`${{ env.NAME }}` of GitHub, `$(NAME)` of Azure, `{{ NAME }}` of Ansible and `{{.NAME}}` of Task replaced,
        where the file says it.
        """
        replaced = _EXPRESSION.sub(lambda found: self.texts.get(found[1] or "", found[0]), text)
        replaced = re.sub(r"\$\((\w+)\)", lambda found: self.texts.get(found[1], found[0]), replaced)
        replaced = _TEMPLATE.sub(lambda found: self.texts.get(found[1], found[0]), replaced)
        unknown = _EXPRESSION.search(replaced)
        return replaced, unknown[0] if unknown else None


_EXPRESSION = re.compile(r"\$\{\{\s*(?:[\w-]+\.)*([\w-]+)\s*\}\}|\$\[\[\s*[\w.]+\s*\]\]")
_TEMPLATE = re.compile(r"(?<!\$)\{\{\s*\.?(\w+)\s*\}\}")


def _walk(node: AnyNode, around: _Around, place: Place, key: str) -> Iterator[Launch]:
    if isinstance(node, Table):
        if _is_service(node):
            yield from _service(node, around.inside(node), place)
            return
        yield from distinct([launch for inside in _runs(node, around) for launch in _entries(node, inside, place)])
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _walk(item, around, place, key)
    elif key not in _NO_SCRIPTS and key not in _VARIABLES and _is_script(node.text):
        yield from _script(node, around)


def _runs(job: Table, around: _Around) -> list[_Around]:
    """Within each run of a job's matrix, or within any other mapping."""
    runs = () if around.in_run else runs_of(job)
    return [around.in_one(run, variables="parallel" in job.entries).inside(job) for run in runs] or [around.inside(job)]


def _entries(table: Table, inside: _Around, place: Place) -> Iterator[Launch]:
    for name, value in table.entries.items():
        yield from _walk(value, inside, place, name)


def _is_script(text: str) -> bool:
    return "vllm" in text.lower() and re.search(r"\s", text) is not None


def _script(node: Scalar, around: _Around) -> Iterator[Launch]:
    text, _ = around.expression(node.text)
    # What no one replaces before the run becomes a variable that the script does not set.
    text = re.sub(r"\$?\{\{(.*?)\}\}", lambda found: "${" + re.sub(r"\W+", "_", found[1]).strip("_") + "}", text)
    context = around.context.with_(line=node.first_line, end_line=node.end_line, settle=node.folded)
    for card in distinct_cards(around.cards) or (None,):
        yield from launches_in(text, context.with_(gpu=card), node.first_line)


def _is_service(table: Table) -> bool:
    """A service container of a pipeline (GitLab's services, GitHub's): an image, and perhaps arguments for it."""
    image = _image(table)
    return "vllm" in image and "/" in image and {"command", "entrypoint"} & set(table.entries) != set()


def _image(service: Table) -> str:
    return service.text("image") or service.text("name") or ""


def _service(table: Table, around: _Around, place: Place) -> Iterator[Launch]:
    context = around.context.with_(
        line=table.line, end_line=table.end_line, settle=True, image=around.expression(_image(table))[0]
    )
    words = {}
    for key in ("entrypoint", "command"):
        value = table.get(key)
        words[key] = (
            split(value, around.expression, place.source.lines)
            if isinstance(value, Scalar)
            else listed(table.items(key), around.expression)
        )
    if any(word.text for word in words["entrypoint"]):
        yield from launches_of([*words["entrypoint"], *words["command"]], context)
    else:
        yield from launch_of_image(words["command"], context)


def _accelerators(table: Table) -> tuple[tuple[str, ...], int | None]:
    """(cards, of which any one may be given, and how many of it), as SkyPilot's and dstack's `resources` say.

    `accelerators: H100:8`, `{A100-80GB: 4, H100: 4}` or `[L4:1, A10G:1]`; `gpu: H100:2` or `{name, count}`.
    """
    node = table.get("resources", "accelerators")
    if isinstance(node, Table):
        return tuple(_SKYPILOT.get(name, name) for name in node.entries), least(*map(node.number, node.entries))
    if node is not None:
        named = [
            _card(one.text)
            for one in (node.items if isinstance(node, Sequence) else (node,))
            if isinstance(one, Scalar)
        ]
        known = [one for one in named if one is not None]
        return tuple(_SKYPILOT.get(name, name) for name, _ in known), least(*(count for _, count in known))
    node = table.get("resources", "gpu")
    if isinstance(node, Table) and (name := node.text("name")) is not None:
        return (name,), node.number("count")
    single = _card(node.text) if isinstance(node, Scalar) else None
    return ((single[0],), single[1]) if single is not None else ((), None)


def _card(text: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"([A-Za-z][\w-]*)(?::(\d+))?", text)
    return (found[1], int(found[2] or 1)) if found else None


_SKYPILOT = {"A100": "A100-SXM4-40GB", "V100": "V100-SXM2-16GB", "V100-32GB": "V100-SXM2-32GB"}
"""SkyPilot's names that mean another card here (`sky show-gpus`)."""
