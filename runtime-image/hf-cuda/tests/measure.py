"""
Speeds of one instance, as a table: `python measure.py MODEL_FOLDER [nf4|int8|none] [--history N] [--tokens N] [--sessions 1,5,32]`.
Everything is of one run on one machine; `generate` is transformers' own, with the same weights and quantization. On a card times are of the
wall; without one they are CPU time of this process, which other processes of the machine disturb less.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path

import torch

from llmpool_hf_cuda.api import GenerateRequest, Output, Prompt, Sampling
from llmpool_hf_cuda.backend import Backend, create_backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.engine.attention import NAME
from llmpool_hf_cuda.model.folder import check_folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("quantization", nargs="?", default="nf4")
    parser.add_argument("--history", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sessions", default="1,5,32")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    sessions = [int(n) for n in given.sessions.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(given, sessions, Path(folder)))


async def _measure(given: argparse.Namespace, sessions: list[int], folder: Path) -> None:
    config = InstanceConfig(
        pool="bench", id="0", variant="default", backend="hf-cuda", host="127.0.0.1", port=0, metricsPort=0, tokenFile="",
        model={"uri": f"file://{given.model}", "sha256": "", "quantization": given.quantization},  # type: ignore[arg-type]
        cacheDir=str(folder), stateDir=str(folder / "state"), contextTokens=given.history + 4 * given.tokens, sessions=max(sessions),
        requestTimeoutSeconds=600, sessionTTLSeconds=600, warmupPrompt="hello", threads=given.threads, stub={},
    )  # fmt: skip
    began = _now()
    backend = await asyncio.to_thread(create_backend, config, check_folder(given.model))
    await backend.warmup("hello")
    _row(f"ready on {backend.device}, {given.quantization}", f"{_now() - began:.1f} s")
    backend._engine._end_tokens = frozenset()  # random weights may say the end at once
    try:
        await _turns(backend, given.history)
        _row("decoding", backend.decode)
        for n in sessions:
            together = await _speed(backend, n, given.tokens, together=True)
            alone = await _speed(backend, n, given.tokens, together=False)
            _row(f"{n} sessions together / one after the other", f"{together:.1f} / {alone:.1f} tokens/s")
        captured, backend._engine._decode = backend._engine._decode, None
        if captured is not None:
            _row("one session without CUDA graphs", f"{await _speed(backend, 1, given.tokens, together=True):.1f} tokens/s")
        _row("generate, one session", f"{_generate(backend, given.tokens):.1f} tokens/s")
        if torch.cuda.is_available():
            _row("device memory at most", f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
        _row("resident memory at most", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    finally:
        await backend.close()


async def _turns(backend: Backend, history: int) -> None:
    """Time to the first token of a cold history, and of the next turn on it."""
    text = "The fox met a crow. " * history
    tokens = backend._prompts._tokenizer(text)["input_ids"][: history - 40]
    text = backend._prompts.decode(tokens)
    cold, answer = await _first_token(backend, text)
    warm, _ = await _first_token(backend, f"{text}{answer} And what did the crow say to it then?")
    _row(f"time to first token, {len(tokens)} tokens cold", f"{cold * 1000:.0f} ms")
    _row("time to first token, second turn", f"{warm * 1000:.0f} ms ({100 * warm / cold:.1f} %)")


async def _first_token(backend: Backend, text: str) -> tuple[float, str]:
    began = _now()
    first = 0.0
    answer = ""
    async for event in backend.generate(_request(text, 8, "turns")):
        if isinstance(event, Output):
            first = first or _now() - began
            answer += event.text
    return first, answer


async def _speed(backend: Backend, sessions: int, tokens: int, *, together: bool) -> float:
    """Tokens per second of all sessions, prompts included."""
    asked = [_request(f"Story {i}: once upon a time there was a fox.", tokens, None) for i in range(sessions)]
    began = _now()
    if together:
        await asyncio.gather(*(_drain(backend, r) for r in asked))
    else:
        for r in asked:
            await _drain(backend, r)
    return sessions * tokens / (_now() - began)


async def _drain(backend: Backend, asked: GenerateRequest) -> None:
    async for _ in backend.generate(asked):
        pass


def _generate(backend: Backend, tokens: int) -> float:
    ids = torch.tensor([backend._prompts.tokens(Prompt(text="Story 0: once upon a time there was a fox."))])

    def run() -> float:
        model = backend._engine._model
        given = ids.to(model.device)
        model.set_attn_implementation("sdpa")
        try:
            began = _now()
            model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
            return tokens / (_now() - began)
        finally:
            model.set_attn_implementation(NAME)

    return backend._engine.call(run).result()


def _request(text: str, tokens: int, session: str | None) -> GenerateRequest:
    return GenerateRequest("bench", Prompt(text=text), session=session, max_tokens=tokens, sampling=Sampling(temperature=0))


def _now() -> float:
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def _row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
