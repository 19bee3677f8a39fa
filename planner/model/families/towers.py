"""Encoders of images and sound with their projectors, as vLLM builds them for vision-language models.

Sharded like the decoder (`--mm-encoder-tp-mode weights`) unless the class replicates them. Each function reads the
section of its encoder and names its modules as vLLM does, the encoder's own prefix included.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from planner.model.config import Config
from planner.model.families.common import GATE_UP
from planner.model.modules import Embedding, Heads, Linear, Module, Repeated, Weight

Modules = tuple[Module, ...]


# --- pieces --------------------------------------------------------------------------------------------------------


def linear(
    name: str,
    inputs: int,
    *outputs: int | Heads,
    split: Literal["column", "row", "none"],
    bias: bool = True,
    packed: tuple[str, ...] = (),
    quantizable: bool = True,
) -> Linear:
    """A linear layer of an encoder, counted under `vision`."""
    return Linear(
        name=name,
        inputs=inputs,
        outputs=outputs,
        split=split,
        bias=bias,
        group="vision",
        packed=packed,
        quantizable=quantizable,
    )


def weight(name: str, *shape: int) -> Weight:
    """A parameter of an encoder in the model's dtype, whole on every rank."""
    return Weight(name=name, shape=shape, group="vision")


def buffer(name: str, *shape: int, dtype: str | None = None) -> Weight:
    """What an encoder registers beside its parameters, whole on every rank; dtype None is the model's."""
    return Weight(name=name, shape=shape, kind="buffer", dtype=dtype, group="vision")


def norms(size: int, *names: str, bias: bool = True) -> Modules:
    """LayerNorms, or RMSNorms without bias."""
    parts = ("weight", "bias") if bias else ("weight",)
    return tuple(weight(f"{name}.{part}", size) for name in names for part in parts)


def biased(name: str, *shape: int) -> Modules:
    """A convolution or nn.Linear with a bias, kept whole: its output size comes first."""
    return (weight(f"{name}.weight", *shape), weight(f"{name}.bias", shape[0]))


