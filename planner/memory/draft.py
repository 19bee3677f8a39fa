"""Speculative decoding: what the draft adds to the last pipeline stage, to the logits and to the engine's buffers.

Mirrors config/speculative.py (method and number of tokens), v1/worker/gpu/spec_decode (what is built and what is
shared with the target) and model_executor/models/*_eagle*.py, *_mtp.py, all 0.33. The draft's layers join the target's
KV cache (planner/memory/kv_cache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.engine.args import EngineArgs
from planner.engine.defaults import Engine
from planner.engine.version import NEWEST, VllmVersion
from planner.errors import InputError, Reason, Refusal
from planner.memory.allocator import block_bytes
from planner.memory.quantization import Quantization, quantization
from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import build_model
from planner.model.families.common import Rope, rope, rotary_cache
from planner.model.families.draft import (
    UNSIZED_PREDICTORS,
    eagle_head,
    medusa,
    multi_token_predictor,
    predictor_layers,
    predictor_of,
)
from planner.model.modules import Embedding, Linear, LmHead, Module, Placement, Tensor, Weight
from planner.model.source import LoadedConfig
from planner.text import did_you_mean, nearest, printable, shown
from planner.units import DTYPE_BYTES, ceil_div

Load = Callable[[str, str | None], LoadedConfig]
"""A model's config by name and revision."""

# --- the configuration ---------------------------------------------------------------------------------------------

_WITHOUT_WEIGHTS = ("ngram", "ngram_gpu", "suffix")
_UNSIZED = ("dflash", "dspark", "custom_class", "extract_hidden_states")
"""Methods whose weights are not counted here."""
_UNTIL_0_32 = ("medusa", "mlp_speculator")
_METHODS = ("ngram", "draft_model", "suffix", "custom_class", "eagle", "eagle3", "extract_hidden_states", "mtp")
_MTP_NAMES = frozenset(
    f"{name}_mtp"
    for name in """deepseek dots3_note mimo mimo_v2 glm4_moe glm4_moe_lite glm_ocr ernie nemotron_h exaone_moe exaone4_5
    qwen3_next qwen4_exp qwen3_5 longcat_flash bailing_hybrid_v3 minimax_m3 bailing_hybrid kimi_k3 pangu_ultra_moe
    step3p5 step5 hy_v3 hy_v4 gemma4 inkling glm5_next""".split()
)
"""Deprecated names of "mtp"."""
_SUFFIX_DEPTH = 24


@dataclass(frozen=True, kw_only=True)
class Speculative:
    """SpeculativeConfig (config/speculative.py): what a person asked for, with vLLM's method filled in."""

    method: str
    model: str | None = None
    revision: str | None = None
    num_speculative_tokens: int | None = None
    """None: as many as the draft model predicts at once."""
    draft_tensor_parallel_size: int | None = None
    quantization: str | None = None
    probabilistic: bool = False
    """draft_sample_method: the distributions that drafts were sampled from are kept for verification."""
    parallel_drafting: bool = False
    heterogeneous_vocab: bool = False
    tensor_parallel_size: int | None = None


def speculative(args: EngineArgs) -> Speculative | None:
    """What --speculative-config, its shorthand flags and those of older versions ask for; None for nothing."""
    given = _given(args)
    if given is None:
        return None
    model, method = _text(given, "model"), _text(given, "method")
    tokens = _whole(given, "num_speculative_tokens")
    method = _method(method, model)
    if model is None and method in ("draft_model", "eagle", "eagle3", *_UNTIL_0_32):
        raise InputError(f"speculative_config.model: missing; method {method} needs the draft's model")
    if tokens is None and method == "suffix":
        tokens = _whole(given, "suffix_decoding_max_tree_depth") or _SUFFIX_DEPTH
    if tokens is None and (model is None or method in ("ngram", "ngram_gpu", "draft_model", "eagle", "eagle3")):
        raise InputError("speculative_config.num_speculative_tokens: missing; pass how many tokens to draft at a time")
    return Speculative(
        method=method,
        model=model,
        revision=_text(given, "revision"),
        num_speculative_tokens=tokens,
        draft_tensor_parallel_size=_whole(given, "draft_tensor_parallel_size"),
        quantization=_text(given, "quantization"),
        probabilistic=_text(given, "draft_sample_method") == "probabilistic",
        parallel_drafting=given.get("parallel_drafting") is True,
        heterogeneous_vocab=given.get("use_heterogeneous_vocab") is True,
        tensor_parallel_size=_whole(given, "tensor_parallel_size"),
    )


