"""Commands: the plan as what people deploy, to copy or download."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from app import session, uploads
from app.solve import Solved
from planner.errors import InputError
from planner.planning.outputs import launch_of, write
from reports.render import markdown

_FORMS = {
    "serve": ("vllm serve", "sh", "serve.sh"),
    "yaml": ("YAML for --config", "yaml", "vllm.yaml"),
    "compose": ("Docker compose", "yaml", "compose.yaml"),
    "kubernetes": ("Kubernetes", "yaml", "kubernetes.yaml"),
    "python": ("Python", "python", "launch.py"),
}
"""Of planner.planning.outputs.FORMS: title, language, file name."""


def page(solved: Solved) -> None:
    """The launch in each form that it can be started in."""
    plan = solved.plan
    if not plan.met:
        st.error(markdown(f"There is nothing to launch: {plan.binding.message if plan.binding else 'no plan'}"))
        return
    if not solved.met:
        st.info("The inputs as they are do not reach the goal; this is the plan that does.")
    if st.session_state.get("form") not in _FORMS:
        st.session_state["form"] = "serve"
    st.segmented_control("Form", list(_FORMS), format_func=lambda key: _FORMS[key][0], key="form", required=True)
    form = str(st.session_state["form"])
    _, language, file = _FORMS[form]
    try:
        launch = launch_of(plan.inputs, plan.engines, plan.goal.gpus_per_node)
        text = uploads.as_path(write(replace(launch, model=uploads.as_path(launch.model)), form))
    except InputError as error:
        st.error(markdown(str(error)))
        return
    st.code(text, language=language, wrap_lines=form == "serve")
    st.download_button("Download", text, file_name=file, mime="text/plain", key="download", on_click="ignore")


if found := session.solved():
    page(found)
