"""Pieces that families are made of. Each mirrors a class of vLLM's model_executor (0.33) that many models share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from planner.errors import InputError
from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention, LayerState
from planner.model.config import Config
from planner.model.modules import (
    AttentionScales,
    Embedding,
    Group,
    Heads,
    Linear,
    LmHead,
    Module,
    Weight,
)
from planner.text import shown
from planner.units import DTYPE_BYTES, model_dtype

QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


def config_dtype(config: Config) -> str:
    """The config's own dtype by torch's name; float32 when it names none, as transformers has it."""
    for section in (config, config.section("text_config") if config.has("text_config") else None):
        for key in ("dtype", "torch_dtype"):
            if section is not None and section.has(key):
                return model_dtype(section.str(key), section.path(key))
    return "float32"


def state_dtype(config: Config, key: str, default: str) -> str:
    """What a recurrent state is kept in: torch's name of a dtype, or "auto"."""
    name = config.optional_str(key, None) or default
    if name not in ("auto", *DTYPE_BYTES):
        raise config.error(key, f"= {shown(name)}: unknown dtype; known are {', '.join(DTYPE_BYTES)}")
    return name


# --- sizes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The sizes of a decoder's two ends."""

    hidden: int
    heads: int
    vocab: int


@dataclass(frozen=True, kw_only=True)
class Dims(Ends):
    """The sizes nearly every decoder config has, under transformers' names."""

    layers: int
    kv_heads: int
    head_dim: int


