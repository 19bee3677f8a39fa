"""GPUs: which cards would do for this model and load, and how many of each."""

from __future__ import annotations

import streamlit as st

from app import session
from app.solve import Solved, cards_for
from planner.planning.change import request_of
from planner.planning.recommend import Recommendation
from reports.render import markdown
from reports.view import goal_words

_FIRST = 12


def page(solved: Solved) -> None:
    """Which cards would do, and how many."""
    st.markdown(
        f"Cards that hold {markdown(goal_words(solved.goal.to_dict()))} of **{markdown(solved.inputs.model.name)}**, "
        "the fewest of each, smallest first. The card and count at the side are ignored."
    )
    bar = st.progress(0.0, "Trying every card …")
    found = cards_for(solved.state, lambda share, name: bar.progress(share, markdown(f"Trying {name} …")))
    bar.empty()
    if not found:
        st.error("No card of the catalogue will do, up to eight of them.")
        return
    free_only = st.toggle("Only without a cost in quality", key="free_only", persist_state="session")
    shown = [one for one in found if not free_only or one.plan.cost == 0]
    for number, one in enumerate(shown[:_FIRST]):
        _card(number, one)
    if len(shown) > _FIRST:
        with st.expander(f"{len(shown) - _FIRST} more"):
            for number, one in enumerate(shown[_FIRST:], _FIRST):
                _card(number, one)


def _card(number: int, one: Recommendation) -> None:
    facts = one.to_dict()
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        rate = f", {facts['output_tokens_per_s']:,.0f} output tokens/s" if facts["output_tokens_per_s"] else ""
        held = f"{facts['concurrency']:,.2f} requests at once" if facts["concurrency"] is not None else "fits"
        st.markdown(
            f"**{one.gpus} x {markdown(one.gpu.name)}** ({markdown(facts['split'])}): {held}{rate}  \n"
            + markdown("; ".join(facts["changes"]) or "as it is")
        )
        st.button("Use it", key=f"use-{number}", on_click=_use, args=(one,))


def _use(one: Recommendation) -> None:
    session.apply_request(request_of(one.plan.inputs), one.plan.engines)
    st.session_state["cards"] = one.gpus


if found := session.solved():
    page(found)
