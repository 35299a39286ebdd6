"""What the router says about a request beside its body."""

import re
import uuid
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.datastructures import Headers

from ..errors import LLMPoolError

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SESSION = re.compile(r"[\x21-\x7e]{1,512}")
_FLOW = re.compile(r"[\x21-\x7e]{1,1024}")
_NUMBER = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True)
class CallHeaders:
    request_id: str
    session: str | None
    timeout_ms: int | None
    """From its arrival on; None: the instance's own limit."""
    max_total_tokens: int | None
    flow: str | None
    """Who competes as one for a slot; None: all who do not say."""
    episode_ms: int | None
    """To the end of its episode."""
    waited_ms: int | None
    """Elsewhere, before it came."""
    queue_limit: int | None


def read_headers(headers: Headers) -> CallHeaders:
    """Raises `invalid_request` that names the header. A request without an id gets one."""

    def number(name: str, unit: str = "a whole number") -> int | None:
        value = _pick(headers, name, _NUMBER, unit)
        return None if value is None else int(value)

    return CallHeaders(
        _pick(headers, "x-request-id", _ID, "1 to 128 letters, digits or . _ : -") or f"req_{uuid.uuid4()}",
        _pick(headers, "x-llmpool-session", _SESSION, "1 to 512 visible ASCII characters"),
        number("x-llmpool-timeout-ms", "a whole number of milliseconds"),
        number("x-llmpool-max-total-tokens", "a whole number of tokens"),
        _pick(headers, "x-llmpool-flow", _FLOW, "1 to 1024 visible ASCII characters"),
        number("x-llmpool-episode-ms"),
        number("x-llmpool-waited-ms"),
        number("x-llmpool-queue-limit"),
    )


def session_of_path(part: str) -> str:
    """A session's key as the last part of a raw path."""
    session = unquote(part) if re.fullmatch(r"(?:[^%]|%[0-9a-fA-F]{2})*", part) else ""
    if not _SESSION.fullmatch(session):
        raise LLMPoolError("invalid_request", "the session's key must be 1 to 512 visible ASCII characters")
    return session


def _pick(headers: Headers, name: str, pattern: re.Pattern[str], rule: str) -> str | None:
    values = headers.getlist(name)
    if not values:
        return None
    if len(values) == 1 and pattern.fullmatch(values[0]):
        return values[0]
    raise LLMPoolError("invalid_request", f"{name} must be {rule}", param=name)
