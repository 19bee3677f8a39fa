"""What a team asks of every launch: vllm-fit.yaml, checked against data/policy.schema.json, as rules for a path."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from planner.errors import InputError
from planner.gate import yaml_nodes
from planner.gate.source import read
from planner.text import did_you_mean, nearest, printable, shown

SCHEMA = Path(__file__).parent / "data" / "policy.schema.json"
NAMES = ("vllm-fit.yaml", "vllm-fit.yml", ".vllm-fit.yaml", ".vllm-fit.yml")

OnDoubt = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Ignore:
    """Failures that only warn, until a day."""

    paths: tuple[str, ...]
    reason: str
    until: datetime.date
    """The last day."""
    model: str | None = None
    codes: frozenset[str] = frozenset()
    """Empty: whatever the failure."""

    def covers(self, model: str | None, codes: frozenset[str]) -> bool:
        """Whether it is about a launch of this model that fails for these reasons."""
        return (self.model is None or self.model == model) and (not self.codes or codes <= self.codes)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for one file. None: no such rule."""

    gpu: str | None = None
    """The card where the file names none."""
    gpus: int | None = None
    """How many, where the file says none."""
    vllm_version: str | None = None
    """Where the image's tag says none."""
    models: Mapping[str, str] = field(default_factory=dict)
    """The model behind a path that only the cluster has."""
    min_concurrency: float | None = None
    """Requests at once that the KV cache must hold, of min_context or else max_model_len tokens."""
    min_context: int | None = None
    """Tokens that max_model_len must allow."""
    min_headroom_gib: float | None = None
    """KV cache per GPU that must be left beyond what is asked."""
    too_close_to_call: OnDoubt = "warn"
    allowed_gpus: tuple[str, ...] | None = None
    allowed_quantizations: tuple[str, ...] | None = None
    """ "none" is an unquantized checkpoint."""
    allowed_versions: tuple[str, ...] | None = None
    """ "0.12.0" or a range, ">=0.11,<0.14"."""
    input_len: int | None = None
    output_len: int | None = None
    concurrency: int | None = None
    """The workload that the limits below are for."""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    unknown: Literal["fail", "warn"] = "fail"
    ignores: tuple[Ignore, ...] = ()
    """Those whose paths match, expired ones too."""

    @property
    def workload(self) -> dict[str, int] | None:
        """As a request takes it; None without limits on speed."""
        if self.concurrency is None or self.input_len is None or self.output_len is None:
            return None
        return {"concurrency": self.concurrency, "input_len": self.input_len, "output_len": self.output_len}

    def ignore_of(self, model: str | None, codes: frozenset[str]) -> Ignore | None:
        """The entry about such a failure that lasts longest."""
        return max(
            (entry for entry in self.ignores if entry.covers(model, codes)), key=lambda entry: entry.until, default=None
        )


