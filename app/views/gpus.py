"""GPUs: which cards would do for this model and load, how many of each, and at what cost."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from app import session
from app.solve import Solved, cards_for
from app.uploads import decoded
from planner.errors import InputError
from planner.planning.change import request_of
from planner.planning.prices import parse_prices
from planner.planning.recommend import Recommendation, rank
from planner.text import printable
from reports.render import markdown
from reports.view import goal_words

_FIRST = 12
_LONGEST = 4000
"""Characters of prices: they are part of the link."""


def page(solved: Solved) -> None:
    """Which cards would do, and how many."""
    st.markdown(
        f"Cards that hold {markdown(goal_words(solved.goal.to_dict()))} of **{markdown(solved.name)}**, "
        "the fewest of each. The card and count at the side are ignored."
    )
    prices = _prices()
    bar = st.progress(0.0, "Trying every card …")
    found = cards_for(solved.state, lambda share, name: bar.progress(share, markdown(f"Trying {name} …")))
    bar.empty()
    if not found:
        st.error("No card of the catalogue will do, up to sixteen of them.")
        return
    free_only = st.toggle("Only without a cost in quality", key="free_only", persist_state="session")
    ranked = sorted((one.at(prices) for one in found), key=rank)
    shown = [one for one in ranked if not free_only or one.plan.cost == 0]
    st.caption("Cheapest first; cards without a price last." if prices else "Least memory of all cards together first.")
    for number, one in enumerate(shown[:_FIRST]):
        _card(number, one)
    if len(shown) > _FIRST:
        with st.expander(f"{len(shown) - _FIRST} more"):
            for number, one in enumerate(shown[_FIRST:], _FIRST):
                _card(number, one)


def _prices() -> dict[str, float]:
    """Of one card for an hour, as entered; none where that makes no sense, with the sentence why."""
    with st.expander("Prices", expanded=bool(st.session_state.get("prices"))):
        st.file_uploader(
            "A file: CSV, JSON or YAML", ["csv", "json", "yaml", "yml"], key="price_file", on_change=_take_file
        )
        st.text_area(
            "A card and its price for an hour on each line",
            key="prices",
            max_chars=_LONGEST,
            placeholder="H100, 2.50\nL40S, 0.90",
            persist_state="session",
        )
        problem = st.session_state.pop("price_problem", None)
        try:
            if problem is None:
                return parse_prices(_short_enough(st.session_state.get("prices") or "", "prices"), ".csv", "prices")
        except InputError as error:
            problem = str(error)
        st.error(markdown(problem))
        return {}


def _take_file() -> None:
    """The prices of an uploaded file become the text, which is part of the link."""
    file = st.session_state.get("price_file")
    if file is None:
        return
    try:
        name = printable(file.name, 60)
        found = parse_prices(decoded(name, file.getvalue()), PurePath(file.name).suffix, name)
        text = "\n".join(f"{card}, {price:g}" for card, price in found.items())
        st.session_state["prices"] = _short_enough(text, name)
    except InputError as error:
        st.session_state["price_problem"] = str(error)


def _short_enough(text: str, where: str) -> str:
    if len(text) > _LONGEST:
        raise InputError(f"{where}: more than the {_LONGEST:,} characters that a link holds")
    return text


def _card(number: int, one: Recommendation) -> None:
    with st.container(border=True):
        words, button = st.columns((6, 1), vertical_alignment="center")
        words.markdown(
            f"**{one.gpus} x {markdown(one.gpu.name)}** ({markdown(one.to_dict()['split'])}): {_figures(one)}  \n"
            + markdown("; ".join(change.summary for change in one.plan.changes) or "as it is")
        )
        button.button("Use it", key=f"use-{number}", on_click=_use, args=(one,), width="stretch")


def _figures(one: Recommendation) -> str:
    facts = one.to_dict()
    figures = (
        ("{:,.2f} an hour", facts["price_per_hour"]),
        ("{:,.2f} per million output tokens", facts["price_per_million_output_tokens"]),
        ("{:,.2f} requests at once", facts["concurrency"]),
        ("{:,.0f} output tokens/s", facts["output_tokens_per_s"]),
    )
    return ", ".join(words.format(value) for words, value in figures if value is not None) or "fits"


def _use(one: Recommendation) -> None:
    session.apply_request(request_of(one.plan.inputs), one.plan.engines)
    st.session_state["cards"] = one.gpus


if found := session.solved():
    page(found)
