"""What a model says how likely a token was."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..api import TokenLogprob, TokenLogprobs

LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


@dataclass(frozen=True)
class Logprobs:
    """Of the tokens of one answer. `top`: how many of the likeliest are told with each."""

    top: int
    bytes_of: Callable[[int], bytes]

    def of(self, logits: torch.Tensor, token: int) -> TokenLogprobs:
        """`logits`: [vocabulary], float32, as the model gave them."""
        all_of_them = logits.log_softmax(-1)
        best = all_of_them.topk(self.top)
        ids = [token, *best.indices.tolist()]
        values = [float(all_of_them[token]), *best.values.tolist()]
        chosen, *top = (TokenLogprob(self.bytes_of(i), max(value, LEAST)) for i, value in zip(ids, values, strict=True))
        return TokenLogprobs(chosen, tuple(top))
