"""The app end to end, in a real headless Chromium."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas
import pytest
from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as TooLate
from pypdf import PdfReader

import hf_configs
from app.solve import plan_file
from app.state import State
from planner.engine.launch import LaunchError
from planner.validate.record import begun, with_error, with_measurement
from planner.validate.store import Store
from reports import render
from tests import browser as chromium
from tests.browser import WIDTHS, screenshot, settled
from tests.validate_case import measured, trial

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

TIGHT = {"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "L40S", "cards": 2, "concurrency": 4}
"""Fits after three rungs."""
ROOMY = {"model": "Qwen/Qwen3-32B", "gpu": "H100", "cards": 4, "concurrency": 16, "input_len": 2000, "output_len": 500}
LIMITS = {**ROOMY, "ttft_ms": 800, "tpot_ms": 30}
LOG = (Path(__file__).parent / "logs" / "v0.29.0_no_cache_blocks.log").read_text(encoding="utf-8")
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "answer-fits": ("", LIMITS),
    "answer-does-not-fit": ("", TIGHT),
    "answer-stages": ("", {**ROOMY, "pipeline_parallel_size": 2, "tensor_parallel_size": 2}),
    "answer-outside-budget": ("", {**ROOMY, "vllm_version": "0.10.0"}),
    "answer-nonsense": ("", {"model": "no such model"}),
    "what-if-context": ("what-if", {"model": "Qwen/Qwen3-32B", "gpu": "H100"}),
    "what-if-quantization": ("what-if", {"model": "Qwen/Qwen3-32B", "gpu": "H100", "chart": "quantization"}),
    "what-if-cards": ("what-if", {"model": "Qwen/Qwen3-32B", "gpu": "H100", "chart": "cards"}),
    "what-if-length": ("what-if", {**ROOMY, "chart": "length"}),
    "what-if-speed": ("what-if", {**LIMITS, "chart": "speed"}),
    "what-if-ladder": ("what-if", {**TIGHT, "chart": "ladder"}),
    "what-if-alternatives": ("what-if", {**ROOMY, "chart": "alternatives"}),
    "what-if-ways": ("what-if", {**ROOMY, "cards": 8, "concurrency": 64, "chart": "ways"}),
    "compare": ("compare", {**ROOMY, "vs": [urlencode({**ROOMY, "kv_cache_dtype": "fp8"}), urlencode(TIGHT)]}),
    "gpus": ("gpus", {"model": "Qwen/Qwen3-8B"}),
    "commands": ("commands", {**ROOMY, "form": "kubernetes"}),
    "gpus-prices": ("gpus", {**ROOMY, "prices": "H100, 2.5\nL40S, 0.9\nA100 80GB SXM, 1.6\nB200, 4.2"}),
    "validate": ("validate", {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "run": "1"}),
}


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with chromium.browser() as one:
        yield one


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a person who has run two validations: one that agreed and one that failed."""
    home = tmp_path_factory.mktemp("home")
    history = Store(home / ".local" / "share" / "vllm-fit" / "history.sqlite")
    one, other = trial("SmolLM2-135M", max_model_len=1024), trial("SmolLM2-135M, all its context")
    history.add(with_measurement(begun(one), one, measured(one.estimate, trial=one), complete=True))
    history.add(with_error(begun(other), other, LaunchError("the engine ended with code 1", log=LOG)))
    return home


@pytest.fixture(scope="module")
def address(started: Browser, home: Path) -> Iterator[str]:
    with chromium.server(home) as url:
        yield url


