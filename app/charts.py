"""Figures (plotly) out of the numbers that planner and reports give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from planner.planning.curve import Point
from reports.svg import COLOURS
from reports.view import Memory

_LINE = "#808080"
"""Seen on a light and on a dark page."""


def memory_bar(memory: Memory) -> Any:
    """One GPU's memory, its parts side by side, with the requested line and the card's end."""
    figure = go.Figure()
    for part in memory.drawn:
        figure.add_bar(
            x=[part.gib_size],
            y=["per GPU"],
            name=f"{part.name} {part.gib}",
            orientation="h",
            marker={"color": COLOURS[part.key], "line": {"width": 1, "color": "#ffffff"}},
            hovertemplate=f"{part.name}: {part.gib} GiB {part.basis}<extra></extra>",
        )
    for (name, at), dash, shift in zip(memory.marks, ("dash", "solid"), (2, 18), strict=False):
        figure.add_vline(x=at, line={"color": _LINE, "dash": dash, "width": 2})
        figure.add_annotation(
            text=f"{name} {at:.2f} GiB",
            x=at,
            y=1,
            yref="paper",
            yshift=shift,
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
        )
    figure.update_layout(
        barmode="stack",
        height=240,
        margin={"l": 8, "r": 8, "t": 44, "b": 8},
        legend={"orientation": "h", "y": -0.35, "traceorder": "normal"},
        xaxis={"ticksuffix": " GiB", "side": "bottom"},
        yaxis={"showticklabels": False},
    )
    return figure


def concurrency_curve(points: Sequence[Point]) -> Any:
    """Requests at once against the context length, both on logarithmic axes."""
    held = [point for point in points if point.tokens]
    figure = go.Figure(
        go.Scatter(
            x=[point.max_model_len for point in held],
            y=[point.max_concurrency for point in held],
            mode="lines+markers",
            line={"color": COLOURS["weights"]},
            hovertemplate="%{x:,} tokens: %{y:.2f}x<extra></extra>",
        )
    )
    figure.update_layout(
        height=300,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"type": "log", "title": "max_model_len (tokens)", "tickvals": [point.max_model_len for point in held]},
        yaxis={"type": "log", "title": "maximum concurrency", "minor": {"showgrid": False}},
    )
    return figure
