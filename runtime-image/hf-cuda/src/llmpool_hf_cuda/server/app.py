"""The calls of the instance protocol."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, unquote

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from ..errors import ClientGone, LLMPoolError
from .answers import send_error
from .auth import TokenCheck
from .bodies import CHAT_BODY, COMPLETION_BODY
from .connection import Exchange
from .headers import session_of_path
from .inference import Inference
from .metrics import InstanceMetrics
from .records import UsageRecords
from .slots import Slots
from .status import InstanceStatus

WAITING = 64
"""Requests that wait for a slot."""
MAX_RECORD_WAIT_SECONDS = 10.0


class InstanceApp:
    """One instance's HTTP side. Answers probes before there is a backend."""

    def __init__(
        self,
        instance_id: str,
        sessions: int,
        timeout_seconds: float,
        tokens: TokenCheck,
        on_running: Callable[[int], None],
    ) -> None:
        self.status = InstanceStatus(instance_id)
        self._slots = Slots(sessions, WAITING, on_running)
        self._records = UsageRecords()
        self._tokens = tokens
        self.metrics = InstanceMetrics(self.status, self._slots)
        self._inference = Inference(self.status, self._slots, self._records, self.metrics, timeout_seconds)

    async def idle(self) -> None:
        """Returns when nothing runs or waits."""
        await self._slots.idle()

    def cut_all(self) -> None:
        """Ends every request now: `instance_unavailable`."""
        self._inference.cut_all(LLMPoolError("instance_unavailable", "this instance is shutting down", retry_after_seconds=1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        if self.status.state == "Draining":
            exchange.answer_headers["connection"] = "close"
        try:
            await self._route(exchange)
        except ClientGone:
            pass
        except Exception as error:
            if exchange.started:
                exchange.cut()
            else:
                await send_error(exchange, error)

    async def _route(self, exchange: Exchange) -> None:
        path = exchange.path
        if path == "/healthz":
            return await _only("GET", exchange, self._healthz)
        if path == "/readyz":
            return await _only("GET", exchange, self._readyz)
        if not await self._tokens.accepts(exchange.headers.get("authorization")):
            raise LLMPoolError("unauthorized", "this instance needs its pool's token: Authorization: Bearer …")
        match path:
            case "/v1/chat/completions":
                return await _only("POST", exchange, lambda e: self._inference.serve(CHAT_BODY, e))
            case "/v1/completions":
                return await _only("POST", exchange, lambda e: self._inference.serve(COMPLETION_BODY, e))
            case "/v1/models":
                return await _only("GET", exchange, self._models)
            case "/internal/drain":
                return await _only("POST", exchange, self._drain)
        if found := re.fullmatch(r"/internal/requests/([^/]+)", path):
            request_id = unquote(found[1])
            return await _only("GET", exchange, lambda e: self._record(e, request_id))
        if found := re.fullmatch(r"/internal/sessions/([^/]+)(?:/(export|import))?", path):
            session = session_of_path(found[1])
            if found[2] == "export":
                return await _only("POST", exchange, lambda e: self._export(e, session))
            if found[2] == "import":
                return await _only("POST", exchange, lambda e: self._import(e, session))
            return await _only("DELETE", exchange, lambda e: self._delete(e, session))
        raise LLMPoolError("not_found", "an instance has no such path")

    async def _healthz(self, exchange: Exchange) -> None:
        await exchange.send_json(200, {**self.status.identity(), "state": self.status.state})

    async def _readyz(self, exchange: Exchange) -> None:
        await exchange.send_json(200 if self.status.state == "Ready" else 503, self.status.readiness())

    async def _models(self, exchange: Exchange) -> None:
        name = self.status.for_work().model_name
        model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "llmpool"}
        await exchange.send_json(200, {"object": "list", "data": [model]})

    async def _drain(self, exchange: Exchange) -> None:
        self.status.become("Draining")
        running, waiting = self._slots.running, self._slots.waiting
        await exchange.send_json(200, {"state": self.status.state, "running": running, "waiting": waiting})

    async def _record(self, exchange: Exchange, request_id: str) -> None:
        given = parse_qs(exchange.query.decode("latin-1")).get("wait_s", ["0"])[0]
        if not re.fullmatch(r"\d{1,9}(\.\d*)?", given):
            raise LLMPoolError("invalid_request", "wait_s must be a number of seconds", param="wait_s")
        record = await self._records.find(request_id, min(float(given), MAX_RECORD_WAIT_SECONDS))
        if record is not None:
            await exchange.send_json(200, record.as_json())
            return
        unknown = LLMPoolError("not_found", "this process has not seen that request, or has forgotten it")
        await send_error(exchange, unknown, self.status.identity())

    async def _delete(self, exchange: Exchange, session: str) -> None:
        backend = self.status.for_sessions()
        async with self._slots.hold(session, needs_slot=False):
            if not await backend.delete_session(session):
                raise LLMPoolError("not_found", "this instance holds no such session")
        await exchange.send_json(200, {"deleted": True})

    async def _export(self, exchange: Exchange, session: str) -> None:
        backend = self.status.for_sessions()
        async with self._slots.hold(session, needs_slot=False):
            parts = await backend.export_session(session)
            part = await asyncio.to_thread(next, parts, None)
            await exchange.start(200, {"content-type": "application/octet-stream"})
            while part is not None:
                await exchange.write(part)
                part = await asyncio.to_thread(next, parts, None)
            await exchange.write(b"", last=True)

    async def _import(self, exchange: Exchange, session: str) -> None:
        backend = self.status.for_sessions()
        async with self._slots.hold(session, needs_slot=False):
            await backend.import_session(session, exchange.body_parts())
        await exchange.send_json(200, {"imported": True})


class MetricsApp:
    """`GET /metrics` on a port of its own, without a token: no label says anything about a prompt or a session."""

    def __init__(self, metrics: InstanceMetrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        known = exchange.path == "/metrics"
        status = 200 if known and exchange.method == "GET" else 405 if known else 404
        data = generate_latest(self._metrics.registry) if status == 200 else b""
        await exchange.start(status, {"content-type": CONTENT_TYPE_LATEST, "content-length": str(len(data))})
        await exchange.write(data, last=True)


async def _only(method: str, exchange: Exchange, call: Callable[[Exchange], Awaitable[None]]) -> None:
    if exchange.method != method:
        exchange.answer_headers["allow"] = method
        raise LLMPoolError("method_not_allowed", f"use {method} here")
    await call(exchange)
