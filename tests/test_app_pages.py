"""Every page of the app, driven by Streamlit's AppTest."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from streamlit.testing.v1 import AppTest

from app import heat, jobs
from app.solve import cards_for, context_curve, frontier, plan_file, solve, speed_curve, ways
from app.state import State
from planner.cli import main
from planner.planning.outputs import FORMS
from planner.request import answer
from planner.validate.record import begun, with_measurement
from planner.validate.store import Store
from reports import render
from reports.compare import compared_rows
from tests.app_page import checked, opened, query_of, said
from tests.validate_case import measured, trial

LOGS = Path(__file__).parent / "logs"
SMALL: dict[str, Any] = {"model": "Qwen/Qwen3-0.6B", "gpu": "A10"}
CHARTS = [*heat.KINDS, "length", "speed", "ladder", "alternatives", "ways"]


def tables(app: AppTest) -> list[Any]:
    return [table.value for table in app.table]


def texts(app: AppTest) -> str:
    return " ".join(element.value for element in (*app.markdown, *app.caption)).replace("\\", "")


# -- what if -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_drawn_and_in_the_link(chart: str) -> None:
    app = opened("what_if", **SMALL, cards="2", concurrency="8", chart=chart)
    assert query_of(app).get("chart", "context") == chart
    drawn = app.get("plotly_chart")
    assert len(drawn) == (0 if chart == "ways" or (chart == "ladder" and "No rung" in said(app)) else 1)


@pytest.mark.parametrize("chart", CHARTS)
def test_a_launch_that_vllm_refuses_is_a_sentence_on_every_chart(chart: str) -> None:
    app = opened("what_if", **SMALL, cards="7", tensor_parallel_size="7", chart=chart)
    assert "refused" in texts(app) + said(app)


@pytest.mark.parametrize("kind", heat.KINDS)
def test_a_cell_is_the_estimate_of_its_launch(kind: str) -> None:
    """What is shown is what `estimate` says of the request that a click takes over."""
    found = heat.heat(State(model="Qwen/Qwen3-32B", gpu="H100"), kind)
    assert {cell.fits for row in found.cells for cell in row} == {True, False}
    for row in found.cells:
        for cell in (row[0], row[-1]):
            told = answer(cell.request)
            assert told["status"] == cell.status
            if cell.fits:
                assert told["kv_cache"]["tokens"] == cell.tokens
                assert told["kv_cache"]["max_concurrency"] == pytest.approx(cell.max_concurrency, abs=0.01)


def test_a_cell_is_its_launch_as_inputs() -> None:
    found = heat.heat(State(**SMALL), "context")
    state = State(**SMALL).with_request(found.cells[1][2].request)
    assert state.max_model_len == found.x[2].replace(",", "")
    assert state.tensor_parallel_size == found.y[1]


def test_the_ladder_as_waterfall_names_every_rung() -> None:
    app = opened("what_if", model="Qwen/Qwen3-32B", gpu="H100", chart="ladder")
    plan = solve(State(model="Qwen/Qwen3-32B", gpu="H100")).plan
    assert [row["rung"].replace("\\", "") for row in tables(app)[0].to_dict("records")] == [
        step.summary for step in plan.steps
    ]
    checked(app.button(key="apply").click().run())
    assert query_of(app)["kv_cache_dtype"] == "fp8"


def test_the_best_way_to_use_the_cards_can_be_taken() -> None:
    state = State(model="Qwen/Qwen3-32B", gpu="H100", cards=8, concurrency=64, input_len="2000", output_len="500")
    assert len(ways(state)) > 2
    app = opened("what_if", **{**state.to_query(), "chart": "ways"})
    number = max(range(len(ways(state))), key=lambda index: ways(state)[index].engines)
    checked(app.button(key=f"way-{number}").click().run())
    assert int(query_of(app)["engines"]) == ways(state)[number].engines


# -- the other pages -----------------------------------------------------------------------------------------------


def test_two_plans_side_by_side_with_differences_marked() -> None:
    app = opened("compare", **SMALL)
    checked(app.button(key="keep").click().run())
    checked(app.selectbox(key="kv_cache_dtype").set_value("fp8").run())
    table = tables(app)[0].set_index("")
    assert list(table.columns) == ["plan 1", "as entered"]
    assert table.loc["KV cache dtype", "as entered"].startswith("**fp8")
    assert not table.loc["model", "as entered"].startswith("**")
    again = opened("compare", **query_of(app))
    assert tables(again)[0].equals(tables(app)[0])
    checked(again.button(key="take-1").click().run())
    assert "kv_cache_dtype" not in query_of(again)
    checked(again.button(key="forget-1").click().run())
    assert "vs" not in query_of(again)


def test_differences_are_against_the_first_column() -> None:
    one, other = (answer({**SMALL, "max_model_len": length}) for length in (1024, 2048))
    rows = {row.name: row for row in compared_rows([("a", one, None, "x"), ("b", other, None, "x")])}
    assert rows["Maximum concurrency"].odd == (False, True)
    assert not rows["command"].differs


def test_no_more_plans_are_kept_than_stand_side_by_side() -> None:
    app = opened("compare", **SMALL, vs=[urlencode({**SMALL, "cards": str(number)}) for number in range(1, 9)])
    assert len(tables(app)[0].columns) == 1 + 4
    assert "4 side by side are the most" in texts(app)


def test_a_launch_that_needs_more_cards_than_entered_brings_them() -> None:
    def page() -> None:
        from app import session

        session.restore()
        session.apply_request(
            {"model": "Qwen/Qwen3-0.6B", "gpu": "A10", "tensor_parallel_size": 4, "pipeline_parallel_size": 2}
        )

    app = checked(AppTest.from_function(page, default_timeout=60).run())
    assert app.session_state["cards"] == 8


def test_a_kept_plan_that_makes_no_sense_is_a_sentence() -> None:
    app = opened("compare", **SMALL, vs=[urlencode({"cards": "many"}), "model=\x00", urlencode({"gpu": "abacus"})])
    assert "whole number" in said(app)
    assert "unknown GPU" in said(app)


@pytest.mark.slow
def test_cards_that_would_do() -> None:
    app = opened("gpus", **SMALL, concurrency="8")
    assert "NVIDIA L4" in texts(app)
    checked(app.button(key="use-0").click().run())
    assert "fits" in said(checked(app.switch_page("views/answer.py").run()))


@pytest.mark.parametrize("form", FORMS)
def test_commands_in_every_form(form: str) -> None:
    app = opened("commands", model="Qwen/Qwen3-32B", gpu="H100", form=form)
    text = app.code[0].value
    assert "Qwen/Qwen3-32B" in text
    assert "fp8" in text
    if form in ("yaml", "compose", "kubernetes"):
        assert list(yaml.safe_load_all(text))
    if form == "python":
        compile(text, form, "exec")
    assert app.get("download_button")


def test_commands_of_no_plan_are_a_sentence() -> None:
    app = opened("commands", model="meta-llama/Llama-3.1-70B-Instruct", gpu="T4", max_model_len="131072")
    assert "nothing to launch" in said(app)


@pytest.mark.parametrize("name", ["v0.29.0_no_cache_blocks", "v0.33.0_started", "v0.16.0_gated"])
def test_a_log_is_explained(name: str) -> None:
    app = opened("log", model="Qwen/Qwen3-32B", gpu="H100")
    checked(app.text_area(key="log").set_value((LOGS / f"{name}.log").read_text()).run())
    if "which card it is" in said(app):
        checked(app.segmented_control(key="log_from").set_value("card").run())
    assert ("it started" in said(app)) == name.endswith("started")
    if "cache_blocks" in name:
        assert app.code
    checked(app.text_area(key="log").set_value("hello\x00 <script>").run())
    assert "no line of a vLLM start-up log" in said(app)


def test_the_launch_of_a_log_can_be_taken_over() -> None:
    app = opened("log", model="Qwen/Qwen3-0.6B", gpu="H100")
    checked(app.text_area(key="log").set_value((LOGS / "v0.33.0_started.log").read_text()).run())
    checked(app.segmented_control(key="log_from").set_value("card").run())
    checked(app.button(key="take_log").click().run())
    assert query_of(app)["model"] != SMALL["model"]


def test_pages_without_inputs_work_while_the_inputs_make_no_sense() -> None:
    assert opened("log", model="no such model").text_area(key="log")
    assert "nothing to launch" in said(opened("validation", model="no such model"))


def test_a_validation_runs_as_a_child() -> None:
    """The real command, on a plan that it cannot launch: what it says reaches the page's job."""
    every = jobs.Jobs()
    job = every.start("nothing", {"plan": 1}, ["--device", "cpu"])
    for thread in job.threads:
        thread.join(60)
    assert job.process.wait(60) == 2
    assert "it has no request" in job.lines[-1]
    assert job.result is None


