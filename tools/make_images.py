"""Makes docs/images again: the app and a report, of the README's own example. `python -m tools.make_images`"""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import urlencode

from app.solve import plan_file
from app.state import State
from reports import render
from tests import browser as chromium

IMAGES = Path(__file__).parents[1] / "docs" / "images"
EXAMPLE = {
    "model": "meta-llama/Llama-3.1-70B-Instruct",
    "gpu": "L40S",
    "cards": "4",
    "max_model_len": "8192",
    "concurrency": "12",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home, chromium.browser() as browser, chromium.server(Path(home)) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 1040})
        page.goto(f"{address}/?{urlencode(EXAMPLE)}")
        chromium.still(chromium.settled(page))
        page.screenshot(path=IMAGES / "app.png")
        report = Path(home) / "fit.html"
        report.write_text(render(plan_file(State.read(EXAMPLE)), "html"), encoding="utf-8")
        page.set_viewport_size({"width": 860, "height": 900})
        page.goto(report.as_uri())
        page.screenshot(path=IMAGES / "report.png")


if __name__ == "__main__":
    main()
