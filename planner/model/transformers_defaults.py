"""What transformers' config classes fill in for missing keys, from a table made by tools/make_transformers_defaults.py.

The table has one JSON object a line, found by searching for its model_type: a lookup costs less than parsing it all.
transformers itself is asked only for a model_type that the table does not have, where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_TABLE = Path(__file__).parent / "data" / "transformers_defaults.jsonl"


@dataclass(frozen=True)
class ClassDefaults:
    """One config class."""

    values: Mapping[str, Any]
    """The default of each key that has one other than None."""
    sections: Mapping[str, str]
    """The nested configs, each with the name of its class in the table."""
    absent: Mapping[str, Mapping[str, Any]]
    """What a nested config gets that is missing as a whole, besides the defaults of its class."""
    attribute_map: Mapping[str, str]
    """Names under which transformers takes other keys: {"hidden_size": "n_embd"}."""

    def has(self, key: str) -> bool:
        """Whether the class gives this key a default, under any of its names."""
        return any(name in self.values for name in (key, *self.aliases(key)))

    def aliases(self, key: str) -> tuple[str, ...]:
        """The other names of a key."""
        if not self.attribute_map:
            return ()
        target = self.attribute_map.get(key, key)
        same = [target, *(alias for alias, name in self.attribute_map.items() if name == target)]
        return tuple(name for name in same if name != key)


@lru_cache(maxsize=256)
def of_type(model_type: str) -> ClassDefaults | None:
    """The defaults for a model_type, or for "TYPE.SECTION"; None where the table has none."""
    if not model_type:
        return None
    table = _table()
    start = table.find(b'{"type":' + json.dumps(model_type).encode() + b",")
    if start < 0:
        return None
    row = json.loads(table[start : table.index(b"\n", start)])
    return ClassDefaults(row["values"], row.get("sections", {}), row.get("absent", {}), row.get("aliases", {}))


@lru_cache(maxsize=256)
def from_transformers(model_type: str, key: str) -> Any:
    """The default of a class that the table lacks, from the transformers that is installed; None: there is none."""
    if not model_type or f'"{model_type}"' not in _names_in_transformers():
        return None
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would say that torch is missing
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError:
        return None
    try:
        fields = CONFIG_MAPPING[model_type].__dataclass_fields__
        value = fields[key].default
    except (KeyError, AttributeError):
        return None
    return value if isinstance(value, (bool, int, float, str)) else None


@lru_cache(maxsize=1)
def _names_in_transformers() -> str:
    """The text of its list of model types: importing it takes seconds, and most unknown types are unknown there too."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return ""
    files = (
        Path(spec.origin).parent / "models" / "auto" / name for name in ("auto_mappings.py", "configuration_auto.py")
    )
    return "".join(file.read_text(encoding="utf-8") for file in files if file.exists())


@lru_cache(maxsize=1)
def _table() -> bytes:
    return b"\n" + _TABLE.read_bytes() if _TABLE.exists() else b""
