"""Attention over packed tokens: each segment sees its own row of cells and nothing else."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from .cells import KvCells

NAME = "llmpool_rows"
"""The `attn_implementation` that a model is loaded with. transformers makes no mask for a name that has none registered."""


@dataclass
class Segment:
    """`count` tokens that continue what the first `start` cells of `row` hold."""

    row: int
    start: int
    count: int
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + self.count

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor:
        """Who sees whom, [count, end]; made once a step, as all layers share it."""
        known = self._masks.get(window)
        if known is None:
            known = torch.ones((self.count, self.end), dtype=torch.bool, device=device).tril(self.start)
            if window is not None:
                known = known.triu(self.start - window + 1)
            self._masks[window] = known
        return known


class Step(Cache):  # type: ignore[misc]
    """What the model takes for its cache: writes each segment's new keys and values into its row."""

    def __init__(self, cells: KvCells, segments: list[Segment]) -> None:
        super().__init__(layers=[])
        self._cells = cells
        self._segments = segments

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the whole layer: `attend` picks the rows."""
        keys, values = self._cells.layer(layer_idx)
        at = 0
        for s in self._segments:
            keys[s.row, :, s.start : s.end] = key_states[0, :, at : at + s.count]
            values[s.row, :, s.start : s.end] = value_states[0, :, at : at + s.count]
            at += s.count
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class DecodeBatch(Cache):  # type: ignore[misc]
    """
    One token of each of several turns, all in tensors, so that a step is the same work whatever is in them: `rows` and `positions` [batch],
    and the first `length` cells of each row are looked at. Cache and attention in one.
    """

    def __init__(self, cells: KvCells, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        super().__init__(layers=[])
        self._cells = cells
        self._rows = rows
        self._positions = positions
        self._length = length
        self._masks: dict[int | None, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._cells.layer(layer_idx)
        keys[self._rows, :, self._positions] = key_states[0].transpose(0, 1)
        values[self._rows, :, self._positions] = value_states[0].transpose(0, 1)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None, window: int | None
    ) -> torch.Tensor:
        """The queries that share a head of keys stand where several tokens would: no copy of the keys for each of them."""
        _, heads, batch, width = query.shape
        grouped = query[0].transpose(0, 1).reshape(batch, keys.shape[1], heads // keys.shape[1], width)
        part = scaled_dot_product_attention(
            grouped,
            keys[:, :, : self._length].index_select(0, self._rows),
            values[:, :, : self._length].index_select(0, self._rows),
            attn_mask=self._mask(window),
            scale=scaling,
        )
        return part.reshape(1, batch, heads, values.shape[3])

    def _mask(self, window: int | None) -> torch.Tensor:
        """[batch, 1, 1, length]; made once a step, as all layers share it."""
        known = self._masks.get(window)
        if known is None:
            cells = torch.arange(self._length, device=self._positions.device)
            last = self._positions[:, None, None, None]
            known = cells <= last
            if window is not None:
                known &= cells > last - window
            self._masks[window] = known
        return known


UNKNOWN = ("softcap", "s_aux")
"""What some models' attention has besides, and this one has not: they would answer nonsense."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: list[Segment] | DecodeBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, tokens, width] → [1, tokens, heads, width]."""
    unknown = [name for name in UNKNOWN if kwargs.get(name) is not None]
    if unknown:
        raise NotImplementedError(f"this model's attention has {unknown[0]}, which is not served")
    if isinstance(segments, DecodeBatch):
        return segments.attend(query, keys, values, scaling, sliding_window), None
    out = query.new_empty((1, query.shape[2], query.shape[1], values.shape[3]))
    at = 0
    for s in segments:
        first = 0 if sliding_window is None or s.count > 1 else max(0, s.end - sliding_window)
        whole = s.start == 0 and (sliding_window is None or s.end <= sliding_window)
        part = scaled_dot_product_attention(
            query[:, :, at : at + s.count],
            keys[s.row : s.row + 1, :, first : s.end],
            values[s.row : s.row + 1, :, first : s.end],
            attn_mask=None if s.count == 1 or whole else s.mask(sliding_window, query.device),
            is_causal=s.count > 1 and whole,
            scale=scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        out[:, at : at + s.count] = part.transpose(1, 2)
        at += s.count
    return out, None


AttentionInterface.register(NAME, attend)
