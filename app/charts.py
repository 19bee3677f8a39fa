"""Figures (plotly) out of the numbers that planner and reports give.

Colours are Okabe and Ito's, which colour-blind people can tell apart, and none of them stands alone: bars are labelled
and hatched, lines are dashed or marked, cells carry their number.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.heat import Heat
from planner.planning.alternatives import Option
from planner.planning.curve import Point
from planner.planning.plan import Plan
from planner.planning.throughput import Point as Speed
from planner.units import GIB
from reports.memory import Memory
from reports.svg import COLOURS, ink

CONFIG = {"displayModeBar": False}
"""Without plotly's tool bar, which would lie over the labels."""
_LINE = "#808080"
"""Seen on a light and on a dark page."""
_DASHES = ("dash", "solid")
"""Of a card's requested share and its end."""
_PATTERNS = {"kv": "/", "activation": "x", "buffers": ".", "graphs": "\\", "non_torch": "-", "outside": "+", "free": ""}
MEANINGS = {"value": "#0072B2", "more": "#009E73", "limit or less": "#D55E00", "wanted": "#E69F00"}
COSTS = (
    ("no quality cost", "#009E73", "circle"),
    ("hardly measurable", "#0072B2", "square"),
    ("small", "#E69F00", "diamond"),
    ("noticeable", "#D55E00", "triangle-up"),
    ("hardly bearable", "#CC79A7", "x"),
)
"""Of a change's cost, 0 to 4 (planner.planning.change)."""
_BESIDE = 1.09
"""Costs of the same number of cards are drawn side by side, so that no mark lies on another."""
_MIDDLE = 0.465
"""Of the heat map's colours: darker ones take white figures, lighter ones black, each with a contrast of 4.5."""
_MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}


def memory_bar(memories: Sequence[Memory]) -> Any:
    """Each GPU's memory, its parts side by side, with the requested line and the card's end."""
    figure = go.Figure()
    names = [_wrapped(memory.label) for memory in memories]
    drawn = {part.key: part.name for memory in memories for part in memory.drawn}
    for key, name in sorted(drawn.items(), key=lambda item: list(COLOURS).index(item[0])):
        parts = [{part.key: part for part in memory.drawn}.get(key) for memory in memories]
        figure.add_bar(
            x=[part.gib_size if part else 0 for part in parts],
            y=names,
            name=name if len(memories) > 1 else f"{name} {parts[0].gib if parts[0] else ''}",
            orientation="h",
            text=[f"{name} {part.gib}" if part else "" for part in parts],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": ink(key)},
            marker={
                "color": COLOURS[key],
                "line": {"width": 1, "color": "#ffffff"},
                "pattern": _hatched(key),
            },
            customdata=[[part.gib, part.basis] if part else ["", ""] for part in parts],
            hovertemplate=f"{name}: %{{customdata[0]}} GiB %{{customdata[1]}}<extra></extra>",
        )
    for row, memory in enumerate(memories):
        for (_, at), dash in zip(memory.marks, _DASHES, strict=False):
            where = {"type": "line", "x0": at, "x1": at, "y0": row - 0.29, "y1": row + 0.4}
            figure.add_shape(line={"color": "#ffffff", "width": 5}, **where)
            figure.add_shape(line={"color": "#000000", "dash": dash, "width": 2}, **where)
        if memory.marks:
            _mark_words(figure, memory, row)
    scale = max(memory.scale_bytes for memory in memories) / GIB
    figure.update_layout(
        barmode="stack",
        bargap=0.42,
        height=190 + 72 * len(memories),
        margin={"l": 12, "r": 12, "t": 4, "b": 8},
        legend={
            "orientation": "h",
            "y": -0.2 if len(memories) > 1 else -0.3,
            "yanchor": "top",
            "x": 0,
            "traceorder": "normal",
        },
        xaxis={"ticksuffix": " GiB", "side": "bottom", "range": [-scale / 100, scale * 1.02], "nticks": 8},
        yaxis={"showticklabels": len(memories) > 1, "autorange": "reversed"},
        uniformtext={"mode": "hide", "minsize": 10},
    )
    return figure


