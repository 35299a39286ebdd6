"""What a request is to the engine, and what it yields: the counterpart of src/api/backend.ts."""

from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class Tool:
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_template(self) -> dict[str, Any]:
        """Keys in a fixed order: a template that prints tools as JSON prints the same for the same tools."""
        out: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            out["description"] = self.description
        if self.parameters is not None:
            out["parameters"] = self.parameters
        if self.strict is not None:
            out["strict"] = self.strict
        return {"type": "function", "function": out}


@dataclass(frozen=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON text."""

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Message:
    role: str
    content: str | None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Prompt:
    """Chat messages, which go through the model's template, or raw `text`, which is tokenised as it stands."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """auto, none, required, or `=NAME` for one function."""
    text: str | None = None

    @property
    def param(self) -> str:
        return "messages" if self.text is None else "prompt"


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True)
class GenerateRequest:
    request_id: str
    prompt: Prompt
    session: str | None = None
    """The KV cells to continue. None: a one-off, whose cells are freed at the end."""
    max_tokens: int | None = None
    max_total_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    response_schema: dict[str, Any] | None = None
    """The answer is JSON of this schema; None: free text."""
    top_logprobs: int | None = None
    """Log probabilities of each token and of so many likeliest ones in its place; None: of none."""


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Started:
    """Comes first, once the request has its cells."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class TokenLogprob:
    """As the model gives it: before temperature, penalties and grammar."""

    token: bytes
    logprob: float

    def as_json(self) -> dict[str, Any]:
        return {"token": self.token.decode(errors="replace"), "logprob": self.logprob, "bytes": list(self.token)}


@dataclass(frozen=True)
class TokenLogprobs:
    """Of one token, and of the likeliest in its place, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]

    def as_json(self) -> dict[str, Any]:
        return {**self.chosen.as_json(), "top_logprobs": [one.as_json() for one in self.top]}


@dataclass(frozen=True)
class Output:
    """Text or a tool call; `tokens` were generated since the event before (text may lag behind: stop strings, UTF-8)."""

    tokens: int
    text: str = ""
    call: ToolCall | None = None
    index: int = 0
    logprobs: TokenLogprobs | None = None
    """Of the token that made it, where they were asked for; the end token has none."""


@dataclass(frozen=True)
class Done:
    finish_reason: FinishReason
    usage: Usage


Event = Started | Output | Done
