"""`estimate` end to end: the contract, the same answer by three ways in, and what makes no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.request import answer, answer_lines, prepare
from planner.units import GIB
from tests.command_line import run

LLAMA = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100", "max_model_len": 8192}


def test_the_parts_of_the_budget_add_up():
    memory = answer(LLAMA)["memory"]
    spent = sum(
        memory[part]
        for part in (
            "model_loading_bytes",
            "activation_peak_bytes",
            "persistent_bytes",
            "non_torch_bytes",
            "cuda_graph_bytes",
            "available_kv_bytes",
        )
    )
    assert spent == memory["requested_bytes"]
    assert memory["weights_bytes"] == sum(answer(LLAMA)["weights"].values())
    assert memory["weights_bytes"] <= memory["model_loading_bytes"]


def test_every_key_of_the_contract_is_there():
    result = answer({**LLAMA, "id": 7})
    assert {"id", "status", "reasons", "model", "gpu", "engine", "memory", "weights", "kv_cache", "ranks"} <= set(
        result
    )
    assert {"basis", "range"} <= set(result)
    assert result["id"] == 7
    assert result["engine"]["attention_backend"] == "FLASH_ATTN"
    assert result["engine"]["vllm_version"] == "0.33.0"
    low, high = result["range"]["available_kv_bytes"]
    assert low <= result["memory"]["available_kv_bytes"] <= high
    json.dumps(result)


def test_kv_tokens_follow_from_a_given_kv_cache():
    """Llama-3.1-8B keeps 128 KiB a token in bf16 (32 layers x 8 heads x 128 x 2 x 2 bytes)."""
    kv = answer({**LLAMA, "kv_cache_memory_bytes": 4 * GIB})["kv_cache"]
    assert kv["bytes_per_block"] == 16 * 128 * 1024
    assert kv["num_blocks"] == 4 * GIB // (16 * 128 * 1024)
    assert kv["tokens"] == 32768


def test_batch_command_line_and_python_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    batch = tmp_path / "requests.jsonl"
    batch.write_text(json.dumps(LLAMA) + "\n")
    _, from_batch, _ = run(capsys, "estimate", "--batch", str(batch))
    flags = ["--gpu", "H100", "--max-model-len", "8192", "--format", "json"]
    code, from_flags, _ = run(capsys, "estimate", str(LLAMA["model"]), *flags)
    assert code == 0
    assert json.loads(from_batch) == json.loads(from_flags) == answer(LLAMA)


def test_a_batch_answers_every_line_in_order():
    lines = [
        json.dumps({**LLAMA, "id": "good"}),
        "not json",
        json.dumps({**LLAMA, "id": "typo", "tensor_paralel_size": 2}),
        json.dumps({**LLAMA, "id": "refused", "tensor_parallel_size": 3}),
        '{"model": "x", "model": "y"}',
        "[" * 100_000,
        json.dumps({**LLAMA, "id": "too long", "max_model_len": 10**9}),
        json.dumps({**LLAMA, "id": "last"}),
    ]
    answers = list(answer_lines(lines))
    assert [a["status"] for a in answers] == ["fits", "error", "error", "refused", "error", "error", "refused", "fits"]
    assert [a["id"] for a in answers] == ["good", None, "typo", "refused", None, None, "too long", "last"]
    assert "did you mean tensor_parallel_size" in answers[2]["reasons"][0]["message"]


@pytest.mark.parametrize(
    ("changes", "code", "flag"),
    [
        ({"tensor_parallel_size": 3}, "heads_not_divisible", "--tensor-parallel-size"),
        ({"max_model_len": 200_000}, "max_model_len_too_large", "--max-model-len"),
        ({"gpu": "T4", "dtype": "bfloat16"}, "dtype_needs_capability", "--dtype"),
        ({"pipeline_parallel_size": 64}, "pp_exceeds_layers", "--pipeline-parallel-size"),
        ({"model": "Qwen/Qwen2.5-7B-Instruct-AWQ", "gpu": "V100"}, "quantization_needs_capability", "--quantization"),
        ({"model": "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit"}, "unknown_quantization", "--quantization"),
        ({"model": "baichuan-inc/Baichuan2-7B-Chat", "max_model_len": 4096}, "architecture_gone", None),
        ({"model": "openai/gpt-oss-20b", "vllm_version": "0.9.2"}, "architecture_unknown_to_version", None),
    ],
)
def test_refusals_are_answers(changes: dict[str, object], code: str, flag: str | None):
    result = answer({**LLAMA, **changes})
    assert result["status"] == "refused"
    assert (result["reasons"][0]["code"], result["reasons"][0]["flag"]) == (code, flag)


def test_a_launch_that_runs_out_says_so_in_vllms_words():
    result = answer({**LLAMA, "gpu": "4090", "max_model_len": 131072})
    assert result["status"] == "does_not_fit"
    assert "To serve at least one request with the model's max seq len (131072)" in result["reasons"][0]["message"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/thing", "--gpu", "H100"], "no/such/thing"),
        (["missing.json", "--gpu", "H100"], "missing.json"),
        (["meta-llama/Llama-3.1-8B-Instruct", "--gpu", "Z99"], "unknown GPU Z99"),
        (["meta-llama/Llama-3.1-8B-Instruct"], "gpu: missing"),
        (["meta-llama/Llama-3.1-8B-Instruct", "--gpu", "H100", "--max-model-len", "-4"], "max_model_len"),
        (["meta-llama/Llama-3.1-8B-Instruct", "--gpu", "H100", "--vllm-version", "9.0"], "newer than"),
        (["--gpu", "H100"], "no model given"),
        (["a", "b", "--gpu", "H100"], "one model at a time"),
        (["meta-llama/Llama-3.1-8B-Instruct", "--gpu", "H100", "--gpu-memory-gib", "-1"], "gpu_memory_gib"),
        (["--batch", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], words: list[str], message: str):
    code, out, err = run(capsys, "estimate", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "architectures"),
        ('{"architectures": ["NopeForCausalLM"]}', "NopeForCausalLM"),
        ('{"architectures": ["LlamaForCausalLM"], "hidden_size": NaN}', "NaN"),
        ('{"architectures": ["LlamaForCausalLM"], "hidden_size": "4096"}', "hidden_size"),
        (
            '{"architectures": ["LlamaForCausalLM"], "hidden_size": 100, "num_attention_heads": 7}',
            "num_attention_heads",
        ),
        (
            '{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 32, '
            '"num_key_value_heads": 7}',
            "num_key_value_heads",
        ),
        ('{"architectures": ["LlamaForCausalLM"], "hidden_size": -4096}', "hidden_size"),
    ],
)
def test_a_bad_config_names_its_key(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str):
    path = tmp_path / "config.json"
    path.write_text(text)
    code, out, err = run(capsys, "estimate", str(path), "--gpu", "H100")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_huge_config_is_refused_unread(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(200 << 20)
    code, _, err = run(capsys, "estimate", str(path), "--gpu", "H100")
    assert code == 2
    assert "MiB" in err


def test_numbers_alone_are_marked_as_assumed():
    result = answer({"model": {"parameters": "8B"}, "gpu": "H100", "max_model_len": 4096})
    assert result["basis"]["weights"] == "assumed"
    assert abs(result["model"]["parameters"] / 8e9 - 1) < 0.05
    assert "num_key_value_heads" in result["assumed"]["weights"]


@pytest.mark.parametrize(
    "words",
    [
        ["estimate", LLAMA["model"], "--gpu", "H100"],
        ["estimate", LLAMA["model"], "--gpu", "H100", "--concurrency", "16"],
        ["fit", LLAMA["model"], "--gpu", "L4"],
        ["fit", LLAMA["model"], "--gpu", "L4", "--gpus", "4", "--concurrency", "32", "--tpot-ms", "60"],
    ],
)
def test_the_commands_stay_light(words):
    """Nothing heavy is imported to answer for a catalogue model."""
    code = (
        "import sys; from planner import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code in (0, 1), end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'vllm', 'streamlit', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_request_keys_are_errors():
    with pytest.raises(InputError, match="unknown key frobnicate"):
        prepare({**LLAMA, "frobnicate": 1})


@pytest.mark.parametrize("option", ["--curve", "--sessions=4", "--speed-curve"])
def test_a_curve_in_both_forms(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "estimate", "Qwen/Qwen3-8B", "--gpu", "H100", option)
    assert code == 0
    code, told, _ = run(capsys, "estimate", "Qwen/Qwen3-8B", "--gpu", "H100", option, "--format", "json")
    points = json.loads(told)
    assert code == 0
    assert len(points) == len(text.splitlines()) - 1
    axis = "concurrency" if option == "--speed-curve" else "max_model_len"
    assert [point[axis] for point in points] == sorted(point[axis] for point in points)


def test_a_curve_of_a_launch_that_does_not_start_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("estimate", "meta-llama/Llama-3.1-70B-Instruct", "--gpu", "L4", "--speed-curve")
    assert run(capsys, *words, "--format", "json")[:2] == (1, "[]\n")
    code, text, _ = run(capsys, *words)
    assert code == 1
    assert "KV cache" in text or "memory" in text
