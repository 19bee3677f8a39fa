"""Models whose layers differ: Mamba or short convolutions beside attention, widths that change from layer to layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from planner.model.architecture import Layer, Model
from planner.model.attention import LayerState, RecurrentState, StateShape
from planner.model.config import Config
from planner.model.families import family
from planner.model.families.common import (
    Dims,
    Ends,
    decoder,
    dims,
    gated_mlp,
    kv_state,
    layer_types,
    norm,
    plain_mlp,
    qkv_attention,
    repeat,
    rope,
    rotary_cache,
    state_dtype,
)
from planner.model.families.mamba import Groups, Mamba1, Mamba2, unquantized
from planner.model.families.moe import granite_shared_mlp
from planner.model.families.sparse import (
    W123,
    count,
    flag,
    hidden_over_heads,
    moe_sizes,
    per_layer,
    rotary,
    sparse_mlp,
    two_norms,
    unstaged_decoder,
)
from planner.model.modules import (
    AttentionScales,
    Experts,
    Fp32Gate,
    Heads,
    Linear,
    Module,
    PartsWeight,
    Weight,
)

# --- Mamba beside attention ----------------------------------------------------------------------------------------


@family("JambaForCausalLM")
def jamba(config: Config, name: str) -> Model:
    """models/jamba.py: Mamba 1, every attn_layer_period-th layer attention without positions, some MLPs sparse."""
    d = hidden_over_heads(dims(config))
    rank = config.raw("mamba_dt_rank")
    mixer = Mamba1(
        hidden=d.hidden,
        intermediate=config.int("mamba_expand") * d.hidden,
        state=config.int("mamba_d_state"),
        kernel=config.int("mamba_d_conv"),
        time_step_rank=-(-d.hidden // 16) if rank == "auto" or rank is None else config.int("mamba_dt_rank"),
        conv_bias=config.bool("mamba_conv_bias"),
        bias=config.bool("mamba_proj_bias"),
        norms="weighted",
    )
    moe = moe_sizes(config, count="num_experts", width="intermediate_size")
    sparse = sparse_mlp(d.hidden, moe, prefix="feed_forward", gate="router")
    dense = gated_mlp(d.hidden, moe.intermediate, prefix="feed_forward")
    is_attention = _periodic(config, "attn_layer")
    is_expert = _periodic(config, "expert_layer")
    norms = (*norm("input_layernorm", d.hidden), *norm("pre_ff_layernorm", d.hidden))

    def layer(index: int) -> Layer:
        attention = is_attention(index)
        mixing = _bare_attention(d) if attention else mixer.modules()
        mlp = sparse if is_expert(index) and moe.experts > 1 else dense
        state: LayerState = kv_state(d) if attention else mixer.recurrent()
        return Layer(modules=(*mixing, *mlp, *norms), state=state)

    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: (is_attention(index), is_expert(index))),
        final_norm=norm("model.final_layernorm", d.hidden),
        tie=False,
    )


def _periodic(config: Config, what: str) -> Callable[[int], bool]:
    """Jamba's `…_period` and `…_offset`."""
    period, offset = config.int(f"{what}_period"), count(config, f"{what}_offset")
    if offset >= period:
        raise config.error(f"{what}_offset", f"= {offset} must be below {config.path(f'{what}_period')} = {period}")
    return lambda index: index % period == offset


def _bare_attention(d: Dims) -> tuple[Module, ...]:
    """Attention whose projections are the layer's own, without a self_attn between."""
    kv = Heads(count=d.kv_heads, size=d.head_dim)
    return (
        Linear(
            name="qkv_proj",
            inputs=d.hidden,
            outputs=(d.heads * d.head_dim, kv, kv),
            split="column",
            group="attention",
            packed=("q_proj", "k_proj", "v_proj"),
        ),
        Linear(name="o_proj", inputs=d.heads * d.head_dim, outputs=(d.hidden,), split="row", group="attention"),
        AttentionScales(name="attn"),
    )


_NEMOTRON_LETTERS = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "moe": "E",
    "mlp": "-",
}


def _nemotron_pattern(config: Config, letters: str, names: str) -> str:
    """One letter a layer: M Mamba, * attention, - MLP, E experts; from either of transformers' two spellings."""
    if config.has(names):
        kinds = config.strs(names)
        for kind in kinds:
            if kind not in _NEMOTRON_LETTERS:
                known = ", ".join(sorted(_NEMOTRON_LETTERS))
                raise config.error(names, f"has an unknown layer type {kind!r}; known: {known}")
        return "".join(_NEMOTRON_LETTERS[kind] for kind in kinds)
    pattern = config.str(letters)
    wrong = sorted(set(pattern) - set(_NEMOTRON_LETTERS.values()))
    if wrong or not pattern:
        raise config.error(letters, f"may only have the letters M, *, - and E, is {pattern!r}")
    return pattern


