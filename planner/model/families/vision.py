"""Vision-language models: a text family of the other modules, with towers (towers.py) before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from planner.model.architecture import Layer, Model
from planner.model.attention import CrossAttention
from planner.model.config import Config
from planner.model.encoder import encoder_facts
from planner.model.families import build_text, family
from planner.model.families import towers as t
from planner.model.families.common import (
    config_dtype,
    dims,
    gated_mlp,
    qkv_attention,
    ties_embeddings,
)
from planner.model.families.delta_net import qwen3_5_text
from planner.model.families.dense import PRE_NORMS, llama, norms, qwen2, qwen3_text
from planner.model.families.gemma import gemma3, gemma3n, gemma4
from planner.model.families.moe import llama4_text, qwen3_moe_text
from planner.model.modules import Embedding, EngineBuffer, Module, Weight

M = TypeVar("M")

NESTED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
"""The checkpoint's prefixes and vLLM's, as most classes' hf_to_vllm_mapper has them."""
QWEN = (
    ("model.language_model.", "language_model.model."),
    ("model.visual.", "visual."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)


def text_section(config: Config, *, forwarded: bool = False) -> Config:
    """The decoder's config: `text_config`, or the top itself, where older configs have its keys.

    Whether the head is tied is for the top to say (config/vllm.py with_hf_config, 0.33). forwarded: transformers' class
    takes a text_config that says so for the top.
    """
    if config.has("text_config"):
        section = config.section("text_config")
    else:
        kind = config.str("model_type", default="")
        # The architectures are those of the whole, which would look for its text here again.
        section = config.replaced({"model_type": f"{kind}_text", "architectures": None})
    tied = ties_embeddings(config) or (forwarded and ties_embeddings(section))
    return section.replaced({"tie_word_embeddings": tied})


def multimodal(
    config: Config,
    text: Model,
    towers: Iterable[Module],
    *,
    renames: Sequence[tuple[str, str]] = NESTED,
    prefix: str = "language_model.",
    **others: Any,
) -> Model:
    """A text model inside a vision-language one: under `prefix`, behind its towers."""

    def inside(modules: Sequence[Module]) -> tuple[Module, ...]:
        return tuple(replace(module, name=f"{prefix}{module.name}") for module in modules)  # type: ignore[type-var]

    first = inside(text.first)
    return replace(
        text,
        architecture=config.strs("architectures")[0],
        dtype=config_dtype(config),
        first=first,
        last=inside(text.last),
        tied=tuple(new for new, old in zip(first, text.first, strict=True) if old in text.tied),
        everywhere=inside(text.everywhere),
        layer_prefix=f"{prefix}{text.layer_prefix}",
        towers=tuple(towers),
        renames=tuple(renames),
        is_multimodal=True,
        encoder=encoder_facts(config, text.hidden_size),
        **others,
    )


# --- Qwen ----------------------------------------------------------------------------------------------------------


@family("Qwen2VLForConditionalGeneration")
def qwen2_vl(config: Config, name: str) -> Model:
    """models/qwen2_vl.py."""
    text = qwen2(text_section(config, forwarded=True), name)
    return multimodal(config, text, t.qwen2_tower(config.section("vision_config")), renames=QWEN)


@family("Qwen2_5_VLForConditionalGeneration")
def qwen2_5_vl(config: Config, name: str) -> Model:
    """models/qwen2_5_vl.py."""
    text = qwen2(text_section(config, forwarded=True), name)
    return multimodal(config, text, t.qwen2_5_tower(config.section("vision_config")), renames=QWEN)


@family("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration")
def qwen3_vl(config: Config, name: str) -> Model:
    """models/qwen3_vl.py, qwen3_vl_moe.py: features of several levels of the tower enter the first layers."""
    section, vision = text_section(config), config.section("vision_config")
    decoder = qwen3_moe_text if section.has("num_experts") else qwen3_text
    text = decoder(section, name, positions_factor=1)
    levels = t.qwen3_deepstack(vision)
    stack = tuple(
        EngineBuffer(
            name=f"deepstack_input_embeds.{i}",
            rows="tokens",
            width=text.hidden_size,
            dtype=None,
            group="vision",
        )
        for i in range(len(levels))
    )
    return multimodal(config, text, (*t.qwen3_tower(vision), *stack), renames=QWEN)


@family("Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration")
def qwen3_5_vl(config: Config, name: str) -> Model:
    """models/qwen3_5.py: Qwen3-VL's tower before a hybrid decoder, whose own config says whether the head is tied."""
    text = qwen3_5_text(config.section("text_config"), name)
    return multimodal(config, text, t.qwen3_tower(config.section("vision_config")), renames=QWEN)


# --- Gemma ---------------------------------------------------------------------------------------------------------


@family("Gemma3ForConditionalGeneration")
def gemma3_vl(config: Config, name: str) -> Model:
    """models/gemma3_mm.py: SigLIP and a projection that is one parameter; image tokens attend both ways."""
    vision = config.section("vision_config")
    text = gemma3(text_section(config), name)
    hidden = vision.int("hidden_size")
    towers = (
        *t.siglip_tower(vision, "vision_tower"),
        t.weight("multi_modal_projector.mm_input_projection_weight", hidden, text.hidden_size),
        *t.norms(hidden, "multi_modal_projector.mm_soft_emb_norm", bias=False),
    )
    return multimodal(config, text, towers, is_mm_prefix_lm=True)


@family("Gemma4ForConditionalGeneration")
def gemma4_vl(config: Config, name: str) -> Model:
    """models/gemma4_mm.py: transformers' own towers for images and, where the config has one, for sound."""
    section, audio = text_section(config), config.optional_section("audio_config")
    text = gemma4(section, name)
    towers: list[Module] = [*t.gemma4_tower(config.section("vision_config"), text.hidden_size)]
    if audio is not None:
        towers += t.gemma4_audio(audio, text.hidden_size)
    renames = (*NESTED, ("model.embed_vision.", "embed_vision."), ("model.audio_tower.", "audio_tower."))
    both_ways = section.optional_str("use_bidirectional_attention") == "vision"
    standard = sum(m.elements for m in towers if isinstance(m, Weight) and m.name.startswith("vision_tower.std_"))
    model = multimodal(
        config,
        text,
        towers,
        renames=renames,
        is_mm_prefix_lm=both_ways,
        extra_parameters={**text.extra_parameters, "std_bias and std_scale": standard},
    )
    return _with_layer_inputs(model, section)


@family("Gemma3nForConditionalGeneration")
def gemma3n_vl(config: Config, name: str) -> Model:
    """models/gemma3n_mm.py: timm's MobileNet for images, a conformer for sound."""
    section = text_section(config)
    text = gemma3n(section, name)
    towers = (
        *t.gemma3n_tower(config.section("vision_config"), text.hidden_size),
        *t.gemma3n_audio(config.section("audio_config"), text.hidden_size),
    )
    return _with_layer_inputs(multimodal(config, text, towers), section)


def _with_layer_inputs(model: Model, text: Config) -> Model:
    """Room for the embeddings per layer of a whole batch, kept by the vision-language class itself."""
    size = text.optional_int("hidden_size_per_layer_input") or 0
    if not size:
        return model
    room = EngineBuffer(
        name="per_layer_embeddings",
        rows="tokens",
        width=size,
        depth=len(model.layers),
        dtype=None,
    )
    return replace(model, everywhere=(*model.everywhere, room))


# --- Mistral, LLaVA ------------------------------------------------------------------------------------------------


def _feature_layers(config: Config, vision: Config) -> int:
    """Layers of the tower up to the one whose features are used (models/llava.py _get_num_hidden_layers)."""
    count = vision.int("num_hidden_layers")
    key = "vision_feature_layer"
    if isinstance(config.raw(key), list):
        indices = config.ints(key, minimum=-count, maximum=count)
    else:
        indices = (config.int(key, minimum=-count, maximum=count),)
    if not indices:
        raise config.error(key, "is empty; name a layer of the tower")
    return max(i if i >= 0 else count + i + 1 for i in indices)


_TOWERS = {
    "pixtral": t.pixtral_tower,
    "clip_vision_model": t.clip_tower,
    "siglip_vision_model": t.siglip_tower,
}
"""By the model_type of `vision_config`."""


def _llava_tower(config: Config, vision: Config) -> tuple[Module, ...]:
    kind = vision.str("model_type")
    if kind not in _TOWERS:
        raise vision.error(
            "model_type", f"= {kind!r} is a tower the planner does not know; known: {', '.join(_TOWERS)}"
        )
    return _TOWERS[kind](vision, "vision_tower", layers=_feature_layers(config, vision))


@family("LlavaForConditionalGeneration")
def llava(config: Config, name: str) -> Model:
    """models/llava.py, which also serves Pixtral in transformers' format."""
    vision = config.section("vision_config")
    text = build_text(text_section(config, forwarded=True), name)
    bias = config.bool("multimodal_projector_bias", default=True)
    projector = t.llava_projector("multi_modal_projector", vision.int("hidden_size"), text.hidden_size, bias=bias)
    return multimodal(config, text, (*_llava_tower(config, vision), *projector))


@family("Mistral3ForConditionalGeneration")
def mistral3(config: Config, name: str) -> Model:
    """models/mistral3.py: Pixtral's tower and a merger of neighbouring patches."""
    vision = config.section("vision_config")
    hidden = vision.int("hidden_size")
    text = build_text(text_section(config), name)
    bias = config.bool("multimodal_projector_bias", default=False)
    prefix = "multi_modal_projector"
    merged = hidden * config.int("spatial_merge_size") ** 2
    towers = (
        *_llava_tower(config, vision),
        *t.norms(hidden, f"{prefix}.norm", bias=False),
        t.weight(f"{prefix}.patch_merger.merging_layer.weight", hidden, merged),
        *t.llava_projector(prefix, hidden, text.hidden_size, bias=bias),
    )
    return multimodal(config, text, towers, renames=(*NESTED, ("model.", "language_model.model.")))


# --- Llama 4, Phi-3 ------------------------------------------------------------------------------------------------


@family("Llama4ForConditionalGeneration")
def llama4_vl(config: Config, name: str) -> Model:
    """models/mllama4.py."""
    text = llama4_text(text_section(config), name)
    return multimodal(config, text, t.llama4_tower(config.section("vision_config"), text.hidden_size))


@family("MllamaForConditionalGeneration")
def mllama(config: Config, name: str) -> Model:
    """models/mllama.py (Llama 3.2 Vision, until 0.10.2): some layers attend to the image instead of the text."""
    section = text_section(config)
    plain = llama(section, name)
    across = set(section.ints("cross_attention_layers"))
    if not all(index < len(plain.layers) for index in across):
        raise section.error("cross_attention_layers", f"names layers beyond num_hidden_layers = {len(plain.layers)}")
    d = dims(section)
    modules: tuple[Module, ...] = (
        *qkv_attention(d, prefix="cross_attn", qk_norm=d.head_dim),
        *gated_mlp(d.hidden, section.int("intermediate_size")),
        *norms(d.hidden, *PRE_NORMS),
        t.weight("cross_attn_attn_gate", 1),
        t.weight("cross_attn_mlp_gate", 1),
    )
    crossing = Layer(modules=modules, state=CrossAttention(heads=d.heads, kv_heads=d.kv_heads, head_size=d.head_dim))
    # Eight more words, for images, than the head can say.
    words = Embedding(name="model.embed_tokens", rows=d.vocab + 8, width=d.hidden)
    text = replace(
        plain,
        layers=tuple(crossing if index in across else layer for index, layer in enumerate(plain.layers)),
        first=(words,),
        tied=(),
    )
    towers = t.mllama_tower(config.section("vision_config"), d.hidden)
    return multimodal(config, text, towers, supports_pp=False)


@family("Phi3VForCausalLM")
def phi3_vision(config: Config, name: str) -> Model:
    """models/phi3v.py: CLIP without its last layer; the embedding exists twice, before and inside the decoder."""
    text = llama(config, name)
    width = config.section("img_processor").int("image_dim_out")
    hidden = text.hidden_size
    root = "vision_embed_tokens"
    towers = (
        t.weight(f"{root}.glb_GN", 1, 1, 4 * width),
        t.weight(f"{root}.sub_GN", 1, 1, 1, 4 * width),
        *t.biased(f"{root}.img_projection.0", hidden, 4 * width),
        *t.biased(f"{root}.img_projection.2", hidden, hidden),
        *t.clip_tower(_CLIP_336, f"{root}.img_processor", layers=23),
    )
    renames = (
        ("model.vision_embed_tokens.wte", "embed_tokens"),
        ("model.vision_embed_tokens.", "vision_embed_tokens."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", "language_model.model."),
    )
    again = Embedding(name="model.embed_tokens", rows=text.vocab_size, width=hidden, group="vision")
    extra = {"a second embedding": -again.parameters, "the last layer and norm of CLIP": _CLIP_REST}
    # The decoder is built with an empty prefix, so quantization lists see it as a plain Llama.
    return multimodal(config, text, (again, *towers), renames=renames, prefix="", extra_parameters=extra)


_CLIP_336 = Config(
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_channels": 3,
        "image_size": 336,
        "patch_size": 14,
        "model_type": "clip_vision_model",
    },
    where="CLIP ViT-L/14 at 336 pixels",
)
"""CLIP_VIT_LARGE_PATCH14_336_CONFIG of models/phi3v.py: the config only names it."""
_CLIP_REST = sum(
    sign * module.parameters
    for sign, layers in ((1, None), (-1, 23))
    for module in t.clip_tower(_CLIP_336, "", layers=layers)
)
