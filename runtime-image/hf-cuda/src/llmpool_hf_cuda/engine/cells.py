"""Where the keys and values of all sessions lie."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class CellShape:
    """What one token takes: keys and values of `layers` layers with `heads` heads of `width` numbers."""

    layers: int
    heads: int
    width: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        return 2 * self.layers * self.heads * self.width * dtype.itemsize


class KvCells:
    """One row of `context` cells per session, allocated once: what runs can never meet a lack of memory that a start has not met."""

    def __init__(self, shape: CellShape, rows: int, context: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.rows = rows
        self.context = context
        # Not empty: what a mask hides still counts as zero times its value, and that must be a number.
        self._cells = torch.zeros((shape.layers, 2, rows, shape.heads, context, shape.width), dtype=dtype, device=device)

    @property
    def dtype(self) -> torch.dtype:
        return self._cells.dtype

    @property
    def device(self) -> torch.device:
        return self._cells.device

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer: [rows, heads, context, width]."""
        return self._cells[index, 0], self._cells[index, 1]

    def wipe(self, row: int, first: int, end: int) -> None:
        """Zero, as at the start: values of an overflow, say, must not reach whoever has these cells next."""
        if first < end:
            self._cells[:, :, row, :, first:end] = 0

    def read(self, layer: int, row: int, tokens: int) -> torch.Tensor:
        """A copy on the CPU, [2, heads, tokens, width]."""
        return self._cells[layer, :, row, :, :tokens].cpu().contiguous()

    def write(self, layer: int, row: int, part: torch.Tensor) -> None:
        """The opposite of `read`."""
        self._cells[layer, :, row, :, : part.shape[2]].copy_(part)
