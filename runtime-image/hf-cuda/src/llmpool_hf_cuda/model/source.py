"""`model.uri` to a folder on this machine."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..config import InstanceConfig
from ..errors import StartError

WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
"""What is fetched from a hub: weights and data. Code and pickles never arrive here."""


def model_folder(config: InstanceConfig, env: Mapping[str, str]) -> Path:
    """The folder, fetched if need be. Blocks. Raises StartError."""
    if config.modelPath is not None:
        return _existing(Path(config.modelPath), "modelPath")
    uri = config.model.uri
    if uri.startswith("file://"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise StartError("ConfigInvalid", f"model.uri {uri}: write file:///absolute/folder")
        return _existing(Path(unquote(parts.path)), "model.uri")
    if uri.startswith("pvc://"):
        raise StartError("ModelNotFound", f"model.uri {uri}: the claim is not mounted here: modelPath must say where it is")
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", uri)
    if match is None:
        raise StartError("ConfigInvalid", f"model.uri {uri}: write hf://org/repo[@revision], file:///folder or pvc://claim/folder")
    return _from_hub(match[1], match[2] or "main", Path(config.cacheDir) / "hub", env.get("HF_TOKEN") or None)


def _existing(path: Path, field: str) -> Path:
    if not path.is_dir():
        raise StartError("ModelNotFound", f"{field}: there is no folder {path}: hf-cuda loads a folder of safetensors")
    return path


def _from_hub(repo: str, revision: str, cache: Path, token: str | None) -> Path:
    """A commit that is in the cache needs no network; anything else is asked for, and offline taken from the cache."""
    pinned = re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    try:
        if pinned or os.environ.get("HF_HUB_OFFLINE"):
            try:
                return _snapshot(repo, revision, cache, token, local=True)
            except LocalEntryNotFoundError:
                pass
        return _snapshot(repo, revision, cache, token, local=False)
    except GatedRepoError as error:
        raise StartError("ModelNotFound", f"hf://{repo} is gated: accept its terms on the hub and give HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise StartError("ModelNotFound", f"hf://{repo} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise StartError("ModelNotFound", f"the hub has no {repo}, or HF_TOKEN may not read it") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        try:
            return _snapshot(repo, revision, cache, token, local=True)
        except LocalEntryNotFoundError:
            raise StartError(
                "ModelDownloadFailed",
                f"hf://{repo}@{revision} is not in {cache}, and the hub did not answer: {error}",
            ) from error


def _snapshot(repo: str, revision: str, cache: Path, token: str | None, *, local: bool) -> Path:
    path = snapshot_download(repo, revision=revision, cache_dir=cache, token=token, allow_patterns=WANTED, local_files_only=local)
    return Path(path)
