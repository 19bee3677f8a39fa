"""One short function per family: a Hugging Face config becomes a Model. The only place to touch to add a family.

Adding one: write `@family("SomethingForCausalLM")` above a function `(config, name) -> Model` in the module that fits
(dense, moe, hybrid, vision, encoder), out of the pieces in `common`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

from planner.errors import InputError, UnknownArchitectureError
from planner.model.architecture import Model
from planner.model.config import Config

Family = Callable[[Config, str], Model]

_MODULES = (
    "dense",
    "classic",
    "gemma",
    "transformers_backend",
    "moe",
    "latent",
    "deepseek_v4",
    "mamba",
    "delta_net",
    "hybrid",
    "vision",
    "kimi_minimax",
    "encoder",
)
_registry: dict[str, Family] = {}
_loaded: list[bool] = []
_conversions: dict[str, Callable[[Family], Family]] = {}


def family(*architectures: str) -> Callable[[Family], Family]:
    """Register a builder for these entries of a config's `architectures`."""

    def register(build: Family) -> Family:
        for architecture in architectures:
            _registry[architecture] = build
        return build

    return register


def conversion(suffix: str) -> Callable[[Callable[[Family], Family]], Callable[[Family], Family]]:
    """Register what makes SomethingSUFFIX of SomethingForCausalLM where no family names it."""

    def register(convert: Callable[[Family], Family]) -> Callable[[Family], Family]:
        _conversions[suffix] = convert
        return convert

    return register


def known_architectures() -> tuple[str, ...]:
    """Every architecture that a family describes, under vLLM's names, sorted."""
    _load()
    return tuple(sorted(_registry))


def build_model(config: Config, name: str) -> Model:
    """The Model of a config. InputError when the config names no architecture, or one the planner does not know."""
    _load()
    architectures = config.strs("architectures", default=())
    if not architectures:
        raise InputError(
            f"{name}: config.json has no `architectures`; add it, e.g. "
            '"architectures": ["LlamaForCausalLM"], or pass --hf-overrides with it'
        )
    for architecture in architectures:
        build = _registry.get(architecture) or _conversion(architecture)
        if build is not None:
            return _with_config_facts(build(config, name), config)
    raise UnknownArchitectureError(
        f"{name}: unknown architecture {architectures[0]!r}; pass --ask-vllm to let an installed vLLM "
        "size it, or add it in planner/model/families"
    )


_TEXT_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
}
"""What vLLM takes for a `text_config` that names no architecture (init_vllm_registered_model), by its model_type."""


def _with_config_facts(model: Model, config: Config) -> Model:
    """What is read the same way for every family."""
    from planner.model.families.common import states_a_length

    text = config.section("text_config") if config.has("text_config") else config
    kind = config.optional_str("model_type", "") or ""
    return replace(model, model_type=kind, unlimited_len=not states_a_length(text))


def build_text(config: Config, name: str) -> Model:
    """The Model of a `text_config`, which often names its model_type only."""
    if config.strs("architectures", default=()):
        return build_model(config, name)
    _load()
    kind = config.str("model_type", default="")
    architecture = _TEXT_ARCHITECTURES.get(kind)
    if architecture not in _registry:
        raise config.error("model_type", f"= {kind!r} is not a text model the planner knows; pass --ask-vllm")
    return _registry[architecture](config, name)


def _conversion(architecture: str) -> Family | None:
    """How vLLM turns a text generation model into one for embedding or classification, by the name's ending."""
    for suffix, convert in _conversions.items():
        build = _registry.get(architecture.removesuffix(suffix) + "ForCausalLM")
        if architecture.endswith(suffix) and build is not None:
            return convert(build)
    return None


def _load() -> None:
    if not _loaded:
        for module in _MODULES:
            importlib.import_module(f"{__name__}.{module}")
        _loaded.append(True)
