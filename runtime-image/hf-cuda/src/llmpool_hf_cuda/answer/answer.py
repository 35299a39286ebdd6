"""Sampled tokens to events."""

import hashlib

from ..api import FinishReason, Output, ToolCall
from .stop import StopDetector
from .token_text import Decode, TokenText
from .tool_parser import JsonScan, ParsedCall, Part, ToolParser


class Answer:
    """Text without stop strings and half characters, and tool calls."""

    def __init__(
        self, request_id: str, decode: Decode, *, stop: tuple[str, ...], tools: tuple[str, ...], json: bool, call_only: bool
    ) -> None:
        """
        `tools`: names that may be called. `json`: the answer is one JSON object or list, and over when that is. `call_only`: it is a call
        and nothing else: what is left of one that was cut belongs to nobody.
        """
        self._request_id = request_id
        self._text = TokenText(decode)
        self._stop = StopDetector(stop)
        self._tools = ToolParser(tools) if tools else None
        self._json = JsonScan() if json else None
        self._json_text = ""
        self._call_only = call_only
        self._calls = 0

    def push(self, token: int) -> tuple[list[Output], bool]:
        """At least one event per token, so that tokens are counted even when text is held back. True after a stop string or whole JSON."""
        text, stopped = self._stop.push(self._text.push(token))
        over = stopped or self._json_is_whole(text)
        return self._events(text, 1, last=False), over

    def end(self, tokens: int) -> list[Output]:
        """What was held back, with `tokens` that no event told yet."""
        return self._events(self._stop.flush(), tokens, last=True)

    def finish_reason(self, ended: FinishReason) -> FinishReason:
        return "tool_calls" if ended == "stop" and self._calls else ended

    def _events(self, text: str, tokens: int, *, last: bool) -> list[Output]:
        parts: list[Part] = self._tools.push(text) if self._tools else [text] if text else []
        if last and self._tools:
            parts += self._tools.flush()
        if self._call_only:
            parts = [part for part in parts if isinstance(part, ParsedCall)]
        if not parts:
            return [Output(tokens)] if tokens else []
        return [self._event(part, tokens if i == 0 else 0) for i, part in enumerate(parts)]

    def _event(self, part: Part, tokens: int) -> Output:
        if isinstance(part, str):
            return Output(tokens, text=part)
        index = self._calls
        self._calls += 1
        return Output(tokens, call=self._call(index, part), index=index)

    def _call(self, index: int, call: ParsedCall) -> ToolCall:
        """Nine letters and digits: the one form of id that all chat templates take. Unique by the request's id."""
        digest = hashlib.sha256(f"{self._request_id}:{index}".encode()).hexdigest()
        return ToolCall(digest[:9], call.name, call.arguments)

    def _json_is_whole(self, text: str) -> bool:
        if self._json is None:
            return False
        self._json_text += text
        return self._json_text[:1] in ("{", "[") and self._json.end(self._json_text) is not None
