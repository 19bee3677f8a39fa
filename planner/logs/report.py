"""An explanation as text for a terminal."""

from __future__ import annotations

import textwrap

from planner.logs.explain import Explanation
from planner.logs.prediction import Comparison
from planner.logs.remedies import Remedy
from planner.text import printable

WIDTH = 110


def explanation_text(explanation: Explanation) -> str:
    """The verdict, why and what to do, then the figures."""
    parts = [
        [_headline(explanation)],
        _diagnosis_lines(explanation),
        _remedy_lines(explanation),
        _figure_lines(explanation),
        _closing_lines(explanation),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _headline(explanation: Explanation) -> str:
    facts = explanation.facts
    words = [printable(facts.model) if facts.model else "a model that the log does not name"]
    if facts.version:
        words.append(f"vLLM {printable(facts.version, 40)}" + (f" ({facts.engine})" if facts.engine else ""))
    if explanation.estimate is not None:
        words.append(explanation.estimate.gpu.name)
    ended = {"started": "it started", "failed": "it failed", "unknown": "the log does not say how it ended"}
    word = ended[explanation.outcome.word]
    if explanation.outcome.word != "started" and facts.stage_words:
        word += f" (last seen: {facts.stage_words})"
    again = f"; the last of {facts.launches} launches in the log" if facts.launches > 1 else ""
    return f"{', '.join(words)}: {word}{again}"


def _diagnosis_lines(explanation: Explanation) -> list[str]:
    diagnosis = explanation.diagnosis
    if diagnosis is None:
        return []
    who = f", {printable(diagnosis.process, 60)}" if diagnosis.process else ""
    lines = [f"Why it failed (line {diagnosis.line}{who})"]
    lines += _wrapped(diagnosis.cause)
    if diagnosis.sentence:
        lines += _wrapped(f"The log: {diagnosis.sentence}")
    lines += _wrapped(f"What to do: {diagnosis.fix}")
    if explanation.foreseen is not None:
        lines.append(f"  vllm-fit predicts {'this' if explanation.foreseen else 'that it would start'}.")
    return lines


def _remedy_lines(explanation: Explanation) -> list[str]:
    if not explanation.remedies:
        return []
    return ["Any one of these makes it fit", *(_remedy(remedy) for remedy in explanation.remedies)]


def _remedy(remedy: Remedy) -> str:
    held = f": {remedy.tokens:,} tokens of KV cache, {remedy.max_concurrency:.2f}x" if remedy.tokens else ""
    gpus = f" ({remedy.gpus} GPUs)" if remedy.gpus > 1 else ""
    return f"  {printable(remedy.command, 300)}\n      {printable(remedy.effect, 400)}{gpus}{held}"


def _figure_lines(explanation: Explanation) -> list[str]:
    if not explanation.comparisons:
        return []
    lines = [f"  {'':38}{'printed':>14}{'predicted':>14}   difference"]
    return [*lines, *(_row(row) for row in explanation.comparisons)]


def _row(row: Comparison) -> str:
    name = f"{row.name} ({row.unit})" if row.unit and row.unit != "x" else row.name
    printed, predicted = _shown(row.printed, row.unit), _shown(row.predicted, row.unit)
    difference = row.difference
    if difference is None:
        told = "" if row.predicted is None else "equal" if row.printed == row.predicted else "different"
    elif abs(difference) < 0.005:
        told = "equal"
    else:
        share = f" ({100 * difference / float(row.predicted or 0):+.1f} %)" if row.predicted else ""
        told = f"{difference:+,.{_decimals(row.unit)}f}{share}"
    basis = f"  [{row.basis}]" if row.basis and row.predicted is not None else ""
    return f"  {name:38}{printed:>14}{predicted:>14}   {told}{basis}".rstrip()


def _decimals(unit: str) -> int:
    return 2 if unit in ("GiB", "x") else 0


def _shown(value: float | str | None, unit: str) -> str:
    if value is None:
        return "-"
    return printable(value, 40) if isinstance(value, str) else f"{value:,.{_decimals(unit)}f}"


def _closing_lines(explanation: Explanation) -> list[str]:
    lines = [f"note: {printable(note, 400)}" for note in explanation.asked.notes]
    if explanation.not_predicted:
        lines.append(f"no prediction: {printable(explanation.not_predicted, 600)}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
