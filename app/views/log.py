"""Check a log: why a launch failed and what fixes it, and each printed figure beside the predicted one."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app import session, uploads
from planner import logs
from planner.errors import InputError
from planner.logs.report import difference_words, figure_words, headline
from planner.logs.text import decode
from reports.render import markdown

_LONGEST = 2_000_000
"""Characters pasted; a longer log can be uploaded."""
_FROM = {"nothing": "nothing", "card": "the card", "all": "everything"}


def page() -> None:
    """A start-up log, explained."""
    st.markdown("Paste what `vllm serve` or the container printed, or upload it. It stays on this machine.")
    st.text_area("Log", key="log", height=200, max_chars=_LONGEST, persist_state="session", placeholder="INFO 11-20 …")
    file = st.file_uploader("… or a file", type=["log", "txt", "json", "out"], key="log_file")
    if st.session_state.get("log_from") not in _FROM:
        st.session_state["log_from"] = "nothing"
    st.segmented_control(
        "Take from the inputs at the side, over what the log says",
        list(_FROM),
        format_func=_FROM.__getitem__,
        key="log_from",
        required=True,
        persist_state="session",
    )
    text = decode(file.getvalue()) if file is not None else st.session_state.get("log") or ""
    if not text.strip():
        st.caption("The log itself is not part of the link.")
        return
    try:
        with st.spinner("Reading …"):
            found = logs.explain(text, overrides=_overrides(str(st.session_state["log_from"])))
    except InputError as error:
        st.error(markdown(str(error)))
        return
    _explanation(found)
    st.download_button(
        "Download as text", logs.explanation_text(found), file_name="explained.txt", key="log_text", on_click="ignore"
    )


def _overrides(wanted: str) -> dict[str, Any]:
    if wanted == "nothing":
        return {}
    request = session.current().to_request()
    return {"gpu": request["gpu"]} if wanted == "card" else request


def _explanation(found: logs.Explanation) -> None:
    show = {"started": st.success, "failed": st.error, "unknown": st.info}[found.outcome.word]
    show(f"**{markdown(headline(found))}**")
    diagnosis = found.diagnosis
    if diagnosis is not None:
        st.subheader("Why", anchor=False)
        st.markdown(markdown(diagnosis.cause))
        if diagnosis.sentence:
            st.code(diagnosis.sentence, language=None, wrap_lines=True)
        st.markdown(f"**What to do:** {markdown(diagnosis.fix)}")
    if found.foreseen is not None and found.outcome.word == "failed":
        st.caption(f"vllm-fit predicts {'this' if found.foreseen else 'that it would start'}.")
    if found.remedies:
        st.subheader("Any one of these would do", anchor=False)
    for remedy in found.remedies:
        st.code(uploads.as_path(remedy.command), language="sh", wrap_lines=True)
        held = f": {remedy.tokens:,} tokens of KV cache, {remedy.max_concurrency:.2f}x" if remedy.tokens else ""
        st.caption(markdown(f"{remedy.effect}{held}"))
    if found.comparisons:
        st.subheader("Printed beside predicted", anchor=False)
        st.table([_row(row) for row in found.comparisons])
    for note in found.asked.notes:
        st.caption(markdown(note))
    if found.not_predicted:
        st.warning(markdown(f"no prediction: {found.not_predicted}"))
        st.caption("What the log does not say can be taken from the inputs at the side: see above.")
    elif found.inputs is not None:
        request = dict(found.asked.request)
        st.button(
            "Take this launch over into the inputs", key="take_log", on_click=session.apply_request, args=(request,)
        )


def _row(row: Any) -> dict[str, str]:
    unit = f" ({row.unit})" if row.unit and row.unit != "x" else ""
    return {
        "figure": markdown(row.name + unit),
        "printed": markdown(figure_words(row.printed, row.unit)),
        "predicted": markdown(figure_words(row.predicted, row.unit)),
        "difference": markdown(difference_words(row)),
        "basis": markdown(row.basis if row.predicted is not None and row.basis else ""),
    }


page()
