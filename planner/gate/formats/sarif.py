"""SARIF 2.1.0, which code scanning (GitHub, GitLab, Azure DevOps) shows beside the lines."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from sarif_pydantic import sarif as model

from planner import __version__
from planner.errors import Reason
from planner.gate.outcome import Outcome
from planner.text import printable

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"fail": "error", "unknown": "error", "warn": "warning"}


def render(outcomes: Sequence[Outcome]) -> str:
    """A result for each reason of each launch that does not pass."""
    results = [
        _result(outcome, reason) for outcome in outcomes if outcome.verdict != "pass" for reason in outcome.reasons
    ]
    rules = [_rule(code) for code in dict.fromkeys(result.rule_id for result in results) if code]
    driver = model.ToolDriver(name="vllm-fit", version=__version__, rules=rules)
    log = model.Sarif(
        version="2.1.0",
        runs=[model.Run(tool=model.Tool(driver=driver), results=results)],
        **{"$schema": SCHEMA},
    )
    return f"{log.model_dump_json(by_alias=True, exclude_none=True, indent=2)}\n"


def _rule(code: str) -> model.ReportingDescriptor:
    """What GitHub asks of a rule."""
    what = code.removeprefix("policy_").replace("_", " ")
    kind = "breaks the team's policy" if code.startswith("policy_") else "would not start, or cannot be judged"
    return model.ReportingDescriptor(
        id=code,
        short_description=model.Message(text=f"vLLM launch: {what}."),
        full_description=model.Message(text=f"A vLLM launch in a deployment file {kind}: {what}."),
        help=model.Message(text="The message names the flag to change, and holds a fix where one is known."),
    )


def _result(outcome: Outcome, reason: Reason) -> model.Result:
    launch = outcome.launch
    level = _LEVELS[outcome.verdict] if outcome.fails else "warning"
    text = outcome.explanation if reason is outcome.reasons[0] else printable(reason.message, 1000)
    text = f"{printable(launch.model)}: {text}" if launch.model else text
    place = model.PhysicalLocation(
        artifact_location=model.ArtifactLocation(uri=quote(launch.file)),
        region=model.Region(start_line=launch.line, end_line=launch.end_line),
    )
    return model.Result(
        rule_id=reason.code,
        level=model.Level(level),
        message=model.Message(text=text),
        locations=[model.Location(physical_location=place)],
    )
