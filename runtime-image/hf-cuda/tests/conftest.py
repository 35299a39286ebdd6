"""Models of the tests, and backends in this process. One torch thread: test machines are shared."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is loaded
if "LLMPOOL_TEST_GPU" not in os.environ:  # `npm run test:gpu` runs some of these on a card
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from llmpool_hf_cuda.api import Done, GenerateRequest, Output, Prompt, Sampling
from llmpool_hf_cuda.backend import Backend, create_backend
from llmpool_hf_cuda.config import InstanceConfig
from llmpool_hf_cuda.model.folder import check_folder
from llmpool_hf_cuda.model.source import model_folder

torch.set_num_threads(1)

MakeConfig = Callable[..., InstanceConfig]


@pytest.fixture(scope="session")
def models() -> Path:
    return Path(os.environ["LLMPOOL_TEST_HF_CUDA"]) / "models"


@pytest.fixture(scope="session")
def tiny(models: Path) -> Path:
    return models / "tiny-llama"


@pytest.fixture(scope="session")
def smol(models: Path) -> Path:
    return models / "smollm2-135m-instruct"


@pytest.fixture
def config(tmp_path: Path) -> MakeConfig:
    def make(model: Path, quantization: str = "none", /, **changes: object) -> InstanceConfig:
        return InstanceConfig.model_validate(
            {
                "pool": "test",
                "id": "0",
                "variant": "default",
                "backend": "hf-cuda",
                "host": "127.0.0.1",
                "port": 0,
                "metricsPort": 0,
                "tokenFile": str(tmp_path / "token"),
                "model": {"uri": f"file://{model}", "sha256": "", "quantization": quantization},
                "cacheDir": str(tmp_path / "cache"),
                "stateDir": str(tmp_path / "state"),
                "contextTokens": 512,
                "sessions": 3,
                "requestTimeoutSeconds": 60,
                "sessionTTLSeconds": 600,
                "warmupPrompt": "test",
                "threads": 1,
                "stub": {},
                **changes,
            }
        )

    return make


@pytest.fixture
def backends() -> Iterator[Callable[[InstanceConfig], Backend]]:
    """Makes backends, and closes them at the end."""
    made: list[Backend] = []

    def make(config: InstanceConfig) -> Backend:
        made.append(create_backend(config, check_folder(model_folder(config, {}))))
        return made[-1]

    yield make
    for backend in made:
        asyncio.run(backend.close())


def request(text: str, tokens: int = 16, **changes: object) -> GenerateRequest:
    """A raw prompt at temperature 0."""
    fields = {"request_id": "r", "prompt": Prompt(text=text), "max_tokens": tokens, "sampling": Sampling(temperature=0)}
    return GenerateRequest(**{**fields, **changes})  # type: ignore[arg-type]


async def answer(backend: Backend, asked: GenerateRequest) -> tuple[str, Done]:
    texts: list[str] = []
    done: Done | None = None
    async for event in backend.generate(asked):
        if isinstance(event, Output):
            texts.append(event.text)
        elif isinstance(event, Done):
            done = event
    assert done is not None
    return "".join(texts), done