def _mark_words(figure: Any, memory: Memory, row: int) -> None:
    """Above a bar, what its two lines stand for, in their order and as they are drawn."""
    words = [f"{sign} {name} {at:.2f}" for sign, (name, at) in zip(("┇", "┃"), memory.marks, strict=False)]
    figure.add_annotation(
        text=" ".join(words) + " GiB", x=1, xref="x domain", xanchor="right", y=row - 0.32, yanchor="bottom",
        showarrow=False,
    )  # fmt: skip


def _wrapped(text: str, width: int = 14) -> str:
    return "<br>".join(textwrap.wrap(text, width))


def _hatched(key: str) -> dict[str, Any]:
    return {
        "shape": _PATTERNS.get(key, ""),
        "bgcolor": COLOURS[key],
        "fgcolor": "#000000",
        "fgopacity": 0.45,
        "size": 7,
        "solidity": 0.12,
    }


def concurrency_curve(points: Sequence[Point], wanted: float) -> Any:
    """Requests at once against the context length, both on logarithmic axes, and how many are wanted."""
    held = [point for point in points if point.tokens]
    # The last is what the model allows, mostly no power of two: its neighbour's words would lie over its own.
    labelled = [point for point in held if point is held[-1] or point.max_model_len * 1.5 < held[-1].max_model_len]
    figure = go.Figure(
        go.Scatter(
            x=[point.max_model_len for point in held],
            y=[point.max_concurrency for point in held],
            mode="lines+markers+text",
            text=[_times(point.max_concurrency) if point in labelled else "" for point in held],
            textposition="top right",  # the line falls
            cliponaxis=False,
            line={"color": MEANINGS["value"]},
            hovertemplate="%{x:,} tokens: %{y:.2f}x<extra></extra>",
        )
    )
    _level(figure, wanted, f"{wanted:g} wanted", log=True, left=True)
    figure.update_layout(
        height=340,
        margin=_MARGIN | {"t": 28, "r": 40},
        xaxis={
            "type": "log",
            "title": "max_model_len (tokens)",
            "tickvals": [point.max_model_len for point in labelled],
            "ticktext": [_short(point.max_model_len) for point in labelled],
        },
        yaxis={"type": "log", "title": "maximum concurrency", "dtick": 1, "minor": {"showgrid": False}},
    )
    return figure


def _level(figure: Any, at: float, text: str, *, log: bool = False, row: int | None = None, left: bool = False) -> None:
    """A horizontal limit with its words at one end. On a logarithmic axis plotly wants an annotation's exponent."""
    where = {"row": row, "col": 1} if row is not None else {}
    figure.add_hline(y=at, line={"color": MEANINGS["limit or less"], "dash": "dash"}, **where)
    y = math.log10(at) if log else at
    side = {"x": 0, "xanchor": "left"} if left else {"x": 1, "xanchor": "right"}
    figure.add_annotation(text=text, xref="x domain", y=y, yanchor="bottom", showarrow=False, **side, **where)


def _short(tokens: int) -> str:
    return f"{tokens >> 10}K" if tokens % 1024 == 0 else f"{tokens:,}"


