"""KV caches as files: what export gives and import takes."""

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import LLMPoolError
from .cells import KvCells
from .turn import Saved

FORMAT = "llmpool-kv-1"
PART_BYTES = 1 << 20


class SavedSessions:
    """
    Safetensors files in the instance's own folder, mode 0600, names hashed: they hold the prompt's tokens. A file is written aside and
    renamed, so under its own name it is always whole. Metadata: `format`, `model` (fingerprint, quantization and type), `tokens` (SHA-256
    of the ids) and `sum` (SHA-256 of ids and cells).
    """

    def __init__(self, folder: Path, model: str, cells: KvCells, files: int, ttl_seconds: float) -> None:
        """`files`: most that are kept; the oldest go first, and each after `ttl_seconds`."""
        self._ttl = ttl_seconds
        self._folder = folder
        self._model = model
        self._cells = cells
        self._files = files
        shape = cells.shape
        self._most_bytes = cells.context * (shape.bytes_per_token(cells.dtype) + 8) + (1 << 20)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for draft in folder.glob("*.draft"):
            draft.unlink(missing_ok=True)
        self._tidy()

    def parts(self, saved: Saved) -> Iterator[bytes]:
        """The bytes of a cache, from a file that never gets a name."""
        draft = self._draft()
        try:
            self._write(draft, saved)
            file = draft.open("rb")
        finally:
            draft.unlink(missing_ok=True)  # an open file stays readable
        with file:
            while part := file.read(PART_BYTES):
                yield part

    async def receive(self, session: str, data: AsyncIterator[bytes]) -> None:
        """Takes the bytes of a file; `invalid_request` when they are damaged, too many, or from another model or layout."""
        draft = self._draft()
        try:
            size = 0
            with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: ASYNC230 (parts go to the page cache)
                async for part in data:
                    size += len(part)
                    if size > self._most_bytes:
                        raise LLMPoolError("invalid_request", f"the session state is larger than {self._most_bytes} bytes, the most here")
                    file.write(part)
            await asyncio.to_thread(self._read, draft)
            draft.rename(self._path(session))
            self._tidy()
        finally:
            draft.unlink(missing_ok=True)

    def take(self, session: str) -> Saved | None:
        """The session's saved cache, which is deleted; None when there is none that fits."""
        self._tidy()
        path = self._path(session)
        if not path.exists():
            return None
        try:
            return self._read(path)
        except LLMPoolError:
            return None
        finally:
            path.unlink(missing_ok=True)

    def peek(self, session: str) -> Saved | None:
        return self._read(self._path(session)) if self._path(session).exists() else None

    def delete(self, session: str) -> bool:
        """True when there was a file."""
        path = self._path(session)
        existed = path.exists()
        path.unlink(missing_ok=True)
        return existed

    def _write(self, path: Path, saved: Saved) -> None:
        tensors = {f"layer.{i}": layer for i, layer in enumerate(saved.layers)}
        tensors["ids"] = torch.tensor(saved.ids, dtype=torch.int64)
        metadata = {
            "format": FORMAT,
            "model": self._model,
            "tokens": _hash_of(tensors["ids"]),
            "sum": _hash_of(tensors["ids"], *saved.layers),
        }
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        save_file(tensors, path, metadata)
        path.chmod(0o600)

    def _read(self, path: Path) -> Saved:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT or metadata.get("model") != self._model:
                    raise _refused("from another model or layout")
                ids = file.get_tensor("ids")
                layers = [file.get_tensor(f"layer.{i}") for i in range(self._cells.shape.layers)]
        except (SafetensorError, OSError, json.JSONDecodeError, KeyError) as error:
            raise _refused("damaged") from error
        expected = (2, self._cells.shape.heads, len(ids), self._cells.shape.width)
        if any(layer.shape != expected or layer.dtype != self._cells.dtype for layer in layers):
            raise _refused("from another model or layout")
        if len(ids) >= self._cells.context:
            raise _refused("longer than the context of this instance")
        if _hash_of(ids, *layers) != metadata.get("sum") or _hash_of(ids) != metadata.get("tokens"):
            raise _refused("damaged")
        return Saved(ids.tolist(), layers)

    def _tidy(self) -> None:
        files = sorted(self._folder.glob("*.kv"), key=lambda path: path.stat().st_mtime)
        oldest = time.time() - self._ttl
        for i, path in enumerate(files):
            if i < len(files) - self._files or path.stat().st_mtime <= oldest:
                path.unlink(missing_ok=True)

    def _path(self, session: str) -> Path:
        return self._folder / f"{hashlib.sha256(f'llmpool session{chr(0)}{session}'.encode()).hexdigest()}.kv"

    def _draft(self) -> Path:
        return self._folder / f"{secrets.token_hex(8)}.draft"


def _hash_of(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(torch.uint8).flatten().numpy().data)
    return digest.hexdigest()


def _refused(why: str) -> LLMPoolError:
    return LLMPoolError("invalid_request", f"the session state is {why}")
