"""What the gate prints, as the programs that read it would: schemas, parsers, and a terminal."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from planner.errors import Reason
from planner.gate.formats import FORMATS, render
from planner.gate.launch import Launch
from planner.gate.outcome import Outcome

DATA = Path(__file__).parent / "data"
LAUNCH = Launch(file="deploy/a b,c:d.sh", line=3, end_line=5, model="Qwen/Qwen3-32B")
PASS = Outcome(launch=LAUNCH, verdict="pass", gpu="NVIDIA L40S")
FAIL = Outcome(
    launch=replace(LAUNCH, line=9, end_line=9),
    verdict="fail",
    gpu="NVIDIA L40S",
    reasons=(
        Reason(code="no_cache_blocks", message="No available memory | <b>\n::error::x", flag="--max-model-len"),
        Reason(code="policy_gpu", message="50% of it"),
    ),
    fix="--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a ``` b\n+c\n",
    fails=True,
)
WARN = Outcome(launch=LAUNCH, verdict="warn", reasons=(Reason(code="too_close_to_call", message="too close"),))
UNKNOWN = Outcome(
    launch=Launch(file="x.sh", line=1, end_line=1, problem="?"),
    verdict="unknown",
    reasons=(Reason(code="cannot_be_read", message="$TP is not set"),),
    fails=True,
)
ALL = (PASS, FAIL, WARN, UNKNOWN)


def test_json_has_the_shape_that_is_promised():
    found = json.loads(render("json", ALL))
    assert set(found) == {"launches", "summary"}
    assert found["launches"][1] == {
        "file": "deploy/a b,c:d.sh",
        "line": 9,
        "end_line": 9,
        "verdict": "fail",
        "model": "Qwen/Qwen3-32B",
        "gpu": "NVIDIA L40S",
        "reasons": [
            {
                "code": "no_cache_blocks",
                "message": "No available memory | <b>\n::error::x",
                "flag": "--max-model-len",
            },
            {"code": "policy_gpu", "message": "50% of it", "flag": None},
        ],
        "fix": FAIL.fix,
    }
    assert found["summary"] == {"launches": 4, "pass": 1, "warn": 1, "fail": 1, "unknown": 1}


@pytest.mark.parametrize("outcomes", [(), ALL], ids=["none", "all"])
def test_sarif_is_valid_by_its_own_schema(outcomes):
    schema = json.loads(gzip.decompress((DATA / "sarif-2.1.0.schema.json.gz").read_bytes()))
    log = json.loads(render("sarif", outcomes))
    jsonschema.validate(log, schema)
    results = log["runs"][0]["results"]
    assert [result["level"] for result in results] == (["error", "error", "warning", "error"] if outcomes else [])
    if outcomes:
        place = results[0]["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "deploy/a%20b%2Cc%3Ad.sh"
        assert place["region"] == {"startLine": 9, "endLine": 9}
        rules = {rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]}
        assert rules == {"no_cache_blocks", "policy_gpu", "too_close_to_call", "cannot_be_read"}


def test_junit_counts_what_makes_the_gate_fail():
    root = ET.fromstring(render("junit", ALL))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("4", "2", "0")
    cases = root.findall(".//testcase")
    assert [case.get("classname") for case in cases] == ["deploy/a b,c:d.sh"] * 3 + ["x.sh"]
    failure = cases[1].find("failure")
    assert failure is not None
    assert "-a ``` b" in (failure.text or "")
    lenient = ET.fromstring(render("junit", (replace(UNKNOWN, fails=False),)))
    assert (lenient.get("failures"), lenient.get("skipped")) == ("0", "1")


def test_github_annotations_cannot_be_broken_out_of():
    lines = [line for line in render("github", ALL).splitlines() if line.startswith("::")]
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::error"]
    assert "file=deploy/a b%2Cc%3Ad.sh,line=9,endLine=9," in lines[0]
    assert "%0A::error::x" in lines[0]
    assert "50%25 of it" in lines[0]


def test_markdown_escapes_what_a_file_says():
    text = render("markdown", ALL)
    table = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert len(table) == 1
    assert r"No available memory \| \<b\>" in table[0]
    assert len(re.findall(r"(?<!\\)\|", table[0])) == 6
    assert "````diff" in text, "the fence is longer than what is in it"


def test_text_says_where_what_and_why():
    text = render("text", ALL)
    assert "deploy/a b,c:d.sh:3: pass  Qwen/Qwen3-32B on NVIDIA L40S\n" in text
    assert "x.sh:1: UNKNOWN\n    $TP is not set\n" in text
    assert text.endswith("4 launches: 1 pass, 1 with a warning, 1 fail, 1 unknown\n")
    assert render("text", ()) == "no vLLM launch found\n"


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_that_a_terminal_acts_on_is_printed(form):
    nasty = replace(FAIL, launch=replace(LAUNCH, file="a\x1b[31m.sh", model="m\x07\u202e"))
    text = render(form, (nasty,))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", text)


def test_the_command_exits_0_1_and_2(tmp_path):
    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "planner.cli", "gate", "--offline", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "good.sh").write_text("vllm serve Qwen/Qwen3-8B --max-model-len 4096\n")
    (tmp_path / "bad.sh").write_text("vllm serve Qwen/Qwen3-8B --max-model-len 409600\n")
    (tmp_path / "open.sh").write_text("vllm serve $MODEL\n")
    assert run("good.sh", "--gpu", "H100")[0] == 0
    assert run("good.sh", "bad.sh", "--gpu", "H100")[0] == 1
    assert run("open.sh", "--gpu", "H100")[0] == 1
    assert run("open.sh", "--gpu", "H100", "--unknown", "warn")[0] == 0
    assert run("good.sh")[0] == 1, "no card is known"
    assert run("missing.sh")[0] == 2
    assert run("good.sh", "--policy", "missing.yaml")[0] == 2
    code, text = run("good.sh", "--gpu", "H100", "--format", "json", "-o", "out.json")
    assert (code, text) == (0, "")
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["pass"] == 1
