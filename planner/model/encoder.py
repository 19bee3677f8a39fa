"""What a vision tower does in vLLM's profile run: how large the largest item is, and how wide the tower's layers are.

Sources: `get_mm_max_tokens_per_item` and the dummy inputs of each processing class (models/qwen2_vl.py, qwen3_vl.py,
gemma3_mm.py, gemma4_mm.py, pixtral.py, mistral3.py, llava.py, mllama4.py, kimi_k25.py; 0.8.5 to 0.33). Limits of images
that a checkpoint keeps in preprocessor_config.json are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planner.engine.version import VllmVersion
from planner.errors import InputError
from planner.model.config import Config

Video = Literal["none", "frames", "pixels"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of the profile run: placeholder tokens that the budget counts, patches that the tower computes."""

    tokens: int
    patches: int


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """The tower that the profile run feeds with the largest items."""

    hidden_size: int
    intermediate_size: int
    gated: bool
    patch_pixels: int
    """Values of one patch as the processor hands them over: channels x patch x patch (x temporal patch)."""
    output_size: int
    """Width of one output token, features of several levels included."""
    image: Item
    pixels_per_token: int | None = None
    """Where the processor's max_pixels (mm_processor_kwargs) sets the size of the largest image."""
    video: Video = "none"
    """frames: as many of the largest frames as the context holds (Qwen2-VL); pixels: bounded on its own, and smaller
    than an image since 0.13 (Qwen3-VL)."""

    def item(self, *, version: VllmVersion, max_model_len: int, options: Mapping[str, Any], videos: bool) -> Item:
        """The item with the most tokens. options: mm_processor_kwargs; videos: not switched off by a limit of 0."""
        image = self._image(options)
        if not videos or self.video == "none":
            return image
        if self.video == "pixels":
            return Item(tokens=153_600, patches=49_152) if version < (0, 13) else image
        if version < (0, 10):  # one image is taken off first
            most, room = 16, max_model_len - image.tokens
        else:
            most, room = 14, max_model_len
        grids = max(1, min(most // 2, room // image.tokens))
        return Item(tokens=grids * image.tokens, patches=grids * image.patches)

    def _image(self, options: Mapping[str, Any]) -> Item:
        size = options.get("size")
        pixels = options.get("max_pixels", size.get("longest_edge") if isinstance(size, Mapping) else None)
        if self.pixels_per_token is None or not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
            return self.image
        tokens = max(1, pixels // self.pixels_per_token)
        return Item(tokens=tokens, patches=tokens * self.image.patches // self.image.tokens)


def encoder_facts(config: Config, text_hidden: int) -> EncoderFacts | None:
    """None where the tower's profile run is not described here; the estimate then says so and widens its range."""
    build = _ENCODERS.get(config.strs("architectures")[0])
    if build is None or not config.has("vision_config"):
        return None
    try:
        return build(config.section("vision_config"), config, text_hidden)
    except (InputError, ZeroDivisionError):
        return None


def _qwen2(v: Config, _: Config, text: int) -> EncoderFacts:
    """max_pixels 12,845,056: 16,384 tokens of 28 x 28 pixels."""
    gated = v.has("intermediate_size")
    hidden = v.int("hidden_size") if gated else v.int("embed_dim")
    width = v.int("intermediate_size") if gated else int(hidden * v.number("mlp_ratio", default=4.0))
    return _qwen(v, hidden, width, gated=gated, tokens=16_384, output=text, video="frames")


def _qwen3(v: Config, _: Config, text: int) -> EncoderFacts:
    """longest_edge 16,777,216: 16,384 tokens of 32 x 32 pixels; deepstack levels widen the output."""
    levels = len(v.ints("deepstack_visual_indexes", default=()))
    return _qwen(
        v,
        v.int("hidden_size"),
        v.int("intermediate_size"),
        gated=False,
        tokens=16_384,
        output=text * (1 + levels),
        video="pixels",
    )


def _qwen(v: Config, hidden: int, width: int, *, gated: bool, tokens: int, output: int, video: Video) -> EncoderFacts:
    patch, merge = v.int("patch_size"), v.int("spatial_merge_size")
    return EncoderFacts(
        hidden_size=hidden,
        intermediate_size=width,
        gated=gated,
        patch_pixels=3 * v.int("temporal_patch_size") * patch**2,
        output_size=output,
        image=Item(tokens=tokens, patches=tokens * merge**2),
        pixels_per_token=(patch * merge) ** 2,
        video=video,
    )


def _plain(v: Config, text: int, image: Item, *, gated: bool = False) -> EncoderFacts:
    if image.tokens < 1:
        raise v.error("image_size", "is too small for a single patch")
    return EncoderFacts(
        hidden_size=v.int("hidden_size"),
        intermediate_size=v.int("intermediate_size"),
        gated=gated,
        patch_pixels=3 * v.int("patch_size") ** 2,
        output_size=text,
        image=image,
    )


def _side(v: Config) -> int:
    return v.int("image_size") // v.int("patch_size")


def _gemma3(v: Config, config: Config, text: int) -> EncoderFacts:
    return _plain(v, text, Item(tokens=config.int("mm_tokens_per_image", default=256), patches=_side(v) ** 2))


def _gemma4(v: Config, _: Config, text: int) -> EncoderFacts:
    """A video of 32 frames, each 70 tokens with 8 more around them, pooled three by three."""
    return _plain(v, text, Item(tokens=32 * 78, patches=32 * 70 * 9), gated=True)


def _pixtral(v: Config, config: Config, text: int) -> EncoderFacts:
    merge = config.int("spatial_merge_size", default=1)
    return _plain(v, text, Item(tokens=(_side(v) // merge) ** 2, patches=_side(v) ** 2), gated=True)


def _llava(v: Config, config: Config, text: int) -> EncoderFacts:
    if v.str("model_type", default="") == "pixtral":
        return _pixtral(v, config, text)
    return _plain(v, text, Item(tokens=_side(v) ** 2, patches=_side(v) ** 2 + 1))


def _llama4(v: Config, _: Config, text: int) -> EncoderFacts:
    """16 tiles and the whole image once more; pixel shuffle keeps a quarter of the patches."""
    return _plain(v, text, Item(tokens=17 * _side(v) ** 2 // 4, patches=17 * (_side(v) ** 2 + 1)))


def _kimi(v: Config, _: Config, text: int) -> EncoderFacts:
    """in_patch_limit 16,384 of an image, merged two by two."""
    return EncoderFacts(
        hidden_size=v.int("vt_hidden_size"),
        intermediate_size=v.int("vt_intermediate_size"),
        gated=False,
        patch_pixels=3 * v.int("patch_size") ** 2,
        output_size=text,
        image=Item(tokens=4096, patches=16_384),
    )


_ENCODERS: Mapping[str, Callable[[Config, Config, int], EncoderFacts]] = {
    "Qwen2VLForConditionalGeneration": _qwen2,
    "Qwen2_5_VLForConditionalGeneration": _qwen2,
    "Qwen3VLForConditionalGeneration": _qwen3,
    "Qwen3VLMoeForConditionalGeneration": _qwen3,
    "Qwen3_5ForConditionalGeneration": _qwen3,
    "Qwen3_5MoeForConditionalGeneration": _qwen3,
    "Gemma3ForConditionalGeneration": _gemma3,
    "Gemma4ForConditionalGeneration": _gemma4,
    "LlavaForConditionalGeneration": _llava,
    "Mistral3ForConditionalGeneration": _pixtral,
    "Llama4ForConditionalGeneration": _llama4,
    "KimiK25ForConditionalGeneration": _kimi,
}