def _given(args: EngineArgs) -> dict[str, Any] | None:
    """One object from --speculative-config and the flags that stand for its keys."""
    value = args.get("speculative_config")
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f'speculative_config = {shown(value)}: must be an object such as {{"method": "ngram", …}}')
    given = {str(key).replace("-", "_"): entry for key, entry in (value or {}).items()}
    for flag, key in _SHORTHANDS:
        short = args.get(flag)
        if short is None:
            continue
        if key in given:
            raise InputError(f"{flag} and speculative_config.{key} are mutually exclusive; give one of them")
        given[key] = short
    for key in given:
        if key not in _KEYS:
            raise InputError(f"speculative_config.{printable(key)}: unknown key{did_you_mean(nearest(key, _KEYS))}")
    return given if value is not None or given else None


_SHORTHANDS = (
    ("spec_method", "method"),
    ("spec_model", "model"),
    ("spec_tokens", "num_speculative_tokens"),
    ("speculative_model", "model"),
    ("num_speculative_tokens", "num_speculative_tokens"),
    ("speculative_model_quantization", "quantization"),
    ("speculative_draft_tensor_parallel_size", "draft_tensor_parallel_size"),
)
_KEYS = frozenset(
    """enforce_eager num_speculative_tokens model method draft_tensor_parallel_size tensor_parallel_size quantization
    moe_backend attention_backend kv_cache_dtype max_model_len revision code_revision index_share_for_mtp_iteration
    disable_padded_drafter_batch disable_eagle_block_drop disable_lookahead_block_hashes draft_lm_head_quantization
    use_local_argmax_reduction use_heterogeneous_vocab prompt_lookup_max prompt_lookup_min parallel_drafting
    num_speculative_tokens_per_batch_size suffix_decoding_max_tree_depth suffix_decoding_max_cached_requests
    suffix_decoding_max_spec_factor suffix_decoding_min_token_prob draft_load_config rejection_sample_method
    synthetic_acceptance_rates synthetic_acceptance_length enable_adaptive_verification draft_sample_method
    dspark_draft_topk xpress_topc fly_window_size fly_entropy_threshold fly_entropy_top_k
    disable_by_batch_size disable_log_stats disable_logprobs acceptance_method posterior_threshold posterior_alpha
    disable_mqa_scorer speculative_token_tree""".split()
)
"""Of 0.33, and in the last lines of older versions."""


def _method(method: str | None, model: str | None) -> str:
    """SpeculativeConfig.__post_init__: the method, from the model's name where none is given."""
    if method is None:
        if model in ("ngram", "[ngram]"):
            return "ngram"
        return "draft_model" if model is None else _method_of_name(model)
    if method == "draft_model" and model is not None:
        return _method_of_name(model)
    if method in _MTP_NAMES:
        return "mtp"
    if method == "[ngram]":
        return "ngram"
    known = (*_METHODS, *_WITHOUT_WEIGHTS, *_UNSIZED, *_UNTIL_0_32)
    if method not in known:
        raise InputError(
            f"speculative_config.method = {shown(method)}: unknown{did_you_mean(nearest(method, known))}; "
            f"vLLM has {', '.join(sorted(set(known)))}"
        )
    return method


def _method_of_name(model: str) -> str:
    name = model.lower()
    for part, method in (("eagle-", "eagle"), ("eagle3", "eagle3"), ("dflash", "dflash"), ("dspark", "dspark")):
        if part in name:
            return method
    return "draft_model"


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise InputError(f"speculative_config.{key} = {shown(value)}: must be text")
    return value