def heads_of(config: Config, hidden: int, key: str = "num_attention_heads") -> Heads:
    """The attention heads of an encoder. Raises InputError where they do not divide its hidden size."""
    heads = config.int(key)
    if hidden % heads:
        raise config.error(key, f"= {heads} does not divide the encoder's hidden size {hidden}; correct one of them")
    return Heads(count=heads, size=hidden // heads)


def qkv(name: str, hidden: int, heads: Heads, *, bias: bool = True, packed: tuple[str, ...] = ()) -> Linear:
    """QKVParallelLinear of an encoder, whose heads are as many for k and v as for q."""
    return linear(name, hidden, hidden, heads, heads, split="column", bias=bias, packed=packed)


def fc(prefix: str, names: tuple[str, str], hidden: int, width: int, *, quantizable: bool = True) -> Modules:
    """An MLP of two linears with biases."""
    up, down = names
    return (
        linear(f"{prefix}{up}", hidden, width, split="column", quantizable=quantizable),
        linear(f"{prefix}{down}", width, hidden, split="row", quantizable=quantizable),
    )


def blocks(prefix: str, count: int, modules: Iterable[Module]) -> Repeated:
    """The blocks of an encoder, `prefix` + "0." first."""
    return Repeated(name=prefix, count=count, modules=tuple(modules))


def image_patches(config: Config) -> int:
    """Patches of a square image."""
    return (config.int("image_size") // config.int("patch_size")) ** 2


# --- Qwen ----------------------------------------------------------------------------------------------------------


def _qwen_common(v: Config, hidden: int, *, conv_bias: bool) -> Modules:
    """Conv3d over patches of several frames, and a rotary cache for half of each head and 8192 positions."""
    patch = v.int("patch_size")
    shape = (hidden, v.int(v.first_of(("in_channels", "in_chans"))), v.int("temporal_patch_size"), patch, patch)
    heads = heads_of(v, hidden, "num_heads")
    conv = (
        biased("visual.patch_embed.proj", *shape) if conv_bias else (weight("visual.patch_embed.proj.weight", *shape),)
    )
    return (*conv, buffer("visual.rotary_pos_emb.cos_sin_cache", 8192, heads.size // 2))


def qwen2_tower(v: Config) -> Modules:
    """Qwen2VisionTransformer (models/qwen2_vl.py): here hidden_size is the decoder's."""
    hidden = v.int("embed_dim")
    width = int(hidden * v.number("mlp_ratio"))
    merged = hidden * v.int("spatial_merge_size") ** 2
    block = (
        *norms(hidden, "norm1", "norm2"),
        linear("attn.qkv", hidden, hidden, hidden, hidden, split="column", packed=("qkv",)),
        linear("attn.proj", hidden, hidden, split="row"),
        *fc("mlp.", ("fc1", "fc2"), hidden, width),
    )
    return (
        *_qwen_common(v, hidden, conv_bias=False),
        blocks("visual.blocks.", v.int("depth"), block),
        *norms(hidden, "visual.merger.ln_q"),
        linear("visual.merger.mlp.0", merged, merged, split="column"),
        linear("visual.merger.mlp.2", merged, v.int("hidden_size"), split="row"),
    )


def qwen2_5_tower(v: Config) -> Modules:
    """Qwen2_5_VisionTransformer (models/qwen2_5_vl.py): RMSNorm and a gated MLP, all with biases."""
    hidden, width = v.int("hidden_size"), v.int("intermediate_size")
    merged = hidden * v.int("spatial_merge_size") ** 2
    block = (
        *norms(hidden, "norm1", "norm2", bias=False),
        qkv("attn.qkv", hidden, heads_of(v, hidden, "num_heads"), packed=("qkv",)),
        linear("attn.proj", hidden, hidden, split="row"),
        linear("mlp.gate_up_proj", hidden, width, width, split="column", packed=GATE_UP),
        linear("mlp.down_proj", width, hidden, split="row"),
    )
    return (
        *_qwen_common(v, hidden, conv_bias=False),
        blocks("visual.blocks.", v.int("depth"), block),
        *norms(hidden, "visual.merger.ln_q", bias=False),
        linear("visual.merger.mlp.0", merged, merged, split="column"),
        linear("visual.merger.mlp.2", merged, v.int("out_hidden_size"), split="row"),
    )


def qwen3_tower(v: Config) -> Modules:
    """Qwen3_VisionTransformer (models/qwen3_vl.py), of Qwen3-VL and Qwen3.5: learned positions, one merger a level."""
    hidden, out = v.int("hidden_size"), v.int("out_hidden_size")
    merged = hidden * v.int("spatial_merge_size") ** 2
    block = (
        *norms(hidden, "norm1", "norm2"),
        qkv("attn.qkv", hidden, heads_of(v, hidden, "num_heads")),
        linear("attn.proj", hidden, hidden, split="row"),
        *fc("mlp.", ("linear_fc1", "linear_fc2"), hidden, v.int("intermediate_size")),
    )

    def merger(prefix: str, norm_size: int) -> Modules:
        return (
            *norms(norm_size, f"{prefix}norm"),
            linear(f"{prefix}linear_fc1", merged, merged, split="column"),
            linear(f"{prefix}linear_fc2", merged, out, split="row"),
        )

    levels = len(qwen3_deepstack(v))
    return (
        *_qwen_common(v, hidden, conv_bias=True),
        weight("visual.pos_embed.weight", v.int("num_position_embeddings"), hidden),
        *merger("visual.merger.", hidden),
        *((blocks("visual.deepstack_merger_list.", levels, merger("", merged)),) if levels else ()),
        blocks("visual.blocks.", v.int("depth"), block),
    )


def qwen3_deepstack(v: Config) -> tuple[int, ...]:
    """The layers of the tower whose features enter the decoder's first layers; none in Qwen3.5."""
    key = "deepstack_visual_indexes"
    return v.ints(key) if v.has(key) or v.has_default(key) else ()


# --- SigLIP, CLIP, Pixtral -----------------------------------------------------------------------------------------


def siglip_tower(v: Config, prefix: str, *, layers: int | None = None) -> Modules:
    """SiglipVisionModel (models/siglip.py); its last norm goes when it is cut short."""
    hidden, width = v.int("hidden_size"), v.int("intermediate_size")
    patch, positions = v.int("patch_size"), image_patches(v)
    root = f"{prefix}.vision_model"
    # Most kernels need sizes in multiples of 64, so vLLM leaves the others alone.
    aligned = hidden % 64 == 0 and width % 64 == 0
    block = (
        qkv("self_attn.qkv_proj", hidden, heads_of(v, hidden), packed=("q_proj", "k_proj", "v_proj")),
        linear("self_attn.out_proj", hidden, hidden, split="row"),
        *norms(hidden, "layer_norm1", "layer_norm2"),
        *fc("mlp.", ("fc1", "fc2"), hidden, width, quantizable=aligned),
    )
    return (
        *biased(f"{root}.embeddings.patch_embedding", hidden, v.int("num_channels"), patch, patch),
        weight(f"{root}.embeddings.position_embedding.weight", positions, hidden),
        buffer(f"{root}.embeddings.position_ids", positions, dtype="int64"),
        blocks(f"{root}.encoder.layers.", v.int("num_hidden_layers") if layers is None else layers, block),
        *(norms(hidden, f"{root}.post_layernorm") if layers is None else ()),
    )


def clip_tower(v: Config, prefix: str, *, layers: int | None = None) -> Modules:
    """CLIPVisionModel (models/clip.py); its last norm goes when it is cut short."""
    hidden = v.int("hidden_size")
    patch, positions = v.int("patch_size"), image_patches(v) + 1
    root = f"{prefix}.vision_model"
    block = (
        qkv("self_attn.qkv_proj", hidden, heads_of(v, hidden), packed=("q_proj", "k_proj", "v_proj")),
        linear("self_attn.out_proj", hidden, hidden, split="row"),
        *norms(hidden, "layer_norm1", "layer_norm2"),
        *fc("mlp.", ("fc1", "fc2"), hidden, v.int("intermediate_size")),
    )
    return (
        weight(f"{root}.embeddings.class_embedding", hidden),
        weight(f"{root}.embeddings.patch_embedding.weight", hidden, v.int("num_channels"), patch, patch),
        weight(f"{root}.embeddings.position_embedding.weight", positions, hidden),
        buffer(f"{root}.embeddings.position_ids", positions, dtype="int64"),
        *norms(hidden, f"{root}.pre_layrnorm"),
        blocks(f"{root}.encoder.layers.", v.int("num_hidden_layers") if layers is None else layers, block),
        *(norms(hidden, f"{root}.post_layernorm") if layers is None else ()),
    )


def pixtral_tower(v: Config, prefix: str, *, layers: int | None = None) -> Modules:
    """PixtralHFVisionModel (models/pixtral.py): RMSNorm, no biases, transformers' own rotary embedding."""
    hidden, width, patch = v.int("hidden_size"), v.int("intermediate_size"), v.int("patch_size")
    heads = heads_of(v, hidden)
    block = (
        *norms(hidden, "attention_norm", "ffn_norm", bias=False),
        qkv("attention.qkv_proj", hidden, heads, bias=False, packed=("q_proj", "k_proj", "v_proj")),
        linear("attention.o_proj", hidden, hidden, split="row", bias=False),
        linear("feed_forward.gate_up_proj", hidden, width, width, split="column", bias=False, packed=GATE_UP),
        linear("feed_forward.down_proj", width, hidden, split="row", bias=False),
    )
    return (
        weight(f"{prefix}.patch_conv.weight", hidden, v.int("num_channels"), patch, patch),
        *norms(hidden, f"{prefix}.ln_pre", bias=False),
        blocks(f"{prefix}.transformer.layers.", v.int("num_hidden_layers") if layers is None else layers, block),
        *inv_freq(f"{prefix}.patch_positional_embedding", heads.size // 2),
    )


def inv_freq(name: str, size: int) -> Modules:
    """transformers' rotary embeddings keep their frequencies, and a copy, in fp32."""
    return tuple(buffer(f"{name}.{part}", size, dtype="float32") for part in ("inv_freq", "original_inv_freq"))


def llava_projector(prefix: str, vision: int, text: int, *, bias: bool) -> Modules:
    """LlavaMultiModalProjector (models/llava.py)."""
    return (
        linear(f"{prefix}.linear_1", vision, text, split="column", bias=bias),
        linear(f"{prefix}.linear_2", text, text, split="row", bias=bias),
    )


# --- Llama 4 and 3.2 -----------------------------------------------------------------------------------------------


def llama4_tower(v: Config, text: int) -> Modules:
    """Llama4VisionModel and its projector (models/mllama4.py): built without a quantization config."""
    hidden, width, patch = v.int("hidden_size"), v.int("intermediate_size"), v.int("patch_size")
    heads = heads_of(v, hidden)
    projector, out = v.int("projector_input_dim"), v.int("projector_output_dim")
    bias = v.bool("multi_modal_projector_bias", default=False)

    def plain(name: str, inputs: int, *outputs: int | Heads, row: bool = False, bias: bool = True) -> Linear:
        split: Literal["column", "row"] = "row" if row else "column"
        return linear(name, inputs, *outputs, split=split, bias=bias, quantizable=False)

    block = (
        plain("self_attn.qkv_proj", hidden, hidden, heads, heads),
        plain("self_attn.o_proj", hidden, hidden, row=True),
        plain("mlp.fc1", hidden, width),
        plain("mlp.fc2", width, hidden, row=True),
        *norms(hidden, "input_layernorm", "post_attention_layernorm"),
    )
    root, adapter = "vision_model", "vision_model.vision_adapter.mlp"
    return (
        weight(f"{root}.class_embedding", hidden),
        weight(f"{root}.positional_embedding_vlm", image_patches(v) + 1, hidden),
        plain(f"{root}.patch_embedding.linear", v.int("num_channels") * patch**2, hidden, bias=False),
        *norms(hidden, f"{root}.layernorm_pre", f"{root}.layernorm_post"),
        blocks(f"{root}.model.layers.", v.int("num_hidden_layers"), block),
        # A complex number, two fp32, for each pair of a head's elements and each patch.
        buffer(f"{root}.rotary_emb.cos_sin_cache", image_patches(v) + 1, heads.size // 2, 2, dtype="float32"),
        plain(f"{adapter}.fc1", width, projector, bias=bias),
        plain(f"{adapter}.fc2", projector, out, row=True, bias=bias),
        plain("multi_modal_projector.linear_1", v.int("vision_output_dim"), text, bias=False),
    )


# --- Gemma 4 -------------------------------------------------------------------------------------------------------


def _clipped(name: str, inputs: int, rows: int, *, clip: bool, quantizable: bool) -> Modules:
    """Gemma4ClippableLinear: whole on every rank, with four bounds where it clips."""
    bounds = ("input_min", "input_max", "output_min", "output_max") if clip else ()
    body = linear(f"{name}.linear", inputs, rows, split="none", bias=False, quantizable=quantizable)
    return (body, *(buffer(f"{name}.{bound}") for bound in bounds))


def _aligned(section: Config) -> bool:
    """Whether a tower's linears follow the model's quantization (gemma4_mm.py _get_tower_quant_config)."""
    width = section.optional_int("intermediate_size")
    return section.int("hidden_size") % 64 == 0 and (width is None or width % 64 == 0)


def gemma4_tower(v: Config, text: int) -> Modules:
    """Gemma4VisionModel of transformers (models/gemma4_mm.py), whole on every rank, and its embedder."""
    hidden, width = v.int("hidden_size"), v.int("intermediate_size")
    head_dim = v.int("head_dim")
    rows, kv_rows = (v.int(key) * head_dim for key in ("num_attention_heads", "num_key_value_heads"))
    clip, quantizable = v.bool("use_clipped_linears"), _aligned(v)
    sizes = (
        ("self_attn.q_proj", hidden, rows),
        ("self_attn.k_proj", hidden, kv_rows),
        ("self_attn.v_proj", hidden, kv_rows),
        ("self_attn.o_proj", rows, hidden),
        ("mlp.gate_proj", hidden, width),
        ("mlp.up_proj", hidden, width),
        ("mlp.down_proj", width, hidden),
    )
    around = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    block = (
        *(m for name, i, o in sizes for m in _clipped(name, i, o, clip=clip, quantizable=quantizable)),
        *norms(head_dim, "self_attn.q_norm", "self_attn.k_norm", bias=False),
        *norms(hidden, *around, bias=False),
    )
    root, standard = "vision_tower", ("std_bias", "std_scale") if v.bool("standardize") else ()
    patch = 3 * v.int("patch_size") ** 2
    return (
        *(buffer(f"{root}.{name}", hidden) for name in standard),
        weight(f"{root}.patch_embedder.position_embedding_table", 2, v.int("position_embedding_size"), hidden),
        linear(f"{root}.patch_embedder.input_proj", patch, hidden, split="none", bias=False, quantizable=quantizable),
        # Half of a head's frequencies for each of the two axes.
        *inv_freq(f"{root}.encoder.rotary_emb", head_dim // 4),
        blocks(f"{root}.encoder.layers.", v.int("num_hidden_layers"), block),
        *gemma4_embedder("embed_vision", hidden, text, quantizable=quantizable),
    )


def gemma4_embedder(prefix: str, inputs: int, text: int, *, quantizable: bool) -> Modules:
    """Gemma4MultimodalEmbedder: a norm without weight, which still holds a vector of ones, and a projection."""
    return (
        Weight(name=f"{prefix}.embedding_pre_projection_norm.weight", shape=(inputs,), kind="attr", group="vision"),
        linear(f"{prefix}.embedding_projection", inputs, text, split="none", bias=False, quantizable=quantizable),
    )


def gemma4_audio(a: Config, text: int) -> Modules:
    """Gemma4AudioModel of transformers, a conformer, whole on every rank, and its embedder."""
    hidden, kernel = a.int("hidden_size"), a.int("conv_kernel_size")
    heads = heads_of(a, hidden)
    clip, quantizable = a.bool("use_clipped_linears"), _aligned(a)
    sizes = (
        *((f"self_attn.{name}", hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "post")),
        *((f"feed_forward{i}.ffw_layer_1", hidden, 4 * hidden) for i in (1, 2)),
        *((f"feed_forward{i}.ffw_layer_2", 4 * hidden, hidden) for i in (1, 2)),
        ("lconv1d.linear_start", hidden, 2 * hidden),
        ("lconv1d.linear_end", hidden, hidden),
    )
    inner = (f"feed_forward{i}.{which}_layer_norm" for i in (1, 2) for which in ("pre", "post"))
    around = ("lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out")
    block = (
        *(m for name, i, o in sizes for m in _clipped(name, i, o, clip=clip, quantizable=quantizable)),
        linear("self_attn.relative_k_proj", hidden, hidden, split="none", bias=False, quantizable=quantizable),
        weight("self_attn.per_dim_scale", heads.size),
        buffer("self_attn.softcap"),
        weight("lconv1d.depthwise_conv1d.weight", hidden, 1, kernel),
        *norms(hidden, *inner, *around, bias=False),
    )
    first, second = a.ints("subsampling_conv_channels", default=(128, 32))
    root, out = "audio_tower", a.int("output_proj_dims")
    sample = f"{root}.subsample_conv_projection"
    return (
        weight(f"{sample}.layer0.conv.weight", first, 1, 3, 3),
        weight(f"{sample}.layer1.conv.weight", second, first, 3, 3),
        *norms(first, f"{sample}.layer0.norm", bias=False),
        *norms(second, f"{sample}.layer1.norm", bias=False),
        linear(
            f"{sample}.input_proj_linear",
            first // 4 * second,
            hidden,
            split="none",
            bias=False,
            quantizable=quantizable,
        ),
        buffer(f"{root}.rel_pos_enc.inv_timescales", 1, 1, hidden // 2),
        blocks(f"{root}.layers.", a.int("num_hidden_layers"), block),
        linear(f"{root}.output_proj", hidden, out, split="none", quantizable=quantizable),
        *gemma4_embedder("embed_audio", out, text, quantizable=quantizable),
    )


# --- Gemma 3n ------------------------------------------------------------------------------------------------------

_MOBILENET_V5 = {
    # elements of a tensor: how many tensors of timm's mobilenetv5_300m_enc have so many
    64: 2,
    128: 4,
    256: 16,
    512: 2,
    640: 111,
    768: 2,
    1024: 4,
    1152: 1,
    1280: 92,
    1536: 2,
    1728: 1,
    2048: 2,
    2304: 2,
    2560: 26,
    3840: 3,
    5760: 28,
    6400: 3,
    16000: 8,
    19200: 1,
    32768: 1,
    38400: 1,
    40960: 28,
    65536: 2,
    96000: 1,
    98304: 1,
    122880: 38,
    147456: 1,
    196608: 1,
    262144: 8,
    393216: 1,
    409600: 2,
    491520: 28,
    589824: 2,
    819200: 28,
    983040: 1,
    1638400: 14,
    1966080: 38,
    2457600: 1,
    3276800: 38,
    4915200: 1,
    7372800: 1,
    7864320: 1,
}
_TIMM = {"mobilenetv5_300m_enc": _MOBILENET_V5}


def gemma3n_tower(v: Config, text: int) -> Modules:
    """A convolutional network of timm (models/gemma3n_mm.py), whole on every rank, and its embedder."""
    kind = v.str("architecture")
    if kind not in _TIMM:
        raise v.error("architecture", f"= {kind!r} is a network the planner does not know; known: {', '.join(_TIMM)}")
    network = (blocks(f"vision_tower.{size}.", count, (weight("", size),)) for size, count in _TIMM[kind].items())
    return (*network, *gemma3n_embedder("embed_vision", v, text))


def gemma3n_embedder(prefix: str, section: Config, text: int) -> Modules:
    """Gemma3nMultimodalEmbedder: a small vocabulary of its own, and a projection without quantization."""
    hidden = section.int("hidden_size")
    return (
        Embedding(name=f"{prefix}.embedding", rows=section.int("vocab_size"), width=hidden, group="vision"),
        *norms(hidden, f"{prefix}.hard_embedding_norm", f"{prefix}.soft_embedding_norm", bias=False),
        linear(f"{prefix}.embedding_projection", hidden, text, split="row", bias=False, quantizable=False),
        Weight(name=f"{prefix}.embedding_post_projection_norm.weight", shape=(text,), kind="attr", group="vision"),
    )


def gemma3n_audio(a: Config, text: int) -> Modules:
    """Gemma3nAudioEncoder of transformers, a conformer, whole on every rank, and its embedder."""
    hidden, kernel = a.int("hidden_size"), a.int("conf_conv_kernel_size")
    heads = heads_of(a, hidden, "conf_num_attention_heads")
    chunk = a.int("conf_attention_chunk_size")
    context = chunk + a.int("conf_attention_context_left") - 1 + a.int("conf_attention_context_right", minimum=0)
    sizes = {
        **{f"ffw_layer_{end}.ffw_layer_1": (4 * hidden, hidden) for end in ("start", "end")},
        **{f"ffw_layer_{end}.ffw_layer_2": (hidden, 4 * hidden) for end in ("start", "end")},
        **{f"attention.attn.{part}_proj": (hidden, hidden) for part in "qkv"},
        "attention.attn.relative_position_embedding.pos_proj": (hidden, hidden),
        "attention.post": (hidden, hidden),
        "lconv1d.linear_start": (2 * hidden, hidden),
        "lconv1d.depthwise_conv1d": (hidden, kernel),
        "lconv1d.linear_end": (hidden, hidden),
    }
    around = [f"ffw_layer_{end}.{at}_layer_norm" for end in ("start", "end") for at in ("pre", "post")]
    around += ["attention.pre_attn_norm", "attention.post_norm", "lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm"]
    clips = ("", "ffw_layer_start.", "ffw_layer_end.", "attention.", "lconv1d.")
    block = (
        *(weight(f"{name}.weight", *shape) for name, shape in sizes.items()),
        *norms(hidden, *around, bias=False),
        weight("attention.attn.per_dim_scale", heads.size),
        *(buffer(f"{clip}gradient_clipping") for clip in clips),
        buffer("attention.attn.q_scale"),
        buffer("attention.attn.softcap", dtype="float32"),
        buffer("attention.attn.local_causal_valid_mask", chunk, context, dtype="bool"),
        buffer("attention.attn.relative_position_embedding.inv_timescales", hidden // 2, dtype="float32"),
    )
    first, second = a.ints("sscp_conv_channel_size", default=(128, 32))
    bands = -(-a.int("input_feat_size") // 4)  # two convolutions of stride 2
    sample = "audio_tower.subsample_conv_projection"
    return (
        weight(f"{sample}.conv_0.conv.weight", first, 1, 3, 3),
        weight(f"{sample}.conv_1.conv.weight", second, first, 3, 3),
        *norms(first, f"{sample}.conv_0.norm", bias=False),
        *norms(second, f"{sample}.conv_1.norm", bias=False),
        weight(f"{sample}.input_proj_linear.weight", hidden, second * bands),
        blocks("audio_tower.conformer.", a.int("conf_num_hidden_layers"), block),
        *gemma3n_embedder("embed_audio", a, text),
    )


# --- Llama 3.2 -----------------------------------------------------------------------------------------------------


def mllama_tower(v: Config, text: int) -> Modules:
    """MllamaVisionModel and its projector (models/mllama.py, until 0.10.2): tiles of an image, two encoders."""
    hidden, patch = v.int("hidden_size"), v.int("patch_size")
    heads = heads_of(v, hidden, "attention_heads")
    positions, tiles = image_patches(v) + 1, v.int("max_num_tiles")
    ratios = v.raw("supported_aspect_ratios")
    ids = (len(ratios) if isinstance(ratios, list) else 8) + 1
    block = (
        qkv("self_attn.qkv_proj", hidden, heads, bias=False, packed=("q_proj", "k_proj", "v_proj")),
        linear("self_attn.o_proj", hidden, hidden, split="row", bias=False),
        *fc("mlp.", ("fc1", "fc2"), hidden, v.int("intermediate_size")),
        *norms(hidden, "input_layernorm", "post_attention_layernorm"),
    )
    gated = (*block, weight("gate_attn", 1), weight("gate_ffn", 1))
    root, place = "vision_model", "vision_model.gated_positional_embedding"
    tilings = tuple(
        module
        for which in ("pre_tile_positional_embedding", "post_tile_positional_embedding")
        for module in (
            weight(f"{root}.{which}.embedding.weight", ids, tiles * hidden),
            weight(f"{root}.{which}.gate", 1),
        )
    )
    return (
        weight(f"{root}.class_embedding", hidden),
        linear(f"{root}.patch_embedding._linear", v.int("num_channels") * patch**2, hidden, split="column", bias=False),
        weight(f"{place}.embedding", positions, hidden),
        weight(f"{place}.gate", 1),
        weight(f"{place}.tile_embedding.weight", ids, tiles * positions * hidden),
        *tilings,
        *norms(hidden, f"{root}.layernorm_pre", f"{root}.layernorm_post"),
        blocks(f"{root}.transformer.layers.", v.int("num_hidden_layers"), block),
        blocks(f"{root}.global_transformer.layers.", v.int("num_global_layers"), gated),
        linear("multi_modal_projector", v.int("vision_output_dim"), text, split="column"),
    )
