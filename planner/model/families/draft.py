"""Draft models of speculative decoding that are no model of their own: EAGLE heads, multi-token predictors, Medusa.

Each is a Model of what vLLM builds beside the target, before it shares the target's embedding and head with it:
`first` holds its own embedding, `last` what it has of a head, `layers` what joins the target's KV cache.
planner/memory/draft.py says what is shared. Mirrors model_executor/models/*_eagle*.py and *_mtp.py (0.33).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention, MLAttention
from planner.model.config import Config
from planner.model.families.common import Dims, dims, gated_mlp, kv_state, norm, qkv_attention
from planner.model.families.sparse import count, flag
from planner.model.modules import Embedding, EngineBuffer, Experts, Linear, LmHead, Module, Repeated, Weight

# --- EAGLE heads ---------------------------------------------------------------------------------------------------


def eagle_head(config: Config, name: str, target: Model) -> Model | None:
    """The head of an EAGLE or EAGLE-3 config, by its architecture (transformers_utils/configs/eagle.py).

    None for an architecture that is not known here.
    """
    architectures = config.strs("architectures", default=())
    architecture = architectures[0] if architectures else ""
    for names, build in _HEADS:
        if architecture in names:
            return build(config, name, target)
    return None


def eagle1(config: Config, name: str, target: Model) -> Model:
    """models/llama_eagle.py: a projection of embedding and hidden state; the first layer lacks its first norm."""
    d = dims(config)
    layers = tuple(
        Layer(
            modules=(
                *_attention(config, d, d.hidden),
                *gated_mlp(d.hidden, config.int("intermediate_size"), bias=flag(config, "mlp_bias")),
                *(norm("input_layernorm", d.hidden) if index else ()),
                *norm("post_attention_layernorm", d.hidden),
            ),
            state=kv_state(d),
        )
        for index in range(d.layers)
    )
    return _head_model(name, config, d, target, layers, (whole("model.fc", 2 * d.hidden, d.hidden),))


def eagle3(config: Config, name: str, target: Model, *, qk_norm: bool = False) -> Model:
    """models/llama_eagle3.py, qwen3_eagle3.py: layers over embedding and a mix of the target's hidden states."""
    d = dims(config)
    layers = tuple(
        Layer(
            modules=(
                *_attention(config, d, d.hidden if index else 2 * d.hidden, qk_norm=qk_norm),
                *gated_mlp(d.hidden, config.int("intermediate_size"), bias=flag(config, "mlp_bias")),
                *(module for part in _EAGLE3_NORMS for module in norm(part, d.hidden)),
            ),
            state=kv_state(d),
        )
        for index in range(d.layers)
    )
    vocab = config.optional_int("draft_vocab_size") or d.vocab
    ends: list[Module] = [*_aux_states(config, d.hidden), *norm("model.norm", d.hidden)]
    ends.append(LmHead(name="lm_head", rows=vocab, width=d.hidden))
    if vocab != target.vocab_size:
        ends.append(Weight(name="draft_id_to_target_id", shape=(vocab,), dtype="int64", group="other"))
    return _head_model(name, config, d, target, layers, ends)


_EAGLE3_NORMS = ("input_layernorm", "post_attention_layernorm", "hidden_norm")


def _attention(config: Config, d: Dims, inputs: int, *, qk_norm: bool = False) -> tuple[Module, ...]:
    bias = flag(config, "attention_bias")
    # Qwen3's own class never has a bias of o_proj.
    o_bias = bias and not qk_norm
    first, *rest = qkv_attention(d, qkv_bias=bias, o_bias=o_bias, qk_norm=d.head_dim if qk_norm else None)
    assert isinstance(first, Linear)
    return (replace(first, inputs=inputs), *rest)


def _aux_states(config: Config, hidden: int) -> Iterable[Module]:
    """What combines the hidden states of several layers of the target."""
    eagle = config.section("eagle_config") if config.has("eagle_config") else config.replaced({})
    if not eagle.bool("use_aux_hidden_state", default=True):
        return
    states = count(config, "num_aux_layers") or count(config, "num_aux_hidden_states") or _listed_states(config, eagle)
    width = config.optional_int("target_hidden_size") or hidden
    if eagle.bool("norm_before_fc", default=flag(config, "norm_before_fc")):
        yield from norm("model.input_norm", states * width)
    if flag(config, "fc_norm"):
        for index in range(states):
            yield from norm(f"model.fc_norm.{index}", width)
    yield whole("model.fc", states * width, hidden)


def _listed_states(config: Config, eagle: Config) -> int:
    for section in (config, eagle):
        if section.has("eagle_aux_hidden_state_layer_ids"):
            return len(section.ints("eagle_aux_hidden_state_layer_ids"))
    return 3


def _head_model(
    name: str, config: Config, d: Dims, target: Model, layers: tuple[Layer, ...], ends: Iterable[Module]
) -> Model:
    return Model(
        name=name,
        architecture=config.strs("architectures")[0],
        hidden_size=d.hidden,
        vocab_size=d.vocab,
        num_attention_heads=d.heads,
        dtype=target.dtype,
        max_position=target.max_position,
        layers=layers,
        first=(Embedding(name="model.embed_tokens", rows=d.vocab, width=d.hidden),),
        last=tuple(ends),
    )


