"""One answer's next token: seeds and temperatures at their edges."""

import pytest
import torch

from llmpool_hf_cuda.api import Sampling
from llmpool_hf_cuda.engine.sampler import Sampler

LOGITS = torch.linspace(-2, 2, 1000)


def _picks(sampling: Sampling, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = Sampler(sampling, 1, torch.device("cpu"))
    return [sampler.pick(logits) for _ in range(8)]


@pytest.mark.parametrize("seed", [0, -1, -(2**53), 2**32 - 1, 2**53])
def test_any_seed_repeats(seed: int) -> None:
    assert _picks(Sampling(seed=seed)) == _picks(Sampling(seed=seed))
    assert _picks(Sampling(seed=seed)) != _picks(Sampling(seed=seed + 1))


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-40, 1e-6, 1e-5])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9, "min_p": 0.1, "top_k": 40}, {"frequency_penalty": 0.0001}])
@pytest.mark.parametrize("scale", [1.0, -1e34])
def test_a_temperature_near_zero_takes_the_largest(temperature: float, more: dict[str, float], scale: float) -> None:
    logits = LOGITS * scale
    logits[::3] = -torch.inf
    assert set(_picks(Sampling(temperature=temperature, **more), logits)) == {int(logits.argmax())}  # type: ignore[arg-type]


@pytest.mark.parametrize(("temperature", "plain"), [(0, True), (1e-6, True), (0.1, False)])
def test_an_answer_without_chance_is_looked_up_with_the_others(temperature: float, plain: bool) -> None:
    assert Sampler(Sampling(temperature=temperature), 1, torch.device("cpu")).plain is plain
