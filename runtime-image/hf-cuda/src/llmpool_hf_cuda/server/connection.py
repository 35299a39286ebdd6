"""uvicorn's HTTP/1.1 with the bounds of the instance protocol, and one request's side of it."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import h11
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ClientGone, LLMPoolError, error_answer
from .shapes import compact

MAX_HEADER_BYTES = 16 * 1024
HEADERS_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 75
CONNECTIONS = 1024
FLUSH_SECONDS = 2
"""How long the last bytes of answers may take to leave when the server closes."""

BODY_BYTES = 64 * 1024 * 1024
BODY_SECONDS = 30.0
DISCARD_SECONDS = 5.0
"""A body that is answered before its end is thrown away for so long: who goes on sending is cut off."""
WRITE_IDLE_SECONDS = 30.0


class _StrictBuffer(ReceiveBuffer):  # type: ignore[misc]
    """Header lines end with CR and LF, both. h11 takes a bare LF too, which another parser may take for something else."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        if self._data[:2] == b"\r\n":
            self._extract(2)
            return []
        end = self._data.find(b"\r\n\r\n")
        head = self._data[: len(self._data) if end == -1 else end]
        if len(head) > MAX_HEADER_BYTES:
            raise h11.LocalProtocolError("headers too large", error_status_hint=431)
        if re.search(rb"(?<!\r)\n|\r(?!\n|$)", head):
            raise h11.LocalProtocolError("a line does not end with CR LF")
        if end == -1:
            return None
        lines: list[bytearray] = self._extract(end + 4)[:-4].split(b"\r\n")
        return lines


class _Protocol(H11Protocol):
    """Cuts off who does not finish the headers of a first request, and lets a request's handler cut its own connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn._receive_buffer = _StrictBuffer()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEADERS_SECONDS, self._headers_late)

    def handle_events(self) -> None:
        # Read when a request arrives: uvicorn copies the state into its scope.
        self.app_state["transport"] = self.transport
        super().handle_events()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(DISCARD_SECONDS, self._still_sends, self.cycle)

    def _still_sends(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()

    def _headers_late(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class HttpServer:
    """One listening socket. `listen` resolves with the port."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            _one_length(app),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=FLUSH_SECONDS,
            limit_concurrency=CONNECTIONS,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(511)
        except OSError:
            listener.close()
            raise
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return int(listener.getsockname()[1])

    async def close(self) -> None:
        """Lets the last bytes leave, and closes every connection."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def _one_length(app: ASGIApp) -> ASGIApp:
    """Refuses what has both a length and chunks: two parsers could find two ends of it."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if "transfer-encoding" in exchange.headers and "content-length" in exchange.headers:
            error = LLMPoolError("invalid_request", "a body has a length or comes in chunks, never both")
            status, body, headers = error_answer(error)
            await exchange.send_json(status, body, {**headers, "connection": "close"})
        else:
            await app(scope, receive, send)

    return guarded


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process's main."""
        yield


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("ascii")
        self.query: bytes = scope["query_string"]
        self.headers = Headers(scope=scope)
        self.started = False
        self.answer_headers: dict[str, str] = {}
        """Sent with whatever answer there will be."""
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive = receive
        self._send = send

    async def read_body(self) -> bytes:
        """The whole body, as far as the limits allow."""
        too_large = LLMPoolError("payload_too_large", f"the body is larger than {BODY_BYTES} bytes")
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in self._parts():
                    body += part
                    if len(body) > BODY_BYTES:
                        raise too_large
        except TimeoutError as error:
            message = f"the body did not arrive within {BODY_SECONDS:.0f} s"
            raise LLMPoolError("request_timeout", message) from error
        return bytes(body)

    async def body_parts(self) -> AsyncIterator[bytes]:
        """A body of any length, that shows progress."""
        parts = self._parts()
        while True:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                self._transport.abort()
                raise ClientGone("the body stopped") from error
            yield part

    async def gone(self) -> None:
        """Returns when the client has hung up; only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = compact(body).encode("utf-8", "replace")
        fields = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        await self.start(status, fields)
        await self.write(data, last=True)

    async def start(self, status: int, headers: dict[str, str]) -> None:
        self.started = True
        fields = [(k.encode(), v.encode("latin-1")) for k, v in {**self.answer_headers, **headers}.items()]
        await self._out({"type": "http.response.start", "status": status, "headers": fields})

    def tell_position(self, position: int) -> None:
        """An interim answer: the place in the line, 0 when it begins. Beside h11, which knows of none from a handler."""
        if not self.started and not self._transport.is_closing():
            self._transport.write(f"HTTP/1.1 102 Processing\r\nx-llmpool-position: {position}\r\n\r\n".encode())

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Waits while the client does not keep up; one that takes nothing for long is cut off and counts as gone."""
        await self._out({"type": "http.response.body", "body": data, "more_body": not last})

    def cut(self) -> None:
        """Only a cut connection tells a reader that bytes are missing."""
        self._transport.abort()

    async def _out(self, message: Message) -> None:
        try:
            async with asyncio.timeout(WRITE_IDLE_SECONDS):
                await self._send(message)
        except TimeoutError as error:
            self._transport.abort()
            raise ClientGone(f"the client took nothing for {WRITE_IDLE_SECONDS:.0f} s") from error

    async def _parts(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up")
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return
