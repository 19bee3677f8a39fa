"""The what-if app: inputs at the side of every page, the pages on top. Run by `vllm-fit ui`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app import session, uploads
from app.inputs import sidebar
from app.solve import Solved, solve
from planner.errors import InputError
from reports.render import markdown

# A file of our own: an icon by name is fetched from another host.
ICON = Path(__file__).with_name("icon.svg")
# Script, title, place in the URL, icon.
PAGES = (
    ("views/answer.py", "Will it fit?", "", ":material/check_circle:"),
    ("views/what_if.py", "What if", "what-if", ":material/grid_on:"),
    ("views/compare.py", "Compare", "compare", ":material/compare_arrows:"),
    ("views/gpus.py", "GPUs", "gpus", ":material/memory:"),
    ("views/commands.py", "Commands", "commands", ":material/terminal:"),
    ("views/log.py", "Check a log", "log", ":material/description:"),
    ("views/validation.py", "Validate", "validate", ":material/verified:"),
)
# Pages with something to show even where the inputs make no sense.
WITHOUT_INPUTS = ("log", "validate")


def main() -> None:
    """One run of the script."""
    st.set_page_config(page_title="vllm-fit", page_icon=str(ICON), layout="wide")
    st.html("<style>.stMainBlockContainer { padding-top: 4rem; padding-bottom: 2rem; }</style>")
    page = st.navigation(
        [
            st.Page(path, title=title, icon=icon, url_path=place or None, default=not place)
            for path, title, place, icon in PAGES
        ],
        position="top",
    )
    problem = session.restore()
    found, wrong = _solve()
    sidebar(found.engine if found is not None else {})
    if problem or wrong:
        st.error(markdown(problem or wrong))
    if found is not None:
        session.write_url(session.link_state())
    if found is not None or page.url_path in WITHOUT_INPUTS:
        page.run()


def _solve() -> tuple[Solved | None, str | None]:
    """What the pages show, or the sentence about inputs that make no sense."""
    found = problem = None
    try:
        with st.spinner("Working it out …"):
            found = solve(session.current())
    except InputError as error:
        problem = uploads.named(str(error))
    st.session_state["solved"] = found
    return found, problem


main()
