"""How a process gets the weights from their owner: one message over a unix socket, JSON behind its length, and file descriptors."""

import array
import contextlib
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Message = tuple[dict[str, Any], list[int]]
LARGEST = 64 << 20
"""Of a message, in bytes: some hundred for each tensor."""
TIMEOUT_SECONDS = 30.0


class Server:
    """Gives `message` to whoever connects and is the same user."""

    def __init__(self, path: Path, message: Callable[[], Message]) -> None:
        """Raises OSError."""
        self._message = message
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One that was killed has left its own; a supervisor runs one owner at a time.
        path.unlink(missing_ok=True)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(os.fspath(path))
        path.chmod(0o600)
        self._socket.listen()
        self._thread = threading.Thread(target=self._accept, name="weights", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            with peer:
                try:
                    self._answer(peer)
                except Exception:
                    log.exception("the weights were not handed over")

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(TIMEOUT_SECONDS)
        _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if user != os.geteuid():
            raise PermissionError(f"user {user} asked for the weights")
        body, descriptors = self._message()
        data = json.dumps(body).encode()
        head = struct.pack(">I", len(data))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        peer.sendmsg([head], ancillary)
        peer.sendall(data)


def receive(path: Path) -> Message:
    """The owner's message. The descriptors are the caller's to close. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(TIMEOUT_SECONDS)
        peer.connect(os.fspath(path))
        descriptors = array.array("i")
        head, ancillary, _, _ = peer.recvmsg(4, socket.CMSG_SPACE(descriptors.itemsize))
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data)
        head += _exactly(peer, 4 - len(head))
        (size,) = struct.unpack(">I", head)
        if size > LARGEST:
            raise ValueError(f"a message of {size} bytes")
        return json.loads(_exactly(peer, size)), list(descriptors)


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = peer.recv(min(count - len(data), 1 << 20))
        if not part:
            raise ConnectionError("the owner of the weights hung up")
        data += part
    return bytes(data)
