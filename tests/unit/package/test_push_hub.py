"""Pushing to the hub: the real client against a small stand-in for it.

The stand-in speaks the hub's protocol as huggingface_hub 1.33 uses it: it keeps what it is sent, checks each file's
sha256, and takes a commit only if it has every file that the commit names. It does not speak Xet, so these tests turn
that off: large files go as Git LFS, which the hub takes as well. What the hub itself says to all this is not tested.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quantpress.package import build

Pack = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
TOKEN = "hf_averysecrettoken"
WHERE, REPOSITORY = "hf://org/model", "org/model"


class Hub(ThreadingHTTPServer):
    """Repositories as lists of commits (path to content); `refuse` names a digest whose upload fails."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.refuse: str | None = None

    def files(self) -> dict[str, bytes]:
        commits = self.repositories[REPOSITORY]["commits"]
        return dict(commits[-1]) if commits else {}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        files = self.server.files() if REPOSITORY in self.server.repositories else {}
        if f"/api/models/{REPOSITORY}/tree/" in self.path:
            rows = [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in files.items()]
            self._answer(200, rows)
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            self._answer(200, {"id": REPOSITORY, "siblings": [{"rfilename": name} for name in files]})
        elif self.path.startswith(f"/{REPOSITORY}/resolve/"):
            self._file(files.get(self.path.split("/", 5)[5]))
        else:
            self._answer(404, {"error": self.path})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, content: bytes | None) -> None:
        self.send_response(404 if content is None else 200)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    def do_PUT(self) -> None:
        content, digest = self._body(), self.path.rpartition("/")[2]
        self.server.uploads.append(digest)
        if digest == self.server.refuse or hashlib.sha256(content).hexdigest() != digest:
            self._answer(400, {"error": "not taken"})
        else:
            self.server.large[digest] = content
            self._answer(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": [mode | {"shouldIgnore": False, "oid": None} for mode in modes]})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            self._answer(200, {"transfer": "basic", "objects": [self._wanted(o) for o in json.loads(body)["objects"]]})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": self.path})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        known = name in self.server.repositories
        self.server.repositories.setdefault(name, {"private": asked.get("visibility") != "public", "commits": []})
        self._answer(409 if known else 200, {"url": f"{self.server.url}/{name}", "name": name})

    def _wanted(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.server.large:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.server.url}/large/{asked['oid']}"}}}

    def _commit(self, operations: list[dict[str, Any]]) -> None:
        tree = self.server.files()
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    return self._answer(400, {"error": f"{value['path']} was not uploaded"})
                tree[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del tree[value["path"]]
        self.server.repositories[REPOSITORY]["commits"].append(tree)
        url = f"{self.server.url}/{REPOSITORY}/commit/{'0' * 40}"
        return self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def push(hub: Hub, quantpress_process: Run, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }

    def run(folder: Path, *options: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return quantpress_process("push", str(folder), WHERE, *options, env=environment | changed)

    return run


def test_a_package_is_one_commit(hub: Hub, push: Run, pack: Pack, tmp_path: Path) -> None:
    folder = pack()
    done = push(folder)
    assert done.returncode == 0, done.stderr
    assert hub.repositories[REPOSITORY]["private"] is True
    assert len(hub.repositories[REPOSITORY]["commits"]) == 1
    for name, content in hub.files().items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(content)
    assert build.verify(tmp_path / "back") == []
    assert TOKEN not in done.stdout + done.stderr


def test_files_of_an_earlier_package_go_in_the_same_commit(hub: Hub, push: Run, pack: Pack) -> None:
    """What the earlier package's manifest lists, and no other file of the repository."""
    folder = pack()
    about = {"kind": "package", "files": {"old[1].safetensors": {}, "README.md": {}, "config.json": {}}}
    before = {"old[1].safetensors": b"x", "README.md": b"", "manifest.json": json.dumps(about).encode()}
    others = {".gitattributes": b"y", "eval/notes.md": b"z", "old1.safetensors": b"not of the package"}
    hub.repositories[REPOSITORY] = {"private": False, "commits": [before | others]}
    done = push(folder)
    assert done.returncode == 0, done.stderr
    assert hub.files().keys() == {*build.contents(folder), *others}
    assert len(hub.repositories[REPOSITORY]["commits"]) == 2


def test_a_file_of_somebody_else_is_not_replaced(hub: Hub, push: Run, pack: Pack) -> None:
    there = {"README.md": b"mine", ".gitattributes": b"y"}
    hub.repositories[REPOSITORY] = {"private": False, "commits": [there]}
    done = push(pack())
    assert (done.returncode, hub.files()) == (2, there)
    assert "would be replaced: README.md" in done.stderr


def test_an_upload_that_breaks_off_publishes_nothing_and_goes_on(hub: Hub, push: Run, pack: Pack) -> None:
    folder = pack()
    hub.refuse = hashlib.sha256((folder / "model-2.safetensors").read_bytes()).hexdigest()
    done = push(folder, "--public")
    assert done.returncode == 1
    assert "nothing was published" in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.repositories[REPOSITORY] == {"private": False, "commits": []}
    arrived = set(hub.large)
    hub.refuse, hub.uploads = None, []
    assert push(folder).returncode == 0
    assert set(hub.files()) == set(build.contents(folder))
    assert not arrived & set(hub.uploads)


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"HF_TOKEN": "hf_wrong"}, 4, "set HF_TOKEN"),
        ({"HF_HUB_OFFLINE": "1"}, 4, "HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "nothing was published"),
    ],
    ids=["token", "offline", "no hub"],
)
def test_what_goes_wrong_is_said(changed: dict[str, str], code: int, words: str, push: Run, pack: Pack) -> None:
    done = push(pack(), **changed)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not re.search("hf_[a-z]", done.stdout + done.stderr)
