"""render(): plan files' dictionaries as one report. A form is added by one entry in _RENDERERS."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import jinja2
from markupsafe import Markup

from planner import __version__
from planner.errors import InputError
from planner.text import printable
from reports import svg
from reports.compare import Answered, Row, compared_rows
from reports.memory import Memory, gib
from reports.view import View, view_of

Form = Literal["html", "md", "json", "csv"]
FORMS: tuple[Form, ...] = get_args(Form)

_MARKDOWN = re.compile(r"([\\`*_\[\]#|~$]|^[-+])")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One plan of a report."""

    plan: Mapping[str, Any]
    view: View
    suffix: str
    """Of the ids in it: nothing for the first plan, -2 for the second."""

    @property
    def answered(self) -> Answered:
        return self.view.model, self.plan["estimate"], self.plan.get("speed"), self.view.serve or ""

    @property
    def bar(self) -> Markup | None:
        return svg.bar(self.view.memory) if self.view.memory is not None else None


@dataclass(frozen=True, kw_only=True)
class _Sheet:
    parts: tuple[_Part, ...]
    made: str

    @property
    def rows(self) -> tuple[Row, ...]:
        """The plans side by side; none for a single one."""
        if len(self.parts) < 2:
            return ()
        return compared_rows([part.answered for part in self.parts])


def render(
    plans: Mapping[str, Any] | Sequence[Mapping[str, Any]], form: Form, made: datetime.date | None = None
) -> str:
    """The report of one plan or of several, the same text for the same arguments. made: the date it says.

    InputError for what is no plan.
    """
    several = [plans] if isinstance(plans, Mapping) else list(plans)
    if not several:
        raise InputError("no plan to report")
    parts = tuple(
        _Part(plan=plan, view=view_of(plan), suffix=f"-{number}" if number > 1 else "")
        for number, plan in enumerate(several, 1)
    )
    sheet = _Sheet(parts=parts, made=made.isoformat() if made is not None else "")
    try:
        return _RENDERERS[form](sheet)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"a damaged plan: {type(error).__name__} {printable(error, 80)}") from error


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


def _template(name: str, sheet: _Sheet) -> str:
    template = _environment(html=name.endswith(".html.j2")).get_template(name)
    return template.render(sheet=sheet, version=__version__, colours=svg.COLOURS)


def _html(sheet: _Sheet) -> str:
    return _template("fit.html.j2", sheet)


def _md(sheet: _Sheet) -> str:
    return _template("fit.md.j2", sheet)


def _json(sheet: _Sheet) -> str:
    """The plan file itself, as `vllm-fit fit -o` writes it; a list of several."""
    plans = [part.plan for part in sheet.parts]
    return json.dumps(plans[0] if len(plans) == 1 else plans, indent=2) + "\n"


def _csv(sheet: _Sheet) -> str:
    """One fact a line: plan (where there are several), section, name, value, unit, basis."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    several = len(sheet.parts) > 1
    writer.writerow([*(["plan"] if several else []), "section", "name", "value", "unit", "basis"])
    for number, part in enumerate(sheet.parts, 1):
        for row in _rows(sheet, part):
            writer.writerow([*([number] if several else []), *map(_cell, row)])
    return file.getvalue()


def _rows(sheet: _Sheet, part: _Part) -> list[tuple[object, ...]]:
    plan, view = part.plan, part.view
    rows: list[tuple[object, ...]] = [
        ("report", "vllm-fit", __version__, "", ""),
        ("report", "date", sheet.made, "", ""),
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
    rows += [(table.key, row[0], "; ".join(row[1:]), "", "") for table in view.tables for row in table.rows]
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
