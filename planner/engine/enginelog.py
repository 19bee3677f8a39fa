"""vLLM's log, read while it is written: how far a start has come, and why one failed."""

from __future__ import annotations

import re

_STAGES = (
    (re.compile(r"Initializing a V1 LLM engine"), "starting the engine's processes"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Model loading took"), "profiling memory"),
    (re.compile(r"Warming up model for the compilation"), "compiling"),
    (re.compile(r"Capturing CUDA graphs"), "capturing CUDA graphs"),
    (re.compile(r"(?:CPU|GPU) KV cache size: .*"), None),
)
"""What a line of the log means for the person waiting; None: the line says it best itself."""

_RAISED = re.compile(r"(?:^|\s|\])(?:[A-Za-z_]\w*\.)*([A-Z]\w*(?:Error|Exception)): (.+)$")

_CONSEQUENCES = (
    "Engine core initialization failed",
    "Engine process failed to start",
    "WorkerProc initialization failed",
    "See stack trace",
    "EngineCore encountered an issue",
)
"""Errors that only pass on that another process has failed."""

_SPEAKING = ("ValueError", "RuntimeError", "ValidationError", "NotImplementedError", "AssertionError", "Exception")
"""Exceptions whose text vLLM writes as a sentence."""


def stage(line: str) -> str | None:
    """The stage that a line of the log announces."""
    for pattern, text in _STAGES:
        if match := pattern.search(line):
            return text or match.group()
    return None


def root_cause(log: str) -> str | None:
    """vLLM's own sentence for a failed start: the last error raised that is not just the echo of another."""
    causes = [sentence(*match.groups()) for line in log.splitlines() if (match := _RAISED.search(line))]
    return next((cause for cause in reversed(causes) if not is_consequence(cause)), None)


def sentence(kind: str, message: str) -> str:
    """An exception as a person should read it: where its text alone says little, its type stands before it."""
    return plain(message) if kind in _SPEAKING else f"{kind}: {plain(message)}"


def is_consequence(message: str) -> bool:
    """Whether a message only reports that something else has failed, as "Engine core initialization failed" does."""
    return any(text in message for text in _CONSEQUENCES)


def plain(message: str) -> str:
    """An exception's text as one sentence: without the frame that pydantic puts around it."""
    if match := re.search(r"Value error, (.*?)(?: \[type=|$)", message, re.DOTALL):
        message = match.group(1)
    return " ".join(message.split())
