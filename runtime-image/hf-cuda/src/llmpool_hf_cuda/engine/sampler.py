"""Logits to the next token of one answer."""

from collections import Counter

import torch

from ..api import Sampling

GREEDY_BELOW = 1e-5
"""Temperatures below this take the largest logit: divided by them, two that are nearly equal are far apart already."""


class Sampler:
    """Penalties count the answer's own tokens, as OpenAI's do. A seed repeats on one device."""

    def __init__(self, sampling: Sampling, seed: int, device: torch.device) -> None:
        """`seed`: for requests that bring none."""
        self._s = sampling
        self._greedy = sampling.temperature < GREEDY_BELOW
        self._seen: Counter[int] = Counter()
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed((sampling.seed if sampling.seed is not None else seed) % 2**63)

    @property
    def plain(self) -> bool:
        """True when the token is the largest logit and nothing else: many answers are then looked up at once."""
        return self._greedy and not self._penalised

    @property
    def _penalised(self) -> bool:
        return self._s.frequency_penalty != 0 or self._s.presence_penalty != 0

    def saw(self, token: int) -> None:
        if self._penalised:
            self._seen[token] += 1

    def pick(self, logits: torch.Tensor) -> int:
        """`logits`: [vocabulary], float32; what must not be is at minus infinity. Not changed."""
        if self._seen:
            ids = torch.tensor(list(self._seen), device=logits.device)
            counts = torch.tensor(list(self._seen.values()), device=logits.device, dtype=logits.dtype)
            penalty = counts * self._s.frequency_penalty + self._s.presence_penalty
            logits = logits.index_add(0, ids, -penalty)
        if self._greedy:
            return int(logits.argmax())
        # From the largest on: no quotient is too large for its type then.
        logits = logits - logits.max()
        return int(torch.multinomial(self._probabilities(logits / self._s.temperature), 1, generator=self._generator))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        if 0 < self._s.top_k < logits.numel():
            floor = logits.topk(self._s.top_k).values[-1]
            logits = logits.masked_fill(logits < floor, -torch.inf)
        probabilities = logits.softmax(-1)
        if self._s.min_p > 0:
            probabilities = probabilities.masked_fill(probabilities < self._s.min_p * probabilities.max(), 0)
        if self._s.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            # The first token that reaches top_p stays.
            outside = ordered.cumsum(-1) - ordered >= self._s.top_p * ordered.sum()
            probabilities = probabilities.index_fill(0, index[outside], 0)
        return probabilities
