"""Who may compute."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import LLMPoolError


@dataclass(eq=False)
class _Waiter:
    session: str | None
    needs_slot: bool
    entered: "asyncio.Future[None]"


class Slots:
    """
    At most `slots` requests at once, and one at a time of each session. The others wait in their order of arrival; one whose session is
    busy lets later ones pass.
    """

    def __init__(self, slots: int, most_waiting: int, on_running: Callable[[int], None]) -> None:
        self._slots = slots
        self._most_waiting = most_waiting
        self._on_running = on_running
        self._busy: set[str] = set()
        self._queue: list[_Waiter] = []
        self._held = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.running = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def idle(self) -> None:
        """Returns when nobody runs or waits."""
        await self._idle.wait()

    @asynccontextmanager
    async def hold(self, session: str | None, *, needs_slot: bool = True) -> AsyncIterator[None]:
        """A slot, and the session where there is one; without a slot, for what changes a cache without computing. Raises `queue_full`."""
        await self._enter(session, needs_slot)
        try:
            yield
        finally:
            self._leave(session, needs_slot)

    async def _enter(self, session: str | None, needs_slot: bool) -> None:
        # With anyone in front who could go, that one would have gone: to fit now is to be next.
        if self._fits(session, needs_slot):
            self._take(session, needs_slot)
            return
        if len(self._queue) >= self._most_waiting:
            raise LLMPoolError("queue_full", f"{len(self._queue)} requests wait on this instance already", retry_after_seconds=1)
        waiter = _Waiter(session, needs_slot, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._idle.clear()
        try:
            await waiter.entered
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
                self._tell_idle()
            else:  # let in at the same moment
                self._leave(session, needs_slot)
            raise

    def _fits(self, session: str | None, needs_slot: bool) -> bool:
        return (not needs_slot or self.running < self._slots) and (session is None or session not in self._busy)

    def _take(self, session: str | None, needs_slot: bool) -> None:
        self._held += 1
        self._idle.clear()
        if session is not None:
            self._busy.add(session)
        if needs_slot:
            self.running += 1
            self._on_running(self.running)

    def _leave(self, session: str | None, needs_slot: bool) -> None:
        self._held -= 1
        if session is not None:
            self._busy.discard(session)
        if needs_slot:
            self.running -= 1
            self._on_running(self.running)
        queue, self._queue = self._queue, []
        for waiter in queue:
            if self._fits(waiter.session, waiter.needs_slot):
                self._take(waiter.session, waiter.needs_slot)
                waiter.entered.set_result(None)
            else:
                self._queue.append(waiter)
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._held == 0 and not self._queue:
            self._idle.set()