@family("NemotronHForCausalLM", "NemotronHPuzzleForCausalLM")
def nemotron_h(config: Config, name: str) -> Model:
    """models/nemotron_h.py: each layer is one of Mamba 2, attention, an MLP or a sparse MLP, by a pattern."""
    d = dims_of_pattern(config)
    pattern = _nemotron_pattern(config, "hybrid_override_pattern", "layers_block_type")
    if config.has("num_hidden_layers") and config.int("num_hidden_layers") != len(pattern):
        key = "layers_block_type" if config.has("layers_block_type") else "hybrid_override_pattern"
        raise config.error(key, f"has {len(pattern)} layers, num_hidden_layers says {d.layers}; correct one of them")
    ssm = state_dtype(config, "mamba_ssm_cache_dtype", "float32")
    mixers = _nemotron_mixers(config, d)
    widths = _nemotron_widths(config, pattern)

    def layer(index: int) -> Layer:
        letter = pattern[index]
        modules = _nemotron_mlp(config, d.hidden, widths[index]) if letter == "-" else mixers[letter]
        return Layer(modules=(*modules, *norm("norm", d.hidden)), state=_nemotron_state(config, d, letter, ssm))

    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(len(pattern), layer, lambda index: (pattern[index], widths.get(index))),
        final_norm=norm("model.norm_f", d.hidden),
        tie=False,  # the class never ties its head
        extra_parameters=_nemotron_mtp(config, d, mixers),
        renames=(("backbone", "model"),),
    )


