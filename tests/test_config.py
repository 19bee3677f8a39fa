"""Reading configs: where they come from, what is refused and in which words, and what fills the gaps."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import hf_configs
from planner import strict_json
from planner.errors import InputError
from planner.model import transformers_defaults
from planner.model.config import Config
from planner.model.source import Source, load_config
from planner.text import nearest, printable, shown

LLAMA = {"model_type": "llama", "hidden_size": 512}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not found here is not looked for on the Hub."""
    monkeypatch.setattr("planner.model.hub.is_offline", lambda offline: True)


def refused(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        load_config(source)
    message = str(caught.value)
    assert message.isprintable(), "one line, nothing a terminal acts on"
    return message


def written(folder: Path, content: str | bytes | dict[str, Any]) -> Path:
    path = folder / "config.json"
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_folder_a_file_and_a_name(tmp_path: Path) -> None:
    path = written(tmp_path, LLAMA)
    for source in (tmp_path, str(tmp_path), f"{tmp_path}/"):
        loaded = load_config(source)
        assert (loaded.values, loaded.source, loaded.folder) == (LLAMA, Source.FOLDER, tmp_path)
    for source in (path, str(path)):
        loaded = load_config(source)
        assert (loaded.values, loaded.source, loaded.folder) == (LLAMA, Source.FILE, tmp_path)
    loaded = load_config("Qwen/Qwen3-32B")
    assert (loaded.name, loaded.source, loaded.folder) == ("Qwen/Qwen3-32B", Source.CATALOGUE, None)
    assert loaded.config.int("hidden_size") == 5120
    assert load_config("qwen3-32b").name == "Qwen/Qwen3-32B"


def test_a_folder_of_the_catalogues_name_counts_only_with_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "Qwen" / "Qwen3-32B"
    folder.mkdir(parents=True)
    assert load_config("Qwen/Qwen3-32B").source is Source.CATALOGUE
    written(folder, LLAMA)
    assert load_config("Qwen/Qwen3-32B").values == LLAMA


def test_hf_quant_config_is_read_where_vllm_reads_it(tmp_path: Path) -> None:
    quant = {"quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quant))
    written(tmp_path, LLAMA)
    assert load_config(tmp_path).quant_config == quant
    written(tmp_path, {**LLAMA, "quantization_config": {"quant_method": "fp8"}})
    assert load_config(tmp_path).quant_config is None
    written(tmp_path, LLAMA)
    (tmp_path / "hf_quant_config.json").write_text("[]")
    assert "hf_quant_config.json" in refused(tmp_path)


def test_sources_that_are_none(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "absent.json")
    assert "no such file or folder" in refused("./absent")
    assert "no such file or folder" in refused("~nobody-of-this-name/model")
    assert "has no config.json" in refused(tmp_path)
    assert "no model given" in refused("  ")
    assert "did you mean Qwen/Qwen3-32B" in refused("Qwen/Qwen3-32b-x")
    assert "did you mean Qwen/Qwen3-32B" in refused("qwen3-32bb")
    for name in ("a b", "a/b/c", "\0", "x" * 5000, "\x1b[2J", "\ud800"):
        refused(name)


def test_every_config_of_the_catalogue_loads_and_has_an_index_entry() -> None:
    assert set(hf_configs.index()) == set(hf_configs.names())
    for name in hf_configs.names():
        loaded = load_config(name)
        assert loaded.config.strs("architectures"), name
        assert hf_configs.find(name.upper()) == name
        assert hf_configs.index()[name].source


def test_a_name_alone_must_be_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_configs, "_by_key", lambda: ({}, {"twin": ("a/twin", "b/twin")}))
    assert hf_configs.find("twin") is None
    with pytest.raises(InputError, match="a/twin, b/twin"):
        hf_configs.path("twin")
    with pytest.raises(InputError, match="not in the catalogue"):
        hf_configs.path("Qwen/Qwen3-31B")


# --- files that are refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("<!DOCTYPE html>", "not JSON"),
        ('{"a": 1', "not JSON"),
        ('{"a": 1}\n{"b": 2}', "not JSON"),
        ("[1, 2]", "must hold a JSON object"),
        ("3", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ('"\x1b[2J"', "not JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "1e999"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"hidden_size": 1, "hidden_size": 2}', '"hidden_size" twice'),
        ('{"a": {"\\u001b[2J": 1, "\\u001b[2J": 2}}', r"\x1b[2J"),
        ("[" * 100_000, "levels deep"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "levels deep"),
        ('{"a":' + "[" * 150 + "]" * 150 + "}", "100 levels deep"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "byte-order mark"),
        (b"\x93NUMPY" + bytes(100), "not UTF-8"),
        (bytes(100), "not JSON"),
    ],
)
def test_what_is_not_a_config(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = written(tmp_path, content)
    message = refused(path)
    assert words in message
    assert message.startswith(str(path))


def test_a_file_of_200_mb_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    assert "190 MiB, more than the 20 MiB" in refused(path)


def test_a_file_just_under_the_limit_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(LLAMA) + " " * (strict_json.MAX_BYTES - 100))
    assert load_config(path).values == LLAMA


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "not a regular file" in refused(tmp_path)
    assert "not a regular file" in refused("/dev/zero")


def test_a_folder_named_config_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "cannot be read" in refused(tmp_path / "link")


def test_nesting_and_brackets_in_strings_that_are_fine() -> None:
    text = json.dumps({"a": ["[" * 500], "b": [[[[1]]]]})
    assert strict_json.parse_object(text, "x")["b"] == [[[[1]]]]


def test_infinity_is_let_through_only_where_asked(tmp_path: Path) -> None:
    """Real configs hold it (time_step_limit of Mamba models), in keys that have nothing to do with sizes."""
    config = load_config(written(tmp_path, '{"hidden_size": Infinity, "x": [0, Infinity]}')).config
    assert config.raw("x") == [0, math.inf]
    with pytest.raises(InputError, match="hidden_size must be a whole number, is Infinity"):
        config.int("hidden_size")
    with pytest.raises(InputError, match="Infinity"):
        strict_json.parse("[Infinity]", "x")


# --- the typed view --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("512", 'must be a whole number, is "512" (a string)'),
        (True, "must be a whole number, is true"),
        (512.0, "must be a whole number, is 512.0"),
        ([512], "must be a whole number, is a list"),
        ({}, "must be a whole number, is an empty object"),
        (0, "must be at least 1, is 0"),
        (-1, "must be at least 1, is -1"),
        (2**40 + 1, "must be at most 1099511627776"),
        (10**300, "must be at most 1099511627776, is a number of 997 bits"),
        (None, "is null"),
        ("\x1b[31m", r"\x1b[31m"),
    ],
)
def test_a_size_of_the_wrong_kind(value: Any, words: str) -> None:
    config = Config({"text_config": {**LLAMA, "hidden_size": value}}, where="a/config.json")
    with pytest.raises(InputError) as caught:
        config.section("text_config").int("hidden_size")
    assert str(caught.value).startswith("a/config.json: text_config.hidden_size ")
    assert words in str(caught.value)


