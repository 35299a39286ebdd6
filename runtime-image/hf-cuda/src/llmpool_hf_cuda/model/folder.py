"""Checks a model's folder before anything of it is loaded, and names what is in it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import StartError

EDGE_BYTES = 1 << 20
"""Of each end of a weights file goes into the fingerprint: a changed model has other bytes there, and 16 GB are not read for it."""


@dataclass(frozen=True)
class ModelFolder:
    path: Path
    config: dict[str, Any]
    fingerprint: str


def check_folder(path: Path) -> ModelFolder:
    """Raises StartError ModelInvalid that names the file at fault."""
    code = sorted(path.glob("*.py"))
    config = _json(path / "config.json")
    if code or "auto_map" in config:
        what = f"the file {code[0].name}" if code else "auto_map in config.json"
        raise _invalid(path, f"it brings its own code ({what}), which is never run here: use a model that transformers knows")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [file.name for file in sorted(path.iterdir()) if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles:
            raise _invalid(path, f"{pickles[0]} is a pickle, which is never loaded: use a repository or revision with safetensors")
        raise _invalid(path, "it has no *.safetensors file")
    index = path / "model.safetensors.index.json"
    if index.exists():
        missing = sorted(set(_json(index).get("weight_map", {}).values()) - {file.name for file in weights})
        if missing:
            raise _invalid(path, f"{missing[0]} is missing, which model.safetensors.index.json names")
    if not (path / "tokenizer.json").exists():
        raise _invalid(path, "it has no tokenizer.json")
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in weights:
        _hash_weights(path, file, digest)
    return ModelFolder(path, config, digest.hexdigest())


def _hash_weights(path: Path, file: Path, digest: "hashlib._Hash") -> None:
    try:
        with safe_open(file, framework="pt"):  # checks the header against the file's length
            pass
        size = file.stat().st_size
        with file.open("rb") as data:
            digest.update(f"{file.name}:{size}".encode())
            digest.update(data.read(EDGE_BYTES))
            data.seek(max(0, size - EDGE_BYTES))
            digest.update(data.read())
    except (SafetensorError, OSError) as error:
        raise _invalid(path, f"{file.name} is cut off or damaged ({error}): fetch it again") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _invalid(file.parent, f"{file.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise _invalid(file.parent, f"{file.name} holds no object")
    return value


def _invalid(path: Path, why: str) -> StartError:
    return StartError("ModelInvalid", f"the model in {path} cannot be served: {why}")