@dataclass(frozen=True, kw_only=True)
class Override:
    """Rules for some paths."""

    paths: tuple[str, ...]
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy file, read and checked; without one, the rules that need none."""

    folder: Path
    """Paths in it are from here."""
    path: Path | None = None
    """The file, if there is one."""
    base: Rules = field(default_factory=Rules)
    overrides: tuple[Override, ...] = ()
    ignores: tuple[Ignore, ...] = ()

    def rules_for(self, path: Path) -> Rules:
        """The rules for a file."""
        name = self._name(path)
        rules = self.base
        for override in self.overrides:
            if _matches(override.paths, name):
                rules = replace(rules, **override.changes)
        return replace(rules, ignores=tuple(entry for entry in self.ignores if _matches(entry.paths, name)))

    def _name(self, path: Path) -> str:
        path, folder = path.absolute(), self.folder.absolute()
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix().lstrip("/")


def find(folder: Path) -> Path | None:
    """The policy file of a folder: in it, or in the nearest folder above, up to the root of its repository."""
    folder = folder.absolute()
    for place in (folder, *folder.parents):
        found = next((place / name for name in NAMES if (place / name).is_file()), None)
        if found is not None or (place / ".git").exists():
            return found
    return None


def load(path: Path) -> Policy:
    """Read and check a policy file. InputError names file, line, key and what to write."""
    source = read(path)
    documents = yaml_nodes.documents(source.text, source.file)
    if not documents:
        return Policy(folder=path.parent, path=path)
    if len(documents) > 1:
        raise InputError(f"{source.file}:{documents[1].line}: a policy is one document")
    values = yaml_nodes.plain(documents[0])
    _validate(values, documents[0], source.file)
    return Policy(
        folder=path.parent,
        path=path,
        base=Rules(**_changes(values)),
        overrides=tuple(
            Override(paths=tuple(entry["paths"]), changes=_changes(entry)) for entry in values.get("overrides", ())
        ),
        ignores=tuple(
            _ignore(entry, f"{source.file}:{node.line}")
            for entry, node in zip(values.get("ignore", ()), _items(documents[0], "ignore"), strict=True)
        ),
    )


def schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return loaded


# --- from the file to the rules ---------------------------------------------------------------------------------------

_FIELDS: Mapping[tuple[str, ...], str] = {
    ("defaults", "gpu"): "gpu",
    ("defaults", "gpus"): "gpus",
    ("defaults", "vllm-version"): "vllm_version",
    ("defaults", "models"): "models",
    ("require", "concurrency"): "min_concurrency",
    ("require", "context"): "min_context",
    ("require", "headroom-gib"): "min_headroom_gib",
    ("require", "ttft-ms"): "ttft_ms",
    ("require", "itl-ms"): "tpot_ms",
    ("require", "workload", "concurrency"): "concurrency",
    ("require", "workload", "input-len"): "input_len",
    ("require", "workload", "output-len"): "output_len",
    ("allow", "gpus"): "allowed_gpus",
    ("allow", "quantizations"): "allowed_quantizations",
    ("allow", "vllm-versions"): "allowed_versions",
    ("too-close-to-call",): "too_close_to_call",
    ("unknown",): "unknown",
}
"""A place in the file -> the rule that it sets."""


def _changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """The rules that a part of the file sets."""
    changes = {}
    for place, name in _FIELDS.items():
        value: Any = values
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            changes[name] = tuple(value) if isinstance(value, list) else value
    return changes


def _ignore(entry: Mapping[str, Any], where: str) -> Ignore:
    try:
        until = datetime.date.fromisoformat(entry["until"])
    except ValueError:
        raise InputError(f"{where}: until = {shown(entry['until'])}: no such day") from None
    return Ignore(
        paths=tuple(entry["paths"]),
        reason=entry["reason"],
        until=until,
        model=entry.get("model"),
        codes=frozenset(entry.get("codes", ())),
    )


def _items(node: yaml_nodes.AnyNode, key: str) -> tuple[yaml_nodes.AnyNode, ...]:
    return node.items(key) if isinstance(node, yaml_nodes.Table) else ()


def _validate(values: Any, node: yaml_nodes.AnyNode, where: str) -> None:
    import jsonschema  # a policy is there only sometimes

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema()).iter_errors(values))
    if error is not None:
        place = list(error.absolute_path)
        raise InputError(f"{where}:{_line(node, place, error)}: {_sentence(error, place)}")
    for rules in (values, *values.get("overrides", ())):
        _check_words(rules, where)


def _line(node: yaml_nodes.AnyNode, place: Sequence[str | int], error: Any) -> int:
    """The line of the value that is wrong, or of the key that should not be there."""
    line = node.line
    for step in place:
        if isinstance(node, yaml_nodes.Table) and isinstance(step, str):
            line, node = node.key_lines[step], node.entries[step]
        elif isinstance(node, yaml_nodes.Sequence) and isinstance(step, int):
            node = node.items[step]
            line = node.line
    if error.validator == "additionalProperties" and isinstance(node, yaml_nodes.Table):
        return min((node.key_lines[key] for key in _unknown_keys(error)), default=line)
    return line


def _unknown_keys(error: Any) -> list[str]:
    return [key for key in error.instance if key not in error.schema.get("properties", {})]


def _sentence(error: Any, place: Sequence[str | int]) -> str:
    name = ".".join(str(step) for step in place)
    prefix = f"{printable(name)}: " if name else ""
    if error.validator == "additionalProperties":
        key = _unknown_keys(error)[0]
        return f"{prefix}unknown key {printable(key)}{did_you_mean(nearest(key, error.schema['properties'], 2))}"
    if error.validator in ("required", "dependentRequired"):
        return f"{prefix}{printable(error.message)}"
    if error.validator == "enum":
        return f"{prefix}{shown(error.instance)}: must be one of {', '.join(error.validator_value)}"
    if error.validator == "type":
        kind = {"object": "a mapping", "array": "a list", "integer": "a whole number"}.get(
            error.validator_value, f"a {error.validator_value}"
        )
        return f"{prefix}{shown(error.instance)}: must be {kind}"
    return f"{prefix}{printable(error.message)}"


def _check_words(rules: Mapping[str, Any], where: str) -> None:
    """What a schema cannot know: cards and versions must exist."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    from planner.engine.version import parse_version
    from planner.gate.gpus import allowed_card
    from planner.hardware.catalogue import find_gpu

    defaults, allow = rules.get("defaults", {}), rules.get("allow", {})
    try:
        if "gpu" in defaults:
            find_gpu(defaults["gpu"])
        if "vllm-version" in defaults:
            parse_version(defaults["vllm-version"])
        for name in allow.get("gpus", ()):
            allowed_card(name)
        for text in allow.get("vllm-versions", ()):
            SpecifierSet(as_range(text))
    except InvalidSpecifier:
        raise InputError(
            f'{where}: allow.vllm-versions: {shown(text)}: not a version or a range like ">=0.11,<0.14"'
        ) from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def as_range(text: str) -> str:
    """ "0.12.0", "v0.12", ">=0.11,<0.14" -> a specifier; 0.12 means every 0.12.x."""
    text = text.strip()
    plain = text.removeprefix("v")
    if not plain[:1].isdigit():
        return text
    return f"=={plain}" if plain.count(".") >= 2 else f"=={plain}.*"


@lru_cache(maxsize=256)
def _spec(patterns: tuple[str, ...]) -> Any:
    import pathspec

    return pathspec.GitIgnoreSpec.from_lines(patterns)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return bool(_spec(patterns).match_file(name))