def dims_of_pattern(config: Config) -> Dims:
    """Dims of a model whose number of layers is that of its pattern."""
    hidden, heads = config.int("hidden_size"), config.int("num_attention_heads")
    return Dims(
        hidden=hidden,
        layers=count(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=count(config, "num_key_value_heads") or heads,
        head_dim=count(config, "head_dim") or hidden // heads,
        vocab=config.int("vocab_size"),
    )


def _nemotron_mamba(config: Config, hidden: int) -> Mamba2:
    heads, head_dim = config.int("mamba_num_heads"), config.int("mamba_head_dim")
    return Mamba2(
        hidden=hidden,
        intermediate=heads * head_dim,
        state=config.int("ssm_state_size"),
        kernel=config.int("conv_kernel"),
        groups=config.int("n_groups"),
        heads=heads,
        head_dim=head_dim,
        conv_bias=config.bool("use_conv_bias"),
        bias=config.bool("use_bias"),
    )


def _nemotron_mixers(config: Config, d: Dims) -> dict[str, tuple[Module, ...]]:
    """The modules of each kind of layer that the pattern may name; plain MLPs differ by layer."""
    mixers: dict[str, tuple[Module, ...]] = {
        "M": _nemotron_mamba(config, d.hidden).modules(),
        "*": qkv_attention(d, prefix="mixer"),
    }
    if count(config, "n_routed_experts"):
        mixers["E"] = _nemotron_experts(config, d.hidden)
    return mixers


def _nemotron_state(config: Config, d: Dims, letter: str, ssm_dtype: str) -> LayerState | None:
    if letter == "M":
        return _nemotron_mamba(config, d.hidden).recurrent(ssm_dtype)
    return kv_state(d, config.optional_int("sliding_window", minimum=1)) if letter == "*" else None


def _nemotron_mlp(config: Config, hidden: int, width: int) -> tuple[Module, ...]:
    bias = flag(config, "mlp_bias")
    return plain_mlp(hidden, width, up="mixer.up_proj", down="mixer.down_proj", bias=bias)


def _nemotron_widths(config: Config, pattern: str) -> dict[int, int]:
    """Layer -> width of its plain MLP; intermediate_size may list one for each."""
    plain = [index for index, letter in enumerate(pattern) if letter == "-"]
    if not plain:
        return {}
    if not isinstance(config.raw("intermediate_size"), list):
        return dict.fromkeys(plain, config.int("intermediate_size"))
    widths = config.ints("intermediate_size", minimum=1)
    if len(widths) not in (1, len(plain)):
        raise config.error("intermediate_size", f"lists {len(widths)} widths for {len(plain)} MLP layers")
    return dict(zip(plain, widths * len(plain) if len(widths) == 1 else widths, strict=False))


def _nemotron_experts(config: Config, hidden: int) -> tuple[Module, ...]:
    """NemotronHMoE: experts without a gate projection, optionally in a smaller latent space."""
    moe = moe_sizes(config, count="n_routed_experts")
    inner = count(config, "moe_latent_size")
    modules: list[Module] = [
        Fp32Gate(name="mixer.gate", inputs=hidden, outputs=(moe.experts,), split="none"),
        Weight(
            name="mixer.gate.e_score_correction_bias",
            shape=(moe.experts,),
            dtype="float32",
            group="mlp",
            counted=False,  # published counts of this family leave it out
        ),
        Experts(
            name="mixer.experts",
            count=moe.experts,
            hidden=inner or hidden,
            intermediate=moe.intermediate,
            top_k=moe.top_k,
            gated=False,
            packed=("up_proj", "down_proj"),
        ),
    ]
    shared = count(config, "n_shared_experts") * count(config, "moe_shared_expert_intermediate_size")
    if shared:
        modules += plain_mlp(
            hidden, shared, up="mixer.shared_experts.up_proj", down="mixer.shared_experts.down_proj", bias=False
        )
    if inner:
        bias = flag(config, "mlp_bias")
        for name, inputs, outputs in (("fc1", hidden, inner), ("fc2", inner, hidden)):
            name = f"mixer.{name}_latent_proj"
            modules.append(Linear(name=name, inputs=inputs, outputs=(outputs,), split="none", bias=bias))
    return tuple(modules)


def _nemotron_mtp(config: Config, d: Dims, mixers: dict[str, tuple[Module, ...]]) -> dict[str, int]:
    """Layers that only models/nemotron_h_mtp.py loads: the pattern once for each, two norms and a projection."""
    number = count(config, "num_nextn_predict_layers")
    if not number:
        return {}
    pattern = _nemotron_pattern(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    layers = sum(sum(m.parameters for m in mixers[letter]) + d.hidden for letter in pattern)
    return {"MTP layers": number * (layers + 2 * d.hidden * d.hidden + 3 * d.hidden)}


@family("GraniteMoeHybridForCausalLM")
def granite_hybrid(config: Config, name: str) -> Model:
    """models/granitemoehybrid.py: Mamba 2 or attention, then experts and a shared MLP or only one of them."""
    d = hidden_over_heads(dims(config))
    mixer = Mamba2(
        hidden=d.hidden,
        intermediate=config.int("mamba_expand") * d.hidden,
        state=config.int("mamba_d_state"),
        kernel=config.int("mamba_d_conv"),
        groups=config.int("mamba_n_groups"),
        heads=config.int("mamba_n_heads"),
        head_dim=_auto_head_dim(config, "mamba_d_head", d.hidden),
        conv_bias=config.bool("mamba_conv_bias"),
        bias=config.bool("mamba_proj_bias"),
    )
    bias = flag(config, "attention_bias")
    experts: tuple[Module, ...] = ()
    if count(config, "num_local_experts"):
        experts = sparse_mlp(d.hidden, moe_sizes(config, width="intermediate_size"), prefix="block_sparse_moe")
    rest = (
        *experts,
        *granite_shared_mlp(d.hidden, count(config, "shared_intermediate_size")),
        *two_norms(d.hidden),
    )
    types = layer_types(config, d.layers) or ("linear_attention",) * d.layers
    is_attention = _granite_attention(config, types)

    def layer(index: int) -> Layer:
        if is_attention[index]:
            return Layer(modules=(*qkv_attention(d, qkv_bias=bias, o_bias=bias), *rest), state=kv_state(d))
        return Layer(modules=(*mixer.modules(), *rest), state=mixer.recurrent())

    has_rope = config.optional_str("position_embedding_type") == "rope" and any(is_attention)
    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: is_attention[index]),
        everywhere=(rotary(config, d.head_dim),) if has_rope else (),
    )


def _granite_attention(config: Config, types: Sequence[str]) -> tuple[bool, ...]:
    for kind in types:
        if kind not in _NEMOTRON_LETTERS or _NEMOTRON_LETTERS[kind] not in "M*":
            raise config.error("layer_types", f"has an unknown layer type {kind!r}; known: mamba, attention")
    return tuple(_NEMOTRON_LETTERS[kind] == "*" for kind in types)


