"""Log probabilities are the model's own, whatever is sampled from them."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, request
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmpool_hf_cuda.api import GenerateRequest, Output, Sampling, TokenLogprobs
from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig

PROMPT = "Once upon a time there was a fox"
TOP = 4


async def _told(backend: Backend, asked: GenerateRequest) -> list[TokenLogprobs]:
    return [e.logprobs async for e in backend.generate(asked) if isinstance(e, Output) and e.logprobs is not None]


@pytest.mark.parametrize(
    "change",
    [{}, {"sampling": Sampling(temperature=1.7, seed=3, frequency_penalty=1.0)}, {"response_schema": {"type": "object"}}],
    ids=["greedy", "sampled and penalised", "in a grammar"],
)
def test_equal_the_models(change: dict[str, object], tiny: Path, config: MakeConfig, backends: Callable[[InstanceConfig], Backend]) -> None:
    backend = backends(config(tiny))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    told = asyncio.run(_told(backend, request(PROMPT, 8, top_logprobs=TOP, session="s", **change)))
    row = backend._engine._rows.find("s")
    assert row is not None
    prompt = list(tokenizer(PROMPT)["input_ids"])
    answer = row.ids[len(prompt) :]
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    with torch.inference_mode():
        want = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    # The last token is told, and not evaluated any more.
    assert len(told) == len(answer) + 1
    for i, token in enumerate(answer):
        assert told[i].chosen.token == backend._grammars.bytes_of(token)
        assert told[i].chosen.logprob == pytest.approx(float(want[i, token]), abs=1e-4)
    for i, each in enumerate(told):
        best = want[i].topk(TOP)
        assert [one.token for one in each.top] == [backend._grammars.bytes_of(t) for t in best.indices.tolist()]
        assert [one.logprob for one in each.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_who_does_not_ask_gets_none(tiny: Path, config: MakeConfig, backends: Callable[[InstanceConfig], Backend]) -> None:
    backend = backends(config(tiny))
    assert asyncio.run(_told(backend, request(PROMPT, 4))) == []
    assert all(each.top == () for each in asyncio.run(_told(backend, request(PROMPT, 4, top_logprobs=0))))
