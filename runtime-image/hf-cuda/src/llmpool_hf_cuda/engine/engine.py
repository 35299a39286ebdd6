"""The loop that computes: one thread, one forward pass after another."""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..api import Done, Event, FinishReason, Started, TokenLogprobs, Usage
from ..errors import LLMPoolError
from .attention import Segment, Step
from .cells import KvCells
from .chunk_sizer import ChunkSizer
from .decode import Decode
from .rows import Row, Rows
from .turn import Saved, Turn

T = TypeVar("T")
log = logging.getLogger(__name__)

OLDEST_EVERY = 4
"""The oldest prompt gets every so manieth chunk, so that short prompts cannot hold it up for ever."""
SMALLEST_CHUNK = 16
"""Below this a prompt chunk that finds no memory is given up."""
POISONED = 70
"""Exit code after an error that leaves the device's context unusable."""
IDLE_SECONDS = 1.0
"""How often an idle engine looks for expired sessions."""


class Engine:
    """Public methods may be called from any thread; everything else happens on the engine's own."""

    def __init__(self, model: Any, cells: KvCells, rows: Rows, *, end_tokens: frozenset[int], most_chunk: int, threads: int | None) -> None:
        self._model = model
        self._cells = cells
        self._rows = rows
        self._end_tokens = end_tokens
        self._sizer = ChunkSizer(most_chunk)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._turns: list[Turn] = []
        self._decode: Decode | None = None
        self._chunks = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=(threads,), name="engine", daemon=True)
        self._thread.start()

    def submit(self, turn: Turn) -> None:
        self._commands.put(lambda: self._admit(turn))

    def cancel(self, turn: Turn) -> None:
        """The turn ends before the next step; its cache keeps what was evaluated."""
        self._commands.put(lambda: self._end(turn, None) if turn in self._turns else None)

    def wake(self) -> None:
        """A turn that was held may go on."""
        self._commands.put(lambda: None)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Runs `work` between two steps; never when its future is cancelled before, as that of a client that hangs up is."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._commands.put(run)
        return future

    def prepare(self) -> Future[str]:
        """Says how steps of decoding will be computed, once that is settled. Before the first turn."""
        return self.call(self._prepare)

    def set_threads(self, threads: int) -> None:
        self.call(lambda: torch.set_num_threads(threads))

    def export(self, session: str) -> Future[Saved | None]:
        """A copy of the session's cache."""
        return self.call(lambda: self._export(session))

    def forget(self, session: str) -> Future[bool]:
        return self.call(lambda: self._rows.forget(session))

    def holds(self, session: str) -> Future[bool]:
        return self.call(lambda: self._rows.find(session) is not None)

    def stats(self) -> tuple[int, float]:
        """Caches in memory, and the used share of all cells."""
        return self._rows.kept, self._rows.tokens / (self._cells.rows * self._cells.context)

    def close(self) -> None:
        """Ends every turn, then the thread."""

        def stop() -> None:
            self._closing = True
            for turn in list(self._turns):
                self._end(turn, LLMPoolError("instance_unavailable", "the instance is shutting down"))

        self._commands.put(stop)
        self._thread.join()

    def _run(self, threads: int | None) -> None:
        try:
            self._loop(threads)
        except BaseException:
            # Without this thread every request would wait for ever: whoever started the process starts another one.
            log.exception("the engine ended")
            os._exit(POISONED)

    def _loop(self, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            while not self._closing:
                decoders, chunk = self._pick()
                self._take_commands(block=not decoders and chunk is None)
                if self._closing:
                    return
                decoders, chunk = self._pick()
                if decoders or chunk:
                    self._step(decoders, chunk)

    def _take_commands(self, *, block: bool) -> None:
        try:
            if block:
                self._commands.get(timeout=IDLE_SECONDS)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            self._rows.expire(time.monotonic())

    def _admit(self, turn: Turn) -> None:
        if self._closing:
            turn.emit(LLMPoolError("instance_unavailable", "the instance is shutting down"))
            return
        try:
            turn.row = row = self._rows.acquire(turn.session, time.monotonic())
        except LLMPoolError as error:
            turn.emit(error)
            return
        self._turns.append(turn)
        if turn.saved is not None and not row.ids:
            try:
                self._restore(row, turn.saved)
            except Exception as error:
                self._failed([turn], None, 0, error)
                return
        turn.saved = None
        # The last token of the prompt is always evaluated: the first of the answer is sampled from it.
        turn.cached = min(_shared(row.ids, turn.prompt), len(turn.prompt) - 1)
        row.ids = row.ids[: turn.cached]
        self._cells.wipe(row.index, turn.cached, row.written)
        row.written = turn.cached
        self._emit(turn, Started(len(turn.prompt), turn.cached))

    def _pick(self) -> tuple[list[Turn], Turn | None]:
        """Every turn that decodes and is not held, and the prompt that goes on."""
        ready = [turn for turn in self._turns if not turn.held]
        prompts = [turn for turn in ready if turn.next_token is None]
        oldest = self._chunks % OLDEST_EVERY == OLDEST_EVERY - 1
        chunk = (prompts[0] if oldest else min(prompts, key=lambda turn: turn.left)) if prompts else None
        return [turn for turn in ready if turn.next_token is not None], chunk

    def _prepare(self) -> str:
        if self._cells.device.type != "cuda":
            return "eager: CUDA graphs need a card"
        decode = Decode(self._model, self._cells)
        try:
            decode.capture()
            torch.cuda.synchronize()
        except Exception as error:
            log.warning("decoding goes on without CUDA graphs", exc_info=error)
            del decode
            torch.cuda.empty_cache()
            # Whether the device still works, the warm-up inference shows.
            return f"eager: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no words'}"
        self._decode = decode
        return "CUDA graphs"

    def _step(self, decoders: list[Turn], chunk: Turn | None) -> None:
        segments: list[Segment] = []
        tokens: list[int] = []
        for turn in decoders:
            assert turn.row is not None and turn.next_token is not None
            segments.append(Segment(turn.row.index, len(turn.row.ids), 1))
            tokens.append(turn.next_token)
        size = 0
        if chunk is not None:
            assert chunk.row is not None
            size = min(chunk.left, chunk.chunk_limit, self._sizer.next(others_decode=bool(decoders)))
            at = len(chunk.row.ids)
            segments.append(Segment(chunk.row.index, at, size))
            tokens += chunk.prompt[at : at + size]
            self._chunks += 1
        ends = chunk is not None and size == chunk.left
        turns = decoders if chunk is None else [*decoders, chunk]
        sampling = decoders if not ends else turns
        began = time.monotonic()
        try:
            if chunk is None and self._decode is not None:
                logits = self._decode.run([s.row for s in segments], [s.start for s in segments], tokens)
            else:
                logits = self._forward(segments, tokens, len(sampling))
        except Exception as error:
            self._failed(turns, chunk, size, error)
            return
        for turn, segment, part in zip(turns, segments, _split(tokens, segments), strict=True):
            assert turn.row is not None and len(turn.row.ids) == segment.start
            turn.row.ids += part
            turn.row.written = len(turn.row.ids)
        self._sample(sampling, logits)
        if chunk is not None:
            self._sizer.record(size, (time.monotonic() - began) * 1000)

    def _forward(self, segments: list[Segment], tokens: list[int], wanted: int) -> torch.Tensor:
        """Logits behind each of the first `wanted` segments, [wanted, vocabulary], float32."""
        device = self._cells.device
        positions = [position for s in segments for position in range(s.start, s.end)]
        last: list[int] = []
        at = -1
        for s in segments:
            at += s.count
            last.append(at)
        result = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            past_key_values=Step(self._cells, segments),
            use_cache=True,
            segments=segments,
            # Without any wanted one is computed all the same: no model is made for none.
            logits_to_keep=torch.tensor(last[: max(1, wanted)], device=device),
        )
        logits: torch.Tensor = result.logits[0, :wanted].float()
        return logits

    def _sample(self, turns: list[Turn], logits: torch.Tensor) -> None:
        largest = logits.argmax(-1).tolist() if turns else []
        for i, turn in enumerate(turns):
            try:
                if turn.sampler.plain and turn.grammar is None:
                    token = int(largest[i])
                else:
                    token = turn.sampler.pick(logits[i] if turn.grammar is None else turn.grammar.mask(logits[i]))
                if turn.grammar is not None:
                    turn.grammar.accept(token)
                self._advance(turn, token, None if turn.logprobs is None else turn.logprobs.of(logits[i], token))
            except LLMPoolError as error:
                self._end(turn, error)
            except Exception as error:
                self._failed([turn], None, 0, error)

    def _advance(self, turn: Turn, token: int, logprobs: TokenLogprobs | None) -> None:
        """Takes one sampled token: out to the client, and perhaps the end."""
        turn.made += 1
        turn.next_token = token
        turn.sampler.saw(token)
        ended: FinishReason | None = None
        untold = 0
        if token in self._end_tokens:
            ended, untold = "stop", 1
        else:
            events, over = turn.answer.push(token)
            if logprobs is not None:
                events[0] = replace(events[0], logprobs=logprobs)
            for event in events:
                self._emit(turn, event)
            if over or (turn.grammar is not None and turn.grammar.complete):
                ended = "stop"
            elif turn.made >= turn.most:
                ended = "length"
        if ended is None:
            return
        for event in turn.answer.end(untold):
            self._emit(turn, event)
        usage = Usage(len(turn.prompt), turn.made, turn.cached)
        self._end(turn, None, Done(turn.answer.finish_reason(ended), usage))

    def _failed(self, turns: list[Turn], chunk: Turn | None, size: int, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            self._out_of_memory(turns, chunk, size)
            return
        log.error("a step failed", exc_info=error)
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
            # Nothing on this device works any more for this process; its supervisor starts another one.
            os._exit(POISONED)
        for turn in turns:
            self._end(turn, LLMPoolError("internal_error", f"the engine failed: {error}"), broken=True)

    def _out_of_memory(self, turns: list[Turn], chunk: Turn | None, size: int) -> None:
        """The step is tried again with a smaller chunk; in the end one turn makes room for the others."""
        if self._cells.device.type == "cuda":
            torch.cuda.empty_cache()
        if chunk is not None and size > SMALLEST_CHUNK:
            chunk.chunk_limit = size // 2
            return
        victim = chunk if chunk is not None else turns[-1]
        message = "this request found no memory for its step: send a shorter prompt, or lower sessions or contextTokens"
        self._end(victim, LLMPoolError("instance_unavailable", message, retry_after_seconds=1), broken=True)

    def _end(self, turn: Turn, error: LLMPoolError | None, done: Done | None = None, *, broken: bool = False) -> None:
        self._turns.remove(turn)
        if turn.row is not None:
            self._rows.release(turn.row, time.monotonic(), broken=broken)
            turn.row = None
        if done is not None:
            self._emit(turn, done)
        turn.emit(error)

    def _emit(self, turn: Turn, event: Event) -> None:
        turn.emitted += 1
        turn.emit(event)

    def _export(self, session: str) -> Saved | None:
        row = self._rows.find(session)
        if row is None or not row.ids:
            return None
        layers = [self._cells.read(i, row.index, len(row.ids)) for i in range(self._cells.shape.layers)]
        return Saved(list(row.ids), layers)

    def _restore(self, row: Row, saved: Saved) -> None:
        for i, part in enumerate(saved.layers):
            self._cells.write(i, row.index, part)
        row.ids = list(saved.ids)
        row.written = len(row.ids)


def _shared(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    most = min(len(a), len(b))
    return next((i for i in range(most) if a[i] != b[i]), most)


def _split(tokens: list[int], segments: list[Segment]) -> list[list[int]]:
    parts: list[list[int]] = []
    at = 0
    for s in segments:
        parts.append(tokens[at : at + s.count])
        at += s.count
    return parts
