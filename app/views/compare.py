"""Compare: two to four plans side by side, with what differs marked."""

from __future__ import annotations

import streamlit as st

from app import charts, session
from app.solve import Solved, solve
from planner.errors import InputError
from reports.compare import compared_rows
from reports.memory import memories_of
from reports.render import markdown


def page(solved: Solved) -> None:
    """The inputs kept for comparison beside those entered."""
    _keep()
    columns: list[tuple[str, Solved]] = []
    for number, text in enumerate(session.compared(), 1):
        try:
            with st.spinner("Working it out …"):
                columns.append((f"plan {number}", solve(session.state_of(text))))
        except InputError as error:
            st.error(markdown(f"plan {number}: {error}"))
    shown = [*columns, ("as entered", solved)]
    rows = compared_rows([(name, one.now, one.speed, one.serve_now) for name, one in shown])
    names = [name for name, _ in shown]
    only = st.toggle("Only what differs", key="only_differences", persist_state="session")
    st.table(
        [
            {"": markdown(row.name), **dict(zip(names, map(_cell, row.values, row.odd), strict=True))}
            for row in rows
            if row.differs or not only
        ]
    )
    st.caption("**Bold** differs from the first column.")
    bars = [(name, memories_of(one.now)) for name, one in shown]
    memories = [memory.renamed(f"{name}, {memory.label}") for name, all_of in bars for memory in all_of]
    if memories:
        st.plotly_chart(charts.memory_bar(memories), key="memories", config=charts.CONFIG)


def _cell(value: str, odd: bool) -> str:
    return f"**{markdown(value)}**" if odd and value else markdown(value)


def _keep() -> None:
    state, kept = session.link_state(), session.compared()
    if state.by == "upload":
        st.info("An uploaded model is not part of a link, so it can be compared here but not kept.")
    elif len(kept) < session.MOST_KEPT:
        st.button("Keep these inputs to compare", key="keep", type="primary", on_click=session.compare, args=(state,))
    else:
        st.caption(f"{session.MOST_KEPT + 1} side by side are the most.")
    if not kept:
        st.caption("Keep the inputs as they are, change them, and see both side by side.")
    for number, text in enumerate(kept, 1):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"plan {number}: {markdown(_title(text))}")
            st.button("Take over", key=f"take-{number}", on_click=_take, args=(text,))
            st.button("Forget", key=f"forget-{number}", on_click=session.forget, args=(text,))


def _title(text: str) -> str:
    try:
        state = session.state_of(text)
    except InputError:
        return "makes no sense"
    return f"{state.model} on {state.cards} x {state.gpu}"


def _take(text: str) -> None:
    session.set_state(session.state_of(text))


if found := session.solved():
    page(found)
