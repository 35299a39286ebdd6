"""Where a generation's output goes. Nothing leaves before the first output, so that an error until then is plain HTTP."""

from typing import Any, Protocol

from ..api import FinishReason, Output, TokenLogprobs, ToolCall
from ..errors import error_answer
from .connection import Exchange
from .records import Record
from .shapes import Shape, compact


class Answer(Protocol):
    async def output(self, event: Output) -> None:
        """Takes the next output; waits while the client does not keep up."""

    async def end(self, finish: FinishReason, record: Record) -> None:
        """The whole answer is there, and `record` is final."""

    async def fail(self, error: BaseException, record: Record | None) -> None:
        """It failed, before or after the first output; without a record it was refused before it had one."""


class WholeAnswer:
    """One JSON body at the end."""

    def __init__(self, exchange: Exchange, shape: Shape) -> None:
        self._exchange = exchange
        self._shape = shape
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprobs] = []

    async def output(self, event: Output) -> None:
        if event.logprobs is not None:
            self._logprobs.append(event.logprobs)
        if event.call is None:
            self._texts.append(event.text)
        else:
            self._calls.append(event.call)

    async def end(self, finish: FinishReason, record: Record) -> None:
        await self._exchange.send_json(200, self._shape.whole("".join(self._texts), self._calls, self._logprobs, finish, record))

    async def fail(self, error: BaseException, record: Record | None) -> None:
        await send_error(self._exchange, error, {} if record is None else {"usage": record.usage()})


class StreamAnswer:
    """Server-sent events: a frame per output, the usage comment, `[DONE]`."""

    def __init__(self, exchange: Exchange, shape: Shape) -> None:
        self._exchange = exchange
        self._shape = shape

    async def output(self, event: Output) -> None:
        text = await self._open() + self._shape.output(event)
        if text:
            await self._exchange.write(text.encode())

    async def end(self, finish: FinishReason, record: Record) -> None:
        text = await self._open() + self._shape.last(finish) + self._shape.usage(record)
        await self._exchange.write(f"{text}{_usage_frame(record)}data: [DONE]\n\n".encode(), last=True)

    async def fail(self, error: BaseException, record: Record | None) -> None:
        if not self._exchange.started:
            await send_error(self._exchange, error, {} if record is None else {"usage": record.usage()})
            return
        _, body, _ = error_answer(error)
        frame = f"data: {compact(body)}\n\n"
        await self._exchange.write(f"{'' if record is None else _usage_frame(record)}{frame}".encode(), last=True)

    async def _open(self) -> str:
        """Sends the headers, once; what belongs in front of the first frame."""
        if self._exchange.started:
            return ""
        await self._exchange.start(
            200,
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
            },
        )
        return self._shape.first()


async def send_error(exchange: Exchange, error: BaseException, beside: dict[str, Any] | None = None) -> None:
    """The error's own status; beside it what the request has used, or who answers."""
    status, body, headers = error_answer(error)
    await exchange.send_json(status, {**body, **(beside or {})}, headers)


def _usage_frame(record: Record) -> str:
    return f": usage {compact(record.as_json())}\n\n"