def _auto_head_dim(config: Config, key: str, hidden: int) -> int:
    """ "auto" stands for an even share of the expanded width."""
    if config.raw(key) == "auto":
        return config.int("mamba_expand") * hidden // config.int("mamba_n_heads")
    return config.int(key)


@family("FalconH1ForCausalLM")
def falcon_h1(config: Config, name: str) -> Model:
    """models/falcon_h1.py: every layer has attention and Mamba 2 side by side."""
    d = dims(config)
    expanded = int(config.number("mamba_expand", 2) * d.hidden)
    width = config.optional_int("mamba_d_ssm", minimum=1) or expanded
    heads = config.int("mamba_n_heads")
    mixer = Mamba2(
        hidden=d.hidden,
        intermediate=width,
        state=config.int("mamba_d_state"),
        kernel=config.int("mamba_d_conv"),
        groups=config.int("mamba_n_groups"),
        heads=heads,
        head_dim=width // heads if config.raw("mamba_d_head") == "auto" else config.int("mamba_d_head"),
        conv_bias=config.bool("mamba_conv_bias"),
        bias=config.bool("mamba_proj_bias"),
        gated_norm=config.bool("mamba_rms_norm"),
    )
    group = Groups(count=mixer.groups, size=mixer.state)
    layer = Layer(
        modules=(
            *_bare_attention(d),
            *mixer.modules(),
            PartsWeight(
                name="mamba.mup_vector", parts=(width, width, group, group, heads), kind="buffer", group="attention"
            ),
            *gated_mlp(d.hidden, config.int("intermediate_size"), prefix="feed_forward"),
            *norm("input_layernorm", d.hidden),
            *norm("pre_ff_layernorm", d.hidden),
        ),
        state=kv_state(d),
        more_states=(mixer.recurrent(),),
    )
    r = rope(config)
    rotated, tied = count(config, "attn_rotary_emb", d.head_dim), flag(config, "tie_word_embeddings")
    cache = rotary_cache(r, d.head_dim, config.int("max_position_embeddings"), rotary_dim=rotated)
    return decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, lambda _: layer),
        final_norm=norm("model.final_layernorm", d.hidden),
        tie=tied,
        supports_pp=not tied,  # its class ties the head to an embedding that the last stage does not have
        everywhere=(cache,),
    )


# --- short convolutions: LFM2 --------------------------------------------------------------------------------------


def _short_conv(hidden: int, kernel: int, bias: bool) -> tuple[tuple[Module, ...], RecurrentState]:
    """ShortConv (layers/mamba/short_conv.py)."""
    modules = (
        unquantized("short_conv.conv", kernel, hidden, bias=bias),
        Linear(
            name="short_conv.in_proj",
            inputs=hidden,
            outputs=(hidden, hidden, hidden),
            split="column",
            bias=bias,
            group="attention",
        ),
        Linear(
            name="short_conv.out_proj",
            inputs=hidden,
            outputs=(hidden,),
            split="row",
            bias=bias,
            group="attention",
        ),
    )
    conv = StateShape(shape=(kernel - 1, hidden), split=1, role="conv")
    return modules, RecurrentState(type="short_conv", states=(conv,))


def _lfm2_mlp(hidden: int, intermediate: int) -> tuple[Linear, ...]:
    return (
        Linear(
            name="feed_forward.w13",
            inputs=hidden,
            outputs=(intermediate, intermediate),
            split="column",
            packed=("w1", "w3"),
        ),
        Linear(name="feed_forward.w2", inputs=intermediate, outputs=(hidden,), split="row"),
    )


def _lfm2(config: Config, name: str, mlp: Callable[[int], tuple[Module, ...]], kind: Callable[[int], object]) -> Model:
    d = hidden_over_heads(dims(config))
    conv, recurrent = _short_conv(
        config.optional_int("conv_dim", minimum=1) or d.hidden,
        config.int("conv_L_cache"),
        config.bool("conv_bias"),
    )
    attention = (
        *qkv_attention(d, o_name="out_proj"),
        *norm("self_attn.q_layernorm", d.head_dim),
        *norm("self_attn.k_layernorm", d.head_dim),
    )
    attends = _lfm2_attention(config, d.layers)
    norms = (*norm("operator_norm", d.hidden), *norm("ffn_norm", d.hidden))

    def layer(index: int) -> Layer:
        mixing = attention if attends[index] else conv
        state: LayerState = kv_state(d) if attends[index] else recurrent
        return Layer(modules=(*mixing, *mlp(index), *norms), state=state)

    return unstaged_decoder(
        config,
        name,
        d,
        layers=repeat(d.layers, layer, lambda index: (attends[index], kind(index))),
        final_norm=norm("model.embedding_norm", d.hidden),
        last_only=("norm", "lm_head"),
        tie=config.bool("tie_embedding") if config.has("tie_embedding") else flag(config, "tie_word_embeddings"),
        everywhere=(rotary(config, d.head_dim),),
    )


