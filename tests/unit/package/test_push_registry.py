"""Pushing to an OCI registry: the reference registry itself (Debian's docker-registry), where it is installed."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpress.package import build

Pack = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
REGISTRY = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(not REGISTRY, reason="needs a registry: apt-get install docker-registry")
ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}


def _get(url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=ACCEPT), timeout=10) as response:
        return bytes(response.read())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry that keeps its blobs in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config = {"version": 0.1, "log": {"level": "error"}, "storage": storage, "http": {"addr": address}}
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    assert REGISTRY
    log = subprocess.DEVNULL
    with subprocess.Popen([REGISTRY, "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log) as running:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    _get(f"http://{address}/v2/")
                    break
                except OSError:
                    assert running.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
            yield address
        finally:
            running.terminate()


def _manifest(address: str, tag: str = "v1") -> dict[str, Any]:
    return dict(json.loads(_get(f"http://{address}/v2/team/model/manifests/{tag}")))


def test_a_package_arrives_whole_and_only_once(registry: str, pack: Pack, tmp_path: Path, quantpress: Run) -> None:
    folder, where = pack(), f"oci://{registry}/team/model:v1"
    done = quantpress("push", str(folder), where, "--json")
    assert done.returncode == 0, done.stderr
    manifest = _manifest(registry)
    names = [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]]
    assert sorted(names) == build.contents(folder)
    assert manifest["artifactType"] == "application/vnd.quantpress.package.v1"
    for name, layer in zip(names, manifest["layers"], strict=True):
        blob = _get(f"http://{registry}/v2/team/model/blobs/{layer['digest']}")
        assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == layer["digest"]
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(blob)
    assert build.verify(tmp_path / "back") == []
    again = json.loads(quantpress("push", str(folder), where, "--json").stdout)
    assert again["sent"] == []
    assert again["digest"] == json.loads(done.stdout)["digest"]


def test_nothing_is_published_before_the_end(registry: str, pack: Pack, tmp_path: Path, quantpress: Run) -> None:
    """The registry cannot keep one of the blobs: its place for them is taken by a file."""
    folder, where = pack(), f"oci://{registry}/team/model:v1"
    digest = hashlib.sha256((folder / "model-2.safetensors").read_bytes()).hexdigest()
    taken = tmp_path / "registry" / "docker" / "registry" / "v2" / "blobs" / "sha256" / digest[:2] / digest
    taken.parent.mkdir(parents=True)
    taken.write_text("")
    done = quantpress("push", str(folder), where)
    assert done.returncode == 1
    assert "nothing was published" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(urllib.error.HTTPError) as caught:
        _manifest(registry)
    assert caught.value.code == 404
    taken.unlink()
    result = json.loads(quantpress("push", str(folder), where, "--json").stdout)
    assert "model-2.safetensors" in result["sent"]
    assert "model-1.safetensors" in result["already_there"]


def test_no_registry(pack: Pack, quantpress: Run) -> None:
    done = quantpress("push", str(pack()), "oci://127.0.0.1:9/team/model:v1")
    assert done.returncode == 1
    assert "nothing was published" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_tag_of_something_else_is_not_taken(registry: str, pack: Pack, quantpress: Run) -> None:
    place = f"http://{registry}/v2/team/model"
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2}
    with urllib.request.urlopen(urllib.request.Request(f"{place}/blobs/uploads/", method="POST")) as begun:
        session = begun.headers["Location"]
    digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    sent = urllib.request.Request(f"{session}&digest={digest}", b"{}", {"Content-Type": "application/octet-stream"})
    sent.method = "PUT"
    urllib.request.urlopen(sent).close()
    kind = "application/vnd.oci.image.manifest.v1+json"
    image = {"schemaVersion": 2, "mediaType": kind, "config": empty | {"digest": digest}, "layers": []}
    named = urllib.request.Request(f"{place}/manifests/v1", json.dumps(image).encode(), {"Content-Type": kind})
    named.method = "PUT"
    urllib.request.urlopen(named).close()
    done = quantpress("push", str(pack()), f"oci://{registry}/team/model:v1")
    assert (done.returncode, _manifest(registry)) == (2, image), done.stderr
    assert "the tag of something that is no package" in done.stderr
