"""The configuration of one instance: InstanceConfig of src/api/instance.ts."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import StartError

Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelConfig(_Strict):
    uri: str
    sha256: str
    quantization: Literal["", "nf4", "int8", "none"]


class WeightsConfig(_Strict):
    role: Literal["own", "map"]
    socket: str


class InstanceConfig(_Strict):
    pool: str
    id: str
    variant: str
    backend: Literal["hf-cuda"]
    host: str
    port: Port
    metricsPort: Port
    tokenFile: str
    model: ModelConfig
    modelName: str | None = None
    modelPath: str | None = None
    cacheDir: str
    stateDir: str
    contextTokens: Positive
    sessions: Positive
    requestTimeoutSeconds: Positive
    drainSeconds: Annotated[int, Field(ge=0)] | None = None
    sessionTTLSeconds: Positive
    warmupPrompt: str
    threads: Positive | None = None
    weights: WeightsConfig | None = None
    stub: dict[str, Any]


def parse_config(text: str | None) -> InstanceConfig:
    """Raises ConfigInvalid with every problem in one message."""
    try:
        value = json.loads(text or "")
    except ValueError as error:
        raise StartError(
            "ConfigInvalid",
            "LLMPOOL_INSTANCE must hold the instance's configuration as JSON (InstanceConfig in src/api/instance.ts)",
        ) from error
    try:
        return InstanceConfig.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise StartError("ConfigInvalid", f"LLMPOOL_INSTANCE: {problems}") from error
