"""The bar of one GPU's memory as inline SVG, and the colours of its parts."""

from __future__ import annotations

from markupsafe import Markup

from planner.units import GIB
from reports.memory import Memory

COLOURS = {
    "weights": "#0072B2",
    "kv": "#009E73",
    "activation": "#E69F00",
    "buffers": "#F0E442",
    "graphs": "#CC79A7",
    "non_torch": "#D55E00",
    "outside": "#56B4E9",
    "free": "#BBBBBB",
}
"""Okabe and Ito's palette, which colour-blind people can tell apart."""

_WHITE = ("weights",)
_WIDTH, _TOP, _HEIGHT = 720, 18, 34


def bar(memory: Memory) -> Markup:
    """Parts side by side; a line at the requested share and one at the card's end. Nothing from outside is in it."""
    scale = _WIDTH / memory.scale_bytes
    shapes, left = [], 0.0
    for part in memory.drawn:
        width = part.bytes * scale
        shapes.append(
            f'<rect class="part" x="{left:.2f}" y="{_TOP}" width="{width:.2f}" height="{_HEIGHT}" '
            f'fill="{COLOURS[part.key]}"><title>{part.name}: {part.gib} GiB</title></rect>'
        )
        if width > 7 * len(part.name) + 8:
            middle = f'x="{left + width / 2:.2f}" y="{_TOP + _HEIGHT / 2 + 4:g}"'
            shapes.append(f'<text class="name" {middle} fill="{ink(part.key)}">{part.name}</text>')
        left += width
    for (name, at), dashed in zip(memory.marks, (True, False), strict=False):
        shapes.append(_line(at * GIB * scale, f"{name} {at:.2f} GiB", dashed=dashed))
    height = _TOP + _HEIGHT + 20
    return Markup(
        f'<svg viewBox="-2 0 {_WIDTH + 4} {height}" role="img" aria-label="Memory per GPU">{"".join(shapes)}</svg>'
    )


def ink(key: str) -> str:
    """Of a name on the colour of this part."""
    return "#ffffff" if key in _WHITE else "#000000"


def _line(x: float, label: str, *, dashed: bool) -> str:
    """The dashed one has its words above the bar, the other below."""
    anchor = "end" if x > _WIDTH / 2 else "start"
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    words, y = ("label", _TOP - 6) if dashed else ("label below", _TOP + _HEIGHT + 7)
    return (
        f'<line class="mark" x1="{x:.2f}" x2="{x:.2f}" y1="{_TOP - 4}" y2="{_TOP + _HEIGHT + 4}"{dash}/>'
        f'<text class="{words}" x="{x:.2f}" y="{y}" text-anchor="{anchor}">{label}</text>'
    )