def test_a_report_of_the_page_is_that_of_its_plan_file(tmp_path: Path) -> None:
    """The bytes that `vllm-fit report` makes of the downloaded plan."""
    state = State(model="Qwen/Qwen3-32B", gpu="H100", cards=2)
    plan = plan_file(state)
    assert plan["alternatives"]
    assert json.loads(render(plan, "json")) == json.loads(json.dumps(plan))
    file, output = tmp_path / "fit.json", tmp_path / "fit.html"
    file.write_text(render(plan, "json"))
    with pytest.raises(SystemExit) as stop:
        main(["report", str(file), "-o", str(output)])
    assert stop.value.code == 0
    assert output.read_text() == render(plan, "html", datetime.date.today())


def test_a_validation_is_shown_measured_beside_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one = trial(max_model_len=1024)
    found = measured(one.estimate, trial=one, extra_weights=64)
    Store().add(with_measurement(begun(one), one, found, complete=True))
    app = opened("validation", **SMALL, run="1")
    shown = {row["figure"].replace("\\", ""): row for row in tables(app)[-1].to_dict("records")}
    assert shown["KV cache size (tokens)"]["difference"] == "equal"
    assert shown["KV cache size (tokens)"]["measured"] == f"{found.kv_cache.tokens:,}"
    assert "exact was not met" in said(app)


