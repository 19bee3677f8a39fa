"""A remedy as a unified diff of the file's own lines; where they cannot be edited safely, as the flags to change.

A flag that stands in the file is changed where its value stands, be that a variable's line; a new one is written in the
manner of the words around it. What is edited so is read again, and shown only where it is then the launch meant.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planner.engine.args import EngineArgs, find_flag, flag_of
from planner.errors import InputError
from planner.gate.launch import Launch, Word
from planner.gate.redact import without_secrets
from planner.gate.remedy import Remedy
from planner.gate.source import read

if TYPE_CHECKING:
    from planner.gate.run import Found


class _CannotEdit(Exception):
    """The line does not hold what was expected, or holds it several times."""


def diff(found: Found, remedy: Remedy) -> str:
    """The remedy as text that ends in a newline."""
    try:
        text = _edited(found, remedy)
    except (_CannotEdit, InputError):
        return _flags(found.launch, remedy)
    # A line that holds a secret cannot be shown as it is.
    return text if text and without_secrets(text) == text else _flags(found.launch, remedy)


def _flags(launch: Launch, remedy: Remedy) -> str:
    """What to change, as flags."""
    lines = []
    if remedy.model is not None:
        lines.append(f"model: {launch.model} -> {remedy.model}")
    for name, value in remedy.args.items():
        words = shlex.join(EngineArgs({name: value}).to_flags()) if value is not None else ""
        lines.append(f"leave out {flag_of(name)}" if value is None else f"set {words}" if words else flag_of(name))
    return "\n".join(lines) + "\n"


def _edited(found: Found, remedy: Remedy) -> str:
    launch = found.launch
    texts: dict[str, list[str]] = {}
    ends: dict[str, str] = {}

    def lines_of(file: str) -> list[str]:
        if file not in texts:
            place = found.path if file == launch.file else found.root / file
            texts[file] = read(place, file).text.split("\n")
            ends[file] = _end_of_lines(place.read_bytes())
        return texts[file]

    before = {file: list(lines_of(file)) for file in (launch.file, *(word.file for word in launch.words)) if file}
    edit = _Edit(launch, lines_of)
    if remedy.model is not None:
        edit.model(remedy.model)
    # From the last line up: what is added moves only lines below.
    for name, value in sorted(remedy.args.items(), key=lambda item: -edit.line_of(item[0])):
        edit.change(name, value)
    changed = {file: lines for file, lines in texts.items() if lines != before[file]}
    if not _is_meant(found.with_texts({file: "\n".join(lines) for file, lines in changed.items()}), launch, remedy):
        raise _CannotEdit
    return "".join(
        _unified(file if file == launch.file else (found.root / file).as_posix(), before[file], lines, ends[file])
        for file, lines in changed.items()
    )


def _is_meant(now: Launch | None, before: Launch, remedy: Remedy) -> bool:
    args = {name: value for name, value in {**before.args, **remedy.args}.items() if value is not None}
    return now is not None and (now.model, now.args) == (remedy.model or before.model, args) and now.problem is None


def _end_of_lines(content: bytes) -> str:
    crlf = content.count(b"\r\n")
    if crlf not in (0, content.count(b"\n")):
        raise _CannotEdit  # both
    return "\r\n" if crlf else "\n"


def _unified(file: str, old: Sequence[str], new: Sequence[str], end: str) -> str:
    """end: of the file's lines, which a reader never sees as \\r\\n."""
    names = f"a/{file.lstrip('/')}", f"b/{file.lstrip('/')}"
    lines = difflib.unified_diff(_ended(old, end), _ended(new, end), *names, n=0)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _ended(lines: Sequence[str], end: str) -> list[str]:
    """As the file has them: the last one without an end, or none where the file ends in one."""
    return [*(f"{line}{end}" for line in lines[:-1]), *(line for line in lines[-1:] if line)]