def _whole(given: Mapping[str, Any], key: str) -> int | None:
    value = given.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31):
        raise InputError(f"speculative_config.{key} = {shown(value)}: must be a whole number of at least 1")
    return value


# --- the draft -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DraftBytes:
    """What the draft's weights take on one rank of the last pipeline stage."""

    tensor_bytes: int = 0
    block_bytes: int = 0
    """The same in the allocator's blocks; part of "Model loading took"."""


@dataclass(frozen=True, kw_only=True)
class DraftRotary:
    """The draft's rotary cache: the target's own where all that get_rope() goes by is equal."""

    rope: Rope
    head_size: int
    positions: int
    stretches: bool
    """Raised to --max-model-len: every draft but an independent model is fed the target's positions."""
    target: Weight | None
    """The target's cache of the same frequencies; None where they differ."""

    def weight(self, max_model_len: int) -> Weight | None:
        """None where the target's cache serves."""
        longest = max(self.positions, max_model_len) if self.stretches else self.positions
        cache = rotary_cache(self.rope, self.head_size, longest)
        return None if self.target is not None and cache.shape == self.target.shape else cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """A draft, read and built; what it takes depends on the engine."""

    config: Speculative
    num_speculative_tokens: int
    model: Model | None = None
    """Whose layers join the KV cache; None for methods without one, and where it is not known."""
    quantization: Quantization | None = None
    first_layer: int = 0
    """vLLM counts the layers of a head on from the target's."""
    shares_embedding: bool = False
    shares_head: bool = False
    beside_stages: tuple[Module, ...] = ()
    """With several pipeline stages the last has one more embedding: the draft's own, or the target's again."""
    rotary: DraftRotary | None = None
    unquantized: tuple[str, ...] = ()
    """Modules that vLLM leaves alone under this quantization."""
    refusal: Reason | None = None
    """vLLM's own sentence where it would not accept this draft."""
    notes: tuple[str, ...] = ()
    """What is not counted, each a sentence."""

    @property
    def method(self) -> str:
        """vLLM's name of the way of drafting ("eagle3", "mtp", "ngram"), as SpeculativeConfig resolves it."""
        return self.config.method

    def check(self, engine: Engine) -> None:
        """Refusal where vLLM would reject the draft for this engine."""
        if self.refusal is not None:
            raise Refusal(self.refusal.code, self.refusal.message, self.refusal.flag)
        size, tp = self.config.draft_tensor_parallel_size, engine.tensor_parallel_size
        if size in (None, tp):
            return
        if size != 1:
            raise _refused(
                f"speculative_draft_tensor_parallel_size={size} cannot be other value than 1 or target model "
                "tensor_parallel_size"
            )
        if self.method == "draft_model" and not engine.use_v2_model_runner:
            raise _refused(
                "Currently, 'draft_tensor_parallel_size' and 'tensor_parallel_size' must be the same. Got "
                f"{size} and {tp}. Please pass 'draft_tensor_parallel_size' in the speculative_config."
            )

    def weights(self, engine: Engine, at: Placement, *, max_split: int | None) -> DraftBytes:
        """What the draft takes on rank 0 of the last stage; `at` is where the target is built."""
        self.check(engine)
        total = blocks = 0
        for tensor in self.tensors(engine, at):
            total += tensor.nbytes
            blocks += block_bytes(tensor.nbytes, max_split)
        return DraftBytes(tensor_bytes=total, block_bytes=blocks)

    def tensors(self, engine: Engine, at: Placement) -> Iterator[Tensor]:
        """Every tensor that stays beside the target's. Drafts are sharded as the target, whatever their own TP says:
        their layers ask the target's process groups."""
        model = self.model
        if model is None:
            return
        at = replace(self.placement(at), quantization=self.quantization, prefix="")
        for module in self._ends(model, engine):
            yield from self._of(module, at)
        for index, layer in enumerate(model.layers):
            inside = replace(at, prefix=f"{model.layer_prefix}{self.first_layer + index}.")
            for module in layer.modules:
                yield from self._of(module, inside)

    def _of(self, module: Module, at: Placement) -> Iterator[Tensor]:
        if module.name in self.unquantized:
            at = replace(at, quantization=None)
        for tensor in module.tensors(at):
            if not tensor.name.endswith(".expert_map"):  # the target's
                yield tensor

    def _ends(self, model: Model, engine: Engine) -> Iterator[Module]:
        for module in (*model.first, *model.last, *model.everywhere, *model.towers):
            if isinstance(module, LmHead):
                shared = self.shares_head
            else:
                shared = self.shares_embedding and isinstance(module, Embedding)
            if not shared:
                yield module
        if engine.pipeline_parallel_size > 1:
            yield from self.beside_stages
        cache = self.rotary.weight(engine.max_model_len) if self.rotary is not None else None
        if cache is not None:
            yield cache

    def placement(self, at: Placement) -> Placement:
        """Where the target is built beside this draft: buffers for a step's requests hold their drafts too."""
        return replace(at, max_num_seqs=at.max_num_seqs * (self.num_speculative_tokens + 1))

    # --- beside the weights ----------------------------------------------------------------------------------------

    def buffer_bytes(self, engine: Engine, target: Model) -> int:
        """What the second runner's speculator keeps, and what verification adds to the bitmask of structured output.

        v1/worker/gpu/spec_decode/speculator.py, target_dependent_ar and standalone_ar; structured_outputs.py.
        """
        if not engine.use_v2_model_runner or self.method == "suffix":
            return 0
        requests, tokens, k = engine.max_num_seqs, engine.max_num_batched_tokens, self.num_speculative_tokens
        total = requests * k * (4 * ceil_div(target.vocab_size, 32) + 4)
        if self.model is None:
            return total
        element = DTYPE_BYTES[engine.dtype]
        total += 13 * tokens + requests * (12 + 20 + 12 * k)  # InputBuffers; per request; draft tokens and confidence
        if self.config.probabilistic:
            total += requests * k * self.model.vocab_size * element
        if self.method == "draft_model":
            return total + 12 * (tokens + requests)
        return total + tokens * self.model.hidden_size * element


