"""Which calls in a program are vLLM's: those of classes that it imports from vllm, under whatever name."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.gate.launch import Launch
from planner.gate.readers.python import read
from planner.gate.source import Lookup, Source


def _read(text: str) -> list[Launch]:
    path = Path("serve.py")
    return list(read(Source(path=path, file="serve.py", text=f"{text}\n"), Lookup(root=path.parent)))


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        ("from vllm import LLM\nLLM('a/b')", "offline"),
        ("from vllm.entrypoints.llm import LLM as L\nL('a/b')", "offline"),
        ("import vllm\nvllm.LLM('a/b')", "offline"),
        ("import vllm as v\nv.LLM(model='a/b')", "offline"),
        ("import vllm.engine.arg_utils\nvllm.engine.arg_utils.AsyncEngineArgs('a/b')", "server"),
        ("import vllm.engine.arg_utils\nvllm.LLM('a/b')", "offline"),
        ("import vllm.engine.arg_utils as u\nu.EngineArgs('a/b')", "server"),
        ("from vllm.engine import arg_utils\narg_utils.EngineArgs('a/b')", "server"),
        ("from vllm.engine.arg_utils import EngineArgs as E\nE('a/b')", "server"),
        ("from vllm import *\nLLM('a/b')", "offline"),
        ("try:\n    from vllm import LLM\nexcept ImportError:\n    LLM = None\nLLM('a/b')", "offline"),
        ("try:\n    from vllm import LLM\nexcept ImportError:\n    class LLM: ...\nLLM('a/b')", "offline"),
        ("def main():\n    import vllm\n    return vllm.LLM('a/b')", "offline"),
    ],
)
def test_classes_of_vllm_are_launches(text, usage):
    (launch,) = _read(text)
    assert (launch.model, launch.usage) == ("a/b", usage)
    assert launch.problem is None


@pytest.mark.parametrize(
    "text",
    [
        "import vllm\nclass EngineArgs: ...\nEngineArgs('a/b')",
        "from vllm import SamplingParams\nfrom ours import EngineArgs\nEngineArgs('a/b')",
        "from vllm import SamplingParams\nimport ours\nours.EngineArgs('a/b')",
        "from .vllm import EngineArgs\nEngineArgs('a/b')",
        "from . import vllm\nvllm.LLM('a/b')",
        "from vllm_ours import LLM\nLLM('a/b')",
        "import vllm_ours as v\nv.LLM('a/b')",
        "from vllm import *\nclass EngineArgs: ...\nEngineArgs('a/b')",
        "from vllm import *\nfrom ours import LLM\nLLM('a/b')",
        "from vllm import LLM as Model\nLLM('a/b')",
        "import vllm\nself.vllm.LLM('a/b')\nmake().LLM('a/b')",
        "# vllm\nAsyncEngineArgs('a/b')",
    ],
)
def test_other_classes_of_these_names_are_not(text):
    assert _read(text) == []


@pytest.mark.parametrize(
    "change",
    ["kwargs['max_model_len'] = 8192", "kwargs.update(seed=1)", "if x:\n    kwargs['seed'] = 2", "del kwargs['seed']"],
)
def test_a_mapping_that_is_changed_later_is_not_decided(change):
    (launch,) = _read(f"from vllm import LLM\nkwargs = {{'seed': 1}}\n{change}\nLLM('a/b', **kwargs)")
    assert launch.problem is not None
    assert launch.problem.endswith("**kwargs, which the file does not decide")


def test_what_llm_does_not_take_is_refused():
    """use_tqdm is generate()'s, chat_template is LLM()'s own."""
    (launch,) = _read("from vllm import LLM\nLLM('a/b', use_tqdm=False)")
    assert launch.refusal is not None
    assert "use_tqdm" in launch.refusal
    (launch,) = _read("from vllm import LLM\nLLM('a/b', chat_template='x')")
    assert launch.refusal is None


def test_an_expression_nested_too_deep_to_be_written_is_unknown():
    (launch,) = _read(f"from vllm import LLM\nLLM(model={'~' * 900}x)")
    assert launch.problem == "line 2: model is an expression nested too deep, which the file does not decide"


def test_a_lone_carriage_return_is_no_line():
    (launch,) = _read("x = 1\r# from\rvllm\nfrom vllm import LLM\nLLM('a/b')")
    assert launch.line == 3


@pytest.mark.parametrize(
    ("head", "refused"), [("from ray import serve", True), ("from ours.sglang import build", False)]
)
def test_arguments_that_vllm_does_not_have_may_be_those_of_another_engine(head, refused):
    (launch,) = _read(
        f"{head}\nfrom ray.serve.llm import LLMConfig\n"
        "LLMConfig(model_loading_config={'model_id': 'a/b'}, engine_kwargs={'tp_size': 1})"
    )
    assert (launch.refusal is not None, launch.problem is None) == (refused, refused)
