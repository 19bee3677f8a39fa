"""What the YAML readers find in a file: a launch, its lines, its words, its cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.gate.launch import Launch
from planner.gate.readers import reader_of
from planner.gate.readers.compose import _interpolation
from planner.gate.readers.pods import substitute
from planner.gate.source import Lookup, Source

CORPUS = Path(__file__).parent / "corpus" / "yaml"


def _read(text: str, path: Path = Path("deploy/some.yaml"), root: Path | None = None) -> list[Launch]:
    reader = reader_of(path)
    assert reader is not None
    source = Source(path=path, file=str(path), text=text)
    return list(reader.read(source, Lookup(root=root or path.parent)))


@pytest.mark.parametrize(
    ("text", "expected", "unknown"),
    [
        ("$(A)-$(B)", "one-$(B)", "$(B)"),
        ("$$(A)", "$(A)", None),
        ("$(C)", "$(C)", "$(C)"),
        ("$A ${A}", "$A ${A}", "${A}"),  # envsubst, perhaps; not Kubernetes
        ("$(date +%s)", "$(date +%s)", None),
    ],
)
def test_kubernetes_replaces_what_the_container_sets(text, expected, unknown):
    assert substitute(text, {"A": "one", "C": None}) == (expected, unknown)


@pytest.mark.parametrize(
    ("text", "expected", "unknown"),
    [
        ("${A} $A", "one one", None),
        ("${B:-two}", "two", None),
        ("${EMPTY:-two}${EMPTY-three}", "two", None),
        ("${B:-${A}}", "one", None),
        ("${A:+set}${B:+set}", "set", None),
        ("$$A", "$A", None),
        ("${B:?give B} ${C}", "${B} ${C}", "${B}"),
    ],
)
def test_compose_interpolates(text, expected, unknown):
    assert _interpolation({"A": "one", "EMPTY": ""})(text) == (expected, unknown)


def test_a_runtime_in_another_file_of_the_folder_is_found(tmp_path):
    for name in ("runtime.yaml", "inference-services.yaml"):
        (tmp_path / name).write_text((CORPUS / "kserve" / name).read_text())
    path = tmp_path / "inference-services.yaml"
    models = [launch.model for launch in _read(path.read_text(), path)]
    assert models[:2] == ["ibm-granite/granite-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct"]
    (tmp_path / "runtime.yaml").unlink()
    first = _read(path.read_text(), path)[0]
    assert first.problem is not None
    assert "vllm-cuda-runtime" in first.problem


def test_the_words_of_a_launch_stand_at_their_lines():
    path = CORPUS / "compose" / "compose.yaml"
    lines = path.read_text().splitlines()
    launch = _read(path.read_text(), path)[0]
    assert launch.words
    for word in launch.words:
        if word.text.startswith("--"):
            assert word.text in lines[word.line - 1]


def test_what_the_file_leaves_open_is_a_problem_only_where_it_matters():
    text = "services:\n  a:\n    image: vllm/vllm-openai:v0.11.0\n    command: --model Qwen/Qwen3-8B {}\n"
    assert _read(text.format("--port ${PORT} --api-key ${KEY}"))[0].problem is None
    problem = _read(text.format("--max-model-len ${LEN}"))[0].problem
    assert problem is not None
    assert "${LEN}" in problem


def test_a_kind_of_another_api_may_hold_its_pod_elsewhere():
    pod = "{spec: {containers: [{image: 'vllm/vllm-openai:v0.11.0', args: [--model, Qwen/Qwen3-8B]}]}}"
    text = f"apiVersion: batch.volcano.sh/v1alpha1\nkind: Job\nspec:\n  tasks:\n  - template: {pod}\n"
    assert [launch.model for launch in _read(text)] == ["Qwen/Qwen3-8B"]


def test_the_command_of_a_ray_job_is_read():
    text = "apiVersion: ray.io/v1\nkind: RayJob\nspec:\n  entrypoint: vllm serve Qwen/Qwen3-8B -tp 2\n"
    assert [(launch.model, launch.line) for launch in _read(text)] == [("Qwen/Qwen3-8B", 4)]


@pytest.mark.parametrize("model", ["--model Qwen/Qwen3-8B", "--model=Qwen/Qwen3-8B", "Qwen/Qwen3-8B"])
def test_a_launch_that_cannot_be_read_is_named_by_its_model(model):
    text = "services:\n  a:\n    image: vllm/vllm-openai:v0.11.0\n    command: {} --enable-chunked-prefill=false\n"
    (launch,) = _read(text.format(model))
    assert launch.model == "Qwen/Qwen3-8B"
    assert launch.problem is not None


def test_a_chart_that_is_not_rendered_is_a_launch_that_nobody_can_judge():
    (launch,) = _read(
        (CORPUS / "chart/templates/deployment.yaml").read_text(), CORPUS / "chart/templates/deployment.yaml"
    )
    assert launch.problem is not None
    assert "helm template" in launch.problem


def test_secrets_of_the_corpus_do_not_come_out():
    """Not by a launch's own parts, whatever prints them."""
    for path in sorted(CORPUS.rglob("*.y*ml")):
        try:
            kept: list[tuple[object, ...]] = [
                (launch.args, launch.environment, launch.problem, launch.model, launch.gpu)
                for launch in _read(path.read_text(), path, CORPUS)
            ]
        except InputError as error:
            kept = [(str(error),)]
        assert "NeverPrinted" not in str(kept)


