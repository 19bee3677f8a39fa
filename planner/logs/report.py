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
        [headline(explanation)],
        _diagnosis_lines(explanation) + _foreseen_lines(explanation),
        _remedy_lines(explanation),
        _figure_lines(explanation),
        _closing_lines(explanation),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def headline(explanation: Explanation) -> str:
    """Which launch it is and how it ended, in one line."""
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
    title = "Why it failed" if explanation.outcome.word == "failed" else "What went wrong"
    who = f", {printable(diagnosis.process, 60)}" if diagnosis.process else ""
    lines = [f"{title} (line {diagnosis.line}{who})"]
    lines += _wrapped(diagnosis.cause)
    if diagnosis.sentence:
        lines += _wrapped(f"The log: {diagnosis.sentence}")
    lines += _wrapped(f"What to do: {diagnosis.fix}")
    return lines


def _foreseen_lines(explanation: Explanation) -> list[str]:
    """Whether the planner would have said so: always of a failure, of a start only where it would not."""
    if explanation.foreseen is None or explanation.estimate is None:
        return []
    if explanation.outcome.word == "failed":
        return [f"  vllm-fit predicts {'this' if explanation.foreseen else 'that it would start'}."]
    if explanation.foreseen:
        return []
    reason = explanation.estimate.reasons[0].message if explanation.estimate.reasons else ""
    return _wrapped(f"vllm-fit predicts that it would not start: {printable(reason, 600)}")


def _remedy_lines(explanation: Explanation) -> list[str]:
    if not explanation.remedies:
        return []
    return ["Any one of these would do", *(_remedy(remedy) for remedy in explanation.remedies)]


def _remedy(remedy: Remedy) -> str:
    held = f": {remedy.tokens:,} tokens of KV cache, {remedy.max_concurrency:.2f}x" if remedy.tokens else ""
    gpus = f" ({remedy.gpus} GPUs)" if remedy.gpus > 1 else ""
    return f"  {printable(remedy.command, 300)}\n      {printable(remedy.effect, 400)}{gpus}{held}"


def _figure_lines(explanation: Explanation) -> list[str]:
    if not explanation.comparisons:
        return []
    lines = [f"  {'':42}{'printed':>14}{'predicted':>14}   difference"]
    return [*lines, *(_row(row) for row in explanation.comparisons)]


def _row(row: Comparison) -> str:
    name = f"{row.name} ({row.unit})" if row.unit and row.unit != "x" else row.name
    printed, predicted = figure_words(row.printed, row.unit), figure_words(row.predicted, row.unit)
    basis = f"  [{row.basis}]" if row.basis and row.predicted is not None else ""
    return f"  {name:42}{printed:>14}{predicted:>14}   {difference_words(row)}{basis}".rstrip()


def difference_words(row: Comparison) -> str:
    """Printed less predicted, in the figure's unit and as a share; empty without a prediction."""
    difference = row.difference
    if difference is None:
        return "" if row.predicted is None else "equal" if row.printed == row.predicted else "different"
    if abs(difference) < 0.005:
        return "equal"
    return f"{difference:+,.{_decimals(row.unit)}f}{_share(difference, row.predicted)}"


def _share(difference: float, predicted: float | str | None) -> str:
    share = 100 * difference / predicted if isinstance(predicted, int | float) and predicted else 0.0
    return f" ({share:+.1f} %)" if abs(share) >= 0.05 else ""


def _decimals(unit: str) -> int:
    return 2 if unit in ("GiB", "x") else 0


def figure_words(value: float | str | None, unit: str) -> str:
    """A figure with the digits that its unit is worth; "-" for none."""
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
