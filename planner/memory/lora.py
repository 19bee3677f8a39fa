"""LoRA slots: what --enable-lora allocates on each rank while the model loads, for every slot, used or not.

Mirrors vllm/lora (0.33): LoRAModelManager._create_lora_modules wraps every linear, every FusedMoE and, where the model
names them in embedding_modules, the embedding and the head; layers/*.py allocate A and B for max_loras adapters of
max_lora_rank. Versions before 0.33 are taken to do the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from planner.engine.defaults import Engine
from planner.errors import InputError, Refusal
from planner.memory.allocator import block_bytes
from planner.model.architecture import Model
from planner.model.modules import (
    Embedding,
    Experts,
    Heads,
    Linear,
    LmHead,
    Module,
    Placement,
    Tensor,
    Weight,
    divide,
)
from planner.text import shown
from planner.units import DTYPE_BYTES, model_dtype, round_up

_MAX_VOCAB = 258_048
"""Of a head with LoRA (layers/logits_processor.py)."""


@dataclass(frozen=True, kw_only=True)
class LoraBytes:
    """What the slots take on one rank of one pipeline stage."""

    tensor_bytes: int = 0
    block_bytes: int = 0
    """The same in the allocator's blocks; part of "Model loading took"."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRAConfig (config/lora.py): as many adapters at a time, and of what rank."""

    max_loras: int = 1
    max_lora_rank: int = 16
    dtype: str = "bfloat16"
    fully_sharded: bool = False
    """--fully-sharded-loras: the half of an adapter that is whole on every rank otherwise is divided too."""
    target_modules: tuple[str, ...] | None = None
    """--lora-target-modules: only these modules get slots; None: all that can."""
    two_dimensional_experts: bool = False
    """--enable-mixed-moe-lora-format or --enable-moe-shared-loras: gate and up apart for every model."""
    shared_outer: bool = False
    """--enable-moe-shared-loras: w13's A and w2's B once for all experts."""

    def slot(self, name: str, experts: int, rows: int, columns: int) -> Tensor:
        """A stacked tensor: one matrix for each adapter and expert."""
        nbytes = self.max_loras * experts * rows * columns * DTYPE_BYTES[self.dtype]
        return Tensor(f"{name}_stacked", nbytes, "attr")

    def divided_rank(self, tp: int) -> int:
        """Rows of an A that --fully-sharded-loras divides."""
        return divide(self.max_lora_rank, tp, "--max-lora-rank") if self.fully_sharded else self.max_lora_rank

    def targets(self, name: str, packed: int, parts: tuple[str, ...]) -> bool:
        """Whether a module gets slots (lora/utils.py is_in_target_modules)."""
        if self.target_modules is None:
            return True
        suffix = name.rpartition(".")[2]
        children = parts if packed else ()
        return any(target in (suffix, name, *children) for target in self.target_modules)


def lora_config(engine: Engine) -> LoraConfig | None:
    """What the flags ask for; None without --enable-lora. Which numbers vLLM takes: planner/engine/rules.py."""
    given = engine.args
    if not given.get("enable_lora"):
        return None
    dtype, targets = given.get("lora_dtype") or "auto", given.get("lora_target_modules")
    shared = bool(given.get("enable_moe_shared_loras"))
    return LoraConfig(
        max_loras=given.get("max_loras", 1),
        max_lora_rank=given.get("max_lora_rank", 16),
        dtype=engine.dtype if dtype == "auto" else model_dtype(dtype, "lora_dtype"),
        fully_sharded=bool(given.get("fully_sharded_loras")),
        target_modules=None if targets is None else _names(targets),
        two_dimensional_experts=shared or bool(given.get("enable_mixed_moe_lora_format")),
        shared_outer=shared,
    )


def lora_stages(
    model: Model, engine: Engine, at: Placement, ranges: Sequence[range], *, max_split: int | None
) -> tuple[LoraBytes, ...]:
    """What LoRA takes on rank 0 of each pipeline stage, whose layers `ranges` lists; nothing without --enable-lora."""
    config = lora_config(engine)
    if config is None:
        return (LoraBytes(),) * len(ranges)
    _check(model, config, at)
    slots = _Slots(model, config, at)
    layers = {
        layer: _sum((tensor for module in layer.modules for tensor in slots.of(module)), max_split)
        for layer in dict.fromkeys(model.layers)
    }
    stages = []
    for stage, indices in enumerate(ranges):
        beside = [*_punica(config, engine), *_ends(slots, first=stage == 0, last=stage == len(ranges) - 1)]
        parts = [_sum(beside, max_split), *(layers[model.layers[index]] for index in indices)]
        stages.append(
            LoraBytes(
                tensor_bytes=sum(part.tensor_bytes for part in parts),
                block_bytes=sum(part.block_bytes for part in parts),
            )
        )
    return tuple(stages)