def test_each_type_is_checked() -> None:
    config = Config(
        {
            "int": 3, "number": 0.5, "bool": True, "str": "x", "ints": [1, 2], "strs": ["a"], "object": {"n": 1},
            "objects": [{"n": 1}, {"n": 2}], "null": None, "mixed": [1, "a", {}],
        }
    )  # fmt: skip
    assert (config.int("int"), config.number("int"), config.number("number")) == (3, 3, 0.5)
    assert (config.bool("bool"), config.str("str"), config.ints("ints"), config.strs("strs")) == (
        True, "x", (1, 2), ("a",),
    )  # fmt: skip
    assert config.section("object").int("n") == 1
    assert [item.int("n") for item in config.sections("objects")] == [1, 2]
    assert config.sections("objects")[1].path("n") == "objects[1].n"
    readers: dict[str, Callable[[str], Any]] = {
        "int": config.int, "number": config.number, "bool": config.bool, "str": config.str, "ints": config.ints,
        "strs": config.strs, "object": config.section, "objects": config.sections,
    }  # fmt: skip
    for kind, read in readers.items():
        for key in config.values:
            if key != kind and (kind, key) != ("number", "int"):
                with pytest.raises(InputError, match=key):
                    read(key)
    with pytest.raises(InputError, match=r"ints\[0\] must be at least 2, is 1"):
        config.ints("ints", minimum=2)
    with pytest.raises(InputError, match=r"must be at most 0\.25"):
        config.number("number", maximum=0.25)
    with pytest.raises(InputError, match="must be a number of a size that occurs"):
        Config({"n": 10**400}).number("n")


