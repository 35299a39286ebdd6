"""Who may compute."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..errors import LLMPoolError

LEAD = 1
"""How many turns a flow with early deadlines may be ahead of the others that wait; src/core/fair-share.ts has the rule."""
POSITION_SECONDS = 5.0
"""How often one that waits is told its place."""
_MEMORY = 0.9
"""Weight that the mean time of a request in its slot keeps after the next one."""


@dataclass(frozen=True)
class Place:
    """What orders a request among those of all routers. Instants are on the clock of `time.monotonic`, in seconds."""

    flow: str = ""
    """Who competes as one."""
    arrived_at: float = field(default_factory=time.monotonic)
    """Less what it has waited elsewhere."""
    deadline: float = math.inf
    """Not started at or after it."""
    late: str = "request_timeout"
    """Which limit that is."""
    most_waiting: int | None = None
    """How many may wait, where the caller says."""
    on_position: Callable[[int], None] | None = None
    """Told the place in the line while it waits, and 0 when it begins."""


@dataclass(eq=False)
class _Flow:
    turns: int
    running: int = 0
    waiting: int = 0


@dataclass(eq=False)
class _Waiter:
    session: str | None
    needs_slot: bool
    place: Place
    number: int
    entered: "asyncio.Future[None]"

    @property
    def age(self) -> tuple[float, int]:
        return (self.place.arrived_at, self.number)


class Slots:
    """
    At most `slots` requests at once, and one at a time of each session. The others wait in flows: a free slot goes to the earliest deadline
    among the flows' first ones, but a flow that holds its share of the slots, or has had more turns, stands back. One whose session is
    busy lets later ones pass. The line is short, so a pick looks at all of it.
    """

    def __init__(self, slots: int, most_waiting: int, on_running: Callable[[int], None]) -> None:
        self._slots = slots
        self._most_waiting = most_waiting
        self._on_running = on_running
        self._busy: set[str] = set()
        self._queue: list[_Waiter] = []
        self._flows: dict[str, _Flow] = {}
        self._floor = 0
        self._numbers = 0
        self._began: dict[int, float] = {}
        self._service = 0.0
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
    async def hold(self, session: str | None, place: Place | None = None, *, needs_slot: bool = True) -> AsyncIterator[None]:
        """
        A slot, and the session where there is one; without a slot, for what changes a cache without computing. Raises `queue_full`, or the
        place's own code when its deadline comes first.
        """
        self._numbers += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(session, needs_slot, place or Place(), self._numbers, future)
        await self._enter(waiter)
        try:
            yield
        finally:
            self._leave(waiter)

    async def _enter(self, waiter: _Waiter) -> None:
        if waiter.place.deadline <= time.monotonic():
            raise _late(waiter.place)
        fits = self._fits(waiter) and not any(w.session == waiter.session for w in self._queue if w.session is not None)
        # With anyone in front who could go, that one would have gone: to fit now is to be next.
        if fits:
            self._take(waiter)
            return
        most = self._most_waiting if waiter.place.most_waiting is None else waiter.place.most_waiting
        if len(self._queue) >= most:
            message = f"{len(self._queue)} requests wait on this instance already"
            raise LLMPoolError("queue_full", message, retry_after_seconds=self._retry_after())
        self._queue.append(waiter)
        if waiter.needs_slot:
            self._flow(waiter).waiting += 1
        self._idle.clear()
        teller = asyncio.create_task(self._tell(waiter))
        try:
            left = waiter.place.deadline - time.monotonic()
            async with asyncio.timeout(None if left == math.inf else left):
                await waiter.entered
        except (asyncio.CancelledError, TimeoutError) as error:
            if waiter in self._queue:
                self._drop(waiter)
                self._let_in()
            else:  # let in at the same moment
                self._leave(waiter)
            if isinstance(error, TimeoutError):
                raise _late(waiter.place) from error
            raise
        finally:
            teller.cancel()
        if waiter.place.on_position is not None:
            waiter.place.on_position(0)

    async def _tell(self, waiter: _Waiter) -> None:
        while waiter.place.on_position is not None and waiter in self._queue:
            waiter.place.on_position(1 + sum(1 for other in self._queue if _order(other) < _order(waiter)))
            await asyncio.sleep(POSITION_SECONDS)

    def _fits(self, waiter: _Waiter) -> bool:
        return (not waiter.needs_slot or self.running < self._slots) and waiter.session not in self._busy

    def _flow(self, waiter: _Waiter) -> _Flow:
        return self._flows.setdefault(waiter.place.flow, _Flow(self._floor))

    def _take(self, waiter: _Waiter) -> None:
        self._held += 1
        self._idle.clear()
        if waiter.session is not None:
            self._busy.add(waiter.session)
        if waiter.needs_slot:
            flow = self._flow(waiter)
            flow.running += 1
            flow.turns = max(flow.turns, self._floor) + 1
            self._began[waiter.number] = time.monotonic()
            self.running += 1
            self._on_running(self.running)

    def _leave(self, waiter: _Waiter) -> None:
        self._held -= 1
        if waiter.session is not None:
            self._busy.discard(waiter.session)
        if waiter.needs_slot:
            self._flow(waiter).running -= 1
            self._forget(waiter)
            took = time.monotonic() - self._began.pop(waiter.number)
            self._service = took if self._service == 0 else _MEMORY * self._service + (1 - _MEMORY) * took
            self.running -= 1
            self._on_running(self.running)
        self._let_in()

    def _drop(self, waiter: _Waiter) -> None:
        self._queue.remove(waiter)
        if waiter.needs_slot:
            self._flow(waiter).waiting -= 1
            self._forget(waiter)

    def _forget(self, waiter: _Waiter) -> None:
        flow = self._flow(waiter)
        if flow.running == 0 and flow.waiting == 0:
            del self._flows[waiter.place.flow]

    def _let_in(self) -> None:
        while (waiter := self._next()) is not None:
            self._queue.remove(waiter)
            if waiter.needs_slot:
                self._flow(waiter).waiting -= 1
            self._take(waiter)
            waiter.entered.set_result(None)
        if self._held == 0 and not self._queue:
            self._idle.set()

    def _next(self) -> _Waiter | None:
        """The one that may go now; `pickFair` of src/core/fair-share.ts."""
        firsts: dict[str, _Waiter] = {}
        sessions: set[str] = set()
        for waiter in sorted(self._queue, key=lambda w: w.age):
            is_first = waiter.session is None or waiter.session not in sessions
            if waiter.session is not None:
                sessions.add(waiter.session)
            if waiter.entered.done() or not is_first or not self._fits(waiter):
                continue
            if not waiter.needs_slot:
                return waiter
            firsts.setdefault(waiter.place.flow, waiter)
        if not firsts:
            return None
        flows = {key: self._flows[key] for key in firsts}
        for flow in flows.values():
            flow.turns = max(flow.turns, self._floor)
        self._floor = max(self._floor, min(flow.turns for flow in flows.values()))
        share = self._slots / len(self._flows)
        fewest = min(flow.running for flow in flows.values())
        may = [key for key, flow in flows.items() if (flow.running < share if fewest < share else flow.running == fewest)]
        least = min(flows[key].turns for key in may)
        return min((firsts[key] for key in may if flows[key].turns <= least + LEAD), key=_order)

    def _retry_after(self) -> int:
        """Seconds until one of those that run has ended, by how long they take."""
        now = time.monotonic()
        ends = [max(now, began + self._service) for began in self._began.values()]
        return max(1, math.ceil(min(ends, default=now) - now))


def _order(waiter: _Waiter) -> tuple[float, float, int]:
    return (waiter.place.deadline, *waiter.age)


def _late(place: Place) -> LLMPoolError:
    limit = "the request's timeout" if place.late == "request_timeout" else "the end of its episode"
    return LLMPoolError(place.late, f"{limit} came before a slot")
