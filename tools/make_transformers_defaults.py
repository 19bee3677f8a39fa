"""Write planner/model/data/transformers_defaults.jsonl: what transformers' config classes fill in for missing keys.

    python tools/make_transformers_defaults.py

Run it with the transformers that vLLM uses. One line a class: each `model_type`, and "TYPE.SECTION" for a nested
config whose class has no model_type of its own.

- `values`: the defaults that the class states and that are not None: scalars and short lists. What it computes from
  other keys (num_key_value_heads from num_attention_heads) is left out: it would be computed from default sizes.
- `sections`: the nested configs, each with the `type` of its class.
- `absent`: what the class gives a nested config that is missing as a whole, where that differs from its defaults.
- `aliases`: other names of a key ("hidden_size" of GPT-2 is n_embd).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # some vision classes would ask the Hub for their backbone's config

import transformers
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

OUTPUT = Path(__file__).parents[1] / "planner" / "model" / "data" / "transformers_defaults.jsonl"
LONGEST_LIST = 64
SMALLEST_TABLE = 300  # model types; fewer mean that something is wrong with the transformers at hand

COMMON = {field.name for field in dataclasses.fields(PreTrainedConfig)} | {
    # Nothing that the memory of an engine depends on.
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "use_cache",
}


def main() -> None:
    transformers.logging.set_verbosity_error()
    registered = {model_type: CONFIG_MAPPING[model_type] for model_type in sorted(CONFIG_MAPPING)}
    types = {cls: model_type for model_type, cls in registered.items() if cls.model_type == model_type}
    rows: dict[str, dict[str, Any]] = {}
    for model_type, cls in registered.items():
        add_rows(rows, model_type, cls, types)
    if len(registered) < SMALLEST_TABLE:
        sys.exit(f"transformers {transformers.__version__} has only {len(registered)} config classes; nothing written")
    lines = [{"type": "", "transformers": transformers.__version__}, *rows.values()]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    OUTPUT.write_text(text, encoding="utf-8")
    print(f"{OUTPUT}: {len(rows)} classes of transformers {transformers.__version__}, {len(text) / 1e6:.2f} MB")


def add_rows(rows: dict[str, dict[str, Any]], name: str, cls: type[PreTrainedConfig], types: dict[type, str]) -> None:
    """The row of a class and those of its nested classes that have no row of their own."""
    if name in rows:
        return
    row: dict[str, Any] = {"type": name, "values": stated_defaults(cls)}
    rows[name] = row
    sections: dict[str, str] = {}
    absent: dict[str, dict[str, Any]] = {}
    made = instance(cls)
    for key, section_class in (cls.sub_configs or {}).items():
        default = getattr(made, key, None)
        if not isinstance(default, PreTrainedConfig):
            default = None
        if section_class.__name__ in ("AutoConfig", "PreTrainedConfig"):
            if default is None:
                continue
            section_class = type(default)
        sections[key] = types.get(section_class) or f"{name}.{key}"
        if default is not None and (given := given_by_parent(default)):
            absent[key] = given
        if section_class not in types:
            add_rows(rows, sections[key], section_class, types)
    aliases = {alias: key for alias, key in (cls.attribute_map or {}).items() if alias not in COMMON}
    parts = {"sections": sections, "absent": absent, "aliases": aliases}
    row.update({key: value for key, value in parts.items() if value})


def stated_defaults(cls: type[PreTrainedConfig]) -> dict[str, Any]:
    """The defaults in the class's own signature that a config file could have stated."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in COMMON:
            continue
        value = field.default
        if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if is_plain(value):
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def given_by_parent(section: PreTrainedConfig) -> dict[str, Any]:
    """What the parent's default for a nested config sets, as opposed to what its class does by itself."""
    by_itself = instance(type(section))
    if by_itself is None:
        return {}
    names = (field.name for field in dataclasses.fields(section) if field.name not in COMMON)
    # vars(): some classes refuse to give a key that may differ between layers.
    pairs = {name: (vars(section).get(name), vars(by_itself).get(name)) for name in names}
    return {name: mine for name, (mine, other) in pairs.items() if mine != other and is_plain(mine)}


def instance(cls: type) -> Any:
    try:
        return cls()
    except Exception as error:  # noqa: BLE001 - a class may need arguments, or a package that is not installed
        print(f"{cls.__name__}: has no default instance ({type(error).__name__}: {error})", file=sys.stderr)
        return None


def is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return 0 < len(value) <= LONGEST_LIST and all(isinstance(v, (bool, int, float, str)) for v in value)
    return isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))


if __name__ == "__main__":
    main()
