"""The app in a real headless Chromium: Debian's own, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "build" / "screenshots"
"""Made by a test run, to be looked at; not kept by git."""
WIDTHS = {"wide": 1280, "phone": 390}
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TALLEST = 6000


def chromium() -> str:
    """Where it is; skips the test where it is not."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here; on Debian and Ubuntu: apt-get install chromium")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        # Without a sandbox, since tests may run as root in a container; only this machine's own pages are opened.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@contextmanager
def server(home: Path) -> Iterator[str]:
    """`vllm-fit ui` as the person with this home starts it; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "planner.cli", "ui", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/_stcore/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def environment(home: Path) -> dict[str, str]:
    """Without what belongs to the person who runs the tests: history, caches, settings, the Hub's cache and token."""
    theirs = ("XDG_", "HF_", "HUGGING_FACE_", "STREAMLIT_", "VLLM_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return {**kept, "HOME": str(home), "HF_HUB_OFFLINE": "1"}


def _wait(health: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def settled(page: Page) -> Page:
    """Once the script has run and what it sent is drawn. An error in the page fails the test."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=60_000)
    page.wait_for_function("() => !document.querySelector('[data-testid=stSkeleton]')", timeout=60_000)
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(c => c.querySelector('.main-svg'))"
    )
    assert page.locator("[data-testid=stException]").count() == 0
    return page


def photograph(page: Page, name: str) -> None:
    """A page that is no app's, whole."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def screenshot(page: Page, name: str) -> None:
    """The whole page of the app, not only what is in view."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    width = page.viewport_size["width"] if page.viewport_size else WIDTHS["wide"]
    page.set_viewport_size({"width": width, "height": still(settled(page))})
    still(settled(page))  # charts are drawn again at the new size
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    page.set_viewport_size({"width": width, "height": 800})


_MOVING = "h1, h2, h3, svg, table, button, [data-testid=stAlert], [data-testid=stMarkdown]"
_SAME_AS_BEFORE = """selector => {
    const boxes = [...document.querySelectorAll(selector)].map(element => element.getBoundingClientRect());
    const now = boxes.map(box => [box.x, box.y, box.width, box.height].join()).join(";");
    const same = window.seenBefore === now;
    window.seenBefore = now;
    return same;
}"""
_HEIGHT = "(document.querySelector('[data-testid=stMain]') ?? document.body).scrollHeight"


def still(page: Page) -> int:
    """The height of the whole page, once nothing in it moves: everything is where it was a moment before."""
    page.evaluate("window.seenBefore = null")
    page.wait_for_function(_SAME_AS_BEFORE, arg=_MOVING, polling=200, timeout=60_000)
    height: int = page.evaluate(_HEIGHT)
    return min(max(height + 20, 800), _TALLEST)
