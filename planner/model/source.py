"""Where a config.json comes from: the catalogue, a folder, a file or the Hub.

    load_config("Qwen/Qwen3-32B")    # catalogue, else the Hub
    load_config("./my-model")        # a folder or a file by its path

Remote code (`auto_map`) is never run. Every fault is an InputError of one line that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import hf_configs
from planner import strict_json
from planner.errors import InputError
from planner.model import hub
from planner.model.config import CONFIG_FILE, Config
from planner.text import printable

QUANT_CONFIG_FILE = "hf_quant_config.json"


class Source(Enum):
    """Where a config came from."""

    CATALOGUE = "catalogue"
    FOLDER = "folder"
    FILE = "file"
    HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A config.json as it was found."""

    name: str
    """The model: `org/name`, or the path given."""
    source: Source
    values: dict[str, Any] = field(repr=False)
    where: str
    """Names the config in messages."""
    quant_config: dict[str, Any] | None = field(default=None, repr=False)
    """What hf_quant_config.json holds; read, as vLLM does, only where config.json has no quantization_config."""
    folder: Path | None = None
    """The folder of a local model or of the Hub's snapshot, where its weights may lie; None for the catalogue."""
    revision: str | None = None
    """The commit, for a config from the Hub."""

    @cached_property
    def config(self) -> Config:
        """The values, to be read by key with errors that name the file."""
        return Config(self.values, where=self.where)


def load_config(
    source: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    token: str | None = None,
) -> LoadedConfig:
    """The config of a model: a path to a folder or config.json, a name of the catalogue, or a Hub repository.

    A path that exists wins, as in vLLM; then the catalogue, unless a `revision` is asked for; then the Hub. `offline`
    keeps the Hub to its local cache (default: HF_HUB_OFFLINE).
    """
    text = os.fspath(source)
    if not text or text.isspace():
        raise InputError("no model given; pass org/name, a folder or a config.json")
    if isinstance(source, Path) or _looks_like_path(text):
        return _load_path(text)
    known = hf_configs.find(text) if revision is None else None
    if _is_file(text) or (_is_folder(text) and (known is None or _is_file(f"{text}/{CONFIG_FILE}"))):
        return _load_path(text)
    if known is not None:
        return _load_folder(hf_configs.path(known).parent, known, Source.CATALOGUE, where=f"{known} {CONFIG_FILE}")
    if not hub.is_repo_id(text):
        raise InputError(
            f"model {printable(text)}: no such file or folder, and not a name the Hub can have (org/name)"
            f"{hf_configs.suggestion(text)}"
        )
    return _load_hub(text, revision=revision, offline=offline, token=token)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~", "/", "\\")) or text.endswith(".json") or (os.sep != "/" and os.sep in text)


# Path.is_file and Path.is_dir raise for a text that is too long.
def _is_file(text: str) -> bool:
    return os.path.isfile(text)  # noqa: PTH113


def _is_folder(text: str) -> bool:
    return os.path.isdir(text)  # noqa: PTH112


def _load_path(text: str) -> LoadedConfig:
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises for an unknown user
    if _is_folder(str(path)):
        return _load_folder(path, text, Source.FOLDER, where=printable(path / CONFIG_FILE))
    if not os.path.lexists(path):
        raise InputError(f"{printable(text)}: no such file or folder")
    values = strict_json.read_object(path, infinity=True)
    return LoadedConfig(name=text, source=Source.FILE, values=values, where=printable(path), folder=path.parent)


def _load_folder(folder: Path, name: str, source: Source, *, where: str) -> LoadedConfig:
    if not os.path.lexists(folder / CONFIG_FILE):
        raise InputError(f"{printable(folder)}: the folder has no {CONFIG_FILE}; pass one that has, or the file itself")
    values = strict_json.read_object(folder / CONFIG_FILE, where, infinity=True)
    quant = None
    if needs_quant_config(values) and os.path.lexists(folder / QUANT_CONFIG_FILE):
        quant = strict_json.read_object(folder / QUANT_CONFIG_FILE, where.replace(CONFIG_FILE, QUANT_CONFIG_FILE))
    return LoadedConfig(
        name=name,
        source=source,
        values=values,
        where=where,
        quant_config=quant,
        folder=None if source is Source.CATALOGUE else folder,
    )


def _load_hub(repo: str, *, revision: str | None, offline: bool | None, token: str | None) -> LoadedConfig:
    def fetch(filename: str, optional: bool = False) -> Path | None:
        return hub.hub_file(
            repo,
            filename,
            revision=revision,
            offline=offline,
            token=token,
            max_bytes=strict_json.MAX_BYTES,
            optional=optional,
        )

    try:
        path = fetch(CONFIG_FILE)
    except InputError as error:
        raise InputError(f"{error}{hf_configs.suggestion(repo)}") from None
    if path is None:
        raise InputError(f"{repo}: the repository has no {CONFIG_FILE}, so vLLM cannot tell what model it is")
    values = _read_cached(path, f"{repo} {CONFIG_FILE}", infinity=True)
    quant = None
    if needs_quant_config(values):
        quant_path = fetch(QUANT_CONFIG_FILE, optional=True)
        if quant_path is not None:
            quant = _read_cached(quant_path, f"{repo} {QUANT_CONFIG_FILE}")
    return LoadedConfig(
        name=repo,
        source=Source.HUB,
        values=values,
        where=f"{repo} {CONFIG_FILE}",
        quant_config=quant,
        folder=path.parent,
        revision=path.parent.name,
    )


def _read_cached(path: Path, where: str, *, infinity: bool = False) -> dict[str, Any]:
    try:
        return strict_json.read_object(path, where, infinity=infinity)
    except InputError as error:
        raise InputError(f"{error}; if the Hub's own is whole, remove the copy {printable(path)}") from None


def needs_quant_config(values: Mapping[str, Any]) -> bool:
    """Whether vLLM would look for hf_quant_config.json (transformers_utils/config.py get_config)."""
    return values.get("quantization_config") is None
