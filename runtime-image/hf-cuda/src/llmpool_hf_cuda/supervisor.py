"""The channel to a supervisor: Node's IPC, a socket with one JSON value a line, whose number is in NODE_CHANNEL_FD."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)


class Supervisor:
    """Says what becomes of this process. Without a channel nobody is told."""

    def __init__(self, writer: asyncio.StreamWriter | None) -> None:
        self._writer = writer

    @classmethod
    async def connect(
        cls, env: Mapping[str, str], on_message: Callable[[dict[str, Any]], None], on_gone: Callable[[], None]
    ) -> "Supervisor":
        """`on_gone`: the supervisor died, perhaps by force."""
        number = env.get("NODE_CHANNEL_FD")
        if number is None:
            return cls(None)
        channel = socket.socket(fileno=int(number))
        channel.set_inheritable(False)
        reader, writer = await asyncio.open_unix_connection(sock=channel, limit=1 << 20)
        supervisor = cls(writer)
        supervisor._listening = asyncio.create_task(_listen(reader, on_message, on_gone))
        return supervisor

    _listening: asyncio.Task[None] | None = None

    def say(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def flush(self) -> None:
        """Returns when the supervisor's end of the channel has what was said, or nobody listens."""
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()


async def _listen(reader: asyncio.StreamReader, on_message: Callable[[dict[str, Any]], None], on_gone: Callable[[], None]) -> None:
    while True:
        try:
            line = await reader.readline()
            if not line:
                break
            message = json.loads(line)
            if isinstance(message, dict) and "type" in message:
                on_message(message)
        except OSError:
            break  # it was killed before it had read all that this process said
        except Exception:
            # Also a line that is too long. Without a listener nobody would notice that the supervisor is gone.
            log.exception("a message of the supervisor cannot be followed")
    on_gone()
