"""Pushing to a bucket: moto's S3 server, real HTTP, real boto3; clients and servers that die on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from support import Store

from quantpress.artifact import manifest
from quantpress.errors import CapabilityError
from quantpress.package import build, push_bucket

Pack = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECRET, BUCKET, WHERE = Store.SECRET, Store.BUCKET, "s3://models/team/v1"


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    try:
        yield made
    finally:
        for key in made.objects(""):
            made.client.delete_object(Bucket=BUCKET, Key=key)
        made.server.stop()


def test_a_package_arrives_whole_and_only_once(store: Store, pack: Pack, tmp_path: Path, quantpress: Run) -> None:
    folder = pack()
    done = quantpress("push", str(folder), WHERE, "--json", env=store.environment)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["sent"]) == set(build.contents(folder)) == store.objects().keys()
    assert json.loads(done.stdout)["sent"][-1] == "manifest.json"
    for name in store.objects():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        store.client.download_file(BUCKET, f"team/v1/{name}", str(tmp_path / "back" / name))
    assert build.verify(tmp_path / "back") == []
    before = store.objects()
    again = quantpress("push", str(folder), f"{WHERE}/", env=store.environment)
    assert again.stdout == f"{WHERE}/: published; 0 files sent, {len(before)} were there already\n"
    assert store.objects() == before


@pytest.mark.parametrize("dies", ["client", "server"])
def test_an_upload_that_breaks_off_publishes_nothing_and_goes_on(
    dies: str, store: Store, pack: Pack, made: Any, quantpress: Run
) -> None:
    shards = [made.checkpoint / f"model-{number:02}.safetensors" for number in range(40)]
    for path in shards:
        path.write_bytes(os.urandom(1_000_000))
    files = manifest.file_table(made.checkpoint)
    made.finished().model_copy(update={"files": files}).save(made.manifest_file)
    folder = pack()
    environment = {**os.environ, **store.environment}
    command = [sys.executable, "-m", "quantpress", "push", str(folder), WHERE]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(name.startswith("model-") for name in store.objects()):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    if dies == "client":
        running.send_signal(signal.SIGKILL)
    else:
        store.server.stop()
    _, errors = running.communicate(timeout=60)
    if dies == "server":
        assert running.returncode == 1, errors
        assert "nothing was published" in errors
        assert "run the same command again" in errors
        store.start()
    time.sleep(0.3)  # what the server had read whole before the client died may still arrive
    partly = store.objects()
    assert 0 < len(partly) < len(build.contents(folder))
    assert "manifest.json" not in partly
    done = quantpress("push", str(folder), WHERE, "--json", env=store.environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["already_there"]) == partly.keys()
    after = store.objects()
    assert after.keys() == set(build.contents(folder))
    assert {name: after[name] for name in partly} == partly


def test_a_file_that_arrived_otherwise_is_sent_again(store: Store, pack: Pack, quantpress: Run) -> None:
    folder = pack()
    size = (folder / "config.json").stat().st_size
    store.client.put_object(Bucket=BUCKET, Key="team/v1/config.json", Body=b"x" * size)
    done = quantpress("push", str(folder), WHERE, "--json", env=store.environment)
    assert "config.json" in json.loads(done.stdout)["sent"]


def test_what_stands_there_already_is_not_mixed_with_ours(store: Store, pack: Pack, quantpress: Run) -> None:
    store.client.put_object(Bucket=BUCKET, Key="team/v1/model-00099.safetensors", Body=b"x")
    folder = pack()
    done = quantpress("push", str(folder), WHERE, env=store.environment)
    assert done.returncode == 2
    assert "model-00099.safetensors" in done.stderr
    assert len(store.objects()) == 1


def test_a_folder_that_a_console_made_is_nothing(store: Store, pack: Pack, quantpress: Run) -> None:
    for marker in ("team/v1/", "team/v1/deploy/"):
        store.client.put_object(Bucket=BUCKET, Key=marker, Body=b"")
    assert quantpress("push", str(pack()), WHERE, env=store.environment).returncode == 0


def test_a_published_package_is_not_replaced_file_by_file(store: Store, pack: Pack, quantpress: Run) -> None:
    folder = pack()
    assert quantpress("push", str(folder), WHERE, env=store.environment).returncode == 0
    before = store.objects()
    other = pack(license="mit")
    done = quantpress("push", str(other), WHERE, env=store.environment)
    assert done.returncode == 2
    assert "holds another package already" in done.stderr
    assert store.objects() == before


@pytest.mark.parametrize(
    ("change", "where", "code", "words"),
    [
        ({}, "s3://nowhere/p", 2, "no bucket 'nowhere'"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, WHERE, 1, "nothing was published"),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, WHERE, 2, "Invalid endpoint: minio:9000"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, WHERE, 4, "set AWS_ACCESS_KEY_ID"),
        ({}, "s3://a/b c", 2, "not a destination"),
    ],
    ids=["no bucket", "no server", "no scheme", "no credentials", "spelling"],
)
def test_what_goes_wrong_is_said(
    change: dict[str, str],
    where: str,
    code: int,
    words: str,
    store: Store,
    pack: Pack,
    quantpress_process: Run,
    tmp_path: Path,
) -> None:
    nobody = {"HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"}
    done = quantpress_process("push", str(pack()), where, env={**store.environment, **nobody, **change})
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_who_may_list_and_not_put_is_told_so() -> None:
    """boto3's upload_file raises an error of its own, in whose context the answer is."""
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
    try:
        try:
            raise denied
        except ClientError as error:
            raise S3UploadFailedError(f"Failed to upload: {error}")  # noqa: B904 -- as boto3 does it
    except S3UploadFailedError as error:
        assert isinstance(push_bucket.explained(error, "b"), CapabilityError)


def test_without_the_library(pack: Pack, quantpress_process: Run, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "boto3.py").write_text("raise ImportError('hidden')")
    path = f"{tmp_path / 'hidden'}:{os.environ.get('PYTHONPATH', '')}"
    done = quantpress_process("push", str(pack()), WHERE, env={"PYTHONPATH": path})
    assert done.returncode == 4
    assert "pip install 'boto3" in done.stderr
