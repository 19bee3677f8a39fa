"""Bytes on each rank: weights as quantized, the KV cache, the rest of the card, and the verdict (budget.estimate)."""
