"""One instance: its servers, its backend, and the way from Pending to Ready and at the end over Draining to nothing."""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .config import InstanceConfig
from .errors import FailureReason, StartError
from .server.app import InstanceApp, MetricsApp
from .server.auth import TokenCheck
from .server.connection import HttpServer

if TYPE_CHECKING:  # torch takes seconds to load, and ports open before
    from .backend import Backend

log = logging.getLogger(__name__)

CreateBackend = Callable[[InstanceConfig], "Backend"]


class Instance:
    """Ports are open from the start, so that probes are answered while a model loads."""

    def __init__(self, config: InstanceConfig, create: CreateBackend, report: Callable[[dict[str, Any]], None]) -> None:
        """`report`: to the supervisor, where there is one. Raises StartError."""
        self._config = config
        self._create = create
        self._report = report
        self._busy = False
        self._threads: int | None = None
        self._app = InstanceApp(config.id, config.sessions, config.requestTimeoutSeconds, TokenCheck(config.tokenFile), self._on_running)
        self._server = HttpServer(self._app)
        self._metrics = HttpServer(MetricsApp(self._app.metrics))
        self._loading: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._closed: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Raises StartError."""
        config = self._config
        port = await _opened("port", config.port, self._server, config.host)
        metrics_port = await _opened("metricsPort", config.metricsPort, self._metrics, config.host)
        self._report({"type": "listening", "port": port, "metricsPort": metrics_port})
        log.info("listening on %d, metrics on %d", port, metrics_port)

    async def load(self) -> None:
        """Loads the model and warms it up. Raises StartError; a drain ends it early, without an error."""
        self._loading = asyncio.create_task(self._load())
        try:
            await self._loading
        except asyncio.CancelledError:
            if self._app.status.state != "Draining":
                raise

    async def _load(self) -> None:
        self._become("Loading")
        # A thread cannot be stopped: a drain that comes now goes on without what is loaded.
        backend = await asyncio.to_thread(self._create, self._config)
        self._app.status.backend = backend
        if self._threads is not None:
            backend.set_threads(self._threads)
        self._become("WarmingUp")
        seconds, speed = await self._warm_up(backend)
        self._app.metrics.warmup.set(seconds)
        self._app.status.warmed_up(seconds, speed)
        self._become("Ready")
        message = {
            "type": "ready",
            "device": backend.device,
            "modelName": backend.model_name,
            "warmupSeconds": seconds,
            "tokensPerSecond": speed,
        }
        if backend.warning is not None:
            message["warning"] = backend.warning
            log.warning(backend.warning)
        self._report(message)
        log.info("ready: %s on %s, warm-up %.2f s", backend.model_name, backend.device, seconds)

    async def _warm_up(self, backend: "Backend") -> tuple[float, float]:
        """One real inference, within the time that any request gets."""
        limit = self._config.requestTimeoutSeconds
        try:
            async with asyncio.timeout(limit):
                return await backend.warmup(self._config.warmupPrompt)
        except TimeoutError as error:
            raise StartError(
                "WarmupFailed",
                f"the warm-up took longer than requestTimeoutSeconds ({limit}): use a smaller model, or raise it",
            ) from error
        except Exception as error:
            raise StartError("WarmupFailed", str(error)) from error

    def set_threads(self, count: int) -> None:
        """Counts from the end of loading on, if it comes earlier."""
        self._threads = count
        if self._app.status.backend is not None:
            self._app.status.backend.set_threads(count)

    async def drain(self, grace_seconds: float) -> None:
        """
        Takes no new work, lets what was accepted end within the grace, then ends everything and closes. Called again with 0, it hurries up.
        """
        if self._closed is None:
            self._become("Draining")
            if self._loading is not None:
                self._loading.cancel()
        if grace_seconds <= 0:
            self._hurry.set()
        idle = asyncio.create_task(self._app.idle())
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({idle, hurry}, timeout=max(0.0, grace_seconds), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        hurry.cancel()
        if self._closed is None:
            self._closed = asyncio.create_task(self._close())
        await self._closed

    async def _close(self) -> None:
        self._app.cut_all()
        await self._server.close()
        await self._metrics.close()
        if self._app.status.backend is not None:
            await self._app.status.backend.close()

    def _become(self, state: Any) -> None:
        self._app.status.become(state)
        self._report({"type": "state", "state": self._app.status.state})

    def _on_running(self, count: int) -> None:
        if self._busy != (count > 0):
            self._busy = count > 0
            self._report({"type": "running", "count": count})


async def _opened(field: str, port: int, server: HttpServer, host: str) -> int:
    try:
        return await server.listen(host, port)
    except OSError as error:
        reason: FailureReason = "PortInUse" if error.errno == errno.EADDRINUSE else "ConfigInvalid"
        raise StartError(reason, f"{field} {port} cannot be opened: {error}") from error