def _refused(message: str, code: str = "speculative_config") -> Refusal:
    return Refusal(code, message, "--speculative-config")


# --- reading it ----------------------------------------------------------------------------------------------------


def draft_of(
    args: EngineArgs,
    target: Model,
    load: Load,
    *,
    config: Config | None = None,
    target_quantization: Quantization | None = None,
    version: VllmVersion = NEWEST,
) -> Draft | None:
    """The draft of speculative_config, or None without one.

    load: reads a config by its name; called for drafts that are a checkpoint of their own. config: the target's, which
    says how many layers its multi-token predictor has. InputError for input that makes no sense; what vLLM refuses is
    in the draft and raised by check() and weights().
    """
    spec = speculative(args)
    if spec is None:
        return None
    draft = _read(spec, target, load, config, target_quantization, version)
    if spec.tensor_parallel_size is not None:
        return _with_refusal(
            draft,
            "'tensor_parallel_size' is not a valid argument in the speculative_config. Please pass "
            "'draft_tensor_parallel_size' instead.",
        )
    return draft


def _read(
    spec: Speculative,
    target: Model,
    load: Load,
    config: Config | None,
    target_quantization: Quantization | None,
    version: VllmVersion,
) -> Draft:
    tokens = spec.num_speculative_tokens or 1
    if spec.method in _WITHOUT_WEIGHTS:
        return Draft(config=spec, num_speculative_tokens=tokens)
    if spec.method in _UNTIL_0_32 and version >= (0, 33):
        return _with_refusal(
            Draft(config=spec, num_speculative_tokens=tokens),
            f"method: Input should be {', '.join(map(repr, _METHODS))} … (vLLM 0.33 no longer has {spec.method})",
        )
    if spec.method in (*_UNSIZED, "mlp_speculator"):
        note = (
            f"Weights and KV cache layers of the {spec.method} draft are not counted: the planner does not know them."
        )
        return Draft(config=spec, num_speculative_tokens=tokens, notes=(note,))
    if spec.method == "mtp":
        own = load(spec.model, spec.revision).config if spec.model is not None else config
        return _predictor(spec, target, own, target_quantization)
    assert spec.model is not None
    loaded = load(spec.model, spec.revision)
    if spec.method == "medusa":
        model = medusa(loaded.config, loaded.name, target)
        return Draft(config=spec, num_speculative_tokens=tokens, model=model)
    if spec.method in ("eagle", "eagle3"):
        return _eagle(spec, target, loaded, config)
    return _independent(spec, target, loaded, config)