_Head = Callable[[Config, str, Model], Model]
_HEADS: tuple[tuple[frozenset[str], _Head], ...] = (
    (
        frozenset(
            """LlamaForCausalLMEagle3 Eagle3LlamaForCausalLM PeagleLlamaForCausalLM PEagleDraftModel
            Eagle3MiniMaxM2ForCausalLM Eagle3Qwen2_5vlForCausalLM Eagle3Qwen3vlForCausalLM""".split()
        ),
        eagle3,
    ),
    (
        frozenset(("Eagle3Qwen3ForCausalLM", "PeagleQwen3ForCausalLM")),
        lambda config, name, target: eagle3(config, name, target, qk_norm=True),
    ),
    (frozenset(("EagleLlamaForCausalLM",)), eagle1),
)


def whole(name: str, inputs: int, outputs: int, *, quantizable: bool = True) -> Linear:
    """A ReplicatedLinear [outputs, inputs]: whole on every rank."""
    return Linear(name=name, inputs=inputs, outputs=(outputs,), split="none", group="other", quantizable=quantizable)


# --- multi-token predictors ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """How one family's checkpoint holds its multi-token predictor, and how vLLM builds it."""

    counts: tuple[str, ...]
    """The config's keys for the number of layers."""
    build: Callable[[Config, Model, int], tuple[tuple[Layer, ...], tuple[Module, ...], str]]
    """config, target, number -> its layers, what is beside them, and vLLM's prefix of the layers."""
    otherwise: int = 0
    """Layers of a config that does not say."""
    model_types: frozenset[str] | None = None
    """The only model types for which vLLM knows it; None: all of the architecture."""


def predictor_of(architecture: str, config: Config) -> Predictor | None:
    """The predictor that vLLM builds for a target of this architecture; None where it has none."""
    found = _PREDICTORS.get(architecture)
    if found is None or found.model_types is None:
        return found
    return found if config.str("model_type", default="") in found.model_types else None


def predictor_layers(predictor: Predictor, config: Config) -> int:
    """How many layers the checkpoint's predictor has."""
    for section in (config, *([config.section("text_config")] if config.has("text_config") else ())):
        for key in predictor.counts:
            if section.has(key):
                return count(section, key)
    return predictor.otherwise


def multi_token_predictor(predictor: Predictor, config: Config, target: Model) -> Model:
    """The predictor as vLLM builds it, before it takes the target's embedding and head."""
    number = predictor_layers(predictor, config)
    layers, beside, prefix = predictor.build(config, target, number)
    return replace(
        target,
        layers=layers,
        first=(Embedding(name="model.embed_tokens", rows=target.vocab_size, width=target.hidden_size),),
        last=beside,
        tied=(),
        everywhere=(),
        towers=(),
        layer_prefix=prefix,
        extra_parameters={},
        is_multimodal=False,
    )


_Parts = tuple[tuple[Layer, ...], tuple[Module, ...], str]


def _attending(target: Model) -> Layer:
    """The target's last layer that attends to everything: what a predictor's block is built like."""
    for layer in reversed(target.layers):
        if isinstance(layer.state, MLAttention) or (
            isinstance(layer.state, KVAttention) and layer.state.sliding_window is None
        ):
            return layer
    return target.layers[-1]


def _extended(layer: Layer, modules: Iterable[Module]) -> Layer:
    """A layer of the target with more modules; the map of experts is the target's own."""
    return Layer(modules=(*modules, *layer.modules), state=layer.state, more_states=layer.more_states)


def _deepseek(config: Config, target: Model, number: int) -> _Parts:
    """deepseek_mtp.py, glm4_moe_mtp.py, glm4_moe_lite_mtp.py: each layer with two norms, a projection and a norm."""
    hidden = target.hidden_size
    before: list[Module] = [
        *norm("enorm", hidden),
        *norm("hnorm", hidden),
        whole("eh_proj", 2 * hidden, hidden, quantizable=False),
        *norm("shared_head.norm", hidden),
    ]
    if config.has("index_topk"):
        # Sparse attention keeps the buffer that was made for the predictor, though it is then given the target's.
        width = config.int("index_topk")
        before.append(EngineBuffer(name="topk_indices_buffer", rows="tokens", width=width, group="attention"))
    return (_extended(_attending(target), before),) * number, (), target.layer_prefix


def _qwen(config: Config, target: Model, number: int) -> _Parts:
    """qwen3_next_mtp.py, qwen3_5_mtp.py: one projection for all layers, three norms."""
    hidden = target.hidden_size
    fc = Linear(name="mtp.fc", inputs=2 * hidden, outputs=(hidden,), split="column", group="other")
    names = ("mtp.norm", "mtp.pre_fc_norm_hidden", "mtp.pre_fc_norm_embedding")
    beside: tuple[Module, ...] = (fc, *(module for name in names for module in norm(name, hidden)))
    return (_attending(target),) * number, beside, "mtp.layers."


