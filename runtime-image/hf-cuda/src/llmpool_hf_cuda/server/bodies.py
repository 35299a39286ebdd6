"""
Bodies of the OpenAI routes: the rules of src/api/openai.ts. What no runtime can do is refused by its name; fields that are not
listed are ignored, as other servers of this API do.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..api import GenerateRequest, Message, Prompt, Sampling, Tool, ToolCall
from ..errors import LLMPoolError
from .headers import CallHeaders

MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_STOPS = 16
MAX_JSON_DEPTH = 32
MAX_JSON_NODES = 10_000
"""Free-form JSON (schemas) is walked by grammar and template code: it is bounded before that."""


def _wrong(message: str) -> PydanticCustomError:
    return PydanticCustomError("llmpool", "{message}", {"message": message})


def _only(message: str, *allowed: Any) -> BeforeValidator:
    """None, or one of `allowed`, which change nothing."""

    def check(value: Any) -> Any:
        if value is None or any(type(value) is type(a) and value == a for a in allowed):
            return value
        raise _wrong(message)

    return BeforeValidator(check)


def _bounded(value: Any) -> Any:
    """JSON of any shape, within bounds."""
    if not isinstance(value, dict):
        raise _wrong("must be an object")
    level: list[Any] = [value]
    nodes = 0
    depth = 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise _wrong(f"is nested deeper than {MAX_JSON_DEPTH} levels")
        children = [c for node in level for c in (node.values() if isinstance(node, dict) else node)]
        nodes += len(children)
        if nodes > MAX_JSON_NODES:
            raise _wrong(f"has more than {MAX_JSON_NODES} values")
        level = [child for child in children if isinstance(child, dict | list)]
    return value


def _kind_of_text(value: Any) -> str | None:
    return "~text" if isinstance(value, str) else "~parts" if isinstance(value, list) else None


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _TextPart(_Body):
    type: Annotated[str, BeforeValidator(lambda v: v if v == "text" else _raise('only parts of type "text" are supported'))]
    text: str


def _raise(message: str) -> Any:
    raise _wrong(message)


FreeObject = Annotated[Any, BeforeValidator(_bounded)]
Text = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[_TextPart], Tag("~parts")],
    Discriminator(
        _kind_of_text,
        custom_error_type="llmpool",
        custom_error_message="must be a string or an array of text parts",
    ),
]
"""A string, or text parts, which become one string with a line feed between them."""

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]
Name = Annotated[str, Field(max_length=256)]
Id = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[int, Field(ge=1, le=2_147_483_647)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _CalledFunction(_Body):
    name: FunctionName
    arguments: str


class _Call(_Body):
    id: Id
    type: Literal["function"] = "function"
    function: _CalledFunction


class _Said(_Body):
    role: Literal["system", "developer", "user"]
    content: Text
    name: Name | None = None


class _Answered(_Body):
    role: Literal["assistant"]
    content: Text | None = None
    name: Name | None = None
    tool_calls: Annotated[list[_Call], Field(max_length=MAX_TOOLS)] | None = None


class _Result(_Body):
    role: Literal["tool"]
    content: Text
    tool_call_id: Id


class _Unknown(_Body):
    role: Annotated[Any, BeforeValidator(lambda _: _raise("must be one of system, developer, user, assistant, tool"))]


def _kind_of_message(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kinds = {"system": "~said", "developer": "~said", "user": "~said", "assistant": "~answered", "tool": "~result"}
    role = value.get("role")
    return kinds.get(role, "~unknown") if isinstance(role, str) else "~unknown"


AnyMessage = Annotated[
    Annotated[_Said, Tag("~said")]
    | Annotated[_Answered, Tag("~answered")]
    | Annotated[_Result, Tag("~result")]
    | Annotated[_Unknown, Tag("~unknown")],
    Discriminator(_kind_of_message, custom_error_type="llmpool", custom_error_message="must be a message"),
]


class _Function(_Body):
    name: FunctionName
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: FreeObject | None = None
    strict: bool | None = None


class _Tool(_Body):
    type: Annotated[str, BeforeValidator(lambda v: v if v == "function" else _raise('only tools of type "function" are supported'))]
    function: _Function


def _tool_choice(value: Any) -> Any:
    if value is None or value in ("none", "auto", "required"):
        return value
    if isinstance(value, dict) and value.get("type") == "function" and isinstance(value.get("function"), dict):
        name = value["function"].get("name")
        if isinstance(name, str):
            return f"={name}"
    raise _wrong('must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}')


class _TextFormat(_Body):
    type: Literal["text"]


class _ObjectFormat(_Body):
    type: Literal["json_object"]


class _Schema(_Body):
    schema_: Annotated[FreeObject, Field(alias="schema")]


class _SchemaFormat(_Body):
    type: Literal["json_schema"]
    json_schema: _Schema


def _kind_of_format(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return {"text": "~text", "json_object": "~object", "json_schema": "~schema"}.get(kind) if isinstance(kind, str) else None


ResponseFormat = Annotated[
    Annotated[_TextFormat, Tag("~text")] | Annotated[_ObjectFormat, Tag("~object")] | Annotated[_SchemaFormat, Tag("~schema")],
    Discriminator(
        _kind_of_format,
        custom_error_type="llmpool",
        custom_error_message="must be one of text, json_object, json_schema",
    ),
]


def _stops(value: Any) -> Any:
    stops = [value] if isinstance(value, str) else value
    if value is None:
        return ()
    fits = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not fits or not all(isinstance(s, str) and 1 <= len(s) <= 1024 for s in stops):
        raise _wrong(f"must be a string or at most {MAX_STOPS} strings, each of 1 to 1024 characters")
    return tuple(stops)


def _no_bias(value: Any) -> Any:
    return None if value in (None, {}) else _raise("is not supported")


def _metadata(value: Any) -> Any:
    if value is None:
        return None
    fits = isinstance(value, dict) and len(value) <= 16
    return value if fits and all(isinstance(v, str) and len(v) <= 512 for v in value.values()) else _raise("takes at most 16 strings")


class _StreamOptions(_Body):
    include_usage: bool | None = None


class _Common(_Body):
    model: Annotated[str, Field(max_length=512)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**53), le=2**53)] | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_stops)] = ()
    user: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    metadata: Annotated[Any, BeforeValidator(_metadata)] = None
    n: Annotated[Any, _only("only 1 is supported: send one request for each answer", 1)] = None
    logit_bias: Annotated[Any, BeforeValidator(_no_bias)] = None

    @property
    def include_usage(self) -> bool:
        return self.stream is True and self.stream_options is not None and self.stream_options.include_usage is True

    def sampling(self) -> Sampling:
        """OpenAI's defaults where nothing is said: temperature 1, top_p 1."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            seed=self.seed,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
        )


