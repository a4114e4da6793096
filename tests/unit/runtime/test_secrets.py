"""What is secret is struck out on every way out, by value and by form."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.package import build
from quantpress.runtime import console, process, secrets
from quantpress.runtime.records import Stored

VALUE = "correct-horse-7351"


@pytest.mark.parametrize(
    "name",
    ["OPENAI_KEY", "GITHUB_PAT", "DB_PASS", "MYSQL_PWD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "npm_config__auth"],
)
def test_a_variable_named_like_a_secret_holds_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, VALUE)
    assert secrets.without_secrets(f"a {VALUE} b") == "a *** b"


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "MAX_TOKENS", "PATH", "KEYBOARD", "COMPASS", "SSH_AUTH_SOCK"])
def test_other_variables_do_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, VALUE)
    assert secrets.without_secrets(f"a {VALUE} b") == f"a {VALUE} b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://me:{}@proxy:3128"),
        ("PIP_INDEX_URL", "https://me:{}@index.example/simple"),
        ("UV_INDEX", "https://a.example/simple https://{}@b.example/simple"),
        ("DATABASE", "postgres://u:{}@db/x"),
    ],
)
def test_a_password_in_a_url_of_the_environment_is_one(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value.format(VALUE))
    assert VALUE not in secrets.without_secrets(f"Looking in indexes: {os.environ[name]}, with {VALUE}")
    monkeypatch.setenv(name, value.format("p%40ss%2Fword-7351"))
    assert secrets.without_secrets("the password is p@ss/word-7351") == "the password is ***"


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY@bucket/x",
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
        "ghp_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789",
        "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx",
        "Authorization: Bearer abcdef0123456789abcdef",
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIabc\n-----END EC PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_one(text: str) -> None:
    said = secrets.without_secrets(f"before {text} after")
    assert said.startswith("before ")
    assert said.endswith(" after")
    for part in re.findall(r"[A-Za-z0-9]{12,}", text.removeprefix("Authorization")):
        assert part not in said


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "git@host:org/name",
        "ssh://git@host/x",
        "a task-force, risk-free",
        "Bearer of news",
        "x@y",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert secrets.without_secrets(text) == text


def test_no_way_out_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("GITHUB_PAT", VALUE)
    for as_json in (False, True):
        console.use(as_json=as_json)
        console.show({"a": [f"x {VALUE}"]}, f"x {VALUE}")
    console.write(f"x {VALUE}")
    console.say(f"x {VALUE}")
    console.warn(f"x {VALUE}")
    console.complain(f"x {VALUE}")
    log = tmp_path / "tool.log"
    assert process.run(["bash", "-c", f"echo 'x {VALUE} \\xff'; printf '\\377'"], log) == 0
    Kept(said=f"x {VALUE}").save(tmp_path / "kept.json")
    shown = capsys.readouterr()
    kept = [log.read_bytes().decode("utf-8", "replace"), (tmp_path / "kept.json").read_text()]
    for text in (shown.out, shown.err, *kept):
        assert "***" in text
        assert VALUE not in text
    assert b"\xff" in log.read_bytes()


class Kept(Stored):
    SCHEMA_VERSION = 1
    said: str


# A tool that prints a secret and goes on: the live line shows the end of its log.
LIVE = """
import time
from pathlib import Path
from quantpress.errors import InputError
from quantpress.package import build
from quantpress.runtime import console, process
console.use()
log = Path("tool.log")
with console.step("working", log):
    process.run(["bash", "-c", "echo token $OPENAI_KEY; sleep 1.5"], log)
"""


def test_the_live_line_shows_no_secret(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    env = os.environ | {"OPENAI_KEY": VALUE, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", LIVE], cwd=tmp_path, env=env, stderr=child) as running:
        os.close(child)
        said = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # how a terminal ends whose other side has gone
                break
            said += piece
        assert running.wait() == 0
    os.close(parent)
    assert b"token ***" in said
    assert VALUE.encode() not in said


@pytest.mark.parametrize("storage", [f"s3://KEY:{VALUE}@bucket/x", f"https://host/x?X-Amz-Signature={VALUE}"])
def test_an_address_with_a_key_is_not_stored(storage: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--storage takes an address without") as caught:
        build.require_possible(build.Order(storage=storage), tmp_path / "package")
    assert VALUE not in caught.value.render()
