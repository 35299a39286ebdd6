"""The model's own chat template; what it does not know is said in another way."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..api import Message, Tool, ToolCall
from ..errors import LLMPoolError
from .control_tokens import MARKS, ControlTokens
from .tool_text import call_text, describe_tools, result_text

Render = Callable[[list[dict[str, Any]], list[dict[str, Any]] | None], str]
"""Messages and tools to the prompt up to where the model answers, as transformers does it (in Jinja's sandbox)."""


class ChatTemplate:
    """System text goes in front of the first user message where there is no system role, tools as text into the system message, …"""

    def __init__(self, source: str, render: Render, control: ControlTokens) -> None:
        self._render = render
        self._control = control
        self._developer = "developer" in source
        self._system = self._shows("probe_system", [{"role": "system", "content": "probe_system"}, _USER])
        self._tools = self._shows("probe_tool", [_USER], [_PROBE.as_template()])
        self._results = self._shows("probe_call", _CONVERSATION, [_PROBE.as_template()]) and self._shows(
            "probe_result", _CONVERSATION, [_PROBE.as_template()]
        )
        self.hermes_calls = not self._tools or "<tool_call>" in source
        """True where the template itself writes calls in Hermes' tags, so that forced calls do it too."""

    def render(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> list[str]:
        """
        The prompt in segments to be tokenised one by one. Raises `invalid_request` with the template's own reason when it refuses.
        """
        written = repr((messages, tools))
        mark = next((m for m in MARKS if m not in written), None)
        if mark is None:
            raise _refused("they hold all 32 noncharacters from U+FDD0")

        def disarm(text: str) -> str:
            return self._control.disarm(text, mark)

        safe = tuple(_map_message(message, disarm) for message in messages)
        safe_tools = tuple(_map_tool(tool, disarm) for tool in tools)
        shown = [tool.as_template() for tool in safe_tools] if self._tools and tools else None
        try:
            return self._render(self._adapt(safe, safe_tools), shown).split(mark)
        except Exception as error:  # templates raise what they like
            raise _refused(str(error)) from error

    def _adapt(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> list[dict[str, Any]]:
        out = [self._adapt_one(message) for message in messages]
        if not self._results:
            out = _join_results(out, messages)
        if tools and not self._tools:
            out = _with_system_text(out, describe_tools(tools))
        return out if self._system else _system_into_user(out)

    def _adapt_one(self, message: Message) -> dict[str, Any]:
        content = message.content or ""
        name = {} if message.name is None else {"name": message.name}
        if message.role == "developer" and not self._developer:
            return {"role": "system", "content": content, **name}
        if message.role == "tool":
            if not self._results:
                return {"role": "user", "content": result_text(content)}
            return {"role": "tool", "content": content, **name, "tool_call_id": message.tool_call_id}
        if not message.tool_calls:
            return {"role": message.role, "content": content, **name}
        if self._results:
            calls = [_template_call(call) for call in message.tool_calls]
            return {"role": message.role, "content": content, **name, "tool_calls": calls}
        texts = [content, *(call_text(call.name, call.arguments) for call in message.tool_calls)]
        return {"role": message.role, "content": "\n".join(text for text in texts if text)}

    def _shows(self, text: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> bool:
        try:
            return text in self._render(messages, tools)
        except Exception:  # templates raise what they like
            return False


_USER: dict[str, Any] = {"role": "user", "content": "q"}
_PROBE = Tool("probe_tool", "d", {"type": "object", "properties": {}})
_CONVERSATION: list[dict[str, Any]] = [
    _USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "probe_call", "arguments": {"a": 1}}}],
    },
    {"role": "tool", "content": "probe_result", "tool_call_id": "call00001", "name": "probe_call"},
]


def _template_call(call: ToolCall) -> dict[str, Any]:
    arguments: Any = call.arguments
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        pass  # not JSON: the template gets the text as it is
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _join_results(out: list[dict[str, Any]], written: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Results of several calls become one user message: many templates want user and assistant to take turns."""
    joined: list[dict[str, Any]] = []
    for i, message in enumerate(out):
        if i > 0 and written[i].role == written[i - 1].role == "tool":
            joined[-1] = {**joined[-1], "content": f"{joined[-1]['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _with_system_text(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    first = messages[0]
    return [{**first, "content": "\n\n".join(part for part in (first["content"], text) if part)}, *messages[1:]]


def _system_into_user(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates without a system role: its text goes in front of the next user message."""
    out: list[dict[str, Any]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user" and waiting:
            out.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            out.append(message)
    return [*out, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else out


def _map_message(message: Message, change: Callable[[str], str]) -> Message:
    return replace(
        message,
        content=None if message.content is None else change(message.content),
        name=None if message.name is None else change(message.name),
        tool_calls=tuple(ToolCall(call.id, change(call.name), change(call.arguments)) for call in message.tool_calls),
    )


def _map_tool(tool: Tool, change: Callable[[str], str]) -> Tool:
    return replace(
        tool,
        name=change(tool.name),
        description=None if tool.description is None else change(tool.description),
        parameters=_map_texts(tool.parameters, change),
    )


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it replaced, keys too: tools have the caller's words in keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_texts(item, change) for key, item in value.items()}
    return value


def _refused(reason: str) -> LLMPoolError:
    return LLMPoolError("invalid_request", f"the model's chat template refuses these messages: {reason}", param="messages")
