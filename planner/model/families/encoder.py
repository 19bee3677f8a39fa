"""Embedding, reranking and classification models with bidirectional attention: no head over words, no KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from planner.model.architecture import Layer, Model
from planner.model.config import Config
from planner.model.families import Family, conversion, family
from planner.model.families.common import (
    Dims,
    Rope,
    config_dtype,
    context_length,
    dims,
    for_pooling,
    gated_mlp,
    layer_types,
    norm,
    plain_mlp,
    qkv_attention,
    rotary_cache,
)
from planner.model.families.dense import norms
from planner.model.modules import Embedding, Module, Weight

HEAD_DTYPE = "float32"
"""vLLM's pooling heads compute in fp32 (config/model.py head_dtype)."""


def _head(name: str, rows: int, inputs: int, *, bias: bool = True) -> tuple[Weight, ...]:
    """An nn.Linear of a pooling head, whole on every rank."""
    weight = Weight(name=f"{name}.weight", shape=(rows, inputs), dtype=HEAD_DTYPE, group="other")
    if not bias:
        return (weight,)
    return (weight, Weight(name=f"{name}.bias", shape=(rows,), dtype=HEAD_DTYPE, group="other"))


def _labels(config: Config) -> int:
    """num_labels, or as many as id2label names; two where a config has neither (transformers' PreTrainedConfig)."""
    if config.has("id2label"):
        return len(config.section("id2label").values)
    return config.int("num_labels", default=2)


# --- text generation models, converted (models/adapters.py, 0.33) ---------------------------------------------------


@conversion("Model")
def embedder(build: Family) -> Family:
    """as_embedding_model: the decoder without its head."""
    return lambda config, name: for_pooling(build(config, name))


@conversion("ForSequenceClassification")
def classifier(build: Family) -> Family:
    """as_seq_cls_model: a `score` for each label instead of the head, on every pipeline stage."""

    def built(config: Config, name: str) -> Model:
        model = for_pooling(build(config, name))
        score = _head("score", _score_labels(config), model.hidden_size, bias=False)
        return replace(model, everywhere=(*model.everywhere, *score))

    return built


def _score_labels(config: Config) -> int:
    """Labels, or the tokens that `method` makes the scores of (SequenceClassificationConfig)."""
    if not config.has("method"):
        return _labels(config)
    tokens = config.strs("classifier_from_token")
    return 1 if config.str("method") == "from_2_way_softmax" else len(tokens)


# --- BERT and other encoders ---------------------------------------------------------------------------------------


def encoder(
    config: Config,
    name: str,
    d: Dims,
    modules: Sequence[Module],
    *,
    layer_prefix: str,
    first: Sequence[Module],
    everywhere: Sequence[Module] = (),
    last: Sequence[Module] = (),
    **others: Any,
) -> Model:
    """A stack of equal layers that keep nothing between steps."""
    return Model(
        name=name,
        architecture=config.strs("architectures")[0],
        hidden_size=d.hidden,
        vocab_size=d.vocab,
        num_attention_heads=d.heads,
        dtype=config_dtype(config),
        layers=(Layer(modules=tuple(modules)),) * d.layers,
        first=tuple(first),
        last=tuple(last),
        everywhere=tuple(everywhere),
        layer_prefix=layer_prefix,
        supports_pp=False,
        is_pooling=True,
        **{"max_position": context_length(config), **others},
    )


def _bert(config: Config, name: str, root: str, head: Sequence[Module] = (), **others: Any) -> Model:
    """models/bert.py: all three tables are VocabParallelEmbedding, padded and split by rows."""
    d = dims(config)
    tables = {
        "word_embeddings": d.vocab,
        "position_embeddings": config.int("max_position_embeddings"),
        "token_type_embeddings": config.int("type_vocab_size"),
    }
    embeddings = f"{root}.embeddings"
    modules = (
        *qkv_attention(
            d,
            prefix="attention",
            qkv_name="output.qkv_proj",  # the prefix that vLLM passes on, although the module is attention.self
            o_name="output.dense",
            packed=("query", "key", "value"),
            scales="self.attn",
            qkv_bias=True,
            o_bias=True,
        ),
        *plain_mlp(
            d.hidden,
            config.int("intermediate_size"),
            up="intermediate.dense",
            down="output.dense",
            bias=True,
        ),
        *norms(d.hidden, "attention.output.LayerNorm", "output.LayerNorm", bias=True),
    )
    position_ids = Weight(
        name=f"{embeddings}.position_ids",
        shape=(1, tables["position_embeddings"]),
        kind="buffer",
        dtype="int64",
        group="other",
    )
    return encoder(
        config,
        name,
        d,
        modules,
        layer_prefix=f"{root}.encoder.layer.",
        first=(
            *(Embedding(name=f"{embeddings}.{table}", rows=n, width=d.hidden) for table, n in tables.items()),
            *norm(f"{embeddings}.LayerNorm", d.hidden, bias=True),
            position_ids,
        ),
        last=head,
        **others,
    )


