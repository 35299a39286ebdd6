"""Finds tool calls in an answer as it comes."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..prompt.tool_text import CALL_CLOSE, CALL_OPEN
from .stop import overlap

LONGEST_CALL = 1_000_000
"""In characters; what is longer was no call."""


@dataclass(frozen=True)
class ParsedCall:
    name: str
    arguments: str
    """JSON text."""


Part = str | ParsedCall


class ToolParser:
    """
    `<tool_call>{…}</tool_call>` anywhere, and bare JSON (`{"name": …, "arguments": …}`, a list of such, several with `;` or newlines
    between) where the answer begins with it. What looked like a call and is none comes as text.

    States: `start` (nothing but white space yet), `text`, `tagged` (inside the tags), `json` (inside a bare value), `between` (behind a
    call, where separators belong to nobody).
    """

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: the functions that exist; bare JSON is a call only when it names one of them."""
        self._names = set(names)
        self._state = "start"
        self._held = ""
        self._scan = JsonScan()
        # Closing tags before this place of a tagged body are text within its JSON.
        self._from = 0
        # No more text comes.
        self._ended = False

    def push(self, piece: str) -> list[Part]:
        self._held += piece
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def flush(self) -> list[Part]:
        """What is left when the answer ends."""
        rest, self._held = self._held, ""
        tagged = self._state == "tagged"
        self._state = "text"
        if not tagged:
            return [rest] if rest else []
        # Models often end their turn in place of the closing tag.
        if calls := parse_calls(rest):
            return [*calls]
        at = rest.find(CALL_CLOSE)
        if at == -1:
            return [CALL_OPEN + rest]
        # The tag was taken for text, in a string that never ended: the call is damaged, and what follows it perhaps is not.
        end = at + len(CALL_CLOSE)
        self._ended = True
        return [CALL_OPEN + rest[:end], *self.push(rest[end:]), *self.flush()]

    def _step(self, parts: list[Part]) -> bool:
        """One move; False when more text is needed."""
        if self._state == "between":
            self._held = re.sub(r"^[\s;,]+", "", self._held)
        match self._state:
            case "start" | "between":
                return self._start()
            case "text":
                return self._text(parts)
            case "tagged":
                return self._tagged(parts)
            case _:
                return self._json(parts)

    def _start(self) -> bool:
        first = self._held.lstrip()[:1]
        if not first:
            return False
        self._state = "json" if first in "{[" else "text"
        self._scan = JsonScan()
        return True

    def _text(self, parts: list[Part]) -> bool:
        at = self._held.find(CALL_OPEN)
        certain = len(self._held) - overlap(self._held, CALL_OPEN) if at == -1 else at
        if certain > 0:
            parts.append(self._held[:certain])
        self._held = self._held[certain:]
        if at == -1:
            return False
        self._held = self._held[len(CALL_OPEN) :]
        self._state = "tagged"
        self._scan = JsonScan()
        self._from = 0
        return True

    def _tagged(self, parts: list[Part]) -> bool:
        at = self._closing_tag()
        if at == -1 and len(self._held) < LONGEST_CALL:
            return False
        body = self._held if at == -1 else self._held[:at]
        calls = parse_calls(body)
        if calls:
            parts.extend(calls)
        else:
            parts.append(CALL_OPEN + body + ("" if at == -1 else CALL_CLOSE))
        self._held = "" if at == -1 else self._held[at + len(CALL_CLOSE) :]
        self._state = "between" if calls else "text"
        return True

    def _closing_tag(self) -> int:
        """Where the first closing tag is that is not text within the body's JSON; -1 when it has not come."""
        is_json = not self._ended and self._held.lstrip()[:1] in ("{", "[")
        while (at := self._held.find(CALL_CLOSE, self._from)) != -1:
            if not is_json or self._scan.end(self._held[:at]) is not None or not self._scan.in_text:
                break
            self._from = at + 1
        return at

    def _json(self, parts: list[Part]) -> bool:
        end = self._scan.end(self._held)
        if end is None and len(self._held) < LONGEST_CALL:
            return False
        value = "" if end is None else self._held[:end]
        calls = [call for call in parse_calls(value) if call.name in self._names]
        if not calls:
            self._state = "text"
            return True
        parts.extend(calls)
        self._held = self._held[len(value) :]
        self._state = "between"
        return True


def parse_calls(text: str) -> list[ParsedCall]:
    """The calls that a JSON text holds; none when it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [_as_call(item) for item in (value if isinstance(value, list) else [value])]
    return [] if None in calls else [call for call in calls if call is not None]


def _as_call(value: Any) -> ParsedCall | None:
    """Also the forms `{"function": {…}}` and Llama's `parameters`."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    call = inner if isinstance(inner, dict) else value
    name = call.get("name")
    if not isinstance(name, str) or not name:
        return None
    arguments: Any = next((call[key] for key in ("arguments", "parameters") if call.get(key) is not None), {})
    if isinstance(arguments, str):
        return ParsedCall(name, arguments)
    if not isinstance(arguments, dict):
        return None
    return ParsedCall(name, json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))


class JsonScan:
    """Finds where the object or list ends that a text begins with. Looks at each character once, however often it is asked."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self.in_text = False
        """Whether what was looked at ends within a string."""
        self._escaped = False

    def end(self, text: str) -> int | None:
        """Index behind the closing bracket in `text`, which only grows from call to call; None while it is open."""
        while self._at < len(text):
            c = text[self._at]
            self._at += 1
            if self._escaped:
                self._escaped = False
            elif self.in_text:
                if c == "\\":
                    self._escaped = True
                elif c == '"':
                    self.in_text = False
            elif c == '"':
                self.in_text = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return self._at
        return None