class ChatBody(_Common):
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    tools: Annotated[list[_Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[Any, BeforeValidator(_tool_choice)] = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    functions: Annotated[Any, _only("is no longer supported: use tools")] = None
    function_call: Annotated[Any, _only("is no longer supported: use tool_choice")] = None
    audio: Annotated[Any, _only("audio is not supported")] = None
    modalities: list[Annotated[Any, _only('only "text" is supported', "text")]] | None = None

    @model_validator(mode="after")
    def _choice_exists(self) -> "ChatBody":
        choice = self.tool_choice
        names = [tool.function.name for tool in self.tools or []]
        if choice in (None, "none", "auto") or (choice == "required" and names) or (choice or "")[1:] in names:
            return self
        message = f"names a function that is not in tools ({', '.join(names)})" if names else "needs tools"
        raise PydanticCustomError("llmpool_tool_choice", "{message}", {"message": message})

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("llmpool_top_logprobs", "{message}", {"message": "needs logprobs: true"})
        return self

    @property
    def must_call(self) -> bool:
        """The answer has to be a call of a tool."""
        return self.tool_choice not in (None, "none", "auto")

    def wanted_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def prompt(self) -> Prompt:
        tools = tuple(Tool(t.function.name, t.function.description, t.function.parameters, t.function.strict) for t in self.tools or [])
        return Prompt(tuple(_message(m) for m in self.messages), tools, self.tool_choice or "auto" if tools else "none")

    def schema_of_answer(self) -> dict[str, Any] | None:
        if isinstance(self.response_format, _SchemaFormat):
            schema: dict[str, Any] = self.response_format.json_schema.schema_
            return schema
        return {"type": "object"} if isinstance(self.response_format, _ObjectFormat) else None

    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def _one_prompt(value: Any) -> Any:
    return value if isinstance(value, str) else _raise("must be one string: send one request for each prompt")


class CompletionBody(_Common):
    prompt_: Annotated[str, BeforeValidator(_one_prompt), Field(min_length=1, alias="prompt")]
    logprobs: Annotated[Any, _only("log probabilities are given by chat completions alone")] = None
    echo: Annotated[Any, _only("is not supported", False)] = None
    best_of: Annotated[Any, _only("only 1 is supported", 1)] = None
    suffix: Annotated[Any, _only("is not supported", "")] = None

    @property
    def must_call(self) -> bool:
        return False

    def prompt(self) -> Prompt:
        return Prompt(text=self.prompt_, tool_choice="none")

    def schema_of_answer(self) -> None:
        return None

    def wanted_logprobs(self) -> None:
        return None

    def most_tokens(self) -> int | None:
        return self.max_tokens


Body = ChatBody | CompletionBody
CHAT_BODY = TypeAdapter(ChatBody)
COMPLETION_BODY = TypeAdapter(CompletionBody)


def parse_body(kind: "TypeAdapter[Any]", value: Any) -> Body:
    """Raises `invalid_request`: `param` is the first field at fault, the message names up to three."""
    try:
        body: Body = kind.validate_python(value)
        return body
    except ValidationError as error:
        problems = [(_path(p["loc"], p["type"]), p["msg"]) for p in error.errors(include_url=False, include_input=False)]
        message = "; ".join(f"{path}: {text}" if path else text for path, text in problems[:3])
        raise LLMPoolError("invalid_request", message, param=problems[0][0] or None) from error


def request_of(headers: CallHeaders, body: Body) -> GenerateRequest:
    return GenerateRequest(
        request_id=headers.request_id,
        prompt=body.prompt(),
        session=headers.session,
        max_tokens=body.most_tokens(),
        max_total_tokens=headers.max_total_tokens,
        stop=body.stop,
        sampling=body.sampling(),
        response_schema=body.schema_of_answer(),
        top_logprobs=body.wanted_logprobs(),
    )


def _message(m: Any) -> Message:
    calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in getattr(m, "tool_calls", None) or [])
    content = m.content
    text = "\n".join(part.text for part in content) if isinstance(content, list) else content
    return Message(m.role, text, getattr(m, "name", None), calls, getattr(m, "tool_call_id", None))


_FIELD_OF = {"llmpool_tool_choice": "tool_choice", "llmpool_top_logprobs": "top_logprobs"}
"""Of checks over several fields: the one at fault."""


def _path(loc: tuple[int | str, ...], kind: str) -> str:
    """`messages[2].content[0].type`; the names that only tell unions apart begin with a tilde."""
    if kind in _FIELD_OF:
        return _FIELD_OF[kind]
    out = ""
    for part in loc:
        if isinstance(part, int):
            out += f"[{part}]"
        elif not part.startswith("~"):
            out += f".{part}" if out else part
    return out