def _mimo(config: Config, target: Model, number: int) -> _Parts:
    """mimo_mtp.py."""
    hidden = target.hidden_size
    before: tuple[Module, ...] = (
        *(module for name in ("token_layernorm", "hidden_layernorm") for module in norm(name, hidden)),
        whole("input_proj", 2 * hidden, hidden, quantizable=False),
        *norm("final_layernorm", hidden),
    )
    return (_extended(_attending(target), before),) * number, (), "model.mtp_layers."


def _nemotron(config: Config, target: Model, number: int) -> _Parts:
    """nemotron_h_mtp.py: attention ("*") and experts ("E") by a pattern of their own."""
    hidden = target.hidden_size
    pattern = (config.optional_str("mtp_hybrid_override_pattern") or "*E") * number
    experts = next((x for x in target.layers if any(isinstance(m, Experts) for m in x.modules)), None)
    kinds = {"*": _attending(target), "E": experts}
    layers = []
    for index, kind in enumerate(pattern):
        layer = kinds.get(kind)
        if layer is None:
            raise config.error("mtp_hybrid_override_pattern", f"= {pattern!r}: the planner knows * and E")
        before: list[Module] = []
        if index == 0:
            projection = Linear(name="eh_proj", inputs=2 * hidden, outputs=(hidden,), split="column", group="other")
            before += [*norm("enorm", hidden), *norm("hnorm", hidden), projection]
        if index == len(pattern) - 1:
            before += norm("final_layernorm", hidden)
        layers.append(_extended(layer, before))
    return tuple(layers), (), "mtp.layers."


_NEXTN = ("num_nextn_predict_layers",)
_DEEPSEEK_TYPES = frozenset(("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "deepseek_mtp"))
_QWEN35 = Predictor(counts=("mtp_num_hidden_layers",), build=_qwen, otherwise=1)
_PREDICTORS: dict[str, Predictor] = {
    "DeepseekV3ForCausalLM": Predictor(counts=_NEXTN, build=_deepseek, model_types=_DEEPSEEK_TYPES),
    "DeepseekV32ForCausalLM": Predictor(counts=_NEXTN, build=_deepseek, model_types=_DEEPSEEK_TYPES),
    "GlmMoeDsaForCausalLM": Predictor(counts=_NEXTN, build=_deepseek, model_types=_DEEPSEEK_TYPES),
    "Glm4MoeForCausalLM": Predictor(counts=_NEXTN, build=_deepseek),
    "Glm4MoeLiteForCausalLM": Predictor(counts=_NEXTN, build=_deepseek),
    "MiMoForCausalLM": Predictor(counts=_NEXTN, build=_mimo),
    "NemotronHForCausalLM": Predictor(counts=_NEXTN, build=_nemotron),
    "Qwen3NextForCausalLM": Predictor(counts=_NEXTN, build=_qwen, otherwise=1),
    "Qwen3_5ForCausalLM": _QWEN35,
    "Qwen3_5MoeForCausalLM": _QWEN35,
    "Qwen3_5ForConditionalGeneration": _QWEN35,
    "Qwen3_5MoeForConditionalGeneration": _QWEN35,
}

UNSIZED_PREDICTORS = frozenset(
    """DeepseekV4ForCausalLM Ernie4_5_MoeForCausalLM Ernie4_5_MoEForCausalLM HYV3ForCausalLM
    MiniMaxM3SparseForConditionalGeneration NemotronHPuzzleForCausalLM""".split()
)
"""Targets whose predictor vLLM builds (hf_config_override, 0.33) and this planner does not know."""


# --- Medusa, before 0.33 -------------------------------------------------------------------------------------------


def medusa(config: Config, name: str, target: Model) -> Model:
    """models/medusa.py (up to 0.32): a few residual blocks, each with a head of its own. It keeps no cache."""
    hidden, vocab = config.int("hidden_size", default=4096), config.int("vocab_size", default=32001)
    bias = flag(config, "medusa_fc_bias")
    linear = replace(whole("", hidden, hidden, quantizable=False), bias=bias)
    heads = config.int("num_heads", default=5)
    blocks = tuple(
        replace(linear, name=f"layers.{index}") for index in range(config.int("num_hidden_layers", default=1))
    )
    rows, head_count = vocab, heads
    if flag(config, "original_lm_head"):
        rows, head_count = config.optional_int("truncated_vocab_size") or vocab, 1
    head = LmHead(name="lm_heads", rows=rows, width=hidden)
    return Model(
        name=name,
        architecture="MedusaModel",
        hidden_size=hidden,
        vocab_size=vocab,
        num_attention_heads=target.num_attention_heads,
        dtype=target.dtype,
        max_position=target.max_position,
        layers=(),
        last=(
            Repeated(name="blocks.", count=heads, modules=blocks, group="other"),
            *(replace(head, name=f"lm_heads.{index}") for index in range(head_count)),
        ),
    )