def _lfm2_attention(config: Config, layers: int) -> tuple[bool, ...]:
    types = layer_types(config, layers)
    if types is not None:
        return tuple(kind == "full_attention" for kind in types)
    indices = set(config.ints("full_attn_idxs", default=tuple(range(layers))))
    return tuple(index in indices for index in range(layers))


@family("Lfm2ForCausalLM")
def lfm2(config: Config, name: str) -> Model:
    """models/lfm2.py: attention or a short convolution, an MLP whose width is two thirds of the config's, rounded."""
    width = config.int("block_ff_dim") if config.has("block_ff_dim") else config.int("intermediate_size")
    if flag(config, "block_auto_adjust_ff_dim", otherwise=True):
        multiple = config.int("block_multiple_of")
        width = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
        width = multiple * -(-width // multiple)
    mlp = _lfm2_mlp(config.int("hidden_size"), width)
    return _lfm2(config, name, lambda _: mlp, lambda _: None)


@family("Lfm2MoeForCausalLM")
def lfm2_moe(config: Config, name: str) -> Model:
    """models/lfm2_moe.py: LFM2 with experts after the first num_dense_layers."""
    hidden, first = config.int("hidden_size"), count(config, "num_dense_layers")
    dense = _lfm2_mlp(hidden, config.int("intermediate_size"))
    sparse = sparse_mlp(
        hidden,
        moe_sizes(config, count="num_experts"),
        prefix="feed_forward",
        gate_quantizable=True,
        bias_at="feed_forward.gate" if flag(config, "use_expert_bias") else None,
        packed=W123,
    )
    return _lfm2(config, name, lambda i: dense if i < first else sparse, lambda i: i < first)


# --- layers that differ from each other: DeciLM, Nemotron-NAS ------------------------------------------------------


@family("DeciLMForCausalLM")
def decilm(config: Config, name: str) -> Model:
    """models/nemotron_nas.py: Llama whose every layer has its own KV heads and MLP width, or lacks one of the two."""
    number = config.int("num_hidden_layers")
    blocks = config.sections("block_configs")
    per_layer(config, "block_configs", number, blocks)
    hidden, heads = config.int("hidden_size"), config.int("num_attention_heads")
    bias = flag(config, "attention_bias") or flag(config, "bias")
    qkv_bias = config.bool("qkv_bias") if config.has("qkv_bias") else bias
    vocab = config.int("vocab_size")

    def attention(index: int) -> Dims | None:
        block = blocks[index].section("attention")
        if flag(block, "no_op"):
            return None
        return Dims(
            hidden=hidden,
            layers=number,
            heads=heads,
            kv_heads=heads // block.int("n_heads_in_group"),
            head_dim=config.optional_int("head_dim", minimum=1) or hidden // heads,
            vocab=vocab,
        )

    def width(index: int) -> int | None:
        block = blocks[index].section("ffn")
        if flag(block, "no_op"):
            return None
        if block.has("ffn_mult"):
            return -(-int(2 * block.number("ffn_mult") * hidden / 3) // 256) * 256
        return block.int("intermediate_size")

    def layer(index: int) -> Layer:
        modules: list[Module] = []
        d, wide = attention(index), width(index)
        if d is not None:
            modules += [
                *qkv_attention(d, qkv_bias=qkv_bias, o_bias=bias),
                *norm("input_layernorm", hidden),
            ]
        if wide is not None:
            mlp = gated_mlp(hidden, wide, bias=flag(config, "mlp_bias"))
            modules += [*mlp, *norm("post_attention_layernorm", hidden)]
        return Layer(modules=tuple(modules), state=None if d is None else kv_state(d))

    head_dim = config.optional_int("head_dim", minimum=1) or hidden // heads
    return decoder(
        config,
        name,
        Ends(hidden=hidden, heads=heads, vocab=vocab),
        layers=repeat(number, layer, lambda index: (attention(index), width(index))),
        everywhere=(rotary(config, head_dim),),
    )