# --- any input ----------------------------------------------------------------------------------------------------

_scraps = sorted(
    {line.strip() for path in CORPUS.rglob("*.y*ml") for line in path.read_text().splitlines() if line.strip()}
)
_lines = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(_scraps) | st.text(max_size=20)).map(lambda at: "  " * at[0] + at[1]),
    max_size=40,
)
_files = sorted(path for path in CORPUS.rglob("*.y*ml"))


def _is_bounded(launches: list[Launch], text: str) -> None:
    count = text.count("\n") + 1
    for launch in launches:
        assert 1 <= launch.line <= launch.end_line <= count
        assert launch.problem is None or "\n" not in launch.problem


def _survives(text: str) -> None:
    try:
        launches = _read(text, Path("any/file.yaml"))
    except InputError as error:
        message = str(error)
    else:
        message = ""
        _is_bounded(launches, text)
    assert len(message.splitlines()) <= 1


@given(_lines)
@settings(deadline=None)
def test_lines_in_any_order_are_read_or_refused(lines):
    _survives("\n".join(lines) + "\n")


@given(st.data())
@settings(deadline=None)
def test_files_with_something_cut_or_put_in_are_read_or_refused(data):
    lines = data.draw(st.sampled_from(_files)).read_text().splitlines()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(lines) - 1)))
        lines[at : at + data.draw(st.integers(0, 3))] = data.draw(_lines)[:3]
    _survives("\n".join(lines) + "\n")


_keys = sorted({scrap.partition(":")[0].removeprefix("- ") for scrap in _scraps if ":" in scrap})
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(_scraps),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_keys), inner, max_size=5),
    max_leaves=20,
)


@given(_values)
@settings(deadline=None)
def test_keys_with_values_of_any_kind_are_read_or_refused(value):
    import yaml

    _survives(
        yaml.safe_dump({"kind": "Deployment", "apiVersion": "v1", "spec": value, "services": value, "vllm": value})
    )
    _survives(yaml.safe_dump({"servingEngineSpec": {"modelSpec": [value]}, "modelArtifacts": value, "decode": value}))
    _survives(yaml.safe_dump({"kind": "InferenceService", "apiVersion": "v1", "spec": {"predictor": {"model": value}}}))
    _survives(yaml.safe_dump({"jobs": value, "vllm": "vllm serve x"}))
