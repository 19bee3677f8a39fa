"""Published parameter counts: met to the element, or explained in the index by name."""

from __future__ import annotations

import pytest

import hf_configs
from planner.model.families import build_model
from planner.model.source import load_config

PUBLISHED = sorted(entry.model for entry in hf_configs.index().values() if entry.params_published is not None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_count_is_met(name: str):
    entry = hf_configs.index()[name]
    model = build_model(load_config(name).config, name)
    assert model.parameters + sum(entry.explained.values()) == entry.params_published


def test_plain_checkpoints_of_dense_models_need_no_explanation_but_a_stored_buffer_or_head():
    """What is explained is quantization, layers that vLLM skips, a head stored twice, or rotary buffers."""
    causes = {cause for entry in hf_configs.index().values() for cause in entry.explained}
    assert "not known" not in causes
    assert len(PUBLISHED) >= 250