@family("BertModel")
def bert(config: Config, name: str) -> Model:
    """BertEmbeddingModel: the checkpoint's pooler is not built."""
    hidden = config.int("hidden_size")
    extra = {"pooler": hidden * (hidden + 1), "position_ids": config.int("max_position_embeddings")}
    return _bert(config, name, "model", extra_parameters=extra)


@family("BertForSequenceClassification")
def bert_classifier(config: Config, name: str) -> Model:
    """BertForSequenceClassification: pooler and classifier in fp32."""
    hidden = config.int("hidden_size")
    head = (*_head("bert.pooler.dense", hidden, hidden), *_head("classifier", _labels(config), hidden))
    return _bert(config, name, "bert", head)


@family("BertForTokenClassification")
def bert_tagger(config: Config, name: str) -> Model:
    """BertForTokenClassification: a classifier over each token."""
    return _bert(config, name, "bert", _head("classifier", _labels(config), config.int("hidden_size")))


@family("RobertaModel", "XLMRobertaModel", "RobertaForMaskedLM", "BgeM3EmbeddingModel")
def roberta(config: Config, name: str) -> Model:
    """RobertaEmbeddingModel (models/roberta.py): BERT whose positions start after the padding's."""
    return _bert(config, name, "model")


@family("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification")
def roberta_classifier(config: Config, name: str) -> Model:
    """RobertaForSequenceClassification: a head of two linears in fp32."""
    hidden = config.int("hidden_size")
    head = (
        *_head("classifier.dense", hidden, hidden),
        *_head("classifier.out_proj", _labels(config), hidden),
    )
    return _bert(config, name, "roberta", head)


# --- newer encoders ------------------------------------------------------------------------------------------------


def _modernbert(config: Config, name: str, root: str, head: Sequence[Module] = ()) -> Model:
    """models/modernbert.py: rotary positions of two kinds, a gated MLP, no norm before the first attention."""
    d = dims(config)
    norm_bias = config.bool("norm_bias", default=False)
    attention_bias = config.bool("attention_bias", default=False)
    mlp_bias = config.bool("mlp_bias", default=False)
    inner = (
        *qkv_attention(
            d,
            prefix="attn",
            qkv_name="Wqkv",
            o_name="Wo",
            packed=("Wqkv",),
            qkv_bias=attention_bias,
            o_bias=attention_bias,
        ),
        *gated_mlp(d.hidden, config.int("intermediate_size"), bias=mlp_bias, up="Wi", down="Wo", packed=("Wi",)),
        *norm("mlp_norm", d.hidden, bias=norm_bias),
    )
    bare, normed = Layer(modules=inner), Layer(modules=(*inner, *norm("attn_norm", d.hidden, bias=norm_bias)))
    first: tuple[Module, ...] = (
        Embedding(name=f"{root}embeddings.tok_embeddings", rows=d.vocab, width=d.hidden),
        *norm(f"{root}embeddings.norm", d.hidden, bias=norm_bias),
    )
    last = (*norm(f"{root}final_norm", d.hidden, bias=norm_bias), *head)
    model = encoder(
        config,
        name,
        d,
        inner,
        layer_prefix=f"{root}encoder_layer.layers.",
        first=first,
        last=last,
        everywhere=_modernbert_caches(config, d.head_dim),
    )
    return replace(model, layers=(bare, *(normed,) * (d.layers - 1)))


def _modernbert_caches(config: Config, head_dim: int) -> tuple[Weight, ...]:
    """A rotary cache for each kind of layer there is; both are plain and of the full length."""
    every = config.int("global_attn_every_n_layers", default=3)
    layers = config.int("num_hidden_layers")
    types = layer_types(config, layers) or tuple("sliding" if i % every else "full" for i in range(layers))
    cache = rotary_cache(Rope(parameters={}), head_dim, config.int("max_position_embeddings"))
    return (cache,) * len(set(types))


@family("ModernBertModel")
def modernbert(config: Config, name: str) -> Model:
    """ModernBertModel without a head."""
    return _modernbert(config, name, "")


@family("ModernBertForSequenceClassification")
def modernbert_classifier(config: Config, name: str) -> Model:
    """A dense layer with a norm, and the classifier, in fp32."""
    hidden = config.int("hidden_size")
    parts = ("weight", "bias") if config.bool("norm_bias", default=False) else ("weight",)
    head = (
        *_head("pooling.dense", hidden, hidden, bias=config.bool("classifier_bias", default=False)),
        *(Weight(name=f"pooling.norm.{part}", shape=(hidden,), dtype=HEAD_DTYPE, group="other") for part in parts),
        *_head("classifier", _labels(config), hidden),
    )
    return _modernbert(config, name, "modernbert.", head)
