"""Records of validations as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planner.text import printable
from planner.units import gib
from planner.validate.record import Record
from planner.validate.store import summary
from planner.validate.winner import Ranking

WIDTH = 110


def record_text(record: Record) -> str:
    """Predicted next to measured with the difference, then what the load measured; or why it failed."""
    lines = [_headline(record)]
    if record["measurement"] is None:
        return "\n".join([*lines, *_failure(record)])
    lines += [f"  {printable(record['weights'], 300)}", "", f"  {'':32}{'predicted':>18}{'measured':>18}   difference"]
    lines += [_comparison(row) for row in record["comparisons"]]
    lines += _memory(record["measurement"])
    for load in record["measurement"]["loads"]:
        lines += _load(load)
    found = record["measurement"]["engine"].get("vllm_version")
    if found is not None and not str(found).startswith(record["versions"]["vllm"]):
        lines += [
            "",
            f"note: the engine is vLLM {printable(found)}, the prediction is for {record['versions']['vllm']}",
        ]
    lines += _soak(record)
    if record["status"] != "measured":
        lines += _failure(record)
    return "\n".join([*lines, "", _verdict(record)])


def _headline(record: Record) -> str:
    way = {"serve": "vllm serve", "attach": "a running server"}.get(record["way"] or "", "in process")
    measurement = record["measurement"]
    parts = [f"{printable(record['label'])}: vLLM {record['versions']['vllm']} on {record['device']}, {way}"]
    if measurement and measurement["startup_s"] is not None:
        parts.append(f"started in {measurement['startup_s']:.0f} s")
    if record.get("from_store"):
        parts.append(f"measured {record['started']}, from the history (run {record['id']})")
    return ", ".join(parts)


def _failure(record: Record) -> list[str]:
    error = record["error"] or {}
    words = {
        "failed": "the engine failed",
        "timeout": "out of time",
        "interrupted": "interrupted",
        "not_started": "not launched",
        "running": "still running",
    }[record["status"]]
    message = error.get("message")
    if record["status"] == "not_started" and message and message.startswith("not launched"):
        words, message = "not launched", message.partition(", ")[2]
    lines = _wrapped(f"{words}: {printable(message, 800)}" if message else words)
    explanation = record["explanation"]
    if explanation and explanation["diagnosis"]:
        lines += _wrapped(f"cause: {printable(explanation['diagnosis']['cause'], 600)}")
        lines += [f"  any of: {printable(remedy['command'], 300)}" for remedy in explanation["remedies"][:3]]
    if record["status"] == "failed" and record["measurement"] is None:
        said = "would start" if record["estimate"]["status"] == "fits" else "would not start"
        lines.append(f"  vllm-fit had predicted that it {said}.")
    if error.get("log_path"):
        lines.append(f"  its log: {error['log_path']}")
    return lines


def _comparison(row: Mapping[str, Any]) -> str:
    predicted, measured, difference = row["predicted"], row["measured"], row["difference"]
    whole = float(predicted).is_integer() and float(measured).is_integer()
    form = ",.0f" if whole else ",.2f" if max(abs(predicted), abs(measured)) < 1000 else ",.1f"
    if difference == 0:
        told = "equal"
    elif predicted:
        told = f"{difference:+{form}} ({100 * difference / predicted:+.{2 if row['exact'] else 0}f} %)"
    else:
        told = f"{difference:+{form}}"
    unit = row["unit"] if difference else ""
    return f"  {row['name']:32}{predicted:>18{form}}{measured:>18{form}}   {told} {unit}".rstrip()


def _memory(measurement: Mapping[str, Any]) -> list[str]:
    memory = measurement["memory"]
    if not memory:
        return []
    lines = [
        "",
        f"Memory of its processes: {gib(memory['rss_started'])} GiB once started, "
        f"{gib(memory['rss_under_load'])} GiB under load",
    ]
    if memory["devices_before"] is not None:
        told = " -> ".join(
            ", ".join(gib(used) for used in memory[f"devices_{when}"]) for when in ("before", "started", "under_load")
        )
        lines.append(f"Used memory of its GPUs, GiB (before, started, under load): {told}")
    return lines


def _load(load: Mapping[str, Any]) -> list[str]:
    shape = load["load"]
    lines = [
        "",
        f"Load: {shape['concurrency']} at once, {shape['input_len']} tokens in, {shape['output_len']} out",
        f"  output {load['output_tokens_per_s']:.1f} tokens/s (total {load['total_tokens_per_s']:.1f})",
        f"  TTFT {_latency(load['ttft_ms'])}",
        f"  ITL  {_latency(load['itl_ms'])}",
        f"  E2E  {_latency(load['e2e_ms'])}",
    ]
    notes = [f"{load['preemptions']} preemptions"]
    if load["kv_cache_usage"] is not None:
        notes.append(f"at most {load['kv_cache_usage']:.1%} of the KV cache in use")
    if load["failed"]:
        notes.append(f"{load['failed']} requests failed")
    return [*lines, "  " + ", ".join(notes)]


def _latency(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "not measured"
    return (
        f"mean {summary['mean']:.1f} ms, p50 {summary['p50']:.1f}, p90 {summary['p90']:.1f}, p99 {summary['p99']:.1f}"
    )


def _soak(record: Record) -> list[str]:
    soak = record["measurement"]["soak"]
    if not soak:
        return []
    first, _, last = soak["e2e_p50_ms"]
    lines = [
        "",
        f"Soak: {soak['concurrency']} at once for {soak['seconds'] / 60:.1f} min, {soak['requests']} requests",
        f"  {soak['failed']} failed, {soak['preemptions']} preemptions, at most {soak['kv_cache_usage']:.1%} of the KV "
        f"cache in use, output {soak['output_tokens_per_s']:.1f} tokens/s",
        f"  median answer {first:,.0f} ms in the first third, {last:,.0f} ms in the last; host memory "
        f"{gib(soak['rss'][0])} -> {gib(soak['rss'][2])} GiB",
    ]
    findings = record["soak"]["findings"]
    return [*lines, *(f"  ! {finding}" for finding in findings)] if findings else [*lines, "  it held"]


def _verdict(record: Record) -> str:
    if record["status"] != "measured":
        return "what was measured until then is in the history"
    if record["agrees"]:
        return "every exact prediction was met"
    if record["estimate"]["status"] != "fits":
        return "it started, although vllm-fit had predicted that it would not: please report it"
    return "an exact prediction was missed: please report it"


def ranking_text(ranking: Ranking) -> str:
    """The table of candidates and the winner."""
    lines = [f"By {ranking.aim.words}", f"  {'':48}{'predicted':>14}{'measured':>14}"]
    for label, predicted, measured in ranking.rows:
        told = "-" if predicted is None else f"{predicted:,.1f}"
        over = "   over its goal's limit" if label in ranking.over_limit else ""
        lines.append(f"  {printable(label, 48):48}{told:>14}{measured:>14,.1f}{over}")
    lines.append(f"Winner: {printable(ranking.best['label'])}")
    if ranking.kendall is not None:
        first = {True: ", and put the winner first", False: ", and put another one first", None: ""}
        lines.append(
            f"The prediction ranked them with Kendall's tau {ranking.kendall:+.2f}{first[ranking.predicted_best]}"
        )
    return "\n".join(lines)


_COLUMNS = (
    ("id", ">5"),
    ("started", "<26"),
    ("status", "<12"),
    ("label", "<42"),
    ("device", "<8"),
    ("way", "<11"),
    ("agrees", "<8"),
    ("kv_cache_tokens", ">16"),
    ("output_tokens_per_s", ">20"),
)


def history_text(runs: Sequence[Record]) -> str:
    """A line for each run."""
    if not runs:
        return "no run in the history"
    return "\n".join(_history_lines(runs))


def _history_lines(runs: Sequence[Record]) -> Iterator[str]:
    yield " ".join(f"{name:{form}}" for name, form in _COLUMNS).rstrip()
    for run in runs:
        row = summary(run)
        cells = [f"{_cell(row[name], int(form[1:])):{form}}" for name, form in _COLUMNS]
        yield " ".join(cells).rstrip()


def _cell(value: object, width: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,}" if isinstance(value, int) else printable(value, width)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
