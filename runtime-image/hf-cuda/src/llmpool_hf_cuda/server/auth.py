"""Knows the pool's token by its hash."""

import asyncio
import hashlib
import hmac
import re
from pathlib import Path

from ..errors import StartError


class TokenCheck:
    """The file is read again when a token does not match: that is how a new token arrives."""

    def __init__(self, file: str) -> None:
        """Raises StartError when the file has no token."""
        self._file = Path(file)
        try:
            token = self._read()
        except OSError as error:
            raise StartError("ConfigInvalid", f"tokenFile {file} cannot be read: {error}") from error
        if not token:
            raise StartError("ConfigInvalid", f"tokenFile {file} is empty: write the pool's token into it")
        self._expected = _digest(token)
        self._reading: asyncio.Task[None] | None = None

    async def accepts(self, authorization: str | None) -> bool:
        """Takes the same time whatever the header says; only a mismatch waits for the file."""
        found = re.match(r"Bearer +(.*)$", authorization or "", re.IGNORECASE)
        given = _digest(found[1] if found else "")
        if hmac.compare_digest(given, self._expected):
            return True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._reread())
        await asyncio.shield(self._reading)
        return hmac.compare_digest(given, self._expected)

    async def _reread(self) -> None:
        # An unreadable or empty file opens nothing and closes nothing: the known token goes on.
        try:
            token = await asyncio.to_thread(self._read)
        except OSError:
            return
        if token:
            self._expected = _digest(token)

    def _read(self) -> str:
        return self._file.read_text(encoding="utf-8").strip()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
