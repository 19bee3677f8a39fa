"""A tokenizer for a model that is only a config: each token id is a word, so that prompts have the length asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_tokenizer(folder: Path, config: Mapping[str, Any]) -> None:
    """tokenizer.json and tokenizer_config.json with the config's vocabulary size."""
    text = config.get("text_config")
    size = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, Mapping) else None)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {f"t{number}": number for number in range(int(size or 32_000))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A word stands before each token, as in real text: "t7 t8" and not "t7t8".
    tokenizer.decoder = decoders.Sequence([decoders.Replace("t", " t"), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