def test_missing_and_null() -> None:
    config = Config({"null": None})
    for key in ("null", "absent"):
        assert not config.has(key)
        assert config.int(key, 7) == 7
        assert config.int(key, default=7) == 7
        assert config.optional_int(key) is None
        assert config.optional_int(key, 8) == 8
        assert config.optional_str(key, "x") == "x"
        assert config.optional_number(key) is None
        assert config.optional_section(key) is None
        assert config.strs(key, default=()) == ()
        assert config.raw(key, 3) == 3
        for read in (config.int, config.bool, config.str, config.section, config.sections, config.ints):
            with pytest.raises(InputError, match=key):
                read(key)
    assert "add it" in str(config_error(lambda: config.int("absent")))
    assert config.first_of(("absent", "null")) == "absent"
    assert Config({"b": 1}).first_of(("a", "b")) == "b"


def config_error(call: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    return caught.value


# --- defaults of transformers ----------------------------------------------------------------------------------------


def test_a_missing_key_gets_the_default_of_its_class() -> None:
    config = Config({"model_type": "mixtral"})
    assert (config.int("num_local_experts"), config.int("num_experts_per_tok")) == (8, 2)
    assert config.int("num_experts") == 8, "another name of num_local_experts"
    assert config.optional_int("num_key_value_heads") == 8
    assert config.bool("tie_word_embeddings") is False
    assert not config.has("num_local_experts")
    assert config.has_default("num_local_experts")
    assert config.first_of(("n_routed_experts", "num_local_experts")) == "num_local_experts"
    assert config.int("num_local_experts", default=4) == 4, "what the caller says comes first"


def test_an_explicit_null_is_not_replaced_by_a_class_default() -> None:
    config = Config({"model_type": "mistral", "sliding_window": None, "hidden_size": None})
    assert Config({"model_type": "mistral"}).optional_int("sliding_window") == 4096
    assert config.optional_int("sliding_window") is None
    with pytest.raises(InputError, match="hidden_size is null"):
        config.int("hidden_size")


def test_what_a_class_computes_from_other_keys_is_not_a_default() -> None:
    """LlamaConfig().num_key_value_heads is 32, but only because its num_attention_heads is."""
    config = Config({"model_type": "llama", "num_attention_heads": 64})
    assert config.optional_int("num_key_value_heads") is None
    assert not config.has_default("head_dim")


def test_other_names_of_a_key() -> None:
    config = Config({"model_type": "gpt2", "n_embd": 1600, "num_hidden_layers": 48})
    assert (config.int("hidden_size"), config.int("n_layer"), config.int("num_attention_heads")) == (1600, 48, 12)
    assert config.has("hidden_size")
    wrong = Config({"model_type": "gpt2", "n_embd": "1600"})
    with pytest.raises(InputError, match="n_embd must be a whole number"):
        wrong.int("hidden_size")


def test_sections_know_their_class() -> None:
    gemma = Config({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}).section("text_config")
    assert (gemma.int("hidden_size"), gemma.int("num_attention_heads")) == (2560, 8)
    vision = Config({"model_type": "gemma3"}).section("vision_config")
    assert vision.int("patch_size") == 16, "a section that is missing is what the class makes of it"
    llava = Config({"model_type": "llava"}).section("vision_config")
    assert (llava.int("image_size"), llava.int("num_hidden_layers")) == (336, 24), "LLaVA's, not CLIP's own"
    kimi = Config({"model_type": "kimi_k25", "text_config": {"model_type": "kimi_k2"}}).section("text_config")
    assert kimi.int("kv_lora_rank") == 512, "an unknown model_type in a section: the class the parent expects"
    dbrx = Config({"model_type": "dbrx", "ffn_config": {"moe_top_k": 4}}).section("ffn_config")
    assert (dbrx.int("moe_top_k"), dbrx.int("moe_num_experts")) == (4, 4)
    with pytest.raises(InputError, match="rope_scaling is missing"):
        Config({"model_type": "llama"}).section("rope_scaling")


def test_a_config_from_before_there_were_sections() -> None:
    config = load_config("Qwen/Qwen2.5-VL-7B-Instruct").config
    assert not config.has("text_config")
    text = config.section("text_config")
    assert text.int("hidden_size") == config.int("hidden_size") == 3584
    assert text.path("hidden_size") == "hidden_size"


def test_the_table_says_what_the_classes_say() -> None:
    """Against the transformers at hand, where it is the version that the table was made with."""
    transformers = pytest.importorskip("transformers")
    first = transformers_defaults._TABLE.read_text(encoding="utf-8").splitlines()[0]
    if json.loads(first)["transformers"] != transformers.__version__:
        pytest.skip("the table was made with another version of transformers")
    types = ("llama", "gpt2", "mixtral", "gemma3_text", "deepseek_v3", "nemotron_h", "qwen3_5_moe_text", "gpt_oss")
    compared = 0
    for model_type in types:
        known = transformers_defaults.of_type(model_type)
        assert known is not None
        fields = transformers.CONFIG_MAPPING[model_type].__dataclass_fields__
        for key, value in known.values.items():
            stated = fields[key].default
            if isinstance(stated, (bool, int, float, str)):
                assert (model_type, key, value) == (model_type, key, stated)
                compared += 1
    assert compared > 100


def test_a_type_that_the_table_lacks_is_looked_up_in_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(transformers_defaults, "_table", lambda: b"")
    transformers_defaults.of_type.cache_clear()
    try:
        config = Config({"model_type": "llama"})
        assert config.int("vocab_size") == 32000
        assert config.optional_int("vocab_size") is None, "optional keys are not worth seconds of imports"
        with pytest.raises(InputError, match="no_such_key is missing"):
            config.int("no_such_key")
        with pytest.raises(InputError, match="hidden_size is missing"):
            Config({"model_type": "of-nobody"}).int("hidden_size")
    finally:
        transformers_defaults.of_type.cache_clear()


def test_nothing_heavy_is_imported_to_read_a_config() -> None:
    code = (
        "import sys; from planner.model.source import load_config; from planner.model import checkpoint, numbers\n"
        "from planner.hardware.catalogue import find_gpu; find_gpu('h100')\n"
        "config = load_config('openai/gpt-oss-20b').config; config.int('hidden_size'); config.optional_int('nothing')\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'huggingface_hub', 'vllm', 'safetensors', 'httpx'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- nothing but InputError, whatever comes --------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "model_type",
        "text_config",
        "vision_config",
        "hidden_size",
        "n_embd",
        "layer_types",
        "rope_scaling",
        "quantization_config",
    ]
) | st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**60), max_value=10**60)
    | st.floats()
    | st.sampled_from(["llama", "gemma3", "qwen2_5_vl", "gpt2", "dbrx", "", "\x1b[2J", "1"])
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(KEYS, children, max_size=6),
    max_leaves=20,
)


