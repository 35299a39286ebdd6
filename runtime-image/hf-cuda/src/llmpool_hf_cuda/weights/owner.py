"""The process that holds a card's weights and computes nothing."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import torch

from ..api import Event, GenerateRequest
from ..backend import Backend
from ..config import InstanceConfig
from ..errors import LLMPoolError, StartError
from ..model.loader import LoadedModel
from . import arena
from .channel import Message, Server

FORMAT = "llmpool-weights-1"


class WeightsOwner(Backend):
    """To its supervisor an instance like any other, which is ready when the weights can be had."""

    def __init__(self, config: InstanceConfig, socket: Path, loaded: LoadedModel, key: str) -> None:
        """Blocks. Raises StartError."""
        self.device = loaded.device_name
        self.model_name = config.modelName or Path(config.modelPath or config.model.uri).name
        self.context_tokens = config.contextTokens
        self.warning = None
        self.decode = "none: this process holds weights"
        self._arena, pieces = arena.pack(loaded.model, loaded.device)
        self._said = {"format": FORMAT, "key": key, "card": card_id(loaded.device), "pieces": pieces}
        try:
            self._server = Server(socket, self._message)
        except OSError as error:
            raise StartError("ConfigInvalid", f"weights.socket {socket} cannot be opened: {error}") from error

    async def warmup(self, prompt: str) -> tuple[float, float]:
        return 0.0, 0.0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        _refuse()
        yield  # makes it a generator

    async def export_session(self, session: str) -> Iterator[bytes]:
        _refuse()

    async def import_session(self, session: str, data: AsyncIterator[bytes]) -> None:
        _refuse()

    async def delete_session(self, session: str) -> bool:
        return False

    def set_threads(self, threads: int) -> None:
        pass

    def stats(self) -> tuple[int, float]:
        return 0, 0.0

    async def close(self) -> None:
        self._server.close()

    def _message(self) -> Message:
        handle, descriptors = arena.share(self._arena)
        return {**self._said, "handle": handle}, descriptors


def card_id(device: torch.device) -> str:
    """Says which card, however processes number what they see."""
    return "cpu" if device.type == "cpu" else str(torch.cuda.get_device_properties(device).uuid)


def _refuse() -> NoReturn:
    raise LLMPoolError("instance_unavailable", "this process only holds weights")
