"""Will it fit? The answer first, then why, what would help, the command, and how sure each number is."""

from __future__ import annotations

import datetime
from functools import partial
from typing import cast

import streamlit as st

from app import charts, session, uploads
from app.solve import Solved, plan_file
from app.state import State
from planner.planning.plan import Plan, Step
from planner.planning.replicas import split_words
from planner.request import Inputs
from reports import FORMS, Form, render
from reports.memory import gib, memories_of, memory_of
from reports.pdf import chromium, pdf_of
from reports.render import markdown
from reports.view import answer_verdict, goal_words, kv_facts, snapshot_words

_MIME = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "csv": "text/csv",
    "pdf": "application/pdf",
}
_LONG_MS = 10_000
_CONCURRENCY = "Maximum concurrency: requests of max_model_len tokens that the KV cache holds."


def page(solved: Solved) -> None:
    """The verdict, memory, what would make it fit, and the reports to take along."""
    _verdict(solved)
    _numbers(solved)
    _memory(solved)
    if not solved.met:
        _plan(solved)
    st.subheader("Launch", anchor=False)
    if not solved.met:
        st.caption("As entered, which does not reach what is asked for:")
    _line(solved.base)
    _details(solved)
    _reports(solved.state)


def _verdict(solved: Solved) -> None:
    """One sentence, then vLLM's own words, or what an engine that starts still lacks."""
    fits = solved.now["status"] == "fits"
    show = st.success if solved.met else st.warning if fits else st.error
    engines = solved.entered.engines
    each = f"Each of {engines} engines: " if engines > 1 else ""
    words = [f"**{each}{markdown(answer_verdict(solved.now))}**"]
    words += [markdown(reason["message"]) for reason in solved.now["reasons"]]
    if fits and not solved.met:
        words.append(markdown(f"Wanted: {goal_words(solved.goal.to_dict())}; {_lacking(solved)}."))
    show("\n\n".join(words))


def _lacking(solved: Solved) -> str:
    """What an engine that starts does not reach."""
    entered = solved.entered
    missing = entered.goal.missing(entered.start) or entered.binding
    return missing.message if missing is not None else ""


def _numbers(solved: Solved) -> None:
    kv, speed = solved.now["kv_cache"], solved.speed
    shown: list[tuple[str, str, str]] = []
    if kv is not None and solved.now["status"] == "fits":
        shown.append(("KV cache, tokens", f"{kv['tokens']:,}", "GPU KV cache size, as vLLM prints it at start."))
        shown.append(("Requests at once", f"{kv['max_concurrency']:.2f}", _CONCURRENCY))
    if speed is not None:
        load = speed["workload"]
        hint = (
            f"Predicted for {load['concurrency']} requests at once of {load['input_len']:,} + "
            f"{load['output_len']:,} tokens on one engine; {speed['basis']}. {speed['bound_by']}."
        )
        shown.append(("Output, tokens/s", f"{speed['output_tokens_per_s']:,.0f}", hint))
        shown.append(("TTFT", _duration(speed["ttft_ms"]), hint))
        shown.append(("ITL (TPOT)", f"{speed['tpot_ms']:,.1f} ms", hint))
    with st.container(horizontal=True):
        for name, value, hint in shown:
            st.metric(name, value, help=markdown(hint), border=True, width="content")


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds < _LONG_MS else f"{milliseconds / 1000:,.1f} s"


def _memory(solved: Solved) -> None:
    memories = memories_of(solved.now)
    if not memories:
        return
    st.subheader("Memory per GPU", anchor=False)
    st.plotly_chart(charts.memory_bar(memories), key="memory", config=charts.CONFIG)
    for memory in memories:
        if memory.missing_bytes:
            st.caption(f"{gib(memory.missing_bytes)} GiB are missing on {memory.label} before there is any KV cache.")
        if memory.outside_bytes:
            st.caption(
                f"Outside the budget, on {memory.label}: {gib(memory.outside_bytes)} GiB more than requested, "
                "which this vLLM allocates once it runs."
            )


def _plan(solved: Solved) -> None:
    plan = solved.plan
    aim = "reach it" if solved.now["status"] == "fits" else "make it fit"
    st.subheader(f"What would {aim}" if plan.met else "No plan was found", anchor=False)
    if plan.binding is not None:
        st.markdown(markdown(plan.binding.message))
    st.markdown(f"start: {markdown(snapshot_words(plan.start_snapshot.to_dict()))}")
    for step in plan.steps:
        if step.outcome != "skipped":
            _rung(step, plan)
    if not plan.met:
        return
    if plan.splits:
        st.markdown(f"Of the ways to use the cards, the fastest: {markdown(split_words(plan))}.")
    _line(plan.inputs)
    st.button("Apply this plan", key="apply", type="primary", on_click=session.apply_plan, args=(plan,))


def _line(inputs: Inputs) -> None:
    """The command, and what must be there before it can be given."""
    st.code(uploads.as_path(inputs.serve_command), language="sh", wrap_lines=True)
    if inputs.what_if_quantization:
        made = markdown(inputs.what_if_quantization)
        st.caption(f"With a checkpoint of this model in {made} in its place, which has to be made first.")


def _rung(step: Step, plan: Plan) -> None:
    """What became of it, and a button where it is one of several that a plan keeps."""
    after = snapshot_words(step.after.to_dict())
    left, right = st.columns((4, 1), vertical_alignment="center")
    left.markdown(
        f"**{markdown(step.summary)}**: {markdown(step.outcome)}, {markdown(step.why)}. After: {markdown(after)}"
    )
    left.caption(f"quality cost: {markdown(step.quality_cost)}")
    kept = [change.summary for change in plan.changes]
    if plan.met and len(kept) > 1 and step.summary in kept:
        number = kept.index(step.summary)
        change = plan.changes[number]
        label, key = "Apply this rung", f"apply-{number}"
        right.button(label, key=key, on_click=session.apply_change, args=(change, plan), width="stretch")


def _details(solved: Solved) -> None:
    now = solved.now
    with st.expander("Numbers, and how sure each is"):
        memory = memory_of(now)
        if memory is not None:
            st.table([{"part": part.name, "GiB": part.gib, "basis": part.basis} for part in memory.segments])
            if memory.kv_range is not None:
                low, high = memory.kv_range
                st.caption(f"KV cache: a launch is expected to land between {gib(low)} and {gib(high)} GiB.")
        st.table([{"KV cache": name, "value": markdown(value)} for name, value in kv_facts(now)])
        for term, what in now["assumed"].items():
            st.markdown(f"assumed for {markdown(term)}: {markdown(what)}")
        for warning in now["warnings"]:
            st.warning(markdown(warning))
        st.caption("exact: follows from the config and vLLM's rules. fitted: on measured launches. assumed: no more.")


def _reports(state: State) -> None:
    st.subheader("Report of the plan", anchor=False)
    forms = [*FORMS, *(["pdf"] if chromium() else [])]
    with st.container(horizontal=True):
        for form in forms:
            st.download_button(
                form.upper(),
                partial(_report, state, form),  # made when it is clicked
                file_name=f"fit.{form}",
                mime=_MIME[form],
                key=f"download-{form}",
                on_click="ignore",
            )


def _report(state: State, form: str) -> str | bytes:
    """What `vllm-fit report` writes for this plan."""
    made, plan = datetime.date.today(), plan_file(state)
    return pdf_of(render(plan, "html", made)) if form == "pdf" else render(plan, cast(Form, form), made)


if found := session.solved():
    page(found)
