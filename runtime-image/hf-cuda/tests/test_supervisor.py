"""The channel to the supervisor: what ends it, and what does not."""

import asyncio
import json
import socket
from typing import Any

from llmpool_hf_cuda.supervisor import Supervisor


def test_a_supervisor_that_dies_with_unread_messages_is_gone() -> None:
    async def run() -> None:
        theirs, ours = socket.socketpair()
        gone = asyncio.Event()
        supervisor = await Supervisor.connect({"NODE_CHANNEL_FD": str(ours.detach())}, lambda _: None, gone.set)
        supervisor.say({"type": "state", "state": "Ready"})
        await supervisor.flush()
        theirs.close()  # what it never read makes this a reset, not an end
        # The limit is for a broken listener alone: nothing else would ever set the event.
        await asyncio.wait_for(gone.wait(), 30)

    asyncio.run(run())


def test_a_message_that_cannot_be_followed_ends_nothing() -> None:
    async def run() -> None:
        theirs, ours = socket.socketpair()
        gone = asyncio.Event()
        told: list[int] = []

        def on_message(message: dict[str, Any]) -> None:
            told.append(int(message["count"]))

        supervisor = await Supervisor.connect({"NODE_CHANNEL_FD": str(ours.detach())}, on_message, gone.set)
        bad = [b"{nope", b'{"type": "threads", "count": "many"}', b'{"type": "threads"}', b"[1]", b"\xff", b"x" * (2 << 20)]
        good = json.dumps({"type": "threads", "count": 3}).encode()
        theirs_writer = (await asyncio.open_unix_connection(sock=theirs))[1]
        theirs_writer.write(b"\n".join([*bad, good, b""]))
        await theirs_writer.drain()
        theirs_writer.close()
        await asyncio.wait_for(gone.wait(), 30)
        assert told == [3]
        assert supervisor is not None

    asyncio.run(run())