def dims(config: Config, *, kv_heads: int | None = None) -> Dims:
    """Read and check the common sizes. InputError names the key that is missing or contradicts another.

    kv_heads: for configs that name them otherwise.
    """
    hidden = config.int("hidden_size")
    heads = config.int("num_attention_heads")
    kv_heads = kv_heads or config.optional_int("num_key_value_heads", minimum=1) or heads
    head_dim = config.optional_int("head_dim") or 0
    if not head_dim:
        if hidden % heads:
            raise InputError(
                f"{config.path('hidden_size')} = {hidden} is not divisible by "
                f"{config.path('num_attention_heads')} = {heads}; correct one of them or give head_dim"
            )
        head_dim = hidden // heads
    if heads % kv_heads:
        raise InputError(
            f"{config.path('num_attention_heads')} = {heads} is not a multiple of "
            f"{config.path('num_key_value_heads')} = {kv_heads}; correct one of them"
        )
    return Dims(
        hidden=hidden,
        layers=config.int("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=config.int("vocab_size"),
    )


# --- modules -------------------------------------------------------------------------------------------------------


def norm(name: str, size: int, *, bias: bool = False, group: Group = "norms") -> tuple[Weight, ...]:
    """RMSNorm (weight) or LayerNorm (weight and bias): whole on every rank."""
    weight = Weight(name=f"{name}.weight", shape=(size,), group=group)
    return (weight, Weight(name=f"{name}.bias", shape=(size,), group=group)) if bias else (weight,)


def qkv_attention(
    d: Dims,
    *,
    qkv_bias: bool = False,
    o_bias: bool = False,
    qk_norm: int | None = None,
    prefix: str = "self_attn",
    o_name: str = "o_proj",
    qkv_name: str = "qkv_proj",
    packed: tuple[str, ...] = QKV,
    scales: str = "attn",
) -> tuple[Module, ...]:
    """QKVParallelLinear + Attention + RowParallelLinear; qk_norm is the size of the q and k norms, if any."""
    modules: list[Module] = [
        Linear(
            name=f"{prefix}.{qkv_name}",
            inputs=d.hidden,
            outputs=(
                d.heads * d.head_dim,
                Heads(count=d.kv_heads, size=d.head_dim),
                Heads(count=d.kv_heads, size=d.head_dim),
            ),
            split="column",
            bias=qkv_bias,
            group="attention",
            packed=packed,
        ),
        Linear(
            name=f"{prefix}.{o_name}",
            inputs=d.heads * d.head_dim,
            outputs=(d.hidden,),
            split="row",
            bias=o_bias,
            group="attention",
        ),
        AttentionScales(name=f"{prefix}.{scales}"),
    ]
    if qk_norm is not None:
        modules += [*norm(f"{prefix}.q_norm", qk_norm), *norm(f"{prefix}.k_norm", qk_norm)]
    return tuple(modules)


def gated_mlp(
    hidden: int,
    intermediate: int,
    *,
    bias: bool = False,
    prefix: str = "mlp",
    group: Group = "mlp",
    up: str = "gate_up_proj",
    down: str = "down_proj",
    packed: tuple[str, ...] = GATE_UP,
) -> tuple[Linear, ...]:
    """MergedColumnParallelLinear gate_up_proj and RowParallelLinear down_proj."""
    return (
        Linear(
            name=f"{prefix}.{up}",
            inputs=hidden,
            outputs=(intermediate, intermediate),
            split="column",
            bias=bias,
            group=group,
            packed=packed,
        ),
        Linear(
            name=f"{prefix}.{down}",
            inputs=intermediate,
            outputs=(hidden,),
            split="row",
            bias=bias,
            group=group,
        ),
    )


def plain_mlp(
    hidden: int, intermediate: int, *, up: str, down: str, bias: bool, group: Group = "mlp"
) -> tuple[Linear, ...]:
    """ColumnParallelLinear and RowParallelLinear without a gate (GPT-2, OPT, Falcon …)."""
    return (
        Linear(name=up, inputs=hidden, outputs=(intermediate,), split="column", bias=bias, group=group),
        Linear(name=down, inputs=intermediate, outputs=(hidden,), split="row", bias=bias, group=group),
    )


def ungated_mlp(config: Config, hidden: int) -> tuple[Linear, ...]:
    """A Llama's MLP without its gate, under the same names and keys (Nemotron, Apertus, Arcee)."""
    width, bias = config.int("intermediate_size"), config.bool("mlp_bias", default=False)
    return plain_mlp(hidden, width, up="mlp.up_proj", down="mlp.down_proj", bias=bias)


# --- rotary embeddings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rope:
    """The config's rotary parameters in vLLM's terms (transformers_utils/config.py patch_rope_parameters)."""

    type: str = "default"
    parameters: Mapping[str, object]
    partial: float = 1.0

    def number(self, key: str, otherwise: float) -> float:
        """A number of the rope parameters, or `otherwise` where the key is missing or no number."""
        value = self.parameters.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise

    def rotary_dim(self, head_size: int) -> int:
        """Columns of the cache: the rotated part of a head, all of it where the rest is stored as identity."""
        if self.type == "proportional":
            return head_size
        return int(self.number("rope_dim", 0)) or int(head_size * self.partial)

    def rows(self, max_position: int, positions_factor: int = 4) -> int:
        """Rows of the cos/sin cache of one get_rope() (layers/rotary_embedding/*.py, 0.33).

        positions_factor is get_rope's mrope_positions_factor: 1 for the models that pass it so.
        """
        original = int(self.number("original_max_position_embeddings", max_position))
        factor = self.number("factor", 1.0)
        if "mrope_section" in self.parameters:
            original, max_position = original * positions_factor, max_position * positions_factor
        if self.type in ("yarn", "deepseek_yarn", "deepseek_llama_scaling"):
            return ceil(original * factor)
        if self.type == "linear":
            return ceil(max_position * factor)
        if self.type == "longrope":
            return original + max_position
        return max_position


def rope(config: Config, layer_type: str | None = None, *, partial: float = 1.0) -> Rope:
    """rope_parameters (transformers 5) or rope_scaling + rope_theta (before), as one Rope.

    partial: the model class's own partial_rotary_factor, for configs that give none.
    """
    parameters: dict[str, object] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if config.has(key):
            section = config.section(key)
            if layer_type is not None and section.has(layer_type):
                section = section.section(layer_type)
            parameters.update(section.values)
            _check_rope(Config(section.values, where=config.where, prefix=section.path("")))
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    kind = {"su": "longrope", "mrope": "default"}.get(str(kind), str(kind))
    given = parameters.get("partial_rotary_factor")
    if isinstance(given, int | float):
        partial = given
    else:
        key = config.first_of(("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction", "rope_pct"))
        partial = config.number(key, default=partial)
    if not 0 < partial <= 1:
        raise config.error("partial_rotary_factor", f"= {partial:g} must be above 0 and at most 1")
    if kind == "longrope" and "original_max_position_embeddings" not in parameters:
        for key in ("original_max_position_embeddings", "max_position_embeddings"):
            if config.has(key):
                parameters["original_max_position_embeddings"] = config.int(key)
                break
    return Rope(type=kind, parameters=parameters, partial=float(partial))


def _check_rope(section: Config) -> None:
    """InputError for a number in quotes, or one that no cache could be sized by."""
    for key in ("factor", "original_max_position_embeddings", "rope_dim", "partial_rotary_factor"):
        section.optional_number(key, None, minimum=0, maximum=2**40)


def rotary_cache(
    r: Rope,
    head_size: int,
    max_position: int,
    *,
    name: str = "rotary_emb",
    rotary_dim: int | None = None,
    dtype: str | None = None,
    positions_factor: int = 4,
) -> Weight:
    """The cos_sin_cache buffer: one per distinct get_rope() call and rank, in the model's dtype unless given.

    Before 0.32 every model with positions in three dimensions has room for four times as many (mrope.py).
    """
    width = r.rotary_dim(head_size) if rotary_dim is None else rotary_dim
    shape, older = ((r.rows(max_position, factor), width) for factor in (positions_factor, 4))
    return Weight(
        name=f"{name}.cos_sin_cache",
        shape=shape,
        shape_before=None if shape == older else ((0, 32), older),
        kind="buffer",
        dtype=dtype,
        group="other",
    )


# --- context -------------------------------------------------------------------------------------------------------

_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_ALREADY_SCALED = ("longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


def states_a_length(config: Config) -> bool:
    """Whether the config limits the context at all; where it does not, vLLM takes any --max-model-len."""
    return any(config.has(key) for key in _LENGTH_KEYS) or config.has_default("max_position_embeddings")


def context_length(config: Config, r: Rope | None = None) -> int:
    """The longest context that vLLM derives from the config (config/model.py _get_and_verify_max_len, 0.33)."""
    lengths = [config.int(key) for key in _LENGTH_KEYS if config.has(key)]
    if not lengths and config.has_default("max_position_embeddings"):
        lengths = [config.int("max_position_embeddings")]
    length: float = min(lengths, default=2048)
    if config.has("model_max_length"):
        length = config.int("model_max_length")
    r = rope(config) if r is None else r
    if r.type not in _ALREADY_SCALED and "gemma3" not in config.str("model_type", default=""):
        length *= r.number("factor", 1.0)
    return int(length)


def default_context(config: Config) -> int | None:
    """What vLLM takes when not asked for more, where that is less: longrope starts at the original length."""
    key = "original_max_position_embeddings"
    return config.int(key) if rope(config).type == "longrope" and config.has(key) else None


# --- assembly ------------------------------------------------------------------------------------------------------


def repeat(count: int, build: Callable[[int], Layer], kind: Callable[[int], object] | None = None) -> tuple[Layer, ...]:
    """`count` layers, one Layer object for all that `kind` calls the same (all of them without it)."""
    made: dict[object, Layer] = {}
    layers = []
    for index in range(count):
        key = kind(index) if kind is not None else None
        if key not in made:
            made[key] = build(index)
        layers.append(made[key])
    return tuple(layers)


def decoder(
    config: Config,
    name: str,
    d: Ends,
    *,
    layers: tuple[Layer, ...],
    final_norm: Iterable[Module] | None = None,
    everywhere: Sequence[Module] = (),
    first: Sequence[Module] | None = None,
    lm_head_bias: bool = False,
    tie: bool | None = None,
    max_position: int | None = None,
    architecture: str | None = None,
    split_ends: bool = True,
    head: str = "lm_head",
    head_width: int | None = None,
    **others: object,
) -> Model:
    """The usual decoder: embedding, layers, final RMSNorm, lm_head (tied where the config says so).

    split_ends: False where vLLM's class builds embedding, final norm and head on every pipeline stage.
    """
    tied = ties_embeddings(config) if tie is None else tie
    embedding = Embedding(name="model.embed_tokens", rows=d.vocab, width=d.hidden)
    first = (embedding,) if first is None else first
    last = tuple(norm("model.norm", d.hidden) if final_norm is None else final_norm)
    if not tied:
        last = (*last, LmHead(name=head, rows=d.vocab, width=head_width or d.hidden, bias=lm_head_bias))
    if not split_ends:
        first, last, everywhere, tied = (), (), (*first, *last, *everywhere), False
    return Model(
        name=name,
        architecture=architecture or next(iter(config.strs("architectures", default=())), ""),
        hidden_size=d.hidden,
        vocab_size=d.vocab,
        num_attention_heads=d.heads,
        dtype=config_dtype(config),
        max_position=context_length(config) if max_position is None else max_position,
        default_len=default_context(config) if max_position is None else None,
        layers=layers,
        first=tuple(first),
        last=last,
        tied=tuple(module for module in first if isinstance(module, Embedding) and module.split) if tied else (),
        everywhere=tuple(everywhere),
        **others,  # type: ignore[arg-type]
    )


def ties_embeddings(config: Config) -> bool:
    """Whether the lm_head shares the embedding's storage; transformers' class decides where the config is silent."""
    known = config.has("tie_word_embeddings") or config.has_default("tie_word_embeddings")
    return known and config.bool("tie_word_embeddings")


def for_pooling(model: Model) -> Model:
    """A text generation model served with `--runner pooling`: vLLM drops its lm_head (models/adapters.py, 0.33)."""

    def kept(modules: tuple[Module, ...]) -> tuple[Module, ...]:
        return tuple(module for module in modules if not isinstance(module, LmHead))

    return replace(model, last=kept(model.last), everywhere=kept(model.everywhere), is_pooling=True)


def kv_state(d: Dims, sliding_window: int | None = None) -> LayerState:
    """The KV cache of a layer with these heads; sliding_window in tokens, None for full attention."""
    return KVAttention(heads=d.heads, kv_heads=d.kv_heads, head_size=d.head_dim, sliding_window=sliding_window)


def windows(
    config: Config, count: int, types: Sequence[str] | None = None, *, per_layer: bool = True
) -> tuple[int | None, ...]:
    """The sliding window of each layer, None for full attention, as vLLM's Attention resolves it.

    A model whose layers do not ask for their own (per_layer=False) gets the config's window only if it is the same for
    all of them (engine/arg_utils.py create_engine_config, 0.33). types: the config class's own layer_types.
    """
    window = config.optional_int("sliding_window") or None
    types = layer_types(config, count) or types
    if window is None or types is None:
        return (window,) * count
    sliding = [kind == "sliding_attention" for kind in types]
    if not per_layer and not all(sliding):
        return (None,) * count
    return tuple(window if local else None for local in sliding)


def alternating(config: Config, count: int, every: int) -> tuple[str, ...]:
    """layer_types as config classes make them: each `every`-th layer attends fully, the others slide.

    The older key `sliding_window_pattern` in a config takes precedence over the class's number.
    """
    every = config.int("sliding_window_pattern", default=every, minimum=1)
    return tuple("full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(count))


def layer_types(config: Config, count: int) -> tuple[str, ...] | None:
    """The config's `layer_types`, checked against the number of layers; None where it has none."""
    if not config.has("layer_types"):
        return None
    types = config.strs("layer_types")
    if len(types) < count:
        raise InputError(
            f"{config.path('layer_types')} lists {len(types)} layers, num_hidden_layers says {count}; "
            "correct one of them"
        )
    return tuple(types[:count])
