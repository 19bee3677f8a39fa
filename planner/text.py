"""What a file or a person wrote, made safe to print in one line of a message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def printable(text: object, limit: int = 200) -> str:
    """`text` without anything a terminal acts on: control, format and unpaired characters escaped; cut to `limit`."""
    string = str(text)
    if len(string) > limit:
        string = string[: limit - 1] + "…"
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in string)


def has_hidden(text: str) -> bool:
    """Whether `text` has what a terminal acts on or a reader cannot see: control, direction, unpaired characters."""
    if text.isprintable():
        return False
    import unicodedata  # for rare text only

    joiners = "\u200c\u200d"  # spelling in several scripts needs them
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in joiners for c in text)


def shown(value: object, limit: int = 60) -> str:
    """A JSON value as a message shows it: short, on one line, strings in quotes."""
    if isinstance(value, str):
        return f'"{printable(value, limit)}"'
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to print integers of more than 4300 digits.
        return str(value) if abs(value) < 10**limit else f"a number of {value.bit_length()} bits"
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return printable(value, limit)


def flag(name: str) -> str:
    """An argument or a field as it is typed on the command line: max_model_len is --max-model-len."""
    return "--" + name.replace("_", "-")


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The nearest of `known`, whatever the case, best first; none where nothing is near."""
    import difflib  # for a wrong name only

    by_key: dict[str, str] = {}
    for name in known:
        by_key.setdefault(name.lower(), name)
    return [by_key[key] for key in difflib.get_close_matches(word.lower()[:200], by_key, n=count, cutoff=0.6)]


def did_you_mean(names: Sequence[str]) -> str:
    """ "; did you mean a, b or c?", or "" for none: the end of a message about an unknown name."""
    if not names:
        return ""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"; did you mean {listed}?"
