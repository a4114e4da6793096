"""A stand-in for the Hugging Face hub: one repository, org/name, of the files in a folder."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as one repository, as huggingface.co does; `fetched` counts bytes by file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.gives_parts = folder, dict[str, int](), True
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def about(self, path: str) -> Any:
        """What the hub says of the repository, or of its files."""
        sizes = {
            file.relative_to(self.folder).as_posix(): file.stat().st_size
            for file in sorted(self.folder.rglob("*"))
            if file.is_file()
        }
        if "/tree/" in path:
            return [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
        return {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": name} for name in sizes]}


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/org/name"):
            self.send(200, json.dumps(self.server.about(self.path)).encode())
            return
        name = self.path.rpartition(f"/{COMMIT}/")[2]
        path = self.server.folder / name
        if not path.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        part = re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        content, status = path.read_bytes(), 200
        if part and not self.server.gives_parts:
            content, status = b"", 403
        elif part:
            content, status = content[int(part[1]) : int(part[2]) + 1], 206
        self.send(status, content, {"ETag": f'"{name.replace("/", "-")}-1"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, content: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            name = self.path.rpartition(f"/{COMMIT}/")[2]
            self.server.fetched[name] = self.server.fetched.get(name, 0) + len(content)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub_of(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's client asks the stand-in, and keeps what it fetches below `cache`."""
    from huggingface_hub import constants

    with Hub(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = server.url
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
        yield server
        server.shutdown()
