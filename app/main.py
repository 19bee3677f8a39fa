"""The what-if page: inputs at the side, the answer first. Run by `vllm-fit ui`."""

from __future__ import annotations

import datetime
from typing import Any

import streamlit as st

import hf_configs
from app import charts, uploads
from app.solve import Solved, solve
from app.state import State
from planner.errors import InputError
from planner.hardware.catalogue import all_gpus
from planner.planning.ladder import Change, Plan, request_of
from reports import FORMS, render
from reports.render import markdown
from reports.view import answer_verdict, gib, kv_facts, memory_of, snapshot_words

_MIME = {"html": "text/html", "md": "text/markdown", "json": "application/json", "csv": "text/csv"}
_KV_DTYPES = ("", "auto", "fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "float16")
_QUANTIZATIONS = ("", "fp8", "bitsandbytes")
_LEFT_TO_VLLM = "Empty: what vLLM takes by itself, shown in grey."


_PLAIN = {"displayModeBar": False}
"""Charts without plotly's tool bar, which would lie over the labels."""


def page() -> None:
    """One run of the script."""
    st.set_page_config(page_title="vllm-fit", layout="wide")
    problem = _restore()
    solved = None
    try:
        state = State.read(_session())
        path = _uploaded()
        with st.spinner("Working it out …"):
            solved = solve(State(**{**state.to_dict(), "model": path}) if path else state)
    except InputError as error:
        problem = problem or str(error)
    _sidebar(solved.engine if solved is not None else {})
    st.title("Will it fit?", anchor=False)
    if problem is not None:
        st.error(markdown(problem))
    if solved is not None:
        st.query_params.from_dict(state.to_query())
        _answer(solved)


# -- state ---------------------------------------------------------------------------------------------------------


def _restore() -> str | None:
    """The first run takes its inputs from the URL; the sentence about a link that makes no sense."""
    if "model" in st.session_state:
        return None
    problem = None
    try:
        state = State.read(st.query_params.to_dict())
    except InputError as error:
        state, problem = State(), f"this link makes no sense: {error}"
    _set(state)
    return problem


def _session() -> dict[str, Any]:
    return {str(key): value for key, value in st.session_state.items()}


def _set(state: State) -> None:
    for key, value in state.to_dict().items():
        st.session_state[key] = value


def _upload_key() -> str:
    return f"upload-{st.session_state.get('uploads', 0)}"


def _uploaded() -> str | None:
    file = st.session_state.get(_upload_key())
    return uploads.keep(file.name, file.getvalue()) if file is not None else None


def _apply(request: dict[str, Any]) -> None:
    """Sets the inputs to a plan's; an upload stays unless the plan is for another checkpoint."""
    now = State.read(_session())
    path = _uploaded()
    state = State.of_request(request, now.cards, now.concurrency)
    if path is not None and state.model == path:
        state = State(**{**state.to_dict(), "model": now.model})
    elif path is not None:
        st.session_state["uploads"] = st.session_state.get("uploads", 0) + 1
    _set(state)


def _apply_change(change: Change, plan: Plan) -> None:
    _apply(request_of(change.apply(plan.base)))


# -- inputs --------------------------------------------------------------------------------------------------------


def _sidebar(engine: dict[str, Any]) -> None:
    with st.sidebar:
        _choice("Model", "model", hf_configs.names(), "Search the catalogue, or type a Hub id, a folder or a file.")
        st.file_uploader("… or upload a config.json", type="json", key=_upload_key(), help="Read as data; stays here.")
        if st.session_state.get(_upload_key()) is not None:
            st.caption("The uploaded file is used. It is not part of the link.")
        _choice("GPU", "gpu", tuple(gpu.name for gpu in all_gpus()), "Or type any name of a card: H100, L40S, 4090 …")
        left, right = st.columns(2)
        left.number_input("Cards", min_value=1, max_value=4096, step=1, key="cards")
        right.number_input("Users at once", min_value=1, max_value=999_999, step=1, key="concurrency")
        _text("Context per user: max-model-len", "max_model_len", engine)
        with st.expander("Engine flags"):
            _flags(engine)


def _flags(engine: dict[str, Any]) -> None:
    st.caption(_LEFT_TO_VLLM)
    _text("tensor-parallel-size", "tensor_parallel_size", engine)
    _choice("kv-cache-dtype", "kv_cache_dtype", _KV_DTYPES, _LEFT_TO_VLLM, engine)
    _choice("quantization", "quantization", _QUANTIZATIONS, _LEFT_TO_VLLM, engine)
    _text("gpu-memory-utilization", "gpu_memory_utilization", engine)
    _text("max-num-seqs", "max_num_seqs", engine)
    _text("max-num-batched-tokens", "max_num_batched_tokens", engine)
    _text("vLLM version", "vllm_version", engine)
    st.text_input("As if quantized", key="what_if_quantization", help="A checkpoint made in this format: awq, gptq …")
    st.text_area("More flags of vllm serve", key="more", placeholder="--enforce-eager --cpu-offload-gb 8")


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
    )