def heat_map(heat: Heat) -> Any:
    """Maximum concurrency in each cell; what does not fit is grey and dashed, with the boundary drawn."""
    # The fourth root: a grid spans three orders of magnitude, and 0 must have a place.
    values = [[cell.max_concurrency**0.25 if cell.fits else None for cell in row] for row in heat.cells]
    known = [value for row in values for value in row if value is not None] or [0.0]
    low, high = min(known), max(known)
    columns, rows = list(range(len(heat.x))), list(range(len(heat.y)))
    figure = go.Figure(
        go.Heatmap(
            x=columns,
            y=rows,
            z=values,
            zmin=low,
            zmax=high,
            colorscale="Cividis",
            showscale=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    cells = [(x, y, cell) for y, row in enumerate(heat.cells) for x, cell in enumerate(row)]
    figure.add_scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        mode="markers+text",
        marker={"size": 26, "opacity": 0, "symbol": "square"},
        text=[_times(cell.max_concurrency) if cell.fits else "–" for _, _, cell in cells],
        textfont={"color": [_ink(value, low + _MIDDLE * (high - low)) for row in values for value in row]},
        customdata=[
            f"{cell.tokens:,} tokens, {cell.max_concurrency:,.2f}x" if cell.fits else _why(cell.status, cell.reason)
            for _, _, cell in cells
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    for line in _boundary(heat):
        figure.add_shape(type="line", line={"color": MEANINGS["limit or less"], "width": 4}, **line)
    figure.update_layout(
        height=120 + 42 * len(rows),
        margin=_MARGIN,
        clickmode="event+select",
        xaxis={"title": heat.x_title, "tickvals": columns, "ticktext": heat.x, "showgrid": False, "zeroline": False},
        yaxis={
            "title": heat.y_title,
            "tickvals": rows,
            "ticktext": [_wrapped(name) for name in heat.y],
            "showgrid": False,
            "zeroline": False,
            "autorange": "reversed",
        },
    )
    return figure


def _ink(value: float | None, middle: float) -> str:
    """Read on the dark and on the light end of the colours, and beside them."""
    return _LINE if value is None else "#000000" if value > middle else "#ffffff"


def _times(count: float) -> str:
    return f"{count:,.0f}x" if count >= 100 else f"{count:.3g}x"


def _why(status: str, reason: str) -> str:
    return f"{status.replace('_', ' ')}: {reason.replace('_', ' ')}"


def _boundary(heat: Heat) -> list[dict[str, float]]:
    """The edges between a cell that fits and one that does not."""
    fits = [[cell.fits for cell in row] for row in heat.cells]
    lines = []
    for y, x in itertools.product(range(len(heat.y)), range(len(heat.x))):
        if x and fits[y][x] != fits[y][x - 1]:
            lines.append({"x0": x - 0.5, "x1": x - 0.5, "y0": y - 0.5, "y1": y + 0.5})
        if y and fits[y][x] != fits[y - 1][x]:
            lines.append({"x0": x - 0.5, "x1": x + 0.5, "y0": y - 0.5, "y1": y - 0.5})
    return lines


def speed_curves(points: Sequence[Speed], wanted: float, ttft_ms: float | None, tpot_ms: float | None) -> Any:
    """Output tokens/s, TTFT and inter-token latency against requests at once, with the limits drawn in."""
    rows = (
        ("output tokens/s", [point.output_tokens_per_s for point in points], None),
        ("TTFT, ms", [point.ttft_ms for point in points], ttft_ms),
        ("ITL (TPOT), ms", [point.tpot_ms for point in points], tpot_ms),
    )
    symbols = ("circle", "square", "diamond")
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for number, ((title, values, limit), symbol) in enumerate(zip(rows, symbols, strict=True), 1):
        figure.add_scatter(
            x=[point.concurrency for point in points],
            y=values,
            mode="lines+markers",
            marker={"symbol": symbol, "size": 8},
            line={"color": MEANINGS["value"]},
            name=title,
            hovertemplate=f"%{{x:g}} at once: %{{y:,.4g}} {title}<extra></extra>",
            row=number,
            col=1,
        )
        if limit is not None:
            _level(figure, limit, f"at most {limit:g}", log=number == 2, row=number)
        figure.update_yaxes(title=title, rangemode="tozero", row=number, col=1)
        figure.add_vline(x=wanted, line={"color": MEANINGS["wanted"], "dash": "dot", "width": 2}, row=number, col=1)
    figure.update_yaxes(type="log", dtick=1, row=2, col=1)
    figure.add_annotation(
        text=f"{wanted:g} wanted", x=math.log10(wanted), xanchor="left", y=0, yanchor="bottom", yref="y domain",
        showarrow=False, row=1, col=1,
    )  # fmt: skip
    ticks = [point.concurrency for point in points]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,.0f}" for tick in ticks])
    figure.update_xaxes(title="requests at once, on one engine", row=3, col=1)
    figure.update_layout(height=620, margin=_MARGIN | {"t": 24}, showlegend=False)
    return figure


def waterfall(plan: Plan) -> Any:
    """Rung by rung: GiB for KV cache on each GPU, and requests of the goal's length at once."""
    steps = [step for step in plan.steps if step.outcome != "skipped"]
    first = plan.start_snapshot
    shots = [first, *(step.after for step in steps)]
    names = ["start", *(f"{number}. {step.rung}" for number, step in enumerate(steps, 1)), "plan"]
    notes = ["as entered", *(f"{step.outcome}: {step.summary}" for step in steps), "where it ends"]
    rooms = [(shot.available_kv_bytes or 0) / GIB for shot in shots]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, values, title in (
        (1, rooms, "GiB for KV cache"),
        (2, [shot.held for shot in shots], "requests at once"),
    ):
        differences = [values[0], *(after - before for before, after in itertools.pairwise(values)), 0]
        labels = [f"{values[0]:,.2f}", *(f"{change:+,.2f}" for change in differences[1:-1]), f"{values[-1]:,.2f}"]
        figure.add_waterfall(
            x=names,
            y=differences,
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=labels,
            textposition="outside",  # inside, a rung that changes nothing would have no words
            cliponaxis=False,
            customdata=notes,
            hovertemplate="%{customdata}: %{text}<extra></extra>",
            increasing={"marker": {"color": MEANINGS["more"]}},
            decreasing={"marker": {"color": MEANINGS["limit or less"]}},
            totals={"marker": {"color": MEANINGS["value"]}},
            connector={"line": {"color": _LINE, "width": 1}},
            row=row,
            col=1,
        )
        figure.update_yaxes(title=title, row=row, col=1)
    _level(figure, plan.goal.per_engine, f"{plan.goal.per_engine:g} wanted", row=2, left=True)
    figure.update_layout(height=520, margin=_MARGIN | {"t": 16}, showlegend=False)
    return figure


def frontier(options: Sequence[Option], wanted: float) -> Any:
    """The alternatives: requests at once against cards, marked by what they cost in quality."""
    figure = go.Figure()
    for cost, (name, colour, symbol) in enumerate(COSTS):
        own = [(index, option) for index, option in enumerate(options) if option.cost == cost]
        if not own:
            continue
        figure.add_scatter(
            x=[option.gpus * _BESIDE ** (cost - 2) for _, option in own],
            y=[option.concurrency for _, option in own],
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 16, "line": {"width": 1, "color": "#ffffff"}},
            customdata=[
                [
                    index,
                    option.gpus,
                    f"{option.engines} x TP {option.inputs.args.get('tensor_parallel_size', 1)}, {option.summary}",
                ]
                for index, option in own
            ],
            hovertemplate="%{customdata[1]} cards: %{y:,.3g} requests at once<br>%{customdata[2]}<extra></extra>",
        )
    _level(figure, wanted, f"{wanted:g} wanted", log=True)
    ticks = sorted({option.gpus for option in options})
    figure.update_layout(
        height=400,
        margin=_MARGIN | {"t": 24},
        clickmode="event+select",
        legend={"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
        xaxis={"title": "cards", "type": "log", "tickvals": ticks, "ticktext": list(map(str, ticks))},
        yaxis={"title": "requests at once", "type": "log", "dtick": 1},
    )
    return figure
