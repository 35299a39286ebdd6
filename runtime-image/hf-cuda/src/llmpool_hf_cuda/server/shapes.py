"""How each route writes its answer: whole, and as frames of a stream."""

import json
from dataclasses import dataclass
from typing import Any

from ..api import FinishReason, Output, TokenLogprobs, ToolCall
from .records import Record


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Shape:
    """Frames are complete SSE events."""

    chat: bool
    request_id: str
    model: str
    created: int
    """Unix seconds."""
    include_usage: bool
    """Then every other chunk says `"usage": null`, as OpenAI's do."""
    call_only: bool
    """The answer has to be a call: without text its content is null, even when the call was cut."""

    def whole(
        self, text: str, calls: list[ToolCall], logprobs: list[TokenLogprobs], finish: FinishReason, record: Record
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0}
        if self.chat:
            content = None if not text and (calls or self.call_only) else text
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if calls:
                message["tool_calls"] = [call.as_json() for call in calls]
            choice["message"] = message
        else:
            choice["text"] = text
        choice |= {"logprobs": _logprobs(logprobs), "finish_reason": finish}
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": record.usage()}

    def first(self) -> str:
        """The frame before the first text; empty where the route has none."""
        return self._frame({"delta": {"role": "assistant", "content": ""}}) if self.chat else ""

    def output(self, event: Output) -> str:
        """Empty where there is nothing to tell: text may lag behind its tokens."""
        if event.call is not None:
            delta = {"tool_calls": [{"index": event.index, **event.call.as_json()}]}
            return self._frame({"delta": delta}, logprobs=event.logprobs) if self.chat else ""
        if not event.text and event.logprobs is None:
            return ""
        return self._frame({"delta": {"content": event.text}} if self.chat else {"text": event.text}, logprobs=event.logprobs)

    def last(self, finish: FinishReason) -> str:
        return self._frame({"delta": {}} if self.chat else {"text": ""}, finish)

    def usage(self, record: Record) -> str:
        chunk = {**self._head(self._kind()), "choices": [], "usage": record.usage()}
        return f"data: {compact(chunk)}\n\n" if self.include_usage else ""

    def _frame(self, content: dict[str, Any], finish: FinishReason | None = None, logprobs: TokenLogprobs | None = None) -> str:
        choice = {"index": 0, **content, "logprobs": _logprobs([] if logprobs is None else [logprobs]), "finish_reason": finish}
        chunk: dict[str, Any] = {**self._head(self._kind()), "choices": [choice]}
        if self.include_usage:
            chunk["usage"] = None
        return f"data: {compact(chunk)}\n\n"

    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.request_id}", "object": kind, "created": self.created, "model": self.model}


def _logprobs(tokens: list[TokenLogprobs]) -> dict[str, Any] | None:
    return {"content": [token.as_json() for token in tokens], "refusal": None} if tokens else None
