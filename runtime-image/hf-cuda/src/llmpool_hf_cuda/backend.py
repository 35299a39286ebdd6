"""One loaded model: takes requests from prompt to usage."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import torch

from .answer.answer import Answer
from .api import Event, GenerateRequest, Message, Output, Prompt, Sampling
from .config import InstanceConfig
from .engine.cells import KvCells
from .engine.engine import Engine
from .engine.grammar import Grammars, forced_tools, offered_tools
from .engine.logprobs import Logprobs
from .engine.rows import Rows
from .engine.sampler import Sampler
from .engine.saved import SavedSessions
from .engine.turn import HELD_EVENTS, Turn
from .errors import LLMPoolError, StartError
from .model.folder import ModelFolder
from .model.loader import LoadedModel, load_model, model_key
from .prompt.prompts import Prompts

WARMUP_TOKENS = 8
GPU_CHUNK = 512
CPU_CHUNK = 128
SAVED_PER_SESSION = 2
"""Files of imported sessions that are kept for each session of the instance."""


class Backend:
    """Public coroutines belong to the event loop's thread."""

    def __init__(self, config: InstanceConfig, loaded: LoadedModel, fingerprint: str) -> None:
        """Blocks. Raises StartError; nothing stays allocated then."""
        self.device = loaded.device_name
        self.model_name = config.modelName or Path(config.modelPath or config.model.uri).name
        self.context_tokens = config.contextTokens
        self.warning: str | None = None
        self.decode = ""
        if loaded.device.type == "cpu":
            card = Path("/dev/nvidiactl").exists()
            why = "there is a GPU, but its driver is too old for this CUDA" if card else "there is no CUDA card here"
            self.warning = f"{why}: the CPU computes, which is for tests"
        try:
            self._prompts = Prompts(loaded.tokenizer, config.contextTokens)
        except Exception as error:  # templates raise what they like
            raise StartError("ModelInvalid", f"the model's tokenizer or chat template cannot be used: {error}") from error
        cells = _cells(config, loaded)
        self._grammars = Grammars(
            loaded.tokenizer,
            loaded.vocabulary,
            hermes_calls=self._prompts.chat is not None and self._prompts.chat.hermes_calls,
            end_tokens=sorted(loaded.end_tokens),
        )
        key = model_key(fingerprint, config.model.quantization, loaded.dtype)
        try:
            self._saved = SavedSessions(Path(config.stateDir), key, cells, SAVED_PER_SESSION * config.sessions, config.sessionTTLSeconds)
        except OSError as error:
            raise StartError("ConfigInvalid", f"stateDir {config.stateDir} cannot be used: {error}") from error
        self._engine = Engine(
            loaded.model,
            cells,
            Rows(config.sessions, config.sessionTTLSeconds),
            end_tokens=loaded.end_tokens,
            most_chunk=GPU_CHUNK if loaded.device.type == "cuda" else CPU_CHUNK,
            threads=config.threads,
        )
        self._torch_device = loaded.device

    @property
    def chat(self) -> bool:
        return self._prompts.chat is not None

    async def warmup(self, prompt: str) -> tuple[float, float]:
        """One real inference: seconds, and tokens per second of the tokens after the first."""
        self.decode = await asyncio.wrap_future(self._engine.prepare())
        began = time.monotonic()
        request = GenerateRequest(
            "warmup",
            Prompt(messages=(Message("user", prompt),)) if self.chat else Prompt(text=prompt),
            max_tokens=WARMUP_TOKENS,
            sampling=Sampling(temperature=0),
        )
        times = [time.monotonic() async for event in self.generate(request) if isinstance(event, Output)]
        seconds = time.monotonic() - began
        if len(times) > 1 and times[-1] > times[0]:
            return seconds, (len(times) - 1) / (times[-1] - times[0])
        return seconds, max(1, len(times)) / max(seconds, 1e-3)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Closing the iteration, or cancelling who waits for it, ends the turn within one step."""
        prompt = await asyncio.to_thread(self._prompts.tokens, request.prompt)
        most = self._most_tokens(request, len(prompt))
        grammar = await asyncio.to_thread(self._grammars.of, request)
        saved = None
        if request.session is not None and not await asyncio.wrap_future(self._engine.holds(request.session)):
            saved = await asyncio.to_thread(self._saved.take, request.session)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        turn = Turn(
            session=request.session,
            prompt=prompt,
            most=most,
            sampler=Sampler(request.sampling, random.getrandbits(31), self._torch_device),
            answer=Answer(
                request.request_id,
                self._prompts.decode,
                # A text within JSON is not the end of it.
                stop=() if grammar is not None else request.stop,
                tools=tuple(tool.name for tool in offered_tools(request)),
                json=grammar is not None and forced_tools(request) is None,
                call_only=forced_tools(request) is not None,
            ),
            emit=lambda event: _post(loop, events, event),
            grammar=grammar,
            logprobs=None if request.top_logprobs is None else Logprobs(request.top_logprobs, self._grammars.bytes_of),
            saved=saved,
        )
        self._engine.submit(turn)
        ended = False
        try:
            while True:
                event = await events.get()
                if event is None:
                    ended = True
                    return
                if isinstance(event, BaseException):
                    ended = True
                    raise event
                turn.taken += 1
                if turn.emitted - turn.taken == HELD_EVENTS - 1:
                    self._engine.wake()
                yield event
        finally:
            if not ended:
                self._engine.cancel(turn)
                while not isinstance(event := await events.get(), BaseException | None):
                    pass

    async def export_session(self, session: str) -> Iterator[bytes]:
        """Blocking parts; `not_found` when there is no such cache."""
        saved = await asyncio.wrap_future(self._engine.export(session))
        if saved is None:
            saved = await asyncio.to_thread(self._saved.peek, session)
        if saved is None:
            raise LLMPoolError("not_found", "there is no such session on this instance")
        return self._saved.parts(saved)

    async def import_session(self, session: str, data: AsyncIterator[bytes]) -> None:
        await self._saved.receive(session, data)
        # What the session had here is older.
        await asyncio.wrap_future(self._engine.forget(session))

    async def delete_session(self, session: str) -> bool:
        """True when there was a cache, in memory or on disk."""
        in_memory = await asyncio.wrap_future(self._engine.forget(session))
        on_disk = await asyncio.to_thread(self._saved.delete, session)
        return in_memory or on_disk

    def set_threads(self, threads: int) -> None:
        self._engine.set_threads(threads)

    def stats(self) -> tuple[int, float]:
        """Caches in memory, and the used share of all cells."""
        return self._engine.stats()

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)

    def _most_tokens(self, request: GenerateRequest, prompt_tokens: int) -> int:
        if request.max_total_tokens is not None and request.max_total_tokens <= prompt_tokens:
            raise LLMPoolError(
                "budget_exhausted",
                f"the prompt has {prompt_tokens} tokens, and {request.max_total_tokens} are reserved for prompt and answer together",
            )
        limits = [self.context_tokens - prompt_tokens]
        if request.max_tokens is not None:
            limits.append(request.max_tokens)
        if request.max_total_tokens is not None:
            limits.append(request.max_total_tokens - prompt_tokens)
        return min(limits)


def create_backend(config: InstanceConfig, folder: ModelFolder) -> Backend:
    """Loads the model. Blocks. Raises StartError."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    socket = None if config.weights is None else Path(config.weights.socket)
    mapped = socket if config.weights is not None and config.weights.role == "map" else None
    loaded = load_model(folder, config.model.quantization, config.contextTokens, config.id, mapped)
    if socket is not None and mapped is None:
        from .weights.owner import WeightsOwner

        return WeightsOwner(config, socket, loaded, model_key(folder.fingerprint, config.model.quantization, loaded.dtype))
    return Backend(config, loaded, folder.fingerprint)


def _cells(config: InstanceConfig, loaded: LoadedModel) -> KvCells:
    try:
        return KvCells(loaded.shape, config.sessions, config.contextTokens, loaded.dtype, loaded.device)
    except RuntimeError as error:  # torch.OutOfMemoryError on a card, a plain one on the CPU
        need = loaded.shape.bytes_per_token(loaded.dtype) * config.contextTokens * config.sessions
        raise StartError(
            "OutOfMemory",
            f"the KV cells need {need / 2**30:.1f} GiB ({config.sessions} sessions of {config.contextTokens} tokens), which "
            f"{loaded.device_name} does not have: lower contextTokens or sessionsPerInstance",
        ) from error


def _post(
    loop: asyncio.AbstractEventLoop,
    events: "asyncio.Queue[Event | BaseException | None]",
    event: Event | BaseException | None,
) -> None:
    try:
        loop.call_soon_threadsafe(events.put_nowait, event)
    except RuntimeError:
        pass  # the loop is closed: nobody listens any more