@pytest.fixture
def page(started: Browser) -> Iterator[Page]:
    """A page that talks to this machine only."""
    context = started.new_context(viewport={"width": WIDTHS["wide"], "height": 800}, accept_downloads=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert asked
    strangers = [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:"))]
    assert not strangers


def link(address: str, place: str, query: dict[str, Any]) -> str:
    return f"{address}/{place}?{urlencode(query, doseq=True)}"


def verdict(page: Page) -> str:
    return settled(page).locator("[data-testid=stAlert]").first.inner_text()


def test_choose_a_model_make_it_not_fit_apply_rungs_until_it_fits(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(link(address, "", {"model": "Qwen/Qwen3-0.6B", "gpu": "L40S"}))
    assert "Qwen/Qwen3-0.6B fits" in verdict(page)
    _search(page, "Name, Hub id or path", "Llama-3.1-70B-Instruct")
    assert "meta-llama/Llama-3.1-70B-Instruct does not fit" in verdict(page)
    page.get_by_label("Cards", exact=True).fill("2")
    page.get_by_label("Cards", exact=True).press("Enter")
    page.wait_for_url("**cards=2**")
    rungs = 0
    while "fits" not in verdict(page):
        rung = page.get_by_role("button", name="Apply this rung")
        before = page.url
        (rung.first if rung.count() else page.get_by_role("button", name="Apply this plan")).click()
        page.wait_for_function("before => location.href !== before", arg=before)
        rungs += 1
        assert rungs < 6
    assert rungs > 1
    told = verdict(page)
    page.goto("about:blank")
    page.go_back()
    page.reload()
    assert verdict(page) == told
    _reports(page, told, tmp_path)


def _search(page: Page, label: str, words: str) -> None:
    field = page.get_by_role("combobox", name=label)
    field.click()
    field.fill(words)
    page.get_by_role("option").filter(has_text=words).first.click()
    page.wait_for_url(f"**{words}**")


def _reports(page: Page, told: str, home: Path) -> None:
    """Each report is downloaded, opened by what opens such a file, and says what the page says."""
    files = {form: _downloaded(page, form, home) for form in ("HTML", "MD", "JSON", "CSV", "PDF")}
    plan = json.loads(files["JSON"].read_text())
    memory, tokens = plan["estimate"]["memory"], plan["estimate"]["kv_cache"]["tokens"]
    weights = memory["model_loading_bytes"]
    assert plan["met"]
    assert f"{tokens:,} tokens" in told

    assert f"{tokens:,} tokens" in files["MD"].read_text()
    assert f"| {weights:,} |" in files["MD"].read_text()
    table = pandas.read_csv(files["CSV"]).set_index(["section", "name"])["value"]
    assert int(table["kv_cache", "tokens"]) == tokens
    assert int(table["memory", "weights"]) == weights
    pages = PdfReader(files["PDF"]).pages
    assert {(round(one.mediabox.width), round(one.mediabox.height)) for one in pages} == {(595, 842)}  # A4
    text = " ".join(" ".join(one.extract_text() for one in pages).split())
    assert f"{tokens:,} tokens" in text
    assert f"{weights:,}" in text

    assert _vllm_fit("commands", files["JSON"], "--format", "serve", home=home).strip().endswith(plan["serve"])
    _vllm_fit("report", files["JSON"], "-o", home / "again.html", home=home)
    assert (home / "again.html").read_text() == files["HTML"].read_text()
    page.goto(files["HTML"].as_uri())
    assert f"{tokens:,} tokens" in page.locator("#verdict").inner_text()
    assert page.locator("#serve").inner_text() == plan["serve"]
    assert f"{weights:,}" in page.locator("#memory").inner_text()
    assert page.locator("svg[role=img] rect.part").count() > 3


def _downloaded(page: Page, form: str, folder: Path) -> Path:
    with page.expect_download(timeout=60_000) as download:
        page.get_by_role("button", name=form, exact=True).click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def _vllm_fit(*words: object, home: Path) -> str:
    command = [sys.executable, "-m", "planner.cli", *map(str, words)]
    return subprocess.run(command, env=chromium.environment(home), capture_output=True, text=True, check=True).stdout


def test_a_click_on_a_cell_and_on_an_alternative_takes_it_over(page: Page, address: str) -> None:
    page.goto(link(address, "what-if", {"model": "Qwen/Qwen3-32B", "gpu": "H100"}))
    chart = settled(page).locator("[data-testid=stPlotlyChart]")
    chart.locator(".scatterlayer .textpoint text").first.click(force=True)
    page.wait_for_url("**max_model_len=1024**")
    assert "tensor_parallel_size=8" in page.url
    assert "cards=8" in page.url
    page.goto(link(address, "what-if", {**ROOMY, "chart": "alternatives"}))
    page.locator(".scatterlayer .point").last.click(force=True)
    page.wait_for_url("**quantization**")
    assert "fits on" in settled(page).get_by_test_id("stMain").inner_text()


def test_the_pages_keep_the_inputs_and_the_back_button_works(page: Page, address: str) -> None:
    page.goto(link(address, "", {**ROOMY}))
    settled(page).get_by_role("link", name="Commands").click()
    page.wait_for_url("**/commands?**cards=4**")
    assert "Qwen/Qwen3-32B" in settled(page).locator("[data-testid=stCode]").inner_text()
    page.get_by_text("Kubernetes", exact=True).click()
    page.wait_for_url("**form=kubernetes**")
    with page.expect_download() as download:
        settled(page).get_by_role("button", name="Download").click()
    assert "nvidia.com/gpu" in Path(download.value.path()).read_text()
    page.go_back()
    page.get_by_test_id("stCode").filter(has_text="vllm serve Qwen/Qwen3-32B").wait_for()
    answer = page.get_by_test_id("stAlert").filter(has_text="fits")
    for _ in range(3):  # Streamlit may have put a page and its query into the history one after the other
        settled(page).go_back()
        with suppress(TooLate):
            answer.wait_for(timeout=15_000)
            break
    answer.wait_for()


def test_a_log_pasted_is_explained(page: Page, address: str) -> None:
    page.goto(link(address, "log", {"model": "Qwen/Qwen3-32B", "gpu": "H100"}))
    box = settled(page).get_by_role("textbox", name="Log", exact=True)
    box.fill(LOG)
    box.press("Control+Enter")
    page.get_by_text("What to do").wait_for()
    assert "failed" in verdict(page)
    screenshot(page, "log-wide-light")


def test_a_phone_can_change_the_inputs(page: Page, address: str) -> None:
    page.set_viewport_size({"width": WIDTHS["phone"], "height": 800})
    page.goto(link(address, "", {"model": "Qwen/Qwen3-0.6B", "gpu": "A10"}))
    settled(page).get_by_test_id("stExpandSidebarButton").click()
    page.get_by_label("Users at once").fill("3")
    page.get_by_label("Users at once").press("Enter")
    page.wait_for_url("**concurrency=3**")
    screenshot(page, "inputs-phone-light")


def test_markup_in_a_link_is_text(page: Page, address: str) -> None:
    page.goto(link(address, "", {"model": "<img src=x onerror=alert(1)>", "gpu": "**A10**"}))
    assert "<img src=x" in verdict(page)
    assert page.locator("img[src=x]").count() == 0


def test_an_upload_is_refused_by_its_size_and_by_what_it_holds(page: Page, address: str, tmp_path: Path) -> None:
    large, wrong, right = (tmp_path / name for name in ("large.json", "wrong.json", "config.json"))
    with large.open("wb") as file:
        file.truncate(200 << 20)
    wrong.write_bytes(b"\x00\x1b[31m")
    right.write_bytes(hf_configs.path("Qwen/Qwen3-0.6B").read_bytes())
    page.goto(link(address, "", {"by": "upload", "gpu": "A10"}))
    chooser = settled(page).locator("[data-testid=stFileUploader] input[type=file]")
    chooser.set_input_files(large)
    page.get_by_text("must be 5.0MB or smaller").wait_for()
    chooser.set_input_files(wrong)
    page.get_by_test_id("stAlert").filter(has_text="wrong.json: not").wait_for()
    chooser.set_input_files(right)
    page.get_by_test_id("stAlert").filter(has_text="fits on 1 x NVIDIA A10").wait_for()
    settled(page)


@pytest.mark.parametrize("name", SHOTS)
def test_every_page_on_both_widths_light_and_dark(started: Browser, address: str, name: str) -> None:
    """Screenshots to look at; nothing is wider than the screen."""
    place, query = SHOTS[name]
    with started.new_context() as context:
        page = context.new_page()
        page.goto(link(address, place, query))
        for width, scheme in itertools.product(WIDTHS, ("light", "dark")):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": WIDTHS[width], "height": 800})
            screenshot(page, f"{name}-{width}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]


@pytest.mark.parametrize("plans", [1, 3])
def test_a_report_on_both_widths_light_and_dark(started: Browser, tmp_path: Path, plans: int) -> None:
    states = [
        State.read({**LIMITS, "vllm_version": "0.25.0"}),
        State.read(TIGHT),
        State.read({"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "T4"}),
    ]
    file = tmp_path / "fit.html"
    file.write_text(render([plan_file(state) for state in states[:plans]], "html"))
    with started.new_context() as context:
        page = context.new_page()
        page.goto(file.as_uri())
        for width, scheme in itertools.product(WIDTHS, ("light", "dark")):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.set_viewport_size({"width": WIDTHS[width], "height": 800})
            chromium.photograph(page, f"report-{plans}-{width}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]
