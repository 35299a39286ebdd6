"""Which session's cache lies in which row of cells."""

from dataclasses import dataclass, field

from ..errors import LLMPoolError


@dataclass
class Row:
    """One KV cache. `ids` are the tokens whose keys and values its first cells hold: what is behind them is nobody's."""

    index: int
    session: str | None = None
    ids: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: float = 0.0
    written: int = 0
    """Cells that are not zero, if more than `ids` says: what was before."""

    def clear(self) -> None:
        self.session, self.ids, self.busy = None, [], False


class Rows:
    """Called by the engine thread alone. Times in seconds, monotonic."""

    def __init__(self, count: int, ttl_seconds: float) -> None:
        self._rows = [Row(i) for i in range(count)]
        self._ttl = ttl_seconds

    def acquire(self, session: str | None, now: float) -> Row:
        """The session's own row, a free one, or the least valuable idle one, emptied. `instance_unavailable` when all are busy."""
        self.expire(now)
        own = self.find(session)
        if own is not None and own.busy:
            raise LLMPoolError("instance_unavailable", "this session's turn still runs", retry_after_seconds=1)
        row = own or next((r for r in self._rows if not r.busy and r.session is None), None) or self._cheapest(now)
        if row is None:
            raise LLMPoolError("instance_unavailable", "all KV cells are in use", retry_after_seconds=1)
        if row is not own:
            row.clear()
        row.session, row.busy = session, True
        return row

    def release(self, row: Row, now: float, *, broken: bool) -> None:
        """Keeps what a session may continue; a one-off, and what cannot be trusted any more, is emptied."""
        row.busy, row.used_at = False, now
        if broken or row.session is None or not row.ids:
            row.clear()

    def find(self, session: str | None) -> Row | None:
        return None if session is None else next((r for r in self._rows if r.session == session), None)

    def forget(self, session: str) -> bool:
        """True when there was a cache."""
        row = self.find(session)
        if row is None or row.busy:
            return False
        row.clear()
        return True

    def expire(self, now: float) -> None:
        for row in self._rows:
            if row.session is not None and not row.busy and now - row.used_at >= self._ttl:
                row.clear()

    @property
    def kept(self) -> int:
        """Rows that hold something."""
        return sum(1 for row in self._rows if row.ids or row.busy)

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self._rows)

    def _cheapest(self, now: float) -> Row | None:
        """Worth of a cache: the tokens that its next turn would have to evaluate again, the likelier to come the shorter it idles."""
        idle = [row for row in self._rows if not row.busy]
        return min(idle, key=lambda row: len(row.ids) / (1.0 + now - row.used_at), default=None)
