"""The inputs, at the side of every page: the model, the cards, the load and the engine flags."""

from __future__ import annotations

from typing import Any

import streamlit as st

import hf_configs
from app.session import UPLOAD
from app.state import MOST
from planner.hardware.catalogue import all_gpus, find_gpu
from planner.hardware.detect import this_machine
from planner.memory.quantization.recipes import RECIPES

_KV_DTYPES = ("", "auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "float16")
_QUANTIZATIONS = ("", "fp8", "fp8_per_block", "mxfp8", "experts_int8")
"""While loading; a checkpoint's own needs no flag."""
_LEFT_TO_VLLM = "Empty: what vLLM takes by itself, shown in grey."
_WAYS = {"name": "Name", "upload": "Upload", "numbers": "Numbers"}
_NUMBERS = (
    ("parameters", "parameters", "8B"),
    ("hidden_size", "hidden_size", "4096"),
    ("num_hidden_layers", "layers", "32"),
    ("num_attention_heads", "attention heads", "32"),
    ("num_key_value_heads", "KV heads", "8"),
    ("intermediate_size", "intermediate_size", "14336"),
    ("vocab_size", "vocab_size", "128256"),
)
"""Field, label, an example."""


def sidebar(engine: dict[str, Any]) -> None:
    """engine: the flags as vLLM resolves them, shown where a field is empty."""
    with st.sidebar:
        _model()
        _cards()
        _load(engine)
        with st.expander("Engine flags"):
            _flags(engine)


def _model() -> None:
    st.segmented_control(
        "Model", list(_WAYS), format_func=_WAYS.__getitem__, key="by", required=True, persist_state="session"
    )
    by = st.session_state.get("by", "name")
    if by == "name":
        _choice(
            "Name, Hub id or path",
            "model",
            hf_configs.names(),
            "Search the catalogue, or type a path, or a Hub id, which is looked up there.",
        )
    elif by == "upload":
        st.file_uploader("config.json", type="json", key=UPLOAD, help="Read as data; it stays on this machine.")
        st.caption("An uploaded file is not part of the link.")
    else:
        left, right = st.columns(2)
        for number, (name, label, example) in enumerate(_NUMBERS):
            column = (left, right)[number % 2]
            column.text_input(label, key=name, placeholder=f"e.g. {example}", persist_state="session")
        st.caption("What is left out is derived, and said under the answer's assumptions.")


def _cards() -> None:
    _choice("GPU", "gpu", tuple(gpu.name for gpu in all_gpus()), "Or type any name of a card: H100, L40S, 4090 …")
    st.number_input("Cards", min_value=1, max_value=MOST["cards"], step=1, key="cards")
    here = _detected()
    if here:
        name, count = here
        st.button(f"This machine: {count} x {name}", key="here", on_click=_use_here, args=here)


@st.cache_resource(show_spinner="Looking for GPUs …")
def _detected() -> tuple[str, int] | None:
    """This machine's first kind of GPU and how many there are."""
    found = this_machine()
    return (found[0], found.count(found[0])) if found else None


def _use_here(name: str, count: int) -> None:
    st.session_state["gpu"] = find_gpu(name).name
    st.session_state["cards"] = count


def _load(engine: dict[str, Any]) -> None:
    st.number_input("Users at once", min_value=1, max_value=MOST["concurrency"], step=1, key="concurrency")
    left, right = st.columns(2)
    left.text_input("Prompt tokens", key="input_len", placeholder="any", help="Of one request, e.g. 2000 or 4k.")
    right.text_input("Answer tokens", key="output_len", placeholder="any", help="Of one request.")
    left, right = st.columns(2)  # of their own, since on a phone the right one of a pair comes under the left
    left.text_input("Max TTFT, ms", key="ttft_ms", placeholder="any", help="Mean time to the first token.")
    right.text_input("Max ITL, ms", key="tpot_ms", placeholder="any", help="Mean time between tokens (TPOT).")
    _text("Context per user: max-model-len", "max_model_len", engine)


def _flags(engine: dict[str, Any]) -> None:
    st.caption(_LEFT_TO_VLLM)
    _text("tensor-parallel-size", "tensor_parallel_size", engine)
    _text("pipeline-parallel-size", "pipeline_parallel_size", engine)
    _choice("kv-cache-dtype", "kv_cache_dtype", _KV_DTYPES, _LEFT_TO_VLLM, engine)
    _choice("quantization", "quantization", _QUANTIZATIONS, _LEFT_TO_VLLM, engine)
    _text("gpu-memory-utilization", "gpu_memory_utilization", engine)
    _text("max-num-seqs", "max_num_seqs", engine)
    _text("max-num-batched-tokens", "max_num_batched_tokens", engine)
    st.text_area("More flags of vllm serve", key="more", placeholder="--enforce-eager --cpu-offload-gb 8")
    st.text_input("engines", key="engines", placeholder="as many as serve best", help="Independent, each on its share.")
    _text("vLLM version", "vllm_version", engine)
    recipes = ("", *RECIPES)
    _choice("As if quantized", "what_if_quantization", recipes, "A checkpoint that would have to be made.")
    st.text_input("GPU memory, GiB", key="gpu_memory_gib", placeholder="the catalogue's", help="As vLLM sees it.")
    st.text_input("Taken by others, GiB", key="gpu_memory_used_gib", placeholder="0", help="On each card.")


def _resolved(name: str, engine: dict[str, Any]) -> str:
    value = engine.get(name)
    return "none" if value is None else str(value)


def _text(label: str, name: str, engine: dict[str, Any]) -> None:
    st.text_input(label, key=name, placeholder=_resolved(name, engine), help=_LEFT_TO_VLLM)


def _choice(label: str, name: str, options: tuple[str, ...], hint: str, engine: dict[str, Any] | None = None) -> None:
    """A list to search or add to; what is chosen is in it even when it is not of the catalogue."""
    chosen = st.session_state.get(name) or ""
    shown = options if chosen in options else (chosen, *options)
    empty = f"vLLM's: {_resolved(name, engine)}" if engine is not None else "none"
    st.selectbox(
        label,
        shown,
        key=name,
        accept_new_options=True,
        help=hint,
        format_func=lambda value: value or empty,
        persist_state="session",
    )
