"""--kv-cache-dtype: what one head keeps of one token under each, and since which version vLLM knows it.

Mirrors config/cache.py CacheDType and v1/kv_cache_interface.py get_kv_quant_mode with the backends' customize_spec
(0.33). Which GPU takes which is in planner/engine/backends, since the attention backend decides that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from planner.engine.version import VllmVersion
from planner.errors import InputError, Refusal
from planner.text import shown
from planner.units import DTYPE_BYTES, ceil_div


@dataclass(frozen=True, kw_only=True)
class KVDtype:
    """One value of --kv-cache-dtype."""

    name: str
    since: tuple[int, int] = (0, 6)
    element: str | None = None
    """torch's name of a stored element; None: the model's own dtype."""
    packing: Literal["plain", "per_token_head", "int4_per_token_head", "nvfp4", "turboquant"] = "plain"
    key_bits: int = 0
    value_bits: int = 0
    mla_token_bytes: int | None = None
    """Bytes of one token where MLA packs values, rotary part and scales into one blob."""

    def element_bytes(self, model_dtype: str) -> int:
        """Bytes of one element of a key or value; "auto" is the model's own dtype."""
        return DTYPE_BYTES[self.element or model_dtype]

    def head_bytes(self, key: int, value: int, model_dtype: str) -> int:
        """Bytes of one token's key and value in one KV head."""
        return _PACKINGS[self.packing](self, key, value, self.element_bytes(model_dtype))

    def latent_bytes(self, size: int, model_dtype: str) -> int:
        """Bytes of one token's MLA latent vector."""
        return self.mla_token_bytes or size * self.element_bytes(model_dtype)


def _plain(_: KVDtype, key: int, value: int, element: int) -> int:
    return (key + value) * element


def _per_token_head(_: KVDtype, key: int, value: int, element: int) -> int:
    """Two fp32 scales inline (v1/attention/backends/triton_attn.py customize_spec)."""
    return (key + value) * element + 2 * 4


def _int4_per_token_head(_: KVDtype, key: int, value: int, element: int) -> int:
    return (key // 2 + value // 2) * element + 2 * 4


def _nvfp4(_: KVDtype, key: int, value: int, element: int) -> int:
    """Packed fp4 and one fp8 scale per 16 values (utils/torch_utils.py nvfp4_kv_cache_full_dim)."""
    return sum(size // 2 + size // 16 for size in (key, value)) * element


def _turboquant(dtype: KVDtype, key: int, value: int, element: int) -> int:
    """One even-sized slot for key and value (quantization/turboquant/config.py slot_size_aligned)."""
    keys = key if dtype.key_bits == 8 else ceil_div(key * dtype.key_bits, 8) + 2
    slot = keys + ceil_div(key * dtype.value_bits, 8) + 4
    return slot + slot % 2


_PACKINGS = {
    "plain": _plain,
    "per_token_head": _per_token_head,
    "int4_per_token_head": _int4_per_token_head,
    "nvfp4": _nvfp4,
    "turboquant": _turboquant,
}

KV_DTYPES = {
    dtype.name: dtype
    for dtype in (
        KVDtype(name="auto"),
        KVDtype(name="fp8", element="float8_e4m3fn"),
        KVDtype(name="fp8_e4m3", element="float8_e4m3fn"),
        KVDtype(name="fp8_e5m2", element="float8_e5m2"),
        KVDtype(name="fp8_inc", since=(0, 10), element="float8_e4m3fn"),
        KVDtype(name="bfloat16", since=(0, 11), element="bfloat16"),
        KVDtype(name="fp8_ds_mla", since=(0, 11), element="uint8", mla_token_bytes=656),
        KVDtype(name="float16", since=(0, 18), element="float16"),
        KVDtype(name="int8_per_token_head", since=(0, 20), element="int8", packing="per_token_head"),
        KVDtype(name="fp8_per_token_head", since=(0, 20), element="float8_e4m3fn", packing="per_token_head"),
        KVDtype(name="nvfp4", since=(0, 20), element="uint8", packing="nvfp4"),
        KVDtype(name="turboquant_k8v4", since=(0, 20), element="uint8", packing="turboquant", key_bits=8, value_bits=4),
        KVDtype(
            name="turboquant_4bit_nc", since=(0, 20), element="uint8", packing="turboquant", key_bits=4, value_bits=4
        ),
        KVDtype(
            name="turboquant_k3v4_nc", since=(0, 20), element="uint8", packing="turboquant", key_bits=3, value_bits=4
        ),
        KVDtype(
            name="turboquant_3bit_nc", since=(0, 20), element="uint8", packing="turboquant", key_bits=3, value_bits=3
        ),
        KVDtype(name="int4_per_token_head", since=(0, 25), element="uint8", packing="int4_per_token_head"),
        KVDtype(name="nvfp4_4over6", since=(0, 28), element="uint8", packing="nvfp4"),
        KVDtype(name="nvfp4_ds_mla", since=(0, 30), element="uint8", mla_token_bytes=352),
    )
}


def kv_dtype(name: str, version: VllmVersion) -> KVDtype:
    """The entry for a resolved --kv-cache-dtype: InputError where there is none, Refusal where the version lacks it."""
    dtype = KV_DTYPES.get(name)
    if dtype is None:
        raise InputError(
            f"kv_cache_dtype = {shown(name)}: what it takes is not known here; known: {', '.join(KV_DTYPES)}"
        )
    if version < dtype.since:
        known = ", ".join(repr(entry.name) for entry in KV_DTYPES.values() if version >= entry.since)
        raise Refusal(
            "kv_cache_dtype_unknown",
            f"argument --kv-cache-dtype: invalid choice: '{name}' (choose from {known})",
            "--kv-cache-dtype",
        )
    return dtype


_MODELOPT = {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}


def checkpoint_kv_dtype(quantization: Mapping[str, object], version: VllmVersion) -> str | None:
    """What a checkpoint's own KV scheme makes of --kv-cache-dtype auto; None where it has none.

    quantization: config.json's quantization_config or, without one, what hf_quant_config.json holds.

    modelopt: utils/torch_utils.py resolve_kv_cache_dtype_string (0.14 and later); compressed-tensors:
    layers/attention/attention.py (0.15 and later). Before, a checkpoint's scheme only brought scales.
    """
    method = quantization.get("quant_method")
    if method is None and isinstance(quantization.get("quantization"), Mapping):
        producer = quantization.get("producer")  # hf_quant_config.json names no method
        method = producer.get("name") if isinstance(producer, Mapping) else None
    if not isinstance(method, str):
        return None
    if method.startswith("modelopt") and version >= (0, 14):
        return _modelopt_kv_dtype(quantization)
    if method == "compressed-tensors" and version >= (0, 15) and quantization.get("kv_cache_scheme") is not None:
        return "fp8"
    return None


def _modelopt_kv_dtype(quantization: Mapping[str, object]) -> str | None:
    nested = quantization.get("quantization")
    inner = nested if isinstance(nested, Mapping) else quantization
    algorithm = (
        inner.get("kv_cache_scheme")
        or quantization.get("kv_cache_scheme")
        or inner.get("kv_cache_quant_algo")
        or quantization.get("kv_cache_quant_algo")
    )
    if isinstance(algorithm, Mapping):
        bits, is_float = algorithm.get("num_bits"), algorithm.get("type") == "float"
        if is_float and bits == 8 and algorithm.get("dynamic") is False:
            return "fp8_e4m3"
        return "nvfp4" if is_float and bits == 4 else None
    return _MODELOPT.get(algorithm.lower()) if isinstance(algorithm, str) else None
