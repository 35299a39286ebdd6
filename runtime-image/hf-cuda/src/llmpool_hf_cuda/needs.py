"""What of the package's needs this Python lacks, as JSON: `python -m llmpool_hf_cuda.needs`. Needs nothing itself, and loads nothing."""

import importlib.util
import json
import sys

OLDEST = (3, 11)
MODULES = (
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "llguidance",
    "numpy",
    "prometheus_client",
    "pydantic",
    "safetensors",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
)
"""As pyproject.toml has them."""


def main() -> None:
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    version = ".".join(map(str, sys.version_info[:3]))
    print(json.dumps({"version": version, "old": sys.version_info < OLDEST, "missing": missing}))


if __name__ == "__main__":
    main()