class _Edit:
    def __init__(self, launch: Launch, lines_of: Callable[[str], list[str]]) -> None:
        self.launch, self.lines_of = launch, lines_of
        self.words = launch.words

    def line_of(self, name: str) -> int:
        """Where an argument stands; after all others for one that does not."""
        at = self._find(name)
        return self.words[at].line if at is not None else 1 << 30

    def model(self, model: str) -> None:
        old = self.launch.model
        if old is None:
            raise _CannotEdit
        word = next((word for word in self.words if old in word.text), None)
        lines = self.lines_of((word.file if word is not None else None) or self.launch.file)
        # Where its word stands; else where it stands once in the launch, or in the whole file: a variable of make.
        own = range(word.line, word.line + 1) if word is not None else ()
        for span in (own, range(self.launch.line, self.launch.end_line + 1), range(1, len(lines) + 1)):
            found = [number for number in span for _ in _places(lines[number - 1], old)]
            if len(found) == 1:
                _replace(lines, found[0], old, model)
                self.words = tuple(replace(word, text=word.text.replace(old, model)) for word in self.words)
                return
        raise _CannotEdit

    def change(self, name: str, value: Any) -> None:
        at = self._find(name)
        if at is None:
            if value is not None:
                self._add(name, value)
        elif value is None:
            self._remove(at)
        else:
            self._set(at, name, value)

    def _find(self, name: str) -> int | None:
        """The last of the words that give an argument."""
        found = None
        for index, word in enumerate(self.words):
            head = word.text.partition("=")[0]
            flag = find_flag(head) if head.startswith("-") else None
            if (flag is not None and flag.name == name) or head == name:
                found = index
        return found

    def _set(self, at: int, name: str, value: Any) -> None:
        word = self.words[at]
        head, equals, old = word.text.partition("=")
        place = word
        if not equals:
            if at + 1 >= len(self.words):
                raise _CannotEdit
            place = self.words[at + 1]
            old = place.text
        lines = self.lines_of(place.file or self.launch.file)
        new = json.dumps(value) if isinstance(value, dict) else str(value)
        if head == name and equals:  # Python's, which its quotes stay around
            old = old.strip("'\"")
        try:
            _replace(lines, place.line, old, new, after=head)
        except _CannotEdit:  # a variable's, whose line is not known
            _replace(lines, _only_line(lines, head, old), old, new, after=head)

    def _remove(self, at: int) -> None:
        """The flag and its value, which must stand together on one line or each on its own."""
        word = self.words[at]
        head, equals, _ = word.text.partition("=")
        flag = find_flag(head)
        parts = [word] if equals or flag is None or flag.kind == "bool" else [word, *self.words[at + 1 : at + 2]]
        lines = self.lines_of(word.file or self.launch.file)
        if len({part.line for part in parts}) != 1 or any(part.file != word.file for part in parts):
            raise _CannotEdit
        line = lines[word.line - 1]
        pattern = r"[\s=,]+".join(rf"([\"']?){re.escape(part.text)}\{i}" for i, part in enumerate(parts, 1))
        if head == word.text and not head.startswith("-"):
            raise _CannotEdit
        found = list(re.finditer(rf"(?<=[\s\"'\[,]){pattern}(?=[\s\"',\])]|$)", line))
        if len(found) != 1:
            raise _CannotEdit
        before, after = line[: found[0].start()], line[found[0].end() :]
        if re.search(r"[\[,]\s*$", before) and re.match(r"\s*,", after):  # an item of a list on one line
            rest = before + re.sub(r"^\s*,\s*", "", after)
        elif re.match(r"\s*\]", after):
            rest = re.sub(r"\s*,\s*$", "", before) + after
        else:
            rest = before.rstrip(" ") + after
        if not rest.strip(" \\-"):
            del lines[word.line - 1]
        else:
            lines[word.line - 1] = rest

    def _add(self, name: str, value: Any) -> None:
        last = self._last()
        if last is None:
            raise _CannotEdit
        lines = self.lines_of(last.file or self.launch.file)
        words = EngineArgs({name: value}).to_flags()
        line, count = lines[last.line - 1], len(lines)
        if not any(style(lines, last, words, self.words) for style in STYLES):
            raise _CannotEdit
        if len(lines) > count and lines[last.line - 1] != line:  # in front of it
            self._moved(last, len(lines) - count)

    def _moved(self, first: Word, by: int) -> None:
        """The words of a file from one on stand further down."""
        self.words = tuple(
            replace(word, line=word.line + by) if word.file == first.file and word.line >= first.line else word
            for word in self.words
        )
        self.launch = self.launch.with_(end_line=self.launch.end_line + by)

    def _last(self) -> Word | None:
        """The last word of the command that stands in it; a variable's as the command has it."""
        for word in reversed(self.words):
            if word.place is not None:
                word = replace(word, text=word.place.text, line=word.place.line)
            if word.of_key:
                continue
            inside = word.file is not None or self.launch.line <= word.line <= self.launch.end_line
            text = word.text.partition("=")[0] if "=" in word.text else word.text
            line = self.lines_of(word.file or self.launch.file)[word.line - 1]
            if inside and text and text.removeprefix("--") in line:
                return word
        return None


# --- how words are written around a launch: each tries, and says whether it was its manner ----------------------------


