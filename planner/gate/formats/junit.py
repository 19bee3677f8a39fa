"""JUnit XML, which CI systems show as a test report: one test case for each launch."""

from __future__ import annotations

from collections.abc import Sequence

from junitparser import Failure, JUnitXml, Skipped, TestCase, TestSuite

from planner.gate.outcome import Outcome
from planner.text import printable


def render(outcomes: Sequence[Outcome]) -> str:
    """A test suite for each file, a test case for each launch, in XML."""
    suites: dict[str, TestSuite] = {}
    for outcome in outcomes:
        file = printable(outcome.launch.file)
        suite = suites.setdefault(file, TestSuite(file))
        suite.add_testcase(_case(outcome))
    xml = JUnitXml("vllm-fit gate")
    for suite in suites.values():
        xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]
    text: str = xml.tostring().decode("utf-8")  # type: ignore[no-untyped-call]
    return text if text.endswith("\n") else text + "\n"


def _case(outcome: Outcome) -> TestCase:
    launch = outcome.launch
    case = TestCase(
        name=f"{printable(launch.model or 'vLLM launch')} (line {launch.line})",
        classname=printable(launch.file),
        time=0,
    )
    message = "; ".join(printable(reason.message, 600) for reason in outcome.reasons)
    if outcome.fails:
        failure = Failure(message=message, type_=outcome.verdict)
        fix = [f"fix:\n{outcome.fix}"] if outcome.fix is not None else []
        lines = [printable(line, 600) for line in "\n".join([message, *fix]).splitlines()]
        failure.text = "\n".join([f"{printable(launch.file)}:{launch.line}", *lines])
        case.result = [failure]
    elif outcome.verdict == "unknown":
        case.result = [Skipped(message=message)]
    elif outcome.reasons:
        case.system_out = message
    return case
