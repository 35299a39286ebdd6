"""The two inference routes: from a request's headers to the last byte of its answer."""

import asyncio
import logging
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ..api import Done, FinishReason, GenerateRequest, Output, Started
from ..errors import ClientGone, LLMPoolError
from .answers import Answer, StreamAnswer, WholeAnswer, send_error
from .bodies import CHAT_BODY, parse_body, request_of
from .connection import Exchange
from .headers import CallHeaders, read_headers
from .json_text import parse_json
from .metrics import InstanceMetrics
from .records import Record, UsageRecords
from .shapes import Shape
from .slots import Place, Slots
from .status import InstanceStatus

if TYPE_CHECKING:
    from ..backend import Backend

log = logging.getLogger(__name__)


class _Call:
    """What is known about one request so far, and the one way to end it early."""

    def __init__(self) -> None:
        self.arrived_at = time.monotonic()
        self.first_at: float | None = None
        self.token_at: float | None = None
        self.answer: Answer | None = None
        self.record: Record | None = None
        self.reason: BaseException | None = None
        self._task = asyncio.current_task()
        self._open = True

    def cut(self, reason: BaseException) -> None:
        """Ends the work with this error, from outside."""
        if self._open and self.reason is None and self._task is not None:
            self.reason = reason
            self._task.cancel()

    def close(self) -> None:
        self._open = False


class Inference:
    def __init__(
        self,
        status: InstanceStatus,
        slots: Slots,
        records: UsageRecords,
        metrics: InstanceMetrics,
        timeout_seconds: float,
    ) -> None:
        """`timeout_seconds`: `requestTimeoutSeconds`, the most that any request gets."""
        self._status = status
        self._slots = slots
        self._records = records
        self._metrics = metrics
        self._timeout_ms = timeout_seconds * 1000
        self._calls: set[_Call] = set()

    def cut_all(self, error: LLMPoolError) -> None:
        for call in self._calls:
            call.cut(error)

    async def serve(self, kind: "TypeAdapter[Any]", exchange: Exchange) -> None:
        """Whatever goes wrong is the answer, and a count in the metrics."""
        call = _Call()
        self._calls.add(call)
        code = "ok"
        try:
            error = await self._outcome(kind, exchange, call)
            if error is None:
                return
            code = "aborted" if isinstance(error, ClientGone) else getattr(error, "code", "internal_error")
            if code == "internal_error":
                log.error("a request failed", exc_info=error)
            if call.record is not None:
                self._records.close(call.record)
            if code != "aborted":
                try:
                    if call.answer is None:
                        await send_error(exchange, error)
                    else:
                        await call.answer.fail(error, call.record)
                except ClientGone:
                    pass
        finally:
            self._calls.discard(call)
            self._metrics.requests.labels(code).inc()

    async def _outcome(self, kind: "TypeAdapter[Any]", exchange: Exchange, call: _Call) -> BaseException | None:
        try:
            await self._run(kind, exchange, call)
        except asyncio.CancelledError:
            if call.reason is None:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            return call.reason
        except Exception as error:
            return error
        finally:
            call.close()
        return None

    async def _run(self, kind: "TypeAdapter[Any]", exchange: Exchange, call: _Call) -> None:
        self._status.for_work()
        headers = read_headers(exchange.headers)
        exchange.answer_headers["x-request-id"] = headers.request_id
        timeout_ms = min(self._timeout_ms, self._timeout_ms if headers.timeout_ms is None else headers.timeout_ms)
        expired = LLMPoolError("request_timeout", f"the request did not end within its {timeout_ms / 1000:g} s")
        if timeout_ms <= 0:
            raise expired
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, call.cut, expired)
        watcher: asyncio.Task[None] | None = None
        try:
            data = await exchange.read_body()
            body = parse_body(kind, parse_json(data) if len(data) < _LARGE else await asyncio.to_thread(parse_json, data))
            watcher = asyncio.create_task(_watch(exchange, call))
            # Asked again: a drain may have begun, and from here on the request is one that a drain waits for.
            backend = self._status.for_work()
            shape = Shape(
                kind is CHAT_BODY,
                headers.request_id,
                backend.model_name,
                int(time.time()),
                body.include_usage,
                body.must_call,
            )
            call.answer = StreamAnswer(exchange, shape) if body.stream else WholeAnswer(exchange, shape)
            call.record = self._records.open(headers.request_id)
            place = _place_of(headers, timeout_ms, call.arrived_at, exchange)
            await self._generate(backend, request_of(headers, body), place, call.answer, call.record, call)
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _generate(
        self, backend: "Backend", request: GenerateRequest, place: Place, answer: Answer, record: Record, call: _Call
    ) -> None:
        finish: FinishReason | None = None
        try:
            async with self._slots.hold(request.session, place), aclosing(backend.generate(request)) as events:
                async for event in events:
                    match event:
                        case Started():
                            record.prompt_tokens = event.prompt_tokens
                            record.cached_tokens = event.cached_tokens
                        case Done():
                            record.completion_tokens = event.usage.completion_tokens
                            finish = event.finish_reason
                        case Output():
                            record.completion_tokens += event.tokens
                            self._observe(call, event.tokens)
                            await answer.output(event)
        finally:
            # Before the answer's end: the next turn may begin, and whoever reads the end finds the record final.
            self._records.close(record)
            self._metrics.prompt_tokens.inc(record.prompt_tokens)
            self._metrics.cached_tokens.inc(record.cached_tokens)
            self._metrics.completion_tokens.inc(record.completion_tokens)
        if call.first_at is not None and call.token_at is not None and call.token_at > call.first_at:
            self._status.answered(record.completion_tokens - 1, call.token_at - call.first_at)
        if finish is None:
            raise RuntimeError("the backend ended without a done event")
        await answer.end(finish, record)

    def _observe(self, call: _Call, tokens: int) -> None:
        now = time.monotonic()
        if call.token_at is None:
            call.first_at = now
            self._metrics.first_token.observe(now - call.arrived_at)
        elif tokens > 0:
            self._metrics.token_gap.observe((now - call.token_at) / tokens)
        call.token_at = now


def _place_of(headers: CallHeaders, timeout_ms: float, arrived_at: float, exchange: Exchange) -> Place:
    by_episode = headers.episode_ms is not None and headers.episode_ms < timeout_ms
    left_ms = headers.episode_ms if by_episode and headers.episode_ms is not None else timeout_ms
    return Place(
        flow=headers.flow or "",
        arrived_at=arrived_at - (headers.waited_ms or 0) / 1000,
        deadline=arrived_at + left_ms / 1000,
        late="episode_deadline_exceeded" if by_episode else "request_timeout",
        most_waiting=headers.queue_limit,
        on_position=None if headers.flow is None else exchange.tell_position,
    )


_LARGE = 256 * 1024
"""Bytes of a body above which it is parsed in another thread."""


async def _watch(exchange: Exchange, call: _Call) -> None:
    await exchange.gone()
    call.cut(ClientGone("the client hung up"))
