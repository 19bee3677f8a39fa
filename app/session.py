"""The state in Streamlit's session and in the URL, and the ways to change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from app import uploads
from app.solve import Solved
from app.state import State
from planner.errors import InputError
from planner.planning.cards import cards_asked
from planner.planning.change import Change, request_of
from planner.planning.plan import Plan

MOST_KEPT = 3
"""For comparison, beside the inputs as entered."""
VIEW_KEYS = {"chart": "context", "form": "serve", "run": "", "prices": ""}
"""What a page shows, with its default: in the URL beside the inputs."""
UPLOAD = "config_upload"
"""The session's key of the uploaded config."""
_COMPARED = "vs"


def restore() -> str | None:
    """Takes the inputs from a URL that this session has not written; the sentence about one that makes no sense.

    That is the first run, and the browser's back button. A change of page comes without a query: the session stays.
    """
    query = st.query_params.to_dict()
    new = "model" not in st.session_state
    if not new and (not query or urlencode(query) == st.session_state.get("written")):
        return None
    problem = None
    try:
        state = State.read(query)
    except InputError as error:
        state, problem = State(), f"this link makes no sense: {error}"
    set_state(state)
    for key, default in VIEW_KEYS.items():
        st.session_state[key] = query.get(key, default) or None
    compared = st.query_params.get_all(_COMPARED)[:MOST_KEPT]
    st.session_state[_COMPARED] = [text for text in compared if text.isprintable()]
    return problem


def write_url(state: State) -> None:
    """Puts everything that a link must reopen into the URL."""
    views = {key: str(st.session_state.get(key) or default) for key, default in VIEW_KEYS.items()}
    query: dict[str, Any] = state.to_query()
    query |= {key: value for key, value in views.items() if value != VIEW_KEYS[key]}
    if compared():
        query[_COMPARED] = compared()
    st.query_params.from_dict(query)
    st.session_state["written"] = urlencode(st.query_params.to_dict())


def current() -> State:
    """The inputs as they stand; an uploaded file's path as the model. InputError where one makes no sense."""
    state = State.read(_values())
    if state.by != "upload":
        return state
    path = _uploaded()
    if path is None:
        raise InputError("upload a config.json: it is not part of a link")
    return state.with_(model=path)


def link_state() -> State:
    """What the URL holds: an uploaded file stays here."""
    return State.read(_values())


def set_state(state: State) -> None:
    """Puts every input of the page into the browser's session."""
    for key, value in state.to_dict().items():
        st.session_state[key] = value


def apply_request(request: dict[str, Any], engines: int = 1) -> None:
    """Sets the inputs to a launch's, with more cards where it needs them; an upload stays unless the launch is of
    another checkpoint.
    """
    now, entered = current(), link_state()
    state = now.with_request(request, engines).with_(cards=max(entered.cards, engines * cards_asked(request)))
    if state.by == "upload":
        same = state.model == now.model
        state = state.with_(model=entered.model) if same else state.with_(by="name")
    set_state(state)


def apply_plan(plan: Plan) -> None:
    """Makes a plan's launch the page's inputs."""
    apply_request(request_of(plan.inputs), plan.engines)


def apply_change(change: Change, plan: Plan) -> None:
    """Makes one rung's change to the plan's start the page's inputs."""
    apply_request(request_of(change.apply(plan.base)), plan.engines)


def solved() -> Solved | None:
    """What main.py has worked out in this run; None where the inputs make no sense."""
    found: Solved | None = st.session_state.get("solved")
    return found


def _uploaded() -> str | None:
    file = st.session_state.get(UPLOAD)
    return uploads.keep(file.name, file.getvalue()) if file is not None else None


def _values() -> dict[str, Any]:
    return {str(key): value for key, value in st.session_state.items()}


# -- plans to compare ----------------------------------------------------------------------------------------------


def compared() -> Sequence[str]:
    """The states kept for comparison, as query strings."""
    kept: list[str] = st.session_state.get(_COMPARED, [])
    return kept


def compare(state: State) -> None:
    """Adds the inputs to those compared; nothing happens where they are there or the list is full."""
    text = urlencode(state.to_query())
    if text not in compared() and len(compared()) < MOST_KEPT:
        st.session_state[_COMPARED] = [*compared(), text]


def forget(text: str) -> None:
    """Takes inputs from those compared."""
    st.session_state[_COMPARED] = [other for other in compared() if other != text]


def state_of(text: str) -> State:
    """InputError where the text is no state."""
    return State.read(dict(parse_qsl(text, keep_blank_values=True)))
