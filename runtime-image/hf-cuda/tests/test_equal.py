"""The same prompt at temperature 0 gives what `model.generate` gives: cold, on a cached turn, after export and import, beside others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, answer, request
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.engine.turn import Turn

TOKENS = 12
BFLOAT16_TIE = 0.25
"""Two steps of bfloat16 at the size of the largest logits (16 to 32)."""
PROMPTS = [
    "Once upon a time there was a fox who lived by a river. One day",
    "The capital of France is",
    "Remember this list: apples, pears, plums, cherries, grapes, lemons. " * 4,
]


class Reference:
    """What transformers itself says."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self._exact = dtype == torch.float32

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def check(self, prompt: str, ids: list[int], tokens: int) -> None:
        """
        `ids`: the prompt and the answer without its last token. Equal token for token in float32. In bfloat16 a product of matrices is
        rounded by its shape, so where two logits lie within BFLOAT16_TIE the other one may have been taken, and the rest is another text.
        """
        want = self._continued(self.ids(prompt), tokens)
        assert len(ids) == len(want) - 1
        at = next((i for i, token in enumerate(ids) if token != want[i]), None)
        if at is None:
            return
        assert not self._exact, f"token {at} is {ids[at]}, and {want[at]} in generate"
        with torch.inference_mode():
            logits = self._model(torch.tensor([want[:at]])).logits[0, -1].float()
        assert float(logits[want[at]] - logits[ids[at]]) <= BFLOAT16_TIE

    def _continued(self, ids: list[int], tokens: int) -> list[int]:
        given = torch.tensor([ids])
        with torch.inference_mode():
            out = self._model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )
        return [int(token) for token in out[0]]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tiny-llama", torch.float32), ("smollm2-135m-instruct", torch.float32), ("smollm2-135m-instruct", torch.bfloat16)],
    ids=["tiny-float32", "smollm2-float32", "smollm2-bfloat16"],
)
def test_equals_generate(
    name: str,
    dtype: torch.dtype,
    models: Path,
    config: MakeConfig,
    backends: Callable[[InstanceConfig], Backend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmpool_hf_cuda.model.loader._dtype", lambda *_: dtype)
    reference = Reference(models / name, dtype)
    backend = backends(config(models / name))

    def evaluated(session: str) -> list[int]:
        row = backend._engine._rows.find(session)
        assert row is not None
        return list(row.ids)

    async def run() -> None:
        story = PROMPTS[0]
        first, done = await answer(backend, request(story, TOKENS, session="a"))
        assert done.usage.cached_tokens == 0
        reference.check(story, evaluated("a"), done.usage.completion_tokens)

        grown = f"{story}{first} And then"
        _, done = await answer(backend, request(grown, TOKENS, session="a"))
        assert done.usage.cached_tokens >= len(reference.ids(story))
        reference.check(grown, evaluated("a"), done.usage.completion_tokens)

        await backend.import_session("b", _parts(b"".join(await backend.export_session("a"))))
        _, done = await answer(backend, request(grown, TOKENS, session="b"))
        assert done.usage.cached_tokens == done.usage.prompt_tokens - 1
        assert evaluated("b") == evaluated("a")

        together = [answer(backend, request(p, TOKENS, session=f"p{i}")) for i, p in enumerate(PROMPTS)]
        for i, (_, done) in enumerate(await asyncio.gather(*together)):
            assert done.usage.cached_tokens == 0
            reference.check(PROMPTS[i], evaluated(f"p{i}"), done.usage.completion_tokens)

    asyncio.run(run())


TOLERANCE = {("none", torch.float32): 1e-3, ("none", torch.bfloat16): 1.0, ("nf4", torch.bfloat16): 1.0, ("int8", torch.bfloat16): 6.0}
"""Most that a logit may differ between an answer that is computed alone and the same one beside others. See docs/hf-cuda.md, Rounding."""


@pytest.mark.parametrize(("quantization", "dtype"), TOLERANCE, ids=lambda value: str(value).removeprefix("torch."))
def test_logits_beside_others_stay_near(
    quantization: str,
    dtype: torch.dtype,
    smol: Path,
    config: MakeConfig,
    backends: Callable[[InstanceConfig], Backend],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmpool_hf_cuda.model.loader._dtype", lambda *_: dtype)
    backend = backends(config(smol, quantization))
    told: dict[str, list[torch.Tensor]] = {}
    sample = backend._engine._sample

    def traced(turns: list[Turn], logits: torch.Tensor) -> None:
        for turn, row in zip(turns, logits, strict=True):
            told.setdefault(str(turn.session), []).append(row.clone())
        sample(turns, logits)

    monkeypatch.setattr(backend._engine, "_sample", traced)

    async def run() -> None:
        for i, prompt in enumerate(PROMPTS):
            await answer(backend, request(prompt, TOKENS, session=f"{i}"))
            await backend.delete_session(f"{i}")
        alone = dict(told)
        told.clear()
        await asyncio.gather(*(answer(backend, request(p, TOKENS, session=f"{i}")) for i, p in enumerate(PROMPTS)))
        compared = 0
        most = 0.0
        for name, rows in told.items():
            for a, b in zip(alone[name], rows, strict=True):
                compared += 1
                most = max(most, float((a - b).abs().max()))
                # From where another token was taken it is another text.
                if int(a.argmax()) != int(b.argmax()):
                    break
        assert most <= TOLERANCE[quantization, dtype]
        assert compared >= len(PROMPTS) * 2

    asyncio.run(run())


async def _parts(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 70_000):
        yield data[at : at + 70_000]