@settings(deadline=None)
@given(values=st.dictionaries(KEYS, VALUES, max_size=8), key=KEYS)
def test_a_reader_gives_a_value_or_an_input_error(values: dict[str, Any], key: str) -> None:
    # Types beyond the table would import transformers here, once for each text hypothesis thinks of.
    config = Config(values)
    readers = (
        config.optional_int, config.optional_number, config.optional_str, config.section, config.optional_section,
        config.sections, config.has, config.has_default, config.raw, config.path, lambda k: config.int(k, 1),
        lambda k: config.number(k, 1), lambda k: config.bool(k, True), lambda k: config.str(k, ""),
        lambda k: config.ints(k, ()), lambda k: config.strs(k, ()), lambda k: config.first_of((k, "hidden_size")),
    )  # fmt: skip
    for read in readers:
        found = outcome(lambda read=read: read(key))  # type: ignore[misc]
        if isinstance(found, Config):
            outcome(lambda found=found: found.section("text_config").optional_int(key))  # type: ignore[misc]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives, or the message of its InputError. Any other exception fails the test."""
    try:
        return call()
    except InputError as error:
        message = str(error)
    assert message.isprintable()
    return message


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_an_input_error(content: bytes) -> None:
    outcome(lambda: strict_json.parse(content, "x"))


@settings(deadline=None)
@given(value=VALUES)
def test_json_that_python_writes_is_read_back(value: Any) -> None:
    read = outcome(lambda: strict_json.parse(json.dumps(value), "x"))
    assert read == value or "Infinity" in read or "NaN" in read


@given(st.text())
def test_what_is_printed_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert shown(text).isprintable()
    nearest(text, ["Qwen/Qwen3-32B"])


def test_a_type_that_transformers_does_not_know_either_costs_no_import() -> None:
    ask = (
        "from planner.model.transformers_defaults import from_transformers as ask; print(ask('nonesuch', 'vocab_size'))"
    )
    code = f"import sys; {ask}; print('transformers' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["None", "False"]


def test_a_type_that_only_transformers_knows_gets_its_default() -> None:
    pytest.importorskip("transformers")
    assert transformers_defaults.from_transformers("mlcd", "patch_size") == 14
