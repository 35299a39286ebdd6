"""A repository of a hub: what is fetched of it, and that it is there without the hub afterwards."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import os, sys
from llmpool_hf_cuda.config import parse_config
from llmpool_hf_cuda.errors import StartError
from llmpool_hf_cuda.model.folder import check_folder
from llmpool_hf_cuda.model.source import model_folder
try:
    folder = check_folder(model_folder(parse_config(sys.argv[1]), os.environ)).path
    print("ok", *sorted(file.name for file in folder.iterdir()))
except StartError as error:
    print(error.reason, error.message)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if path in (f"/api/models/org/tiny/revision/{COMMIT}", "/api/models/org/tiny/revision/main"):
            siblings = [{"rfilename": file, "size": len(data)} for file, data in self.files.items()]
            self._send(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode(), "application/json")
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in self.files.items()
            ]
            self._send(json.dumps(tree).encode(), "application/json")
        elif path == f"/org/tiny/resolve/{COMMIT}/{name}" and name in self.files:
            self.asked.append(name)
            self._send(self.files[name], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("content-length", "0")
            self.end_headers()

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def hub(tiny: Path) -> Iterator[tuple[str, type[Hub]]]:
    Hub.files = {file.name: file.read_bytes() for file in tiny.iterdir()}
    Hub.files |= {"modeling_evil.py": b"print('ran')", "pytorch_model.bin": b"pickle", "notes.md": b"# notes"}
    Hub.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Hub
    server.shutdown()
    server.server_close()


def test_only_data_is_fetched_and_a_pinned_commit_needs_no_hub(hub: tuple[str, type[Hub]], config: MakeConfig, tmp_path: Path) -> None:
    endpoint, served = hub

    def resolve(revision: str, endpoint: str) -> str:
        asked = config(tmp_path, model={"uri": f"hf://org/tiny@{revision}", "sha256": "", "quantization": ""})
        env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HTTP", "http"))}
        source = str(Path(__file__).parent.parent / "src")
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE, asked.model_dump_json()],
            env={**env, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    weights = "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert resolve("main", endpoint) == f"ok chat_template.jinja {weights}"
    assert not {"modeling_evil.py", "pytorch_model.bin", "notes.md"} & set(served.asked)
    assert resolve("v9", endpoint) == "ModelNotFound hf://org/tiny has no revision v9"
    nobody = "http://127.0.0.1:9"
    assert resolve(COMMIT, nobody).startswith("ok ")
    assert resolve("main", nobody).startswith("ok ")
    assert resolve("f" * 40, nobody).startswith("ModelDownloadFailed")
