"""Why a launch failed: the first real failure in a log, by the table in known.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from planner.engine import enginelog
from planner.logs.known import FAILURES, OUT_OF_MEMORY, PLACES, About, Failure, Place, Sign
from planner.logs.reader import Facts, stage_at
from planner.logs.text import Hit, Log
from planner.text import printable


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What ended this launch."""

    code: str
    about: About
    cause: str
    fix: str
    flag: str | None
    sentence: str
    """The log's own words."""
    line: int
    process: str | None = None
    stage: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    """Codes of other failures that the log shows, consequences mostly."""

    def to_dict(self) -> dict[str, Any]:
        """As `diagnosis` of the JSON answer."""
        return {
            "code": self.code,
            "about": self.about,
            "cause": self.cause,
            "fix": self.fix,
            "flag": self.flag,
            "sentence": self.sentence,
            "line": self.line,
            "process": self.process,
            "stage": self.stage,
            "details": dict(self.details),
            "also": list(self.also),
        }


_PLACE_OF_STAGE = {
    "online": "oom_runtime",
    "ready": "oom_runtime",
    "graphs_done": "oom_warmup",
    "graphs": "oom_graph_capture",
    "cache": "oom_kv_cache",
    "profiling": "oom_profile_run",
}
_FATAL_AFTER_START = (
    "EngineDeadError",
    "EngineCore encountered a fatal error",
    "AsyncEngineDeadError",
    "EngineCore encountered an issue",
    "Engine core proc",
    "MQEngineDeadError",
)
_RAISED = re.compile(r"(?:^|[\s\]])((?:[A-Za-z_]\w{0,60}\.){0,8}[A-Z]\w{0,60}(?:Error|Exception|Exit)): (.{1,600})")
_TRACEBACK = "Traceback (most recent call last)"
_TRACEBACK_WINDOW = 40_000
_STARTED = ("Application startup complete", "Uvicorn running on")
_STARTED_OFFLINE = "init engine (profile, create kv cache, warmup model) took"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the launch ended: started, failed, or the log does not say."""

    word: Literal["started", "failed", "unknown"]
    diagnosis: Diagnosis | None = None


def outcome(facts: Facts, log: Log) -> Outcome:
    """What became of the launch. What an engine survived on its way is no failure."""
    start = _start(log)
    diagnosis = _diagnose(facts, log, start)
    if diagnosis is None:
        return Outcome(word="unknown" if start is None else "started")
    serves_on = start is not None and start.serving and diagnosis.code in _SERVES_ON
    return Outcome(word="started" if serves_on else "failed", diagnosis=diagnosis)


_SERVES_ON = frozenset(failure.code for failure in FAILURES if not failure.ends_engine)


@dataclass(frozen=True)
class _Start:
    """Where the log says that the engine has started."""

    position: int
    serving: bool
    """Whether it serves; an engine of the LLM class is only ready."""


def _start(log: Log) -> _Start | None:
    positions = [position for literal in _STARTED if (position := log.text.find(literal)) >= 0]
    if positions:
        return _Start(min(positions), serving=True)
    position = log.text.find(_STARTED_OFFLINE)
    return _Start(position, serving=False) if position >= 0 else None


def _diagnose(facts: Facts, log: Log, start: _Start | None) -> Diagnosis | None:
    after = start.position if start is not None else -1
    found = list(_found(log, after, serving=start is not None and start.serving))
    oom = _hit(log, OUT_OF_MEMORY, after)
    own = next((failure for failure, _ in found if failure.about == "memory"), None)
    if oom is not None and (own is None or own.code == "killed_host_oom"):
        return _oom_diagnosis(log, oom, tuple(failure.code for failure, _ in found))
    if found:
        failure, hit = found[0]
        return _diagnosis(facts, log, failure, hit, tuple(other.code for other, _ in found[1:]))
    return _unknown(log, after) if _fatal(log, start) else None


def _found(log: Log, after: int, *, serving: bool) -> Iterator[tuple[Failure, Hit]]:
    """The failures that the log shows after a position, in the order of the table; of a server, only what ends it."""
    for failure in FAILURES:
        if serving and not failure.after_start:
            continue
        hit = _hit(log, failure.signs, after)
        if hit is not None:
            yield failure, hit


def _hit(log: Log, signs: Iterable[Sign], after: int) -> Hit | None:
    """The first match of the first sign that is in the log after a position."""
    hits = (hit for sign in signs for hit in log.hits(sign.literal, sign.regex))
    return next((hit for hit in hits if hit.position > after), None)


def _fatal(log: Log, start: _Start | None) -> bool:
    """Whether an error that the table does not know ended the launch."""
    if start is not None and start.serving:
        return any(log.text.find(literal, start.position) >= 0 for literal in _FATAL_AFTER_START)
    after = start.position if start is not None else 0
    return any(log.text.find(literal, after) >= 0 for literal in (_TRACEBACK, "EngineCore failed to start"))


# --- what is said about it -----------------------------------------------------------------------------------------


_MISSING = "\0"
_WITH_MISSING = re.compile(rf" \([^()]*{_MISSING}[^()]*\)")


class _Details(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return _MISSING


def _filled(sentence: str, details: _Details) -> str:
    """With its details; a parenthesis that would hold one that is not in the log is left out."""
    return _WITH_MISSING.sub("", sentence.format_map(details)).replace(_MISSING, "?")


def _diagnosis(facts: Facts, log: Log, failure: Failure, hit: Hit, also: tuple[str, ...]) -> Diagnosis:
    details = _details(facts, log, failure, hit)
    return Diagnosis(
        code=failure.code,
        about=failure.about,
        cause=_filled(failure.cause, details),
        fix=_filled(failure.fix, details),
        flag=failure.flag,
        sentence=_sentence(log, hit),
        line=log.line_number(hit.position),
        process=log.process(hit.position),
        stage=stage_at(log, hit.position),
        details={name: value for name, value in details.items() if name not in ("version", "gpu")},
        also=also,
    )


def _details(facts: Facts, log: Log, failure: Failure, first: Hit) -> _Details:
    """The groups of the hit, and of the other signs of the same failure."""
    details = _Details(
        version=f"vLLM {facts.version}" if facts.version else "This vLLM",
        gpu=facts.gpu_names[0] if facts.gpu_names else "the card",
    )
    others = (log.first(sign.literal, sign.regex) for sign in failure.signs if sign.regex.groups)
    for hit in (first, *(other for other in others if other is not None)):
        for name, value in hit.groups().items():
            details.setdefault(name, printable(value.strip(), 200))
    return details


def _sentence(log: Log, hit: Hit) -> str:
    """The message around a hit, from the exception's name on."""
    start, window = log.window(hit.position, 300, 900)
    at = hit.position - start
    raised = None
    for raised in _RAISED.finditer(window[: at + 200]):
        if raised.end() >= at:
            break
    begin = raised.start(1) if raised is not None and raised.start(1) <= at else _message_start(window, at)
    return printable(enginelog.plain(window[begin:]), 600)