def _ends(slots: _Slots, *, first: bool, last: bool) -> Iterator[Tensor]:
    """What a pipeline stage has beside its layers."""
    model = slots.model
    ends = [*model.everywhere, *(model.first if first else ()), *(model.last if last else ())]
    ends += model.tied if last and not first else ()
    for module in ends:
        yield from slots.of(module)
    shared = slots.shared_head(last=last)
    if shared is not None:
        yield from slots.of(shared)


def _sum(tensors: Iterable[Tensor], max_split: int | None) -> LoraBytes:
    total = blocks = 0
    for tensor in tensors:
        total += tensor.nbytes
        blocks += block_bytes(tensor.nbytes, max_split)
    return LoraBytes(tensor_bytes=total, block_bytes=blocks)


# --- what is refused -----------------------------------------------------------------------------------------------

_UNSUPPORTED = frozenset(
    """BloomForCausalLM DbrxForCausalLM FalconForCausalLM FalconMambaForCausalLM GPT2LMHeadModel GPTJForCausalLM
    Gemma3TextModel Gemma3nForCausalLM Gemma3nForConditionalGeneration KimiK25ForConditionalGeneration
    KimiLinearForCausalLM Mamba2ForCausalLM MambaForCausalLM MiniMaxM3SparseForCausalLM
    MiniMaxM3SparseForConditionalGeneration ModernBertForSequenceClassification OrionForCausalLM Phi3VForCausalLM
    RWForCausalLM StableLMEpochForCausalLM StableLmForCausalLM""".split()
)
"""Architectures whose class has no SupportsLoRA in 0.33."""


def _check(model: Model, config: LoraConfig, at: Placement) -> None:
    if model.architecture in _UNSUPPORTED:
        raise Refusal(
            "lora_unsupported",
            f"LoRA is not supported for {model.architecture} ({model.name}). Supported models implement the "
            "`SupportsLoRA` interface. Run this model without `enable_lora`.",
            "--enable-lora",
        )
    if config.fully_sharded and at.expert_parallel_size > 1 and model.is_moe:
        raise Refusal(
            "lora_fully_sharded_experts",
            "Fused MoE LoRA does not support enable_expert_parallel=True together with fully_sharded_loras=True. "
            "Disable one of them.",
            "--fully-sharded-loras",
        )


# --- what a module gets --------------------------------------------------------------------------------------------

_PACKED = {
    "qkv_proj": 3,
    "gate_up_proj": 2,
    "fused_qkv_a_proj": 2,
    "fused_wqa_wkv": 2,
    "fused_wkv_wgate": 2,
    "in_proj_qkvz": 2,
    "in_proj_ba": 2,
    "w13": 2,
    "input_linear": 1,
    "query_key_value": 1,
    "dense_h_to_4h": 1,
    "wqkv": 1,
    "Wqkv": 1,
    "Wi": 1,
    "in_proj": 1,
    "conv1d": 1,
}
"""Adapters that a fused linear holds, by its name: packed_modules_mapping of the model classes."""

_PACKED_OTHERWISE = {"Phi3ForCausalLM": {"qkv_proj": 1, "gate_up_proj": 1}}

_WITH_EMBEDDING = frozenset(
    """ArceeForCausalLM Cohere2ForCausalLM CohereForCausalLM CwmForCausalLM GPTBigCodeForCausalLM GPTNeoXForCausalLM
    GlmForCausalLM HunYuanDenseV1ForCausalLM HunYuanMoEV1ForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM
    PhiForCausalLM SeedOssForCausalLM SmolLM3ForCausalLM Starcoder2ForCausalLM""".split()
)
"""embedding_modules names the embedding only: Cohere's classes, and what runs on vLLM's Transformers backend."""

_WITH_EMBEDDING_AND_HEAD = frozenset(
    """ApertusForCausalLM DeciLMForCausalLM Ernie4_5ForCausalLM Exaone4ForCausalLM ExaoneForCausalLM FalconH1ForCausalLM
    GraniteForCausalLM GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSWAForCausalLM
    GraniteMoeSharedForCausalLM GraniteSWAForCausalLM HyperCLOVAXForCausalLM IQuestCoderForCausalLM
    InternLM3ForCausalLM JambaForCausalLM LLaMAForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM Llama4ForCausalLM
    Llama4ForConditionalGeneration LlamaBidirectionalModel LlamaForCausalLM LlamaModel MiniCPM3ForCausalLM
    MiniCPMForCausalLM MistralModel MixtralForCausalLM NemotronForCausalLM NemotronHForCausalLM
    NemotronHPuzzleForCausalLM Phi3ForCausalLM PhiMoEForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM
    Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration Qwen3_5ForCausalLM
    Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration SolarForCausalLM
    TeleChat3ForCausalLM TeleFLMForCausalLM""".split()
)
"""embedding_modules of the class, or of the language model inside it, names both."""

