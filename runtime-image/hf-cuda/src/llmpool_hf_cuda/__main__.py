"""The process of one instance. Exit codes: 0 after a drain, 1 when it could not start, 70 after a fault of the device."""

import asyncio
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from .config import InstanceConfig, parse_config
from .errors import StartError
from .instance import Instance
from .supervisor import Supervisor

if TYPE_CHECKING:
    from .backend import Backend

ORPHAN_SECONDS = 5.0


def _create_backend(config: InstanceConfig) -> "Backend":
    """Imports what it needs when the ports are open, as that takes seconds."""
    # What the hub's client keeps beside the models; read when it is loaded. A home folder may be absent or read-only.
    os.environ.setdefault("HF_HOME", os.path.join(config.cacheDir, "hf"))
    from .model.folder import check_folder
    from .model.source import model_folder

    folder = check_folder(model_folder(config, os.environ))
    # Torch takes seconds to load: a model that is refused does not wait for it.
    from .backend import create_backend

    return create_backend(config, folder)


class _JsonLines(logging.Formatter):
    """One JSON object a line, as the other programs of LLMPool log."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": record.levelname.lower(),
            "time": int(record.created * 1000),
            "msg": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def main() -> None:
    if sys.argv[1:] not in ([], ["runtime"]):
        sys.exit("usage: python -m llmpool_hf_cuda [runtime], with the configuration in LLMPOOL_INSTANCE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Whatever else the libraries try: nothing is sent anywhere but to the hub that model.uri names.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Their bars are for terminals; the log is one JSON object a line.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    code = asyncio.run(_serve())
    # Threads that cannot be stopped (a model that is still loading) must not hold the process.
    logging.shutdown()
    os._exit(code)


async def _serve() -> int:
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    life = _Life(ended)
    life.supervisor = await Supervisor.connect(os.environ, life.told, life.orphaned)
    starting = asyncio.create_task(life.start())
    code = await ended
    starting.cancel()
    await life.supervisor.flush()
    return code


class _Life:
    """Signals and the supervisor's words, from the start to the end."""

    supervisor: Supervisor

    def __init__(self, ended: "asyncio.Future[int]") -> None:
        self._ended = ended
        self._instance: Instance | None = None
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        log = logging.getLogger(__name__)
        try:
            config = parse_config(os.environ.get("LLMPOOL_INSTANCE"))
            grace = config.requestTimeoutSeconds if config.drainSeconds is None else config.drainSeconds
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, lambda: self.end(0 if self._ending else grace))
            self._instance = Instance(config, _create_backend, self.supervisor.say)
            await self._instance.listen()
            await self._instance.load()
        except StartError as error:
            log.error(error.message)
            self.supervisor.say({"type": "failed", "reason": error.reason, "message": error.message})
            self._finish(1)
        except Exception:
            log.exception("the instance failed")
            self._finish(1)

    def told(self, message: dict[str, Any]) -> None:
        if message["type"] == "threads" and self._instance is not None:
            self._instance.set_threads(int(message["count"]))
        elif message["type"] == "drain":
            self.end(float(message["deadlineMs"]) / 1000)

    def orphaned(self) -> None:
        """Nobody will ever ask for anything again."""
        self.end(0)
        asyncio.get_running_loop().call_later(ORPHAN_SECONDS, lambda: os._exit(1))

    def end(self, grace_seconds: float) -> None:
        self._ending = True
        task = asyncio.create_task(self._end(grace_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, grace_seconds: float) -> None:
        try:
            if self._instance is not None:
                await self._instance.drain(grace_seconds)
            self._finish(0)
        except Exception:
            logging.getLogger(__name__).exception("the instance did not close cleanly")
            self._finish(1)

    def _finish(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


if __name__ == "__main__":
    main()
