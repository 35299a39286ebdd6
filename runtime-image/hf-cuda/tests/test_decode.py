"""Decoding in static shapes gives the tokens that decoding turn by turn gives. On a card each shape is a CUDA graph: `npm run test:gpu`."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MakeConfig, answer, request
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.engine.decode import Decode, _doubling

Make = Callable[[InstanceConfig], Backend]
PROMPTS = [
    "Once upon a time",
    "Remember this list: apples, pears, plums, cherries. " * 5,
    "The fox met a crow, and they went to the river",
]
ON_CARD = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shapes round differently no two tokens are so near that it shows."""
    monkeypatch.setattr("llmpool_hf_cuda.model.loader._dtype", lambda *_: torch.float32)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A random model whose tokens see the 24 latest ones."""
    folder = tmp_path_factory.mktemp("windowed")
    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        sliding_window=24, initializer_range=0.2, eos_token_id=2, max_position_embeddings=4096,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def _static(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Lets the backend decode in static shapes; the shapes that it uses."""
    used: list[tuple[int, int]] = []
    decode = Decode(backend._engine._model, backend._engine._cells)
    backend._engine._decode = decode
    if ON_CARD:
        backend._engine.call(decode.capture).result()
        replay = torch.cuda.CUDAGraph.replay

        def counted(graph: torch.cuda.CUDAGraph) -> None:
            used.append((0, 0))
            replay(graph)

        monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
        return used
    compute = decode._compute

    def traced(batch: int, length: int) -> torch.Tensor:
        used.append((batch, length))
        return compute(batch, length)

    monkeypatch.setattr(decode, "_compute", traced)
    return used


@pytest.mark.parametrize("model", ["tiny", "windowed"])
def test_static_shapes_give_the_same_tokens(
    model: str, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch, tiny: Path, windowed: Path
) -> None:
    folder = {"tiny": tiny, "windowed": windowed}[model]

    async def run(backend: Backend) -> list[str]:
        alone = [(await answer(backend, request(p, 40, session=f"{i}")))[0] for i, p in enumerate(PROMPTS)]
        # On the caches of before, beside each other, over the end of the first length.
        grown = [request(f"{p}{said} And", 220, session=f"{i}") for i, (p, said) in enumerate(zip(PROMPTS, alone, strict=True))]
        together = await asyncio.gather(*(answer(backend, one) for one in grown))
        assert all(done.usage.cached_tokens > 0 for _, done in together)
        return [*alone, *(text for text, _ in together)]

    want = asyncio.run(run(backends(config(folder, contextTokens=600))))
    backend = backends(config(folder, contextTokens=600))
    used = _static(backend, monkeypatch)
    assert asyncio.run(run(backend)) == want
    assert used
    if not ON_CARD:
        assert {1, 3} <= {batch for batch, _ in used} <= {1, 2, 3}
        assert {256, 512} <= {length for _, length in used} <= {256, 512, 600}


def test_sampling_grammar_and_logprobs_go_on_as_before(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmpool_hf_cuda.api import Sampling

    asked = [
        request(PROMPTS[0], 24, sampling=Sampling(temperature=0.9, top_p=0.9, seed=5)),
        request(PROMPTS[0], 24, response_schema={"type": "array", "items": {"type": "integer"}, "maxItems": 3}),
    ]

    async def run(backend: Backend) -> list[str]:
        return [(await answer(backend, one))[0] for one in asked]

    want = asyncio.run(run(backends(config(tiny))))
    backend = backends(config(tiny))
    assert _static(backend, monkeypatch) == []
    assert asyncio.run(run(backend)) == want


def test_only_the_turns_own_cells_are_written(tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends(config(tiny, sessions=4))
    _static(backend, monkeypatch)
    cells = backend._engine._cells
    cells._cells.fill_(7)

    async def run() -> None:
        await asyncio.gather(*(answer(backend, request(p, 8, session=p)) for p in PROMPTS))

    asyncio.run(run())
    rows = {row.index: len(row.ids) for row in backend._engine._rows._rows}
    for index, length in rows.items():
        keys, _ = cells.layer(0)
        assert bool((keys[index, :, length:] == 7).all())
        assert not bool((keys[index, :, :length] == 7).any())


def test_what_a_session_left_does_not_reach_the_next(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked value counts zero times: of infinity that is no number."""
    backend = backends(config(tiny, sessions=1))
    want, _ = asyncio.run(answer(backend, request(PROMPTS[0], 8)))
    _static(backend, monkeypatch)

    async def run() -> None:
        await answer(backend, request(PROMPTS[1], 40, session="overflown"))
        backend._engine._cells._cells[:, :, :, :, : len(backend._engine._rows._rows[0].ids)] = torch.inf
        assert (await answer(backend, request(PROMPTS[0], 8)))[0] == want

    asyncio.run(run())


@pytest.mark.skipif(not ON_CARD, reason="needs a card: npm run test:gpu")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_captured_step_is_the_step(quantization: str, tiny: Path, config: MakeConfig, backends: Make) -> None:
    """The same kernels: bit for bit."""
    backend = backends(config(tiny, quantization))
    engine = backend._engine
    decode = Decode(engine._model, engine._cells)
    shapes = [([0], [0]), ([0, 1], [3, 300]), ([2, 0, 1], [511, 4, 9])]

    def run() -> list[torch.Tensor]:
        return [decode.run(rows, positions, [5] * len(rows)).clone() for rows, positions in shapes]

    engine._cells._cells.zero_()
    plain = engine.call(run).result()
    engine.call(decode.capture).result()
    engine._cells._cells.zero_()
    captured = engine.call(run).result()
    assert all(torch.equal(a, b) for a, b in zip(plain, captured, strict=True))


def test_what_cannot_be_captured_is_said_and_decoding_goes_on(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends(config(tiny))
    engine = backend._engine

    def refused(_: Decode) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(Decode, "capture", refused)
    monkeypatch.setattr(type(engine._cells), "device", property(lambda _: torch.device("cuda", 0)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with monkeypatch.context() as patched:
        patched.setattr(Decode, "__init__", lambda *_: None)
        assert engine._prepare() == "eager: RuntimeError: operation not permitted when stream is capturing"
    monkeypatch.undo()
    assert engine._decode is None
    assert asyncio.run(backend.warmup("test"))[0] > 0
    assert backend.decode.startswith("eager: " if not ON_CARD else "CUDA graphs")


def test_shapes_double() -> None:
    assert _doubling(1, 5) == [1, 2, 4, 5]
    assert _doubling(1, 1) == [1]
    assert _doubling(256, 4096) == [256, 512, 1024, 2048, 4096]
