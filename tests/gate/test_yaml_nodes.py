"""YAML as a tree with lines: equal to PyYAML's values, and bounded on hostile input."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.gate.yaml_nodes import MAX_DEPTH, MAX_NODES, Scalar, Table, documents, plain

_TEXT = """\
# a comment
base: &base
  image: vllm/vllm-openai:v0.11.0
  args: &args
    - --model
    - a/b

  script: |
    one
    two
  folded: >-
    three
    four
service:
  <<: *base
  image: other
  args: *args
"""


def _table(text: str) -> Table:
    (document,) = documents(text, "f.yaml")
    assert isinstance(document, Table)
    return document


def test_lines_are_those_of_the_file():
    table = _table(_TEXT)
    service = table.table("service")
    assert table.key_lines["service"] == 14
    assert service.text("image") == "other"
    assert service.key_lines["image"] == 16
    assert service.key_lines["script"] == 8, "a merged key stands where its anchor has it"
    assert [(item.line, plain(item)) for item in service.items("args")] == [(5, "--model"), (6, "a/b")]
    script, folded = service.get("script"), service.get("folded")
    assert isinstance(script, Scalar)
    assert isinstance(folded, Scalar)
    assert (script.first_line, script.folded) == (9, False)
    assert (folded.first_line, folded.folded) == (12, True)
    assert table.table("base").end_line == 13


def test_an_explicit_key_wins_over_merged_ones_and_the_first_merged_over_later_ones():
    table = _table("a: &a {x: 1, y: 1}\nb: &b {x: 2, y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  y: 3\n")
    assert plain(table.table("c")) == {"x": 1, "y": 3, "z": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *b", "f.yaml:1: unknown alias *b"),
        ("a: &a\n- *a", "f.yaml:2: *a stands within its own anchor"),
        ("a: 1\nb: 2\na: 3", 'f.yaml:3: has the key "a" twice in one mapping; keep one'),
        ("a: [1, 2", "f.yaml:2: not YAML"),
        ("a: 1\n  b: 2", "f.yaml:2: not YAML"),
        ("? [1]\n: 2", "f.yaml:1: a key must be text"),
        ("<<: 1", "f.yaml:1: << takes a mapping"),
        ("a: \x07", "f.yaml: not YAML"),
        ("\n" + "[" * (MAX_DEPTH + 1), f"f.yaml:2: nested more than {MAX_DEPTH} levels deep"),
        ("- x\n" * (MAX_NODES + 1), f"f.yaml:{MAX_NODES + 2}: holds more than"),
    ],
)
def test_faults_are_one_line_that_says_where(text, message):
    with pytest.raises(InputError) as caught:
        documents(text, "f.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(24)),
        "[" * 500_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: &a {}\n" + "".join(f"b{i}: {{<<: [{','.join(['*a'] * 100)}]}}\n" for i in range(1000)),
    ],
    ids=["bomb of aliases", "brackets", "braces", "dashes", "merges"],
)
def test_hostile_documents_cost_little(text):
    tracemalloc.start()
    begin = time.monotonic()
    with suppress(InputError):
        documents(text, "f.yaml")
    assert time.monotonic() - begin < 20, "bounded, not fast: other tests run beside"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 256 << 20


def test_tags_make_no_objects():
    assert plain(_table("a: !!python/object/apply:os.system [ls]\nb: !x y")) == {"a": ["ls"], "b": "y"}


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(min_size=1), children),
    max_leaves=30,
)


@given(_values)
@settings(deadline=None)
def test_values_are_those_of_pyyaml(value):
    text = yaml.safe_dump(value)
    read = documents(text, "f.yaml")
    if value is None:
        assert read == []
    else:
        assert plain(read[0]) == value


@settings(deadline=None)
@given(st.text(alphabet="ab: -&*<>|\n\t[]{}'\"#?,", max_size=80))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        expected = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, TypeError, ValueError):
        expected = None
    try:
        read = [plain(node) for node in documents(text, "f")]
    except InputError as error:
        read = None
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    if read is not None and expected is not None:
        assert read == [_text_keys(value) for value in expected if value is not None]


def _text_keys(value):
    """Keys as the tree has them: what is written, which is nothing for a null of this alphabet."""
    if isinstance(value, dict):
        return {"" if key is None else key: _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value
