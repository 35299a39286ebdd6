"""Where the instance is in its life."""

import time
import uuid
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LLMPoolError

if TYPE_CHECKING:
    from ..backend import Backend

State = Literal["Pending", "Loading", "WarmingUp", "Ready", "Draining"]

MEMORY = 0.9
"""Weight that an answer still has after the next one: the last ten or so count."""


class InstanceStatus:
    """Work is taken in Ready alone; sessions may still be read and moved while it drains."""

    def __init__(self, instance_id: str) -> None:
        self._id = instance_id
        self._boot = str(uuid.uuid4())
        self._started_at = time.monotonic()
        self.state: State = "Pending"
        self._warmup_seconds: float | None = None
        self._warmup_speed = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self.backend: Backend | None = None

    def become(self, state: State) -> None:
        """Draining is final."""
        if self.state != "Draining":
            self.state = state

    def warmed_up(self, seconds: float, tokens_per_second: float) -> None:
        self._warmup_seconds = seconds
        self._warmup_speed = tokens_per_second

    def answered(self, tokens: int, seconds: float) -> None:
        """What one answer took after its first token. Old ones fade; a long one counts for more than a short one."""
        self._tokens = self._tokens * MEMORY + tokens
        self._seconds = self._seconds * MEMORY + seconds

    def readiness(self) -> dict[str, Any]:
        if self.backend is None or self._warmup_seconds is None:
            return {"state": self.state}
        return {
            "state": self.state,
            "device": self.backend.device,
            "warmup_s": self._warmup_seconds,
            "logprobs": True,
            "decode": self.backend.decode,
            "tokens_per_second": self._tokens / self._seconds if self._seconds > 0 else self._warmup_speed,
        }

    def identity(self) -> dict[str, Any]:
        return {"id": self._id, "boot": self._boot, "uptime_s": time.monotonic() - self._started_at}

    def for_work(self) -> "Backend":
        """The backend for new work, or `instance_unavailable`."""
        if self.state == "Ready" and self.backend is not None:
            return self.backend
        raise self._unavailable()

    def for_sessions(self) -> "Backend":
        """The backend for what moves or frees sessions."""
        if self.state in ("Ready", "Draining") and self.backend is not None:
            return self.backend
        raise self._unavailable()

    def _unavailable(self) -> LLMPoolError:
        return LLMPoolError("instance_unavailable", f"this instance takes no work: it is {self.state}", retry_after_seconds=1)
