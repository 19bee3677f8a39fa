"""Write into hf_configs/INDEX.jsonl, by name, what a published parameter count holds beside vLLM's parameters.

usage: python tools/explain_parameters.py

`explained` is {cause: elements}; with it, the model's parameters and the published count agree to the element.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hf_configs
from planner.model.modules import Module, Placement
from planner.request import Inputs, prepare

INDEX = Path(hf_configs.__file__).parent / "INDEX.jsonl"
PACKED = "4-bit weights packed two or more to an element, less their scales"
LEFT = {
    "LlamaForCausalLM": "rotary inv_freq stored for each layer",
    "DeepseekV3ForCausalLM": "scales of the multi-token-prediction layer, and rotary inv_freq where it is stored",
    "DeepseekV32ForCausalLM": "scales of the multi-token-prediction layer",
    "Qwen3_5MoeForConditionalGeneration": "scales of the multi-token-prediction layers",
    "Qwen3_5ForConditionalGeneration": "the head, which the reconstructed config ties at the top level only",
    "FalconForCausalLM": "the tied head stored twice",
    "Gemma4ForConditionalGeneration": PACKED,
}
"""What is left over once the causes that can be computed are taken off, by architecture."""


def located(inputs: Inputs, at: Placement) -> Iterator[tuple[Module, Placement]]:
    """Every module with the prefix that its scheme is looked up by."""
    model = inputs.model
    for module in (*model.first, *model.last, *model.everywhere, *model.towers):
        yield module, at
    for index, layer in enumerate(model.layers):
        for module in layer.modules:
            yield module, replace(at, prefix=f"{model.layer_prefix}{index}.")


def scale_elements(inputs: Inputs) -> int:
    """fp32 scales of weights, as one rank holds them."""
    at = Placement(capability=90, quantization=inputs.quantization)
    leaves = (
        (tensor.name.rpartition(".")[2], tensor.nbytes)
        for module, where in located(inputs, at)
        for tensor in module.tensors(where)
    )
    return sum(nbytes // 4 for leaf, nbytes in leaves if "scale" in leaf and not leaf.startswith("_"))


def causes(name: str, published: int) -> dict[str, int]:
    """{cause: elements} that lead from the model's parameters to the published count."""
    inputs = prepare({"model": name, "gpu": "H100"})
    model = inputs.model
    if published == model.parameters:
        return {}
    found = {cause: count for cause, count in model.extra_parameters.items() if count}
    left = published - model.parameters - sum(found.values())
    head = sum(module.parameters for module in model.tied)
    scales = scale_elements(inputs) if inputs.quantization is not None else 0
    if head and left >= head:
        found["the tied head stored twice"] = head
        left -= head
    if scales and left >= scales:
        found["scales of quantized weights"] = scales
        left -= scales
    if left:
        bits4 = left < 0 and inputs.quantization is not None
        other = "bitsandbytes' quantization states" if inputs.quantization is not None else "not known"
        found[PACKED if bits4 else LEFT.get(model.architecture, other)] = left
    return found


def main() -> None:
    rows = [json.loads(line) for line in INDEX.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row.pop("explained", None)
        if row.get("params_published") is not None:
            explained = causes(row["model"], row["params_published"])
            if explained:
                row["explained"] = explained
    INDEX.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{sum('explained' in row for row in rows)} of {len(rows)} counts need a name")


if __name__ == "__main__":
    main()
