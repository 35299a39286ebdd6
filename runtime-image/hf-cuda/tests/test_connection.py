"""What the HTTP side does with callers that speak badly, slowly or not to the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from llmpool_hf_cuda.errors import ClientGone, LLMPoolError
from llmpool_hf_cuda.server import connection
from llmpool_hf_cuda.server.answers import send_error
from llmpool_hf_cuda.server.connection import Exchange, HttpServer

Handler = Callable[[Exchange], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler) -> AsyncIterator[int]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await handle(exchange)
        except LLMPoolError as error:
            await send_error(exchange, error)

    server = HttpServer(app)
    port = await server.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.close()


async def say(port: int, text: bytes) -> bytes:
    """Everything that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        async with asyncio.timeout(30):
            return await reader.read()
    finally:
        writer.close()


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()
        # Where the system takes everything at once others would have no turn.
        await asyncio.sleep(0)


async def echo(exchange: Exchange) -> None:
    body = await exchange.read_body()
    await exchange.send_json(200, {"bytes": len(body)})


POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
SMUGGLED = b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n" + SMUGGLED,
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        POST + b"content-length: 5, 6\r\n\r\nhello!",
        POST + b"content-length: +5\r\n\r\nhello",
        POST + b"content-length: -1\r\n\r\nhello",
        POST + b"transfer-encoding: gzip\r\n\r\nhello",
        POST + b"transfer-encoding: chunked, identity\r\n" + SMUGGLED,
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n" + SMUGGLED,
        POST + b"transfer-encoding : chunked\r\n" + SMUGGLED,
        POST + b"content-length: 5\r\n folded: x\r\n\r\nhello",
        b"POST / HTTP/1.1\nhost: x\ncontent-length: 0\n\n",
        POST + b"content-length: 0\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        b"POST  / HTTP/1.1\r\nhost: x\r\n\r\n",
        POST + b"x: " + b"y" * 20_000 + b"\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: bytes) -> None:
    async def run() -> None:
        async with serving(echo) as port:
            answer = await say(port, text)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"HTTP/1.1 ") == 1

    asyncio.run(run())


def test_a_plain_request_is_answered() -> None:
    async def run() -> None:
        async with serving(echo) as port:
            whole = await say(port, POST + b"connection: close\r\ncontent-length: 5\r\n\r\nhello")
            chunked = await say(port, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        assert whole.endswith(b'{"bytes":5}')
        assert chunked.endswith(b'{"bytes":5}')

    asyncio.run(run())


def test_too_large_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_BYTES", 10)

    async def run() -> None:
        async with serving(echo) as port:
            said = await say(port, POST + b"connection: close\r\ncontent-length: 11\r\n\r\nhello world")
            chunked = await say(port, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert chunked.startswith(b"HTTP/1.1 413 ")

    asyncio.run(run())


def test_who_goes_on_sending_after_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_BYTES", 10)
    monkeypatch.setattr(connection, "DISCARD_SECONDS", 0.05)

    async def run() -> None:
        async with serving(echo) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST + b"transfer-encoding: chunked\r\n\r\n")
            async with asyncio.timeout(30):
                with pytest.raises(ConnectionError):
                    await send_for_ever(writer)
            writer.close()
            # One that ends is kept: its next request is answered.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST + b"content-length: 11\r\n\r\n")
            async with asyncio.timeout(30):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
                writer.write(b"hello world" + POST + b"connection: close\r\ncontent-length: 2\r\n\r\nhi")
                assert (await reader.read()).endswith(b'{"bytes":2}')
            writer.close()

    asyncio.run(run())


def test_headers_that_do_not_come_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_SECONDS", 0.05)

    async def run() -> None:
        async with serving(echo) as port:
            assert await say(port, b"POST / HTTP/1.1\r\nhost: x\r\n") == b""

    asyncio.run(run())


def test_a_body_that_does_not_come_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.05)

    async def run() -> None:
        async with serving(echo) as port:
            assert (await say(port, POST + b"connection: close\r\ncontent-length: 5\r\n\r\nhe")).startswith(b"HTTP/1.1 504 ")

    asyncio.run(run())


def test_who_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_IDLE_SECONDS", 0.05)

    async def run() -> None:
        gone = asyncio.Event()

        async def pour(exchange: Exchange) -> None:
            await exchange.start(200, {})
            try:
                while True:
                    await exchange.write(b"x" * 65_536)
            except ClientGone:
                gone.set()

        async with serving(pour) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(30):
                await gone.wait()
            writer.close()

    asyncio.run(run())


def test_a_hang_up_is_seen_while_the_answer_is_made() -> None:
    async def run() -> None:
        reading = asyncio.Event()
        gone = asyncio.Event()

        async def slow(exchange: Exchange) -> None:
            await exchange.read_body()
            reading.set()
            await exchange.gone()
            gone.set()

        async with serving(slow) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST + b"content-length: 2\r\n\r\nhi")
            async with asyncio.timeout(30):
                await reading.wait()
                writer.close()
                await gone.wait()

    asyncio.run(run())
