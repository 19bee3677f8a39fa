"""Model: what a family makes of a Hugging Face config, and all that the rest of the planner reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from planner.model.attention import LayerState, RecurrentState
from planner.model.encoder import EncoderFacts
from planner.model.modules import Experts, Linear, Module


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One decoder layer: the modules vLLM builds for it and the state it keeps. Share one object among equal layers."""

    modules: tuple[Module, ...]
    shared: tuple[Module, ...] = ()
    """Built once on each pipeline stage that has a layer with them: rotary caches that not every layer uses."""
    state: LayerState | None = None
    """None where nothing is cached: encoder-only attention, layers that share another's KV cache, plain MLPs."""
    more_states: tuple[LayerState, ...] = ()
    """Where a layer keeps several: Mamba beside attention (Falcon-H1), cross attention (Whisper), in vLLM's order."""

    @property
    def states(self) -> tuple[LayerState, ...]:
        """Everything this layer keeps between steps."""
        return (() if self.state is None else (self.state,)) + self.more_states

    @cached_property
    def parameters(self) -> int:
        """Elements that a checkpoint stores, before sharding."""
        return sum(module.parameters for module in self.modules)

    @cached_property
    def quantizable(self) -> tuple[Linear | Experts, ...]:
        """The modules whose storage a quantization may decide."""
        return tuple(m for m in self.modules if isinstance(m, Linear | Experts) and m.quantizable)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A model as vLLM builds it. Sizes are whole-model; sharding happens in planner/memory."""

    name: str
    architecture: str
    """The first entry of the config's `architectures`."""
    hidden_size: int
    vocab_size: int
    num_attention_heads: int
    dtype: str
    """The config's dtype by torch's name (before vLLM's `auto` halves fp32)."""
    max_position: int
    """The longest context vLLM accepts for this config without being told to override it."""
    default_len: int | None = None
    """The context vLLM takes when --max-model-len is not given; None: max_position (longrope takes less)."""
    layers: tuple[Layer, ...]
    first: tuple[Module, ...] = ()
    """On the first pipeline stage: embeddings."""
    last: tuple[Module, ...] = ()
    """On the last pipeline stage: final norm, lm_head where it is not tied."""
    tied: tuple[Module, ...] = ()
    """Shared with `first`: on the last stage too when there are several (a tied lm_head)."""
    everywhere: tuple[Module, ...] = ()
    """On every pipeline stage: rotary caches, what a family does not split."""
    towers: tuple[Module, ...] = ()
    """Encoders of images and sound with their projectors: on the first stage, before vLLM 0.33 on every stage."""
    layer_prefix: str = "model.layers."
    renames: tuple[tuple[str, str], ...] = ()
    """Prefixes of the checkpoint's names and vLLM's in their place (hf_to_vllm_mapper), for lists of modules."""
    unlimited_len: bool = False
    """The config states no length at all: any max_model_len is accepted, max_position is only what vLLM assumes."""
    model_type: str = ""
    """The config's `model_type`."""
    supports_pp: bool = True
    is_pooling: bool = False
    """Embedding, reranking and classification models: no lm_head, no sampler, no KV cache for encoders."""
    is_multimodal: bool = False
    encoder: EncoderFacts | None = None
    """What the profile run feeds the tower of a multimodal model with; None: not described."""
    is_mm_prefix_lm: bool = False
    """Tokens of an image attend to each other both ways (Gemma 3, PaliGemma …), which not every backend can."""
    extra_parameters: Mapping[str, int] = field(default_factory=dict)
    """What a published parameter count holds beyond what vLLM builds, by name: {"MTP layers": n}."""
    notes: tuple[str, ...] = ()
    """What had to be assumed, each a sentence; not empty makes the estimate's basis `assumed`."""
    memo: dict[object, Any] = field(default_factory=dict, init=False, repr=False)
    """What is worked out from the model again and again, kept as long as the model is."""

    @property
    def default_max_model_len(self) -> int:
        """Tokens that vLLM takes as max_model_len where no flag says otherwise."""
        return self.max_position if self.default_len is None else self.default_len

    @cached_property
    def states(self) -> tuple[LayerState, ...]:
        """What its layers keep between steps, equal ones once, in layer order."""
        return tuple(dict.fromkeys(state for layer in dict.fromkeys(self.layers) for state in layer.states))

    @cached_property
    def state_kinds(self) -> frozenset[type[LayerState]]:
        """What its layers keep between steps."""
        return frozenset(map(type, self.states))

    @cached_property
    def is_moe(self) -> bool:
        """Whether any layer has experts."""
        return any(isinstance(module, Experts) for layer in self.layers for module in layer.modules)

    @cached_property
    def is_hybrid(self) -> bool:
        """Whether any layer is recurrent, beside attention or alone."""
        return RecurrentState in self.state_kinds

    @cached_property
    def parameters(self) -> int:
        """Parameters as a checkpoint counts them: a tied head once, no padding, no buffers."""
        parts = (*self.first, *self.last, *self.everywhere, *self.towers)
        return sum(module.parameters for module in parts) + sum(layer.parameters for layer in self.layers)
