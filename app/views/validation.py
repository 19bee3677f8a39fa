"""Validate: launch the plan on a real engine of this machine, measured beside predicted, and what was run before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app import session
from app.jobs import Job, Jobs
from app.solve import Solved
from planner.engine.launch import Device, platform_supports_engine
from planner.errors import InputError
from planner.validate.record import Record
from planner.validate.store import Store, summary
from planner.validate.text import record_text
from reports.render import markdown
from reports.tables import difference_words

_KEPT = 200
"""Of the history that are shown."""
_EVERY = 1.0
"""Seconds between two looks at a running job."""


@st.cache_resource
def _jobs() -> Jobs:
    return Jobs()


def page(solved: Solved | None) -> None:
    """A launch of a real engine on this machine, and those that were made before."""
    device: Device = "cuda" if platform_supports_engine("cuda") else "cpu"
    support = platform_supports_engine(device)
    if not support:
        st.error(markdown(f"No engine can be launched here: {support.reason}"))
    elif solved is None:
        st.info("These inputs make no sense yet, so there is nothing to launch.")
    else:
        _start(solved, device)
    _progress()
    _history()


def _start(solved: Solved, device: Device) -> None:
    where = "on this machine's GPUs" if device == "cuda" else "on this machine's CPU, with vLLM's CPU engine"
    st.markdown(
        f"Launches **{markdown(solved.name)}** with these flags {where}, loads it for a moment, and puts "
        "what the engine says beside the prediction. Weights are dummies of the right size where none are here."
    )
    newest = _jobs().newest
    running = newest is not None and newest.running
    st.button("Start", key="validate", type="primary", on_click=_launch, args=(solved, device), disabled=running)
    problem = st.session_state.pop("job_problem", None)
    if problem:
        st.error(markdown(problem))


def _launch(solved: Solved, device: Device) -> None:
    try:
        _jobs().start(solved.name, solved.plan.to_dict(), ["--device", device, "--rounds", "1"])
    except InputError as error:
        st.session_state["job_problem"] = str(error)


def _progress() -> None:
    job = _jobs().newest
    if job is None:
        return
    st.subheader(markdown(job.title), anchor=False)
    if job.running:
        _watch(job)
        st.button("Stop", key="stop", on_click=job.cancel)
        return
    result = job.result
    if result is None:
        st.error(markdown(job.lines[-1] if job.lines else "the engine ended without a word"))
    else:
        _result(result)


@st.fragment(run_every=_EVERY)
def _watch(job: Job) -> None:
    """What the child says, until it ends: then the whole page is drawn once more."""
    if not job.running:
        st.rerun()
    with st.status(markdown(job.lines[-1] if job.lines else "starting"), expanded=True):
        for line in job.lines[-8:]:
            st.caption(markdown(line))


def _result(record: Record) -> None:
    """Measured beside predicted, and what the load was."""
    if record["agrees"]:
        st.success("Every prediction that claims to be exact was met.")
    elif record["status"] == "measured":
        st.error("A prediction that claims to be exact was not met.")
    else:
        st.error(markdown(f"{record['status']}: {(record['error'] or {}).get('message') or 'no more is known'}"))
    if record["comparisons"]:
        st.table(
            [
                {
                    "figure": markdown(f"{row['name']} ({row['unit']})"),
                    "predicted": f"{row['predicted']:,}",
                    "measured": f"{row['measured']:,}",
                    "difference": difference_words(row["difference"]),
                    "claims to be": "exact" if row["exact"] else "fitted or assumed",
                }
                for row in record["comparisons"]
            ]
        )
    with st.expander("In full"):
        st.code(record_text(record), language=None)


def _history() -> None:
    """Every validation of this machine, the newest first."""
    st.subheader("History", anchor=False)
    damaged: list[InputError] = []
    try:
        runs = Store(create=False).runs(last=_KEPT, on_damage=damaged.append)[::-1]
    except InputError as error:
        st.error(markdown(str(error)))
        return
    for run in damaged:
        st.error(markdown(str(run)))
    if not runs:
        if not damaged:
            st.caption("No validation was run on this machine yet.")
        return
    st.dataframe([_line(summary(run)) for run in runs], hide_index=True)
    known = {str(run["id"]): run for run in runs}
    if st.session_state.get("run") not in known:
        st.session_state["run"] = None
    st.selectbox(
        "Show run",
        list(known),
        key="run",
        index=None,
        placeholder="none",
        format_func=lambda run: f"{run}: {known[run]['label']}",
        persist_state="session",
    )
    chosen = st.session_state["run"]
    if chosen:
        _result(known[chosen])


def _line(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in facts.items()}


page(session.solved())
