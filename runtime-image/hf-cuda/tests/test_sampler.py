"""One answer's next token: seeds and temperatures at their edges."""

import pytest
import torch

from llmpool_hf_cuda.api import Sampling
from llmpool_hf_cuda.engine.sampler import Sampler

LOGITS = torch.linspace(-2, 2, 1000)


def _picks(sampling: Sampling) -> list[int]:
    sampler = Sampler(sampling, 1, torch.device("cpu"))
    return [sampler.pick(LOGITS) for _ in range(8)]


@pytest.mark.parametrize("seed", [0, -1, -(2**53), 2**32 - 1, 2**53])
def test_any_seed_repeats(seed: int) -> None:
    assert _picks(Sampling(seed=seed)) == _picks(Sampling(seed=seed))
    assert _picks(Sampling(seed=seed)) != _picks(Sampling(seed=seed + 1))
