"""How requests end, share the engine, and give back what they had."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path

import pytest
from conftest import MakeConfig, answer, request

from llmpool_hf_cuda.api import Output
from llmpool_hf_cuda.backend import Backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.engine.attention import Segment
from llmpool_hf_cuda.engine.turn import HELD_EVENTS
from llmpool_hf_cuda.errors import LLMPoolError

Make = Callable[[InstanceConfig], Backend]
LONG = "Remember this list: apples, pears, plums, cherries. " * 8


def _trace(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens of each segment of each step, as they are computed."""
    steps: list[list[int]] = []
    engine = backend._engine
    forward = engine._forward

    def traced(segments: list[Segment], tokens: list[int], wanted: int) -> object:
        steps.append([s.count for s in segments])
        return forward(segments, tokens, wanted)

    monkeypatch.setattr(engine, "_forward", traced)
    return steps


def test_leaving_ends_within_one_step(tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends(config(tiny))
    steps = _trace(backend, monkeypatch)

    async def run() -> None:
        async with aclosing(backend.generate(request("Once", 400, session="a"))) as events:
            async for event in events:
                if isinstance(event, Output):
                    break
            seen = len(steps)
        # Between the event and the cancel the engine may have gone on until it was held, and finishes the step that it is in.
        assert len(steps) <= seen + HELD_EVENTS + 1
        after = len(steps)
        assert await answer(backend, request("Twice", 1)) is not None
        assert len(steps) == after + 1
        assert backend.stats()[0] == 1  # the session's cache is kept

    asyncio.run(run())


def test_who_does_not_read_holds_its_own_turn_still(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends(config(tiny))
    steps = _trace(backend, monkeypatch)

    async def run() -> None:
        async with aclosing(backend.generate(request("Once", 300))) as slow:
            await anext(slow)
            await answer(backend, request("Twice", 60))
            alone = [step for step in steps if len(step) == 1]
            assert len(steps) < 60 + 2 * HELD_EVENTS
            assert alone
            rest = [event async for event in slow]
            assert sum(e.tokens for e in rest if isinstance(e, Output)) == 300

    asyncio.run(run())


def test_a_prompt_is_fed_between_the_tokens_of_others(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends(config(tiny))
    steps = _trace(backend, monkeypatch)

    async def run() -> None:
        async with aclosing(backend.generate(request("Once", 300))) as events:
            async for event in events:
                if isinstance(event, Output):
                    break
            other = asyncio.create_task(answer(backend, request(LONG, 4)))
            async for _ in events:
                if other.done():
                    break
        mixed = [step for step in steps if len(step) == 2 and step[0] == 1 and step[1] > 1]
        assert len(mixed) >= 1
        assert any(step == [1, 1] for step in steps)

    asyncio.run(run())


def test_the_least_valuable_cache_gives_way(tiny: Path, config: MakeConfig, backends: Make) -> None:
    backend = backends(config(tiny, sessions=2))

    async def run() -> None:
        await answer(backend, request(LONG, 2, session="long"))
        await answer(backend, request("Once", 2, session="short"))
        await answer(backend, request("Twice", 2, session="new"))
        _, long = await answer(backend, request(LONG, 2, session="long"))
        assert long.usage.cached_tokens == long.usage.prompt_tokens - 1
        _, short = await answer(backend, request("Once upon", 2, session="short"))
        assert short.usage.cached_tokens == 0

    asyncio.run(run())


def test_a_deleted_session_is_gone_in_memory_and_on_disk(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    backend = backends(config(tiny))

    async def run() -> None:
        await answer(backend, request(LONG, 2, session="a"))
        data = b"".join(await backend.export_session("a"))

        async def parts() -> AsyncIterator[bytes]:
            yield data

        await backend.import_session("b", parts())
        assert len(list((tmp_path / "state").iterdir())) == 1
        assert await backend.delete_session("a")
        assert await backend.delete_session("b")
        assert not await backend.delete_session("b")
        assert backend.stats() == (0, 0.0)
        assert list((tmp_path / "state").iterdir()) == []

    asyncio.run(run())


@pytest.mark.parametrize("what", ["generate", "export_session", "delete_session", "import_session"])
def test_who_hangs_up_before_the_engine_looks_ends_nothing_else(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    backend = backends(config(tiny))
    engine = backend._engine
    codes: list[int] = []
    monkeypatch.setattr("llmpool_hf_cuda.engine.engine.os._exit", codes.append)

    async def run() -> None:
        await answer(backend, request(LONG, 2, session="kept"))
        exported = b"".join(await backend.export_session("kept"))

        async def parts() -> AsyncIterator[bytes]:
            yield exported

        asks: dict[str, Callable[[], Coroutine[object, object, object]]] = {
            "generate": lambda: answer(backend, request("Once", 2, session="a")),
            "export_session": lambda: backend.export_session("kept"),
            "delete_session": lambda: backend.delete_session("kept"),
            "import_session": lambda: backend.import_session("b", parts()),
        }
        busy, go_on = threading.Event(), threading.Event()

        def block() -> None:
            busy.set()
            go_on.wait()

        engine.call(block)
        await asyncio.to_thread(busy.wait)
        asked = asyncio.Event()
        call = engine.call

        def told(work: Callable[[], object]) -> Future[object]:
            asked.set()
            return call(work)

        monkeypatch.setattr(engine, "call", told)
        leaving = asyncio.create_task(asks[what]())
        await asked.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        after = engine.call(lambda: "alive")
        go_on.set()
        # The limit is for a broken engine alone: without its thread nothing would ever come.
        assert await asyncio.wait_for(asyncio.wrap_future(after), 60) == "alive"
        assert codes == []
        _, done = await answer(backend, request(LONG, 2, session="kept"))
        assert done.usage.cached_tokens > 0

    asyncio.run(run())


def test_closing_ends_what_runs(tiny: Path, config: MakeConfig, backends: Make) -> None:
    backend = backends(config(tiny))

    async def run() -> None:
        running = asyncio.create_task(answer(backend, request("Once", 400)))
        await asyncio.sleep(0)
        await answer(backend, request("Twice", 1))
        await backend.close()
        with pytest.raises(LLMPoolError) as failed:
            await running
        assert failed.value.code == "instance_unavailable"
        assert backend.stats() == (0, 0.0)

    asyncio.run(run())


@pytest.mark.parametrize("sampling", [{"temperature": 1.0, "seed": 42}, {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 7}])
def test_a_seed_repeats(tiny: Path, config: MakeConfig, backends: Make, sampling: dict[str, float]) -> None:
    from llmpool_hf_cuda.api import Sampling

    backend = backends(config(tiny))

    async def run() -> None:
        asked = request("Once", 12, sampling=Sampling(**sampling))  # type: ignore[arg-type]
        once = (await answer(backend, asked))[0]
        assert (await answer(backend, asked))[0] == once
        other = request("Once", 12, sampling=Sampling(**{**sampling, "seed": 43}))  # type: ignore[arg-type]
        assert (await answer(backend, other))[0] != once

    asyncio.run(run())


def test_a_fault_in_a_step_fails_its_turns_and_no_other(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends(config(tiny))
    engine = backend._engine
    forward = engine._forward

    def faulty(segments: list[Segment], tokens: list[int], wanted: int) -> object:
        if len(tokens) > 1 and wanted == 1:
            raise RuntimeError("shapes do not match")
        return forward(segments, tokens, wanted)

    async def run() -> None:
        want, _ = await answer(backend, request("Once", 8))
        monkeypatch.setattr(engine, "_forward", faulty)
        with pytest.raises(LLMPoolError, match="shapes do not match") as failed:
            await answer(backend, request("Once upon a time", 8, session="a"))
        assert failed.value.code == "internal_error"
        assert backend.stats() == (0, 0.0)
        monkeypatch.setattr(engine, "_forward", forward)
        assert (await answer(backend, request("Once", 8)))[0] == want

    asyncio.run(run())


def test_a_fault_of_one_answer_is_its_own(tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends(config(tiny))
    whole = backend._prompts.decode
    calls = 0

    def faulty(tokens: list[int]) -> str:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ValueError("no such token")
        return whole(tokens)

    async def run() -> None:
        monkeypatch.setattr(backend._prompts, "decode", faulty)
        with pytest.raises(LLMPoolError, match="no such token"):
            await answer(backend, request("Once", 30))
        await answer(backend, request("Once", 30))
        assert backend.stats() == (0, 0.0)

    asyncio.run(run())


@pytest.mark.parametrize("words", ["CUDA error: an illegal memory access was encountered", "CUDA error: device-side assert triggered"])
def test_a_poisoned_device_ends_the_process(
    tiny: Path, config: MakeConfig, backends: Make, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    backend = backends(config(tiny))
    codes: list[int] = []

    def poisoned(*_: object) -> object:
        raise RuntimeError(words)

    monkeypatch.setattr(backend._engine, "_forward", poisoned)
    monkeypatch.setattr("llmpool_hf_cuda.engine.engine.os._exit", codes.append)
    with pytest.raises(LLMPoolError):
        asyncio.run(answer(backend, request("Once", 8)))
    assert codes == [70]


def test_an_imported_session_that_nobody_continues_is_deleted(tiny: Path, config: MakeConfig, backends: Make, tmp_path: Path) -> None:
    backend = backends(config(tiny))

    async def run() -> None:
        await answer(backend, request(LONG, 2, session="a"))
        data = b"".join(await backend.export_session("a"))

        async def parts() -> AsyncIterator[bytes]:
            yield data

        await backend.import_session("b", parts())
        [file] = (tmp_path / "state").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        os.utime(file, (0, 0))
        _, done = await answer(backend, request(LONG, 2, session="b"))
        assert done.usage.cached_tokens == 0
        assert list((tmp_path / "state").iterdir()) == []

    asyncio.run(run())