def _independent(spec: Speculative, target: Model, loaded: LoadedConfig, config: Config | None) -> Draft:
    """A model of its own (spec_decode/standalone_ar): embedding, head and all."""
    predicted = _as_target(spec, loaded, target)
    if predicted is not None:
        return predicted
    model = build_model(loaded.config, loaded.name)
    rotary = _rotary(loaded.config, model, target, config, stretches=False)
    if rotary is not None:
        caches = _rotary_caches(model)
        model = replace(model, everywhere=tuple(m for m in model.everywhere if m not in caches))
    draft = Draft(
        config=spec,
        num_speculative_tokens=spec.num_speculative_tokens or 1,
        model=model,
        quantization=_quantization(loaded, model, spec.quantization),
        rotary=rotary,
    )
    if model.vocab_size != target.vocab_size and not spec.heterogeneous_vocab:
        return _with_refusal(
            draft,
            "Target and draft model should have the same vocabulary size. Target model "
            f"vocab_size={target.vocab_size}. Draft model vocab_size={model.vocab_size}. Using models with different "
            "tokenizers can cause out-of-bounds errors during speculative decoding.",
        )
    return draft


def _as_target(spec: Speculative, loaded: LoadedConfig, target: Model) -> Draft | None:
    """vLLM takes a draft whose own checkpoint has a predictor for that predictor (hf_config_override)."""
    architecture = next(iter(loaded.config.strs("architectures", default=())), "")
    found = predictor_of(architecture, loaded.config)
    if found is None or architecture != target.architecture or not predictor_layers(found, loaded.config):
        return None
    return _predictor(replace(spec, method="mtp"), target, loaded.config, None)


def _eagle(spec: Speculative, target: Model, loaded: LoadedConfig, config: Config | None) -> Draft:
    """spec_decode/eagle/utils.py load_eagle_model. The head of EAGLE is the target's, that of EAGLE-3 its own."""
    head = eagle_head(_renamed(loaded.config, spec.method), loaded.name, target)
    if head is None:
        name = next(iter(loaded.config.strs("architectures", default=())), "none")
        raise InputError(
            f"speculative_config.model: {printable(loaded.name)} has the architecture {printable(name)}, and the "
            f"planner knows no {spec.method} head of it; known: Llama-like and Qwen3-like heads"
        )
    if spec.parallel_drafting:
        width = next((m.inputs for m in head.last if isinstance(m, Linear) and m.name == "model.fc"), head.hidden_size)
        mask = Weight(name="mask_hidden", shape=(1, width), kind="buffer", group="other")
        head = replace(head, last=(*head.last, mask))
    same = (head.hidden_size, head.vocab_size) == (target.hidden_size, target.vocab_size)
    return Draft(
        config=spec,
        num_speculative_tokens=spec.num_speculative_tokens or 1,
        model=head,
        quantization=_quantization(loaded, head, spec.quantization),
        first_layer=len(target.layers),
        shares_embedding=same,
        beside_stages=() if target.tied else tuple(m for m in target.first if isinstance(m, Embedding) and m.split),
        rotary=_rotary(loaded.config, head, target, config, stretches=True),
    )


def _renamed(config: Config, method: str) -> Config:
    """EAGLEConfig: LlamaForCausalLM becomes EagleLlamaForCausalLM, or Eagle3LlamaForCausalLM."""
    names = []
    for name in config.strs("architectures", default=()):
        if method == "eagle":
            names.append(name if name.startswith("Eagle") else f"Eagle{name}")
        else:
            names.append(name if name.startswith("Eagle3") or name.endswith("Eagle3") else f"Eagle3{name}")
    return config.replaced({"architectures": names})


