"""Steps in which turns only decode, in few static shapes: on a card each shape is a CUDA graph, one launch for all kernels of a step."""

import logging
from dataclasses import dataclass
from typing import Any

import torch

from .attention import DecodeBatch
from .cells import KvCells

log = logging.getLogger(__name__)

LEAST_LENGTH = 256
WARM_UPS = 2
"""Runs before a capture: kernels are chosen and workspaces made in them."""


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor


class Decode:
    """
    A step is padded to the next batch size and looks at the next length, both doubling up to what the instance has. Padding repeats a
    turn, to the same cells with the same values. Everything happens on the engine's thread.
    """

    def __init__(self, model: Any, cells: KvCells) -> None:
        self._model = model
        self._cells = cells
        self._batches = _doubling(1, cells.rows)
        self._lengths = _doubling(min(LEAST_LENGTH, cells.context), cells.context)
        on_card = cells.device.type == "cuda"
        self._host = torch.zeros((3, cells.rows), dtype=torch.int64, pin_memory=on_card)
        self._inputs = torch.zeros((3, cells.rows), dtype=torch.int64, device=cells.device)
        self._graphs: dict[tuple[int, int], _Captured] = {}

    def capture(self) -> None:
        """Captures every shape, the largest first: the others use its memory again. While no session has cells. Torch may raise."""
        self._inputs.zero_()
        pool: Any = torch.cuda.graph_pool_handle()
        for batch in reversed(self._batches):
            for length in reversed(self._lengths):
                self._graphs[batch, length] = self._captured(batch, length, pool)

    def run(self, rows: list[int], positions: list[int], tokens: list[int]) -> torch.Tensor:
        """Logits [turns, vocabulary], float32, good until the next run. `positions`: of the tokens, in their rows."""
        count = len(rows)
        batch = next(size for size in self._batches if size >= count)
        length = next(size for size in self._lengths if size > max(positions))
        padding = batch - count
        for i, values in enumerate((tokens, positions, rows)):
            self._host[i, :batch] = torch.tensor(values + values[-1:] * padding)
        self._inputs[:, :batch].copy_(self._host[:, :batch], non_blocking=True)
        captured = self._graphs.get((batch, length))
        if captured is None:
            return self._compute(batch, length)[:count]
        captured.graph.replay()
        return captured.logits[:count]

    def _compute(self, batch: int, length: int) -> torch.Tensor:
        tokens, positions, rows = (row[:batch] for row in self._inputs)
        step = DecodeBatch(self._cells, rows, positions, length)
        result = self._model(input_ids=tokens[None], position_ids=positions[None], past_key_values=step, use_cache=True, segments=step)
        logits: torch.Tensor = result.logits[0].float()
        return logits

    def _captured(self, batch: int, length: int, pool: Any) -> _Captured:
        # As torch's documentation of CUDA graphs asks for: first on another stream.
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._compute(batch, length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process do not touch the device, but libraries of theirs may ask it something.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self._compute(batch, length)
        return _Captured(graph, logits)


def _doubling(first: int, last: int) -> list[int]:
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]