_FUSED_EXPERTS = frozenset(
    "GptOssForCausalLM Qwen3VLMoeForConditionalGeneration Qwen3_5MoeForConditionalGeneration".split()
)
"""is_3d_moe_weight: adapters hold gate and up in one (FusedMoE3DWithLoRA)."""

_EMBEDDING_NAMES = ("embed_tokens", "wte")

_NON_GATED = frozenset(("NemotronHForCausalLM", "NemotronHPuzzleForCausalLM"))
"""is_non_gated_moe: their routers take no adapter."""

_MIXER = ("in_proj", "conv1d")
"""Linears whose heads are Mamba 2's groups, not those of attention."""

_ROUTER = re.compile(r"(?:^|\.)(?:gate|router)\.weight$")


class _Slots:
    """What each module of a model gets under one configuration."""

    def __init__(self, model: Model, config: LoraConfig, at: Placement) -> None:
        self.model, self.config, self.at = model, config, at
        self.packed = _PACKED | _PACKED_OTHERWISE.get(model.architecture, {})
        self.with_head = model.architecture in _WITH_EMBEDDING_AND_HEAD
        self.with_embedding = self.with_head or model.architecture in _WITH_EMBEDDING
        self.fused_experts = model.architecture in _FUSED_EXPERTS and not config.two_dimensional_experts
        self.gate_without = model.architecture in _NON_GATED

    def of(self, module: Module) -> Iterator[Tensor]:
        if isinstance(module, Linear):
            yield from self._linear(module)
        elif isinstance(module, Experts):
            if self.config.targets(module.name, 0, ()):
                yield from self._experts(module)
        elif isinstance(module, LmHead):
            yield from self._head(module)
        elif isinstance(module, Embedding):
            named = module.name.rpartition(".")[2] in _EMBEDDING_NAMES
            if self.with_embedding and named and self.config.targets(module.name, 0, ()):
                yield from self._embedding(module)
        elif isinstance(module, Weight) and len(module.shape) == 2 and _ROUTER.search(module.name):
            # An fp32 router: a GateLinear like any other to LoRA.
            rows, columns = module.shape
            name = module.name.removesuffix(".weight")
            yield from self._linear(Linear(name=name, inputs=columns, outputs=(rows,), split="none"))

    def shared_head(self, *, last: bool) -> LmHead | None:
        """The head that shares the embedding's weight, where this stage has it: it has slots of its own."""
        model = self.model
        if model.is_pooling or any(isinstance(module, LmHead) for module in (*model.last, *model.everywhere)):
            return None
        # A class that asks for no stage builds both on all of them.
        for module in (*model.everywhere, *(model.tied if last else ())):
            if isinstance(module, Embedding) and module.split:
                return LmHead(name="lm_head", rows=module.rows, width=module.width)
        return None

    def _linear(self, module: Linear) -> Iterator[Tensor]:
        """BaseLinearLayerWithLoRA and MergedColumnParallelLinearWithLoRA: one A and one B for each slice."""
        config, tp = self.config, self.at.tp_size
        suffix = module.name.rpartition(".")[2]
        if self.gate_without and module.name.endswith("mixer.gate"):
            return
        if not config.targets(module.name, self.packed.get(suffix, 0), module.packed):
            return
        slices = self._slices(module, suffix)
        if not slices and config.target_modules is not None:
            raise Refusal(
                "lora_target_modules",
                f"LoRA target module {module.name} matched the deployment configuration but could not be wrapped by "
                f"any LoRA layer implementation. target_modules={sorted(config.target_modules)}",
                "--lora-target-modules",
            )
        rank = config.max_lora_rank
        rows_a = config.divided_rank(tp) if module.split == "column" else rank
        for number, rows in enumerate(slices):
            local = divide(rows, tp) if module.split == "row" and config.fully_sharded else rows
            yield config.slot(f"{module.name}.lora_a[{number}]", 1, rows_a, module.local_inputs(tp))
            yield config.slot(f"{module.name}.lora_b[{number}]", 1, local, rank)

    def _slices(self, module: Linear, suffix: str) -> tuple[int, ...]:
        """Output rows of each slice on one rank; none where no LoRA layer takes the linear (from_layer)."""
        tp, rows = self.at.tp_size, module.local_rows(self.at.tp_size)
        if len(rows) == 1 or module.split == "row":
            return (sum(rows),)
        adapters, heads = self.packed.get(suffix, 0), [part for part in module.outputs if isinstance(part, Heads)]
        if heads and suffix in _MIXER:
            if heads[0].count % tp:
                return (sum(rows),)  # MambaMixer2 then builds a ColumnParallelLinear
        elif heads:
            return rows if adapters == 3 else (sum(rows),) if adapters == 1 else ()
        if adapters == 2:
            return rows
        if len(rows) >= 3:
            return () if self.config.fully_sharded else rows
        return (sum(rows),) if adapters == 1 else ()

    def _experts(self, module: Experts) -> Iterator[Tensor]:
        """FusedMoEWithLoRA and FusedMoE3DWithLoRA (layers/fused_moe.py)."""
        config, name = self.config, module.name
        experts, (hidden, width) = module.local_count(self.at), self._expert_sizes(module)
        tp = 1 if self.at.expert_parallel_size > 1 else self.at.tp_size
        hidden_b = divide(hidden, tp) if config.fully_sharded else hidden
        shared = 1 if config.shared_outer else experts
        slices, rows = (2, width) if module.gated else (1, width)
        if self.fused_experts:
            slices, rows = 1, 2 * width
        yield Tensor(f"{name}.adapter_enabled", 4 * (config.max_loras + 1), "attr")
        for number in range(slices):
            yield config.slot(f"{name}.w13_lora_a[{number}]", shared, config.divided_rank(tp), hidden)
            yield config.slot(f"{name}.w13_lora_b[{number}]", experts, rows, config.max_lora_rank)
        yield config.slot(f"{name}.w2_lora_a[0]", experts, config.max_lora_rank, width)
        yield config.slot(f"{name}.w2_lora_b[0]", shared, hidden_b, config.max_lora_rank)

    def _expert_sizes(self, module: Experts) -> tuple[int, int]:
        """Hidden and intermediate size on this rank, as the experts' kernel rounds them (maybe_roundup_sizes).

        With LoRA vLLM takes Marlin for MXFP4, on Hopper too, whose Triton kernels it takes otherwise.
        """
        hidden, width = module.hidden, module.local_intermediate(self.at)
        quantization = self.at.quantization
        if quantization is not None and quantization.name == "mxfp4":
            return round_up(hidden, 256), round_up(width, 128)
        return hidden, width

    def _embedding(self, module: Embedding) -> Iterator[Tensor]:
        """VocabParallelEmbeddingWithLoRA: the whole vocabulary on every rank."""
        yield self.config.slot(f"{module.name}.lora_a", 1, module.rows, self.config.max_lora_rank)
        yield self.config.slot(f"{module.name}.lora_b", 1, module.width, self.config.max_lora_rank)

    def _head(self, module: LmHead) -> Iterator[Tensor]:
        """LogitsProcessorWithLoRA: the whole vocabulary on every rank, and where each row of it lies."""
        if not self.with_head or not self.config.targets(module.name, 0, ()):
            return
        if self.model.vocab_size > _MAX_VOCAB:
            raise Refusal("lora_vocab", f"When using LoRA, vocab size must be <= {_MAX_VOCAB}", "--enable-lora")
        rank = self.config.max_lora_rank
        yield self.config.slot("logits_processor.lora_a", 1, rank, module.width)
        yield self.config.slot("logits_processor.lora_b", 1, self.model.vocab_size, rank)
        if self.at.tp_size > 1:
            yield Tensor("logits_processor.sharded_to_full_mapping", 8 * round_up(module.rows, module.padding), "attr")


def _punica(config: LoraConfig, engine: Engine) -> Iterator[Tensor]:
    """PunicaWrapperGPU (lora/punica_wrapper): which adapter each token, request and sample wants."""
    tokens, slots = engine.max_num_batched_tokens, config.max_loras
    for name in ("token_lora_indices", "sampler_indices", "sampler_indices_padded", "embeddings_indices"):
        yield Tensor(f"punica.{name}", 8 * tokens, "attr")
    for name in ("seq_start_locs", "seq_lengths", "lora_indices_per_batch"):
        yield Tensor(f"punica.{name}", 8 * engine.max_num_seqs, "attr")
    for meta in ("token_mapping", "prompt_mapping"):
        for name, length in (
            ("token_lora_mapping", tokens),
            ("token_indices_sorted_by_lora_ids", tokens),
            ("active_lora_ids", slots + 1),
            ("num_tokens_per_lora", slots + 1),
            ("lora_token_start_loc", slots + 2),
        ):
            yield Tensor(f"punica.{meta}.{name}", 4 * length, "attr")


# --- reading -------------------------------------------------------------------------------------------------------


def _names(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"lora_target_modules = {shown(value)}: must be a list of names")
    return tuple(names)
