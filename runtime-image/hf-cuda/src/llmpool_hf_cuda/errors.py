"""Every error that leaves the process: the table of src/api/errors.ts, as far as an instance uses it."""

from dataclasses import dataclass
from typing import Any, Literal

FailureReason = Literal[
    "OutOfMemory",
    "ModelNotFound",
    "ModelInvalid",
    "ModelDownloadFailed",
    "PortInUse",
    "ConfigInvalid",
    "WarmupFailed",
]


@dataclass(frozen=True)
class _Kind:
    status: int
    type: str
    retry: bool


ERRORS = {
    "invalid_request": _Kind(400, "invalid_request_error", False),
    "context_length_exceeded": _Kind(400, "invalid_request_error", False),
    "unauthorized": _Kind(401, "authentication_error", False),
    "not_found": _Kind(404, "invalid_request_error", False),
    "method_not_allowed": _Kind(405, "invalid_request_error", False),
    "payload_too_large": _Kind(413, "invalid_request_error", False),
    "budget_exhausted": _Kind(429, "insufficient_quota", False),
    "queue_full": _Kind(429, "rate_limit_error", True),
    "internal_error": _Kind(500, "server_error", False),
    "instance_unavailable": _Kind(503, "server_error", True),
    "request_timeout": _Kind(504, "server_error", False),
    "episode_deadline_exceeded": _Kind(504, "server_error", False),
}


class LLMPoolError(Exception):
    """Callers branch on `code`, never on the text."""

    def __init__(self, code: str, message: str, *, param: str | None = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds


class StartError(Exception):
    """Why the instance cannot start, in words that end in the cure."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ClientGone(Exception):
    """The client is gone, or takes nothing: there is nobody to tell."""


def error_answer(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers. What is no LLMPoolError gets a fixed text, so that no detail leaks."""
    known = error if isinstance(error, LLMPoolError) else LLMPoolError("internal_error", "internal error")
    kind = ERRORS[known.code]
    headers: dict[str, str] = {}
    if known.retry_after_seconds is not None:
        headers["retry-after"] = str(known.retry_after_seconds)
    if not kind.retry:
        headers["x-should-retry"] = "false"
    body = {"message": known.message, "type": kind.type, "code": known.code, "param": known.param}
    return kind.status, {"error": body}, headers