def _predictor(spec: Speculative, target: Model, config: Config | None, own: Quantization | None) -> Draft:
    """A multi-token predictor, built from the target's own config; embedding and head are the target's."""
    draft = Draft(config=spec, num_speculative_tokens=spec.num_speculative_tokens or 1)
    if target.architecture in UNSIZED_PREDICTORS:
        note = f"The multi-token predictor of {target.architecture} is not counted: the planner does not know it."
        return replace(draft, notes=(note,))
    if config is None:
        raise InputError('speculative_config.method = "mtp": needs a config.json that says how the predictor is built')
    found = predictor_of(target.architecture, config)
    number = predictor_layers(found, config) if found is not None else 0
    if found is None or not number:
        return _with_refusal(draft, "Unsupported speculative method: 'mtp'")
    model, tokens = multi_token_predictor(found, config, target), spec.num_speculative_tokens or number
    draft = replace(
        draft,
        model=model,
        num_speculative_tokens=tokens,
        quantization=own,
        first_layer=0 if model.layer_prefix.startswith("mtp.") else len(target.layers),
        shares_embedding=True,
        shares_head=True,
        beside_stages=model.first,
        unquantized=("mtp.fc",) if own is not None and own.name == "modelopt_fp4" else (),
    )
    if tokens > number and tokens % number:
        return _with_refusal(draft, f"num_speculative_tokens:{tokens} must be divisible by n_predict={number}")
    return draft


def _with_refusal(draft: Draft, message: str) -> Draft:
    return replace(draft, refusal=Reason(code="speculative_config", message=message, flag="--speculative-config"))


def _quantization(loaded: LoadedConfig, model: Model, requested: str | None) -> Quantization | None:
    """The draft's own quantization, never the target's (get_draft_quant_config)."""
    parameters = loaded.values.get("quantization_config") or loaded.values.get("compression_config")
    parameters = parameters or loaded.quant_config
    if parameters is None and requested is None:
        return None
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InputError(f"{loaded.where}: quantization_config = {shown(parameters)}: must be an object")
    return quantization(parameters or {}, model, model.name, requested)


# --- rotary caches -------------------------------------------------------------------------------------------------

_CACHE_ONLY = frozenset(("default", "linear", "llama3", "ntk", "proportional"))
"""Types whose frequencies do not depend on max_position_embeddings (config/speculative.py _CACHE_ONLY_ROPE_TYPES)."""


def _rotary_caches(model: Model) -> list[Weight]:
    return [m for m in model.everywhere if isinstance(m, Weight) and m.name == "rotary_emb.cos_sin_cache"]


def _rotary(
    config: Config, draft: Model, target: Model, target_config: Config | None, *, stretches: bool
) -> DraftRotary | None:
    """None for an independent model whose cache is no plain one: it is then counted as the model lists it."""
    own = _rotary_caches(draft)
    states = [state for layer in draft.layers for state in layer.states]
    head_size = getattr(states[0], "head_size", None) if states else None
    if head_size is None or (not stretches and len(own) != 1):
        return None
    r = rope(config)
    positions = config.int("max_position_embeddings", default=2048)
    if own and rotary_cache(r, head_size, positions).shape != own[0].shape:
        return None
    theirs = _rotary_caches(target)
    same = target_config is not None and _frequencies(config) == _frequencies(target_config)
    return DraftRotary(
        rope=r,
        head_size=head_size,
        positions=positions,
        stretches=stretches and r.type in _CACHE_ONLY,
        target=theirs[0] if same and theirs else None,
    )


def _frequencies(config: Config) -> tuple[object, ...]:
    """What get_rope() goes by beside sizes."""
    if config.has("text_config"):
        config = config.section("text_config")
    r = rope(config)
    parameters = {key: value for key, value in r.parameters.items() if isinstance(value, int | float | str)}
    theta = parameters.pop("rope_theta", None) or config.number("rope_theta", default=10000.0)
    for key in ("type", "rope_type"):
        parameters.pop(key, None)
    return (r.type, r.partial, float(theta), tuple(sorted(parameters.items(), key=lambda item: item[0])))
