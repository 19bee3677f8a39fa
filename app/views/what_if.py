"""What if: heat maps with the fit boundary, curves with their limits, the ladder, the alternatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from app import charts, heat, session
from app.solve import Solved, context_curve, frontier, speed_curve, ways
from planner.errors import InputError
from planner.planning.change import request_of
from planner.planning.replicas import split_words
from planner.planning.speed_goal import load_of
from reports.render import markdown
from reports.view import answer_verdict


def page(solved: Solved) -> None:
    """One or two inputs varied over a range."""
    st.caption(markdown(answer_verdict(solved.now)))
    options = {**heat.KINDS, **{key: title for key, (title, _) in _CHARTS.items()}}
    if st.session_state.get("chart") not in options:
        st.session_state["chart"] = next(iter(options))
    st.segmented_control("What to vary", list(options), format_func=options.__getitem__, key="chart", required=True)
    chosen = str(st.session_state["chart"])
    with st.spinner("Working it out …"):
        try:
            _heat(solved, chosen) if chosen in heat.KINDS else _CHARTS[chosen][1](solved)
        except InputError as error:
            st.error(markdown(str(error)))


# -- heat maps -----------------------------------------------------------------------------------------------------


def _heat(solved: Solved, kind: str) -> None:
    found = heat.heat(solved.state, kind)
    length = f" of {solved.engine['max_model_len']:,} tokens" if kind != "context" and solved.engine else ""
    st.markdown(f"Requests{length} that one engine holds at once. Click a cell to take it over into the inputs.")
    key = f"heat-{kind}"
    st.plotly_chart(
        charts.heat_map(found),
        key=key,
        config=charts.CONFIG,
        on_select=lambda: _take_cell(key, found),
        selection_mode="points",
    )
    st.caption("The thick line is where it stops to fit; – does not fit, the reason is under the pointer.")


def _take_cell(key: str, found: heat.Heat) -> None:
    for point in _points(key):
        cell = found.cells[int(point["y"])][int(point["x"])]
        session.apply_request(cell.request)


def _points(key: str) -> list[dict[str, Any]]:
    """What is selected in a chart."""
    event = st.session_state.get(key) or {}
    points: list[dict[str, Any]] = event.get("selection", {}).get("points", [])
    return points


# -- curves --------------------------------------------------------------------------------------------------------


def _context(solved: Solved) -> None:
    points = context_curve(solved.state)
    if not any(point.tokens for point in points):
        st.info("No context length fits.")
        return
    st.plotly_chart(charts.concurrency_curve(points, solved.entered.goal.per_engine), key="curve", config=charts.CONFIG)


def _speed(solved: Solved) -> None:
    points = speed_curve(solved.state)
    load = load_of(solved.entered.goal, solved.entered.start)
    if not points or load is None:
        st.info("There is no speed of a launch that does not start, or that generates nothing.")
        return
    st.markdown(f"Requests of {load.input_len:,} prompt and {load.output_len:,} answer tokens, on one engine.")
    goal = solved.entered.goal
    figure = charts.speed_curves(points, goal.per_engine, goal.ttft_ms, goal.tpot_ms)
    st.plotly_chart(figure, key="speed", config=charts.CONFIG)
    if solved.speed is not None:
        errors = solved.speed["error"]
        st.caption(
            markdown(f"{solved.speed['basis']}; {solved.speed['bound_by']}.")
            + " Median error on measurements left out of the fit: "
            + markdown(", ".join(f"{name} {share:.0%}" for name, share in errors.items()))
        )


# -- the ladder and the alternatives -------------------------------------------------------------------------------


def _ladder(solved: Solved) -> None:
    plan = solved.plan
    if not any(step.outcome != "skipped" for step in plan.steps):
        st.info("No rung is needed." if plan.met else "No rung helps.")
    else:
        st.plotly_chart(charts.waterfall(plan), key="waterfall", config=charts.CONFIG)
    if plan.steps:
        st.table(
            [
                {
                    "rung": markdown(step.summary),
                    "outcome": markdown(f"{step.outcome}: {step.why}"),
                    "quality cost": markdown(step.quality_cost),
                }
                for step in plan.steps
            ]
        )
    if plan.met and plan.changes:
        st.button("Apply this plan", key="apply", type="primary", on_click=session.apply_plan, args=(plan,))


def _alternatives(solved: Solved) -> None:
    options = frontier(solved.state)
    if not options:
        st.info("No alternative fits on these cards.")
        return
    st.markdown(
        "None of these is beaten in cards, quality, requests at once and predicted speed. Click one to take it over."
    )

    def take() -> None:
        for point in _points("frontier"):
            option = options[int(point["customdata"][0])]
            session.apply_request(request_of(option.inputs), option.engines)

    figure = charts.frontier(options, solved.goal.concurrency)
    st.plotly_chart(figure, key="frontier", config=charts.CONFIG, on_select=take, selection_mode="points")
    st.table(
        [
            {
                "cards": option.gpus,
                "split": f"{option.engines} x TP\u00a0{option.inputs.args.get('tensor_parallel_size', 1)}",
                "change": markdown(option.summary),
                "quality cost": markdown(option.quality_cost),
                "requests at once": f"{option.concurrency:,.1f}",
                "output tokens/s": f"{option.output_tokens_per_s:,.0f}" if option.speed is not None else "",
                "goal": "met" if option.meets_goal else "missed",
            }
            for option in options
        ]
    )


def _ways(solved: Solved) -> None:
    plans = ways(solved.state)
    st.markdown("The same cards, shared out in other ways.")
    for number, plan in enumerate(plans):
        words, facts = split_words(plan), plan.summary()
        held = f"{facts['concurrency']:,.2f} requests at once" if facts["concurrency"] else "does not reach the goal"
        rate = f", {facts['output_tokens_per_s']:,.0f} output tokens/s" if facts["output_tokens_per_s"] else ""
        with st.container(border=True):
            way, button = st.columns((6, 1), vertical_alignment="center")
            way.markdown(f"**{markdown(words)}**: {held}{rate}")
            if plan.met:
                label, key = "Apply", f"way-{number}"
                button.button(label, key=key, on_click=session.apply_plan, args=(plan,), width="stretch")


_CHARTS: dict[str, tuple[str, Callable[[Solved], None]]] = {
    "length": ("Context", _context),
    "speed": ("Speed", _speed),
    "ladder": ("Ladder", _ladder),
    "alternatives": ("Alternatives", _alternatives),
    "ways": ("Replicas", _ways),
}

if found := session.solved():
    page(found)
