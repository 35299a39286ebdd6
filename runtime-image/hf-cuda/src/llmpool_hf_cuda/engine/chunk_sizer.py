"""How many tokens of a prompt one step takes."""

ALONE_MS = 150.0
"""Longest time one chunk should take. Cancel and deadline are looked at between chunks."""
SHARED_MS = 75.0
"""The same while others decode: they get a token with each chunk."""
LEAST = 32
"""A step reads all weights, however few its tokens are: fewer tokens than this would cost about as much time."""
WEIGHT = 0.5
"""How much of a newer measurement counts."""


class ChunkSizer:
    """A chunk's time has a fixed part, so milliseconds per token depend on its size; estimates settle where a chunk takes just that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ms_per_token: float | None = None

    def next(self, *, others_decode: bool) -> int:
        """Tokens of the next chunk: a power of two, so that the same prompt is mostly cut in the same places and rounds the same."""
        if self._ms_per_token is None:
            return LEAST
        size = int((SHARED_MS if others_decode else ALONE_MS) / self._ms_per_token)
        return max(LEAST, 1 << (min(size, self._most).bit_length() - 1))

    def record(self, tokens: int, ms: float) -> None:
        """Of whole chunks: the rest of a prompt is mostly the fixed part."""
        if tokens < LEAST:
            return
        now = max(ms, 0.01) / tokens
        self._ms_per_token = now if self._ms_per_token is None else self._ms_per_token * (1 - WEIGHT) + now * WEIGHT
