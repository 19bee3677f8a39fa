"""What the tree must never do, found by walking its syntax; and what a hostile model folder cannot make it do."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hf_configs
from planner.errors import InputError
from planner.request import answer
from tests.command_line import run

ROOT = Path(__file__).parents[1]
PACKAGES = ("planner", "app", "reports", "hf_configs", "tools", "benchmarks", "requirements")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "torch.load"),
    *(
        "tempfile.mktemp",
        "pandas.read_pickle",
        "pd.read_pickle",
        "numpy.load",
        "np.load",
        "markupsafe.Markup",
        "Markup",
    ),
}
MEANT = {
    ("reports/svg.py", "Markup"): "a drawing of numbers, with words of our own",
    ("tools/make_engine_args.py", "eval"): "type hints of the vLLM that a developer has installed",
}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not imported & FORBIDDEN_MODULES
    for name, call in calls(tree):
        meant = (path.relative_to(ROOT).as_posix(), name) in MEANT
        assert meant or name not in FORBIDDEN_CALLS, f"line {call.lineno}: {name}"
        for keyword in call.keywords:
            value = keyword.value
            assert keyword.arg != "shell" or (isinstance(value, ast.Constant) and value.value is False), call.lineno
            assert keyword.arg not in ("autoescape",) or not (isinstance(value, ast.Constant) and value.value is False)
            if keyword.arg in ("trust_remote_code", "allow_pickle", "weights_only"):
                assert isinstance(value, ast.Constant), f"line {call.lineno}: {keyword.arg} must be written out"
                assert value.value is (keyword.arg == "weights_only"), f"line {call.lineno}: {ast.unparse(keyword)}"


def test_the_walk_sees_what_it_looks_for() -> None:
    assert [name for name, _ in calls(ast.parse("import os\nos.system('x')\nx = yaml.load(y)"))] == [
        "os.system",
        "yaml.load",
    ]
    assert len(FILES) > 150


def test_every_template_is_escaped() -> None:
    sources = [path.read_text(encoding="utf-8") for path in FILES]
    environments = [text for text in sources if re.search(r"jinja2|Environment\(", text) and "autoescape" in text]
    assert environments, "the report's templates are made somewhere"
    for text in sources:
        if re.search(r"\bjinja2\.Environment\(|from jinja2 import .*Environment", text):
            assert "autoescape" in text
    for template in (ROOT / "reports").rglob("*.j2"):
        assert "|safe" not in template.read_text(encoding="utf-8").replace(" ", "")


def test_every_dependency_is_pinned() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            word = line.split("#")[0].split(";")[0].strip()
            assert not word or word.startswith("--") or re.fullmatch(r"[\w.\[\],-]+==[\w.+!]+", word), (
                f"{path.name}: {line}"
            )


# --- a hostile model folder -----------------------------------------------------------------------------------------

LLAMA: dict[str, Any] = json.loads(hf_configs.path("meta-llama/Llama-3.1-8B-Instruct").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.json").write_text('{"quant_method": "a secret of another folder"}')
    model = tmp_path / "model"
    model.mkdir()
    (model / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (model / "configuration_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    return model


def estimated(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(values))
    return answer({"model": str(folder), "gpu": "H100"})


@pytest.mark.parametrize("model_type", ["llama", "evil"])
def test_remote_code_is_not_run(folder: Path, model_type: str) -> None:
    remote = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    found = estimated(folder, {**LLAMA, "auto_map": remote, "model_type": model_type})
    assert found["status"] == "fits"
    assert not (folder.parent / "ran").exists()
    assert "trust_remote_code" not in found["engine"]


def test_an_unknown_model_with_remote_code_is_a_sentence(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown architecture"):
        estimated(folder, {"architectures": ["Evil"], "auto_map": {"AutoConfig": "configuration_evil.Evil"}})
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "..\\secret.json", "a/../../secret.json"])
def test_an_index_does_not_lead_out_of_its_folder(folder: Path, name: str, capsys: Any) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(LLAMA))
    code, out, err = run(capsys, "estimate", str(folder), "--gpu", "H100")
    assert code in (0, 2)
    assert "secret of another" not in out + err
    assert "root:" not in out + err


def test_a_config_that_is_a_link_to_a_device(folder: Path) -> None:
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not a regular file"):
        answer({"model": str(folder), "gpu": "H100"})
