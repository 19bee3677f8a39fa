"""A person's own measurements, as `explain-log --save` and `history --export` write them: a JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from planner import strict_json
from planner.errors import InputError
from planner.text import printable

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
_NUMBER = {"type": "number", "minimum": 0}
_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "launches": {
        "required": ["id", "source", "model", "measured"],
        "properties": {
            **dict.fromkeys(
                ("id", "source", "model", "gpu", "vllm_version", "date", "quantization", "error_kind"), _TEXT
            ),
            "measured": {"type": "object", "additionalProperties": {"type": "number"}},
            "engine": {"type": "object"},
            "device_total_gib": _NUMBER,
        },
    },
    "serving": {
        "required": ["id", "source", "model", "gpu", "kind", "input_len", "output_len"],
        "properties": {
            **dict.fromkeys(("id", "source", "model", "gpu", "kind", "vllm_version", "date", "flags"), _TEXT),
            **dict.fromkeys(("input_len", "output_len", "concurrency", "num_prompts", "tensor_parallel_size"), _COUNT),
            **dict.fromkeys(("output_tokens_per_s", "ttft_ms_mean", "tpot_ms_mean"), _NUMBER),
        },
    },
}
"""What the fits compute with; flags are checked with the request that they become."""


def own_rows(path: Path, kind: Literal["launches", "serving"]) -> Iterator[dict[str, Any]]:
    """The rows of a file. InputError, which names the line, for one that is damaged or of the other kind."""
    import jsonschema  # there are files of one's own only sometimes

    validator = jsonschema.Draft202012Validator(_SCHEMAS[kind])
    for number, line in enumerate(strict_json.read_text(path, printable(path)).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{printable(path)} line {number}"
        row = strict_json.parse_object(line, where)
        error = jsonschema.exceptions.best_match(validator.iter_errors(row))
        if error is not None:
            key = f"{printable('.'.join(map(str, error.absolute_path)))}: " if error.absolute_path else ""
            raise InputError(f"{where}: no row of {kind}: {key}{printable(error.message, 200)}")
        yield row
