"""Bytes per element and the few conversions: bytes are integers inside, GiB only when printed."""

from __future__ import annotations

from planner.errors import InputError

MIB, GIB = 1 << 20, 1 << 30

DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by torch's name of the dtype."""

_SHORT_DTYPES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"}


def model_dtype(name: str, where: str) -> str:
    """torch's name for a dtype that a config or a person wrote ("half", "torch.bfloat16"); InputError if unknown."""
    plain = name.removeprefix("torch.")
    plain = _SHORT_DTYPES.get(plain, plain)
    if plain not in ("float32", "bfloat16", "float16", "float64"):
        raise InputError(f"{where}: unknown dtype {name!r}; pass bfloat16, float16 or float32")
    return plain


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up, for positive integers (broadcasts over numpy arrays)."""
    return -(-a // b)


def round_up(a: int, multiple: int) -> int:
    """The least multiple that is not below a; a may be a numpy array."""
    return ceil_div(a, multiple) * multiple


def gib(n: float) -> str:
    """Bytes as vLLM prints them: GiB with two decimals."""
    return f"{round(n / GIB, 2)}"
