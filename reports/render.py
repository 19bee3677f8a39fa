"""render(): a plan file's dictionary as a report. A form is added by one entry in _RENDERERS."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import jinja2
from markupsafe import Markup

from planner import __version__
from reports import svg
from reports.memory import Memory, gib
from reports.view import View, view_of

Form = Literal["html", "md", "json", "csv"]
FORMS: tuple[Form, ...] = get_args(Form)

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$]|^[-+])")


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    plan: Mapping[str, Any]
    view: View
    made: str | None


def render(plan: Mapping[str, Any], form: Form, made: datetime.date | None = None) -> str:
    """The report, the same text for the same arguments. made: the date it says. InputError for what is no plan."""
    sheet = _Sheet(plan=plan, view=view_of(plan), made=made.isoformat() if made is not None else None)
    return _RENDERERS[form](sheet)


def markdown(value: object) -> str:
    """Text for a Markdown paragraph or table cell, so that nothing in it is markup, a link or a mention."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _MARKDOWN.sub(r"\\\1", line)
    return line.replace("@", "&#64;").replace("://", "&#58;//").replace("www.", "www&#46;")


def fenced(value: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{value}\n{fence}"


@cache
def _environment(*, html: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown, "fenced": fenced, "gib": gib, "comma": lambda n: f"{n:,}"}
    return environment


def _template(name: str, sheet: _Sheet, bar: Markup | None) -> str:
    template = _environment(html=name.endswith(".html.j2")).get_template(name)
    return template.render(view=sheet.view, made=sheet.made, version=__version__, bar=bar, colours=svg.COLOURS)


def _html(sheet: _Sheet) -> str:
    memory = sheet.view.memory
    return _template("fit.html.j2", sheet, svg.bar(memory) if memory is not None else None)


def _md(sheet: _Sheet) -> str:
    return _template("fit.md.j2", sheet, None)


def _json(sheet: _Sheet) -> str:
    """The plan file itself, as `vllm-fit fit -o` writes it."""
    return json.dumps(sheet.plan, indent=2) + "\n"


def _csv(sheet: _Sheet) -> str:
    """One fact a line: section, name, value, unit, basis."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["section", "name", "value", "unit", "basis"])
    for row in _rows(sheet):
        writer.writerow([_cell(value) for value in row])
    return file.getvalue()


def _rows(sheet: _Sheet) -> list[tuple[object, ...]]:
    plan, view = sheet.plan, sheet.view
    rows: list[tuple[object, ...]] = [
        ("report", "vllm-fit", __version__, "", ""),
        ("report", "date", sheet.made or "", "", ""),
        ("verdict", "met", "yes" if plan["met"] is True else "no", "", ""),
        ("verdict", "sentence", view.verdict, "", ""),
        ("verdict", "binding", view.binding or "", "", ""),
        ("goal", "goal", view.goal, "", ""),
        ("launch", "command", view.serve or "", "", ""),
    ]
    rows += [("input", name, value, "", "") for name, value in view.inputs]
    rows += [("engine", name, value, "", "") for name, value in view.engine]
    rows += _memory_rows(view.memory) if view.memory is not None else []
    kv = plan["estimate"]["kv_cache"] or {}
    rows += [("kv_cache", name, value, "", "") for name, value in kv.items()]
    rows += [("rung", rung.name, f"{rung.outcome}: {rung.summary} ({rung.why})", "", "") for rung in view.rungs]
    rows += [("assumed", name, value, "", "assumed") for name, value in view.assumed]
    return rows


def _memory_rows(memory: Memory) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [("memory", "total", memory.total_bytes, "bytes", "")]
    rows.append(("memory", "requested", memory.requested_bytes, "bytes", ""))
    rows += [("memory", part.key, part.bytes, "bytes", part.basis) for part in memory.segments]
    return [*rows, ("memory", "missing", memory.missing_bytes, "bytes", "")]


def _cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula is made plain by an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value if isinstance(value, int | float) else str(value)


_RENDERERS: dict[Form, Callable[[_Sheet], str]] = {
    "html": _html,
    "md": _md,
    "json": _json,
    "csv": _csv,
}