# -- the answer ----------------------------------------------------------------------------------------------------


def _answer(solved: Solved) -> None:
    plan, now = solved.plan, solved.now
    show = st.success if solved.goal_met_now else st.error if now["status"] != "fits" else st.warning
    show(markdown(answer_verdict(now)))
    _why_not(solved)
    memory = memory_of(now)
    if memory is not None:
        st.plotly_chart(charts.memory_bar(memory), key="memory", config=_PLAIN)
        if memory.missing_bytes:
            st.caption(f"{gib(memory.missing_bytes)} GiB of each GPU are missing before there is any KV cache.")
    if not solved.goal_met_now:
        _plan(plan)
    st.subheader("Launch", anchor=False)
    if not solved.goal_met_now:
        st.caption("As entered, which does not reach what is asked for:")
    st.code(solved.serve_now, language="sh", wrap_lines=True)
    _details(solved)
    _downloads(plan)


def _why_not(solved: Solved) -> None:
    """vLLM's own words, or what an engine that starts still lacks."""
    for reason in solved.now["reasons"]:
        st.error(markdown(reason["message"]))
    missing = solved.plan.goal.missing(solved.plan.start)
    if missing is not None and solved.now["status"] == "fits":
        st.warning(markdown(missing.message))


def _plan(plan: Plan) -> None:
    st.subheader("What would make it fit" if plan.met else "No plan was found", anchor=False)
    if plan.binding is not None:
        st.markdown(markdown(plan.binding.message))
    st.markdown(f"start: {markdown(snapshot_words(plan.start_snapshot.to_dict()))}")
    for step in plan.steps:
        if step.outcome == "skipped":
            continue
        after = snapshot_words(step.after.to_dict())
        st.markdown(
            f"**{markdown(step.summary)}**: {markdown(step.outcome)}, {markdown(step.why)}. After: {markdown(after)}"
        )
        st.caption(f"quality cost: {markdown(step.quality_cost)}")
    if not plan.met:
        return
    st.code(plan.serve_command, language="sh", wrap_lines=True)
    st.button("Apply this plan", key="apply", type="primary", on_click=_apply, args=(request_of(plan.inputs),))
    if len(plan.changes) > 1:
        for number, change in enumerate(plan.changes):
            label = f"Only this rung: {markdown(change.summary)}"
            st.button(label, key=f"apply-{number}", on_click=_apply_change, args=(change, plan))


def _details(solved: Solved) -> None:
    facts, now = kv_facts(solved.now), solved.now
    if any(point.tokens for point in solved.points):
        st.subheader("Concurrency against context", anchor=False)
        st.plotly_chart(charts.concurrency_curve(solved.points), key="curve", config=_PLAIN)
    with st.expander("Numbers, and how sure each is"):
        memory = memory_of(now)
        if memory is not None:
            st.table([{"part": part.name, "GiB": part.gib, "basis": part.basis} for part in memory.segments])
            if memory.kv_range is not None:
                low, high = memory.kv_range
                st.caption(f"KV cache: a launch is expected to land between {gib(low)} and {gib(high)} GiB.")
        st.table([{"KV cache": name, "value": value} for name, value in facts])
        for term, what in now["assumed"].items():
            st.markdown(f"assumed for {markdown(term)}: {markdown(what)}")
        for warning in now["warnings"]:
            st.warning(markdown(warning))


def _downloads(plan: Plan) -> None:
    st.subheader("Report of the plan", anchor=False)
    made, content = datetime.date.today(), plan.to_dict()
    for column, form in zip(st.columns(len(FORMS)), FORMS, strict=True):
        column.download_button(
            form.upper(),
            render(content, form, made),
            file_name=f"fit.{form}",
            mime=_MIME[form],
            key=f"download-{form}",
            on_click="ignore",
        )


page()
