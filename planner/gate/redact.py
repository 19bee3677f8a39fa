"""Secrets of a deployment file, kept out of everything that is printed."""

from __future__ import annotations

import re

from planner.gate.launch import Launch

_SECRET_FLAGS = re.compile(
    r"(--(?:api-key|hf-token|ssl-keyfile-password|[\w-]*(?:password|secret|token))[=\s]+)(\"[^\"]*\"|'[^']*'|\S+)", re.I
)
_SECRET_NAMES = re.compile(
    r"(\b\w*(?:token|secret|passw|api_?key|access_?key|private_?key|credential)\w*[\"']?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s,;]+)",
    re.I,
)
_SECRET_SHAPES = re.compile(r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{20,}|nvapi-[\w-]{16,}|AKIA[0-9A-Z]{16})")
_NOT_SECRET = ("max_num_batched_tokens", "tokenizer")


def without_secrets(text: str) -> str:
    """The text with the values of flags and variables that hold secrets, and what looks like one, as ***."""
    text = _SECRET_FLAGS.sub(r"\1***", text)
    text = _SECRET_NAMES.sub(_hidden, text)
    return _SECRET_SHAPES.sub("***", text)


def redacted(text: str, launch: Launch) -> str:
    """A message about a launch, without the secrets among its own words either."""
    for secret in _secrets(launch):
        text = text.replace(secret, "***")
    return _SECRET_SHAPES.sub("***", text)


def _hidden(match: re.Match[str]) -> str:
    name = match[1].lower().replace("-", "_")
    return match[0] if any(word in name for word in _NOT_SECRET) else f"{match[1]}***"


def _secrets(launch: Launch) -> list[str]:
    found = []
    words = launch.words
    for index, word in enumerate(words):
        name, equals, value = word.text.partition("=")
        if name.replace("_", "-") in ("--api-key", "--hf-token", "hf-token"):
            following = words[index + 1].text if index + 1 < len(words) else ""
            found.append((value if equals else following).strip("'\""))
    return [secret for secret in found if len(secret) >= 4]