def _entry(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """KEY: VALUE in a file for `vllm serve --config`, or in engine_kwargs, in front of another one."""
    found = re.match(r"(\s*)([\w-]+):(\s|$)", lines[last.line - 1])
    flag = find_flag(f"--{found[2]}") if found is not None else None
    if found is None or flag is None:
        return False
    name = words[0].removeprefix("--")
    if last.text.partition("=")[0] == flag.name:  # a Python name, as every one in engine_kwargs
        name = name.replace("-", "_")
    lines.insert(last.line - 1, f"{found[1]}{name}: {words[1] if len(words) > 1 else 'true'}")
    return True


def _json_entry(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """ "name": value in a plan file, in front of another one."""
    flag, found = find_flag(words[0]), re.match(r'(\s*)"\w+"\s*:', lines[last.line - 1])
    if flag is None or found is None or not last.text.partition("=")[0].isidentifier():
        return False
    value = _python(words[1:], flag.kind) if len(words) > 1 else "true"
    lines.insert(last.line - 1, f'{found[1]}"{flag.name}": {value},')
    return True


def _keyword(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """name=value in a Python call."""
    name, equals, value = last.text.partition("=")
    if not equals or not name.isidentifier():
        return False
    flag = find_flag(words[0])
    if flag is None:
        return False
    new = f"{flag.name}={_python(words[1:], flag.kind)}"
    line = lines[last.line - 1]
    own_line = re.fullmatch(r"(\s*)\w+\s*=.*?(,?)(\s*#.*)?", line)
    if own_line and own_line[2]:
        lines.insert(last.line, f"{own_line[1]}{new},")
        return True
    closing = re.search(rf"\b{re.escape(name)}\s*=\s*(['\"]?){re.escape(value.strip(chr(39)))}\1", line)
    if closing is None:
        return False
    lines[last.line - 1] = f"{line[: closing.end()]}, {new}{line[closing.end() :]}"
    return True


def _python(words: Sequence[str], kind: str) -> str:
    if not words:
        return "True"
    return words[0] if kind in ("int", "human_int", "float") else json.dumps(words[0])


def _item(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """`- --flag=value` in a YAML list, in two items where the others are."""
    found = re.match(r"(\s*-\s+)([\"']?)(.*?)\2\s*(#.*)?$", lines[last.line - 1])
    if found is None or " " in found[3].strip() or found[3].strip() in ("|", ">", "|-", ">-"):
        return False
    mark, quote = found[1], found[2]
    joined = len(words) > 1 and any(word.text.startswith("--") and "=" in word.text for word in every)
    texts = ["=".join(words)] if joined else list(words)
    new = [f"{mark}{_quoted(text, quote)}" for text in texts]
    lines[last.line : last.line] = new
    return True


def _quoted(text: str, quote: str) -> str:
    """In the quotes of the neighbours; a number needs some to stay text."""
    return f"{quote or chr(34)}{text}{quote or chr(34)}" if quote or re.fullmatch(r"[\d.]+|true|false", text) else text


def _array(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """ "--flag", "value" in a JSON array or a list of Python."""
    line = lines[last.line - 1]
    found = list(re.finditer(rf"([\"']){re.escape(last.text)}\1(?=\s*(,|\]|$))", line))
    if len(found) != 1 or not re.search(r"[\[,(]\s*$", line[: found[0].start()].strip() or "["):
        return False
    quote = found[0][1]
    more = "".join(f", {quote}{word}{quote}" for word in words)
    lines[last.line - 1] = line[: found[0].end()] + more + line[found[0].end() :]
    return True


def _command(lines: list[str], last: Word, words: Sequence[str], every: Sequence[Word]) -> bool:
    """A command line: on a line of its own where the last word has one, else behind it."""
    line = lines[last.line - 1]
    text = shlex.join(words)
    continued = re.fullmatch(r"(\s+)(.*\S)\s*\\", line)
    if continued is not None:
        lines.insert(last.line, f"{continued[1]}{text} \\")
        return True
    pattern = rf"(?<=[\s\"'=\[])\$?{_loosely(last.text)}[\"']?(?=[\s\"';&|)]|$)"
    found = list(re.finditer(pattern, line))
    if not found:
        return False
    # A quote behind the word is its own only where one stands before it.
    end = found[-1].end()
    quote = line[end - 1]
    if quote in "\"'" and found[-1][0][:-1].count(quote) % 2 == 0:
        end -= 1
    lines[last.line - 1] = f"{line[:end]} {text}{line[end:]}"
    return True


def _loosely(text: str) -> str:
    return r"[\"']?".join(re.escape(part) for part in re.split(r"[\"']", text))


STYLES = (_entry, _json_entry, _keyword, _item, _array, _command)
"""In the order in which they are tried."""


# --- lines ------------------------------------------------------------------------------------------------------------


def _places(line: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"(?<![\w.\-/]){re.escape(text)}(?![\w\-/]|\.\w)", line)) if text else []


def _only_line(lines: list[str], flag: str, value: str) -> int:
    """Where a flag is given this value, if that is once in the whole file."""
    written = re.compile(rf"(?<![\w-]){re.escape(flag)}[\s=]+[\"']?{re.escape(value)}(?![\w.-])")
    found = [number for number, line in enumerate(lines, 1) for _ in written.finditer(line)]
    if len(found) != 1:
        raise _CannotEdit
    return found[0]


def _replace(lines: list[str], number: int, old: str, new: str, after: str = "") -> None:
    """One occurrence of `old` in a line, behind `after` where that stands in it too."""
    line = lines[number - 1]
    start = 0
    for form in (after, after.replace("-", "_"), after.replace("_", "-")):
        if form and form in line:
            start = line.index(form) + len(form)
            break
    found = [place for place in _places(line, old) if place.start() >= start]
    if not found or (len(found) > 1 and not start):
        raise _CannotEdit
    lines[number - 1] = line[: found[0].start()] + new + line[found[0].end() :]
