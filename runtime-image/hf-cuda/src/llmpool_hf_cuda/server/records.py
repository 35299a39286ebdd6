"""What each request used, while it runs and for 10 minutes after: how the router settles when it lost the answer."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from ..errors import LLMPoolError

KEPT_SECONDS = 600.0
MAX_KEPT = 65_536
"""Most ended requests that are remembered; the oldest go first."""


@dataclass(eq=False)
class Record:
    id: str
    done: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def usage(self) -> dict[str, Any]:
        """OpenAI's form."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class UsageRecords:
    """An id that was asked for before it arrived is refused afterwards: "never seen" has been said, and must stay true."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Record, asyncio.Event]] = {}
        self._ended: dict[str, tuple[Record, float]] = {}
        self._denied: dict[str, float] = {}

    def open(self, request_id: str) -> Record:
        """Raises `invalid_request` for an id that is taken: one id, one usage."""
        self._forget()
        ended = self._ended.get(request_id)
        if request_id in self._running or (ended is not None and ended[0].prompt_tokens > 0):
            raise LLMPoolError("invalid_request", "this request id has been used: give each request its own", param="x-request-id")
        if request_id in self._denied:
            raise LLMPoolError(
                "invalid_request",
                "this request id was asked for before it arrived, and was answered as unknown",
                param="x-request-id",
            )
        self._ended.pop(request_id, None)
        record = Record(request_id)
        self._running[request_id] = (record, asyncio.Event())
        return record

    def close(self, record: Record) -> None:
        if record.done:
            return
        record.done = True
        _, event = self._running.pop(record.id)
        self._ended[record.id] = (record, time.monotonic())
        event.set()
        self._forget()

    async def find(self, request_id: str, wait_seconds: float) -> Record | None:
        """The record, once it is done or the time is over; None for an id that was never seen or is forgotten."""
        self._forget()
        ended = self._ended.get(request_id)
        if ended is not None:
            return ended[0]
        running = self._running.get(request_id)
        if running is None:
            self._denied[request_id] = time.monotonic()
            return None
        record, event = running
        try:
            async with asyncio.timeout(wait_seconds):
                await event.wait()
        except TimeoutError:
            pass
        return record

    def _forget(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        while self._ended and (len(self._ended) > MAX_KEPT or next(iter(self._ended.values()))[1] <= oldest):
            del self._ended[next(iter(self._ended))]
        while self._denied and (len(self._denied) > MAX_KEPT or next(iter(self._denied.values())) <= oldest):
            del self._denied[next(iter(self._denied))]
