"""A page of the app in Streamlit's AppTest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from app import serve

MAIN = Path(serve.__file__).with_name("main.py")
VIEWS = ("answer", "what_if", "compare", "gpus", "commands", "log", "validation")


def opened(view: str = "answer", **query: Any) -> AppTest:
    """The page with this query in its URL."""
    app = AppTest.from_file(str(MAIN), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    checked(app.run())
    return app if view == "answer" else checked(app.switch_page(f"views/{view}.py").run())


def checked(app: AppTest) -> AppTest:
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    """What the coloured boxes say, without Markdown's backslashes."""
    boxes = (*app.success, *app.warning, *app.error, *app.info)
    return " ".join(box.value for box in boxes).replace("\\", "")


def query_of(app: AppTest) -> dict[str, Any]:
    """As `opened` takes it."""
    return {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in app.query_params.items()
    }
