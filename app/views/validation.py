"""Validate: launch the plan on a real engine of this machine, measured beside predicted, and what was run before."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import session
from app.jobs import Job, Jobs
from app.solve import Solved
from planner.engine.launch import Device, platform_supports_engine
from planner.errors import InputError
from reports.render import markdown

_EVERY = 1.0
"""Seconds between two looks at a running job."""


@st.cache_resource
def _jobs() -> Jobs:
    return Jobs()


def page(solved: Solved | None) -> None:
    device: Device = "cuda" if platform_supports_engine("cuda") else "cpu"
    support = platform_supports_engine(device)
    if not support:
        st.error(markdown(f"No engine can be launched here: {support.reason}"))
    elif solved is None:
        st.info("These inputs make no sense yet, so there is nothing to launch.")
    else:
        _start(solved, device)
    _progress()


def _start(solved: Solved, device: Device) -> None:
    where = "on this machine's GPUs" if device == "cuda" else "on this machine's CPU, with vLLM's CPU engine"
    st.markdown(
        f"Launches **{markdown(solved.inputs.model.name)}** with these flags {where}, loads it for a moment, and puts "
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
        _jobs().start(solved.inputs.model.name, solved.plan.to_dict(), ["--device", device])
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


def _result(result: dict[str, Any]) -> None:
    if result["agrees"]:
        st.success("Every prediction that claims to be exact was met.")
    else:
        st.error("A prediction that claims to be exact was not met.")
    st.table(
        [
            {
                "figure": markdown(f"{row['name']} ({row['unit']})"),
                "predicted": f"{row['predicted']:,}",
                "measured": f"{row['measured']:,}",
                "difference": "equal" if row["difference"] == 0 else f"{row['difference']:+,}",
                "claims to be": "exact" if row["exact"] else "fitted or assumed",
            }
            for row in result["comparisons"]
        ]
    )


page(session.solved())