# -- inputs --------------------------------------------------------------------------------------------------------


def test_a_model_known_by_numbers() -> None:
    app = opened(by="numbers", parameters="8B", num_key_value_heads="8", gpu="H100")
    assert "fits on 1 x NVIDIA H100" in said(app)
    assert query_of(app)["parameters"] == "8B"
    told = answer({"model": {"parameters": "8B", "num_key_value_heads": 8}, "gpu": "H100"})
    assert f"{told['kv_cache']['tokens']:,} tokens" in said(app)


def test_the_load_decides_and_the_plan_says_how() -> None:
    state = {"model": "Qwen/Qwen3-32B", "gpu": "H100", "cards": "8", "concurrency": "64", "tpot_ms": "1"}
    app = opened(**state, input_len="2000", output_len="500")
    assert "time per output token" in said(app)
    assert not app.success


def test_the_back_button_restores_what_the_url_says() -> None:
    app = opened(**SMALL)
    checked(app.number_input(key="cards").set_value(2).run())
    for key in [*app.query_params]:
        del app.query_params[key]
    for key, value in SMALL.items():
        app.query_params[key] = value
    assert checked(app.run()).number_input(key="cards").value == 1


def test_what_is_remembered_is_what_planner_says() -> None:
    state = State(**SMALL, concurrency=4, input_len="1000", output_len="200")
    assert solve(state) is solve(State(**SMALL, concurrency=4, input_len="1000", output_len="200"))
    assert context_curve(state)[0].tokens == answer({**SMALL, "max_model_len": 1024})["kv_cache"]["tokens"]
    load = {"concurrency": 4, "input_len": 1000, "output_len": 200}
    told = answer({**SMALL, "workload": load})["throughput"]
    assert solve(state).speed == told
    at_four = next(point for point in speed_curve(state) if point.concurrency == 4)
    assert at_four.tpot_ms == pytest.approx(told["tpot_ms"], rel=1e-3)
    assert frontier(state)


@pytest.mark.slow
def test_prices_make_the_cheapest_first_and_are_part_of_the_link() -> None:
    prices = "L4, 0.7\nA10, 1\nH100, 2.5"
    app = opened("gpus", **SMALL, concurrency="8", input_len="1000", output_len="200", prices=prices)
    assert query_of(app)["prices"] == prices
    known = {"NVIDIA L4": 0.7, "NVIDIA A10": 1.0, "NVIDIA H100 SXM5 80GB": 2.5}
    shown = [text for text in (one.value.replace("\\", "") for one in app.markdown) if " an hour" in text]
    assert [float(text.split("): ")[1].split(" an hour")[0]) for text in shown] == sorted(known.values())
    state = State(**SMALL, concurrency=8, input_len="1000", output_len="200")
    (card,) = [one for one in cards_for(state, lambda share, name: None) if one.gpu.name == "NVIDIA L4"]
    rate = card.plan.output_tokens_per_s
    assert f"{0.7 / (rate * 3600) * 1e6:,.2f} per million output tokens" in shown[0]
    upload = next(one for one in app.file_uploader if one.label.startswith("A file"))
    checked(upload.set_value(("prices.yaml", b"H100: 0.1\n", "text/yaml")).run())
    assert query_of(app)["prices"] == "NVIDIA H100 SXM5 80GB, 0.1"
