"""One request, as the engine sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..answer.answer import Answer
from ..api import Event
from .grammar import Grammar
from .logprobs import Logprobs
from .rows import Row
from .sampler import Sampler

HELD_EVENTS = 8
"""A turn whose client has not taken so many events waits for it."""


@dataclass
class Saved:
    """A cache that was somewhere else: tokens, and per layer [2, heads, tokens, width] on the CPU."""

    ids: list[int]
    layers: list[torch.Tensor]


@dataclass(eq=False)
class Turn:
    session: str | None
    prompt: list[int]
    most: int
    """Most tokens of the answer: the end token counts, as it was sampled."""
    sampler: Sampler
    answer: Answer
    emit: Callable[[Event | BaseException | None], None]
    """Called on the engine thread. The last call has None or an error: nothing of the turn is left in the engine then."""
    grammar: Grammar | None = None
    logprobs: Logprobs | None = None
    saved: Saved | None = None
    """What to put into the session's row, when it has none."""

    # The engine's own.
    row: Row | None = None
    cached: int = 0
    made: int = 0
    next_token: int | None = None
    """Sampled, not evaluated yet. None while the prompt is evaluated."""
    chunk_limit: int = 2**31
    emitted: int = 0
    # Written by the event loop alone.
    taken: int = field(default=0)

    @property
    def held(self) -> bool:
        return self.emitted - self.taken >= HELD_EVENTS

    @property
    def left(self) -> int:
        """Prompt tokens that are not evaluated."""
        return 0 if self.row is None else len(self.prompt) - len(self.row.ids)