def _message_start(window: str, at: int) -> int:
    """After the logger's prefix: `… [core.py:708] `."""
    return max(window.rfind("] ", 0, at) + 2, 0) if "] " in window[:at] else 0


def _oom_diagnosis(log: Log, hit: Hit, also: tuple[str, ...]) -> Diagnosis:
    stage = stage_at(log, hit.position)
    place = _place(log, hit.position, stage)
    cause = place.cause
    details = {name: printable(value, 60) for name, value in hit.groups().items()}
    if "tried" in details:
        cause += f" It asked for {details['tried']}" + (f" with {details['free']} free." if "free" in details else ".")
    return Diagnosis(
        code=place.code,
        about="memory",
        cause=cause,
        fix=place.fix,
        flag=place.flag,
        sentence=_sentence(log, hit),
        line=log.line_number(hit.position),
        process=log.process(hit.position),
        stage=stage,
        details={"where": place.where, **details},
        also=also,
    )


def _place(log: Log, position: int, stage: str | None) -> Place:
    """Where the memory ran out: by the frames of the traceback above it, else by the stage reached."""
    by_code = {place.code: place for place in PLACES}
    start = max(0, position - _TRACEBACK_WINDOW)
    traceback = log.text.rfind(_TRACEBACK, start, position)
    for begin in (traceback, start) if traceback >= 0 else (start,):
        frames = log.text[begin:position]
        place = next((place for place in PLACES if place.frames.search(frames)), None)
        if place is not None:
            return by_code["oom_runtime"] if stage == "online" else place
    return by_code[_PLACE_OF_STAGE.get(stage or "", "oom_loading")]


_UNKNOWN = "This error is not in the table of known failures."
_WITHOUT_ERROR = "The log shows a failure without its error."
_SEE_SENTENCE = (
    "The sentence above is the last error that is not the echo of another; its traceback says where it arose."
)
_SEE_ELSEWHERE = "The root error is not in this log: it may be further up, or in the log of another process or node."


def _unknown(log: Log, after: int) -> Diagnosis:
    """A failure that the table does not know: the last error raised that is not the echo of another."""
    last: tuple[int, str] | None = None
    for literal in ("Error: ", "Exception: ", "Exit: "):
        for hit in log.hits(literal, _RAISED):
            later = hit.position > (after if last is None else last[0])
            if later and not enginelog.is_consequence(hit.match[2]):
                last = hit.position, f"{hit.match[1]}: {enginelog.plain(hit.match[2])}"
    position, sentence = last or (max(0, log.text.rfind(_TRACEBACK)), "")
    return Diagnosis(
        code="unknown",
        about="python",
        cause=_UNKNOWN if sentence else _WITHOUT_ERROR,
        fix=_SEE_SENTENCE if sentence else _SEE_ELSEWHERE,
        flag=None,
        sentence=printable(sentence, 600),
        line=log.line_number(position),
        process=log.process(position),
        stage=stage_at(log, position),
    )
