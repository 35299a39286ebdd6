"""Tool use as text, in the form of Hermes models, for chat templates that know nothing of tools."""

import json

from ..api import Tool

CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"


def describe_tools(tools: tuple[Tool, ...]) -> str:
    """What the system message says of the tools."""
    lines = [
        json.dumps(
            {
                "name": tool.name,
                **({} if tool.description is None else {"description": tool.description}),
                **({} if tool.parameters is None else {"parameters": tool.parameters}),
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )
        for tool in tools
    ]
    how = f'{CALL_OPEN}{{"name": <its name>, "arguments": <object>}}{CALL_CLOSE}'
    return "\n".join(
        [
            "You can call these functions:",
            *lines,
            f"To call one, answer with {how} and nothing else. Otherwise answer in words.",
        ]
    )


def call_text(name: str, arguments: str) -> str:
    """A call that the assistant made earlier. `arguments` is JSON text."""
    return f'{CALL_OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n{CALL_CLOSE}'


def result_text(content: str) -> str:
    """What a tool returned, as a user message."""
    return f"<tool_response>\n{content}\n</tool_response>"
