"""Vision-language models around the decoders of moe.py that have towers of their own: Kimi-K2.5, MiniMax-M3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import family
from planner.model.families import towers as t
from planner.model.families.latent import deepseek_text
from planner.model.families.moe import minimax_m3_text
from planner.model.families.vision import multimodal
from planner.model.modules import Heads, Module, Placement, Tensor, Weight


@family("KimiK25ForConditionalGeneration")
def kimi_k25(config: Config, name: str) -> Model:
    """models/kimi_k25.py: MoonViT and a patch merger before DeepSeek-V3's decoder."""
    vision = config.section("vision_config")
    text = deepseek_text(config.section("text_config"), name)
    renames = (
        ("language_model.layers.", "language_model.model.layers."),
        ("mm_projector.proj.0", "mm_projector.linear_1"),
        ("mm_projector.proj.2", "mm_projector.linear_2"),
    )
    return multimodal(config, text, _moonvit(vision, text.hidden_size), renames=renames)


@dataclass(frozen=True, kw_only=True)
class TimeWeight(Weight):
    """Made in fp32 and cast with the tower, which vLLM leaves uncast where a quantization config reaches it.

    models/kimi_k25.py _maybe_ignore_quant_config (0.33): all but compressed-tensors do.
    """

    def tensors(self, at: Placement) -> Iterator[Tensor]:
        """In fp32 beside most quantizations, which do not cast it; else in the model's dtype."""
        uncast = at.quantization is not None and at.quantization.name != "compressed-tensors"
        yield from super().tensors(replace(at, dtype="float32") if uncast else at)


def _moonvit(v: Config, text: int) -> tuple[Module, ...]:
    """MoonViT3dPretrainedModel and KimiK25MultiModalProjector (models/kimi_k25_vit.py), never quantized."""
    hidden = v.int("vt_hidden_size")
    heads = t.heads_of(v, hidden, "vt_num_attention_heads")
    patch, merged = v.int("patch_size"), hidden * _area(v, "merge_kernel_size")
    block = (
        *t.norms(hidden, "norm0", "norm1"),
        *t.fc("mlp.", ("fc0", "fc1"), hidden, v.int("vt_intermediate_size"), quantizable=False),
        t.linear("wqkv", hidden, hidden, heads, heads, split="column", quantizable=False),
        t.linear("wo", hidden, hidden, split="row", quantizable=False),
    )
    root, projector = "vision_tower", "mm_projector"
    return (
        *t.biased(f"{root}.patch_embed.proj", hidden, 3, patch, patch),
        t.weight(
            f"{root}.patch_embed.pos_emb.weight", v.int("init_pos_emb_height"), v.int("init_pos_emb_width"), hidden
        ),
        TimeWeight(
            name=f"{root}.patch_embed.pos_emb.time_weight",
            shape=(v.int("init_pos_emb_time"), 1, hidden),
            kind="buffer",
            group="vision",
        ),
        t.blocks(f"{root}.encoder.blocks.", v.int("vt_num_hidden_layers"), block),
        *t.norms(hidden, f"{root}.encoder.final_layernorm", f"{projector}.pre_norm"),
        t.linear(f"{projector}.linear_1", merged, merged, split="none", quantizable=False),
        t.linear(f"{projector}.linear_2", merged, text, split="none", quantizable=False),
    )


def _area(config: Config, key: str) -> int:
    sides = config.ints(key, minimum=1)
    if len(sides) != 2:
        raise config.error(key, f"must be two whole numbers, has {len(sides)}")
    return sides[0] * sides[1]


@family("MiniMaxM3SparseForConditionalGeneration")
def minimax_m3(config: Config, name: str) -> Model:
    """vllm/models/minimax_m3: a CLIP-like tower over patches in space and time, projector and patch merger."""
    text = minimax_m3_text(config.section("text_config"), name)
    projector = config.optional_int("projector_hidden_size", minimum=1) or text.hidden_size
    return multimodal(config, text, _m3_tower(config.section("vision_config"), text.hidden_size, projector))


def _m3_tower(v: Config, text: int, projector: int) -> tuple[Module, ...]:
    """MiniMaxVLVisionModel (vllm/models/minimax_m3/common/vision_tower.py)."""
    hidden, patch = v.int("hidden_size"), v.int("patch_size")
    compression = v.section("img_token_compression_config")
    heads: Heads = t.heads_of(v, hidden)
    block = (
        *t.norms(hidden, "layer_norm1", "layer_norm2"),
        t.qkv("self_attn.qkv_proj", hidden, heads, packed=("q_proj", "k_proj", "v_proj")),
        t.linear("self_attn.out_proj", hidden, hidden, split="row"),
        *t.fc("", ("fc1", "fc2"), hidden, v.int("intermediate_size")),
    )
    root = "vision_tower.vision_model"
    axis = 2 * ((heads.size // 3) // 2)  # the even share of a head that each of time, height and width rotates
    merged = text * compression.int("spatial_merge_size") ** 2
    return (
        *(t.buffer(f"{root}.inv_freq_{name}", axis // 2, dtype="float32") for name in "thw"),
        t.weight(
            f"{root}.embeddings.patch_embedding.weight",
            hidden,
            v.int("num_channels"),
            compression.int("temporal_patch_size", 2),
            patch,
            patch,
        ),
        *t.norms(hidden, f"{root}.pre_layrnorm"),
        t.blocks(f"{root}.encoder.layers.", v.int("num_hidden_layers"), block),
        *_two_layers("vision_tower.multi_modal_projector", hidden, projector, text),
        *_two_layers("vision_tower.patch_merge_mlp", merged, projector, text),
    )


def _two_layers(prefix: str, inputs: int, width: int, outputs: int) -> tuple[Module, ...]:
    return (
        t.linear(f"{prefix}.linear_1", inputs, width, split="column"),
        t.linear(f"{prefix}.linear_2", width, outputs, split="row"),
    )
