"""A server that someone else runs: tried for all that a bench asks of it, with its key, before any work."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import StandIn, answering

from quantpress.artifact.served import Served
from quantpress.cli.main import main
from quantpress.errors import InputError
from quantpress.runtime import secrets
from quantpress_serve.bench import chat, likelihoods
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.starter import Starter
from quantpress_serve.bench.subject import Sides
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.server import foreign, key, server
from quantpress_serve.server.foreign import Address
from quantpress_serve.workload.workload import load_workload

KEY = "sesame-open-7351"
PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"
UNKNOWN: Served = likelihoods.unknown("nobody asked")


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of another test, and none of the caller's."""
    monkeypatch.setattr(secrets, "_told", set())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def attached(url: str, tokens: int = 0, **more: Any) -> server.Server:
    return foreign.attach(Address(url=url, **more), Path("/m"), tokens)


def refusal(stand_in: StandIn, tokens: int = 0, **more: Any) -> str:
    """What people read of a server that is refused."""
    with stand_in.up() as url, pytest.raises(InputError) as caught:
        attached(url, tokens, **more)
    assert KEY not in caught.value.render()
    return caught.value.render()


def test_a_server_is_asked_for_all_that_a_bench_needs_of_it() -> None:
    stand_in = StandIn(max_model_len=512)
    with stand_in.up() as url:
        found = attached(f"{url}/v1/", tokens=512)
        assert (found.url, found.name) == (url, "m")
        found.require_healthy()
    asked = [path for path, _, _ in stand_in.seen]
    assert asked[:4] == ["/v1/models", "/health", "/v1/chat/completions", "/v1/completions"]
    as_in_the_load = {"stream": True, "ignore_eos": True, "repetition_penalty": 1.0, "temperature": 0}
    assert as_in_the_load.items() <= stand_in.seen[3][2].items()


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_gateway_needs_no_health(status: int) -> None:
    with StandIn(refuses={"/health": status}).up() as url:
        found = attached(url)
        assert found.facts.version is None
        found.require_healthy()


@pytest.mark.parametrize("status", [400, 404, 501])
def test_a_server_without_a_chat_is_asked_plain_prompts(status: int) -> None:
    with StandIn(refuses={"/v1/chat/completions": status}).up() as url:
        answers = chat.answers_of("candidate", attached(url))
    assert {given.answer for given in answers} == {"Paris, of course."}


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ({"/v1/models": 403}, r"does not allow us to use /v1/models: HTTP Error 403.*\n.*--api-key-env"),
        ({"/v1/completions": 403}, "does not allow us to use /v1/completions"),
        ({"/v1/models": 404}, r"has no /v1/models: HTTP Error 404.*\n  next: check --vllm-url: the URL without /v1"),
        ({"/v1/completions": 404}, r"has no /v1/completions: .*\n  next: check --vllm-url"),
        ({"/v1/completions": 400}, r"at /v1/completions, HTTP Error 400: .*out of order"),
        ({"/v1/chat/completions": 500}, "at /v1/chat/completions, HTTP Error 500: .*out of order"),
        ({"/v1/completions": 429}, r"has no time for us.*\n  next: try again"),
        ({"/health": 503}, "says at /health that it is not well: HTTP Error 503: .*out of order"),
    ],
)
def test_each_refusal_is_told_apart_with_what_to_do(refuses: dict[str, int], words: str) -> None:
    said = refusal(StandIn(refuses=refuses))
    assert re.search(words, said), said


def test_a_key_that_is_missing_and_one_that_is_wrong_are_told_apart() -> None:
    said = refusal(StandIn(key=KEY))
    assert "asks for a key: HTTP Error 401" in said
    assert "export OPENAI_API_KEY" in said
    wrong = "wrong-key-9876"
    secrets.remember(wrong)
    said = refusal(StandIn(key=KEY), key=wrong)
    assert "does not take the key: HTTP Error 401" in said
    assert wrong not in said  # the server repeats it
    assert "***" in said


def test_a_model_of_another_name_is_told_with_what_is_served() -> None:
    said = refusal(StandIn(models=("one", "two")), model="three")
    assert "serves no model 'three'; it serves one, two" in said
    assert "--vllm-model" in said
    said = refusal(StandIn(models=("one", "two")), options=("--baseline-url", "--baseline-model"))
    assert "serves several models: one, two\n  next: name one of them with --baseline-model" in said
    with StandIn(models=("one", "two")).up() as url:
        assert attached(url, model="two").name == "two"
    # A gateway may list what it does not pass on.
    stand_in = StandIn(models=("one",), refuses={"/v1/completions": 404}, said="The model `one` does not exist.")
    assert "lists its model and then does not know it" in refusal(stand_in)


def test_a_request_longer_than_the_server_takes_is_found_before_the_load() -> None:
    said = refusal(StandIn(max_model_len=512), tokens=513)
    assert "at most 512 tokens (max_model_len), and the workload's longest has 513" in said


@pytest.mark.parametrize(("body", "words"), [(PAGE, "a page, as of a proxy"), (b"", "empty"), (b"ok", "the text 'ok'")])
def test_what_is_no_server_of_models_is_named(body: bytes, words: str) -> None:
    with answering(200, body) as url, pytest.raises(InputError, match=f"as a vLLM server: .*not JSON but {words}"):
        attached(url)
    for path in ("/v1/chat/completions", "/v1/completions"):
        with StandIn(pages={path: body}).up() as url, pytest.raises(InputError, match=f"at {path}.* {words}"):
            attached(url)
    with answering(502, body) as url, pytest.raises(InputError, match="has no time for us at /v1/models"):
        attached(url)


@pytest.mark.parametrize("said", [b"[]", b'{"data": []}', b'{"data": [{}]}', b'{"data": "x"}', b"null"])
def test_an_answer_that_lists_no_models_is_an_error(said: bytes) -> None:
    with answering(200, said) as url, pytest.raises(InputError, match="does not answer as a vLLM server"):
        attached(url)


@contextmanager
def redirecting(to: Callable[[str], str]) -> Iterator[str]:
    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", to(self.path))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirect) as one:
        threading.Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{one.server_port}"
        finally:
            one.shutdown()


def test_a_redirect_on_the_same_host_is_followed_once_and_for_all() -> None:
    """A POST would arrive as a GET."""
    with StandIn(key=KEY).up() as there, redirecting(lambda path: there + path) as here:
        assert attached(here, key=KEY).url == there


def test_a_redirect_to_another_host_is_refused_and_gets_no_key() -> None:
    stand_in = StandIn()
    with (
        stand_in.up() as there,
        redirecting(lambda path: there.replace("127.0.0.1", "localhost") + path) as here,
        pytest.raises(InputError, match=r"redirects to http://localhost:\d+/v1/models"),
    ):
        attached(here, key=KEY)
    assert [sent for _, sent, _ in stand_in.seen] == [None]
    with redirecting(lambda path: path) as here, pytest.raises(InputError, match=r"[Rr]edirects"):
        attached(here)


@pytest.mark.parametrize(
    "url", ["http://h/?key=1", "http://h/#m", "http://me:pw@h", "localhost:8000", "http://me:pw@[::1"]
)
def test_a_url_says_where_a_server_is_and_no_more(url: str) -> None:
    with pytest.raises(InputError) as caught:
        attached(url)
    assert "pw" not in caught.value.render()


def test_candidate_and_baseline_may_be_two_models_of_one_server(capsys: pytest.CaptureFixture[str]) -> None:
    load, paths = load_workload("smoke"), {"candidate": Path("/a"), "baseline": Path("/b")}
    with StandIn(models=("q", "m")).up() as url:
        Sides(vllm_url=url, vllm_model="q", baseline_url=f"{url}/", baseline_model="q").attached(paths, load)
        assert "the same model 'q'" in capsys.readouterr().err
        found = Sides(vllm_url=url, vllm_model="q", baseline_url=url, baseline_model="m").attached(paths, load)
        assert capsys.readouterr().err == ""
    assert {role: (one.name, str(one.path)) for role, one in found.items()} == {
        "candidate": ("q", "/a"),
        "baseline": ("m", "/b"),
    }
    for sides in (Sides(baseline_url=url), Sides(vllm_model="q"), Sides(vllm_url=url, baseline_model="m")):
        with pytest.raises(InputError, match="goes with"):
            sides.attached(paths, load)


def test_the_key_is_read_from_the_variable_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key.read_key(None) is None
    with pytest.raises(InputError, match="has no variable MY_KEY"):
        key.read_key("MY_KEY")
    monkeypatch.setenv("MY_KEY", "")
    with pytest.raises(InputError, match="or it is empty"):
        key.read_key("MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    assert (key.read_key("MY_KEY"), key.read_key(None)) == (KEY, "another")
    assert secrets.without_secrets(f"{KEY} another") == "*** ***"
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    with pytest.raises(InputError, match="the value of MY_KEY is no key") as caught:
        key.read_key("MY_KEY")
    assert KEY not in caught.value.render()


@pytest.mark.parametrize("given", ["sk-proj-12ab", "ghp12abCD", "a b"])
def test_a_key_in_place_of_a_variables_name_is_not_repeated(given: str) -> None:
    with pytest.raises(InputError) as caught:
        key.read_key(given)
    assert given not in caught.value.render()


def test_the_key_goes_to_every_request_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also to the load generator (here one that writes down what it was given), by its environment alone."""
    monkeypatch.setenv("MY_CREDENTIAL", KEY)
    stand_in = StandIn(key=KEY, failing=lambda number, body: "echo" in body, said=f"no such thing, {KEY}")
    code = "import json, os, sys; args = sys.argv; value = lambda name: args[args.index(name) + 1]\n"
    code += "print('sent', os.environ['OPENAI_API_KEY'], flush=True)\n"
    code += "seen = {'argv': args, 'no_proxy': os.environ.get('no_proxy'), 'netrc': os.environ['NETRC']}\n"
    code += f"json.dump(seen, open({str(tmp_path / 'seen.json')!r}, 'w'))\n"
    code += (
        "done = {'output_throughput': 5.0, 'completed': 1, 'failed': 1, 'errors': ['', os.environ['MY_CREDENTIAL']]}\n"
    )
    code += "json.dump(done, open(value('--result-dir') + '/' + value('--result-filename'), 'w'))"
    vllm = tmp_path / "vllm"
    vllm.write_text(f"#!{sys.executable}\n{code}\n")
    vllm.chmod(0o755)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with stand_in.up() as url:
        found = attached(url, key=key.read_key("MY_CREDENTIAL"))
        assert KEY not in repr(found)
        chat.answers_of("candidate", found)
        rows = likelihoods.by_server("candidate", found, Likelihoods(windows=[[1, 2]], likelihoods=[[-1.0]]))
        load = load_workload("smoke")
        cell = Generator(Starter(vllm, tmp_path / "log", tmp_path), load, tmp_path).measure(
            found, Turn("candidate", load.levels[0], 0)
        )
    assert {sent for _, sent, _ in stand_in.seen} == {f"Bearer {KEY}"}
    assert {"/v1/models", "/metrics", "/version"} <= {path for path, _, _ in stand_in.seen}
    assert "HTTP Error 500: Internal Server Error: no such thing, ***" in rows
    assert (tmp_path / "log").read_text() == "sent ***\n"
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert "127.0.0.1" in seen["no_proxy"].split(",")
    assert seen["netrc"] == "/dev/null"
    assert cell.errors == {"***": 1}
    said = capfd.readouterr()
    for written in (str(seen), cell.model_dump_json(), found.facts.model_dump_json(), said.out, said.err):
        assert KEY not in written


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--vllm-url", "http://127.0.0.1:9", "--api-key-env", "NO_SUCH_KEY"), "no variable NO_SUCH_KEY"),
        (("--api-key-env", "HOME"), "--api-key-env goes with --vllm-url"),
        (("--vllm-url", "http://127.0.0.1:9"), "does not answer as a vLLM server"),
    ],
)
def test_a_server_that_cannot_be_asked_ends_the_command_before_any_work(
    words: tuple[str, ...],
    said: str,
    make_model: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["bench", "rtn-w4a16", "--model", str(make_model()), "--out", str(tmp_path / "artifacts"), *words]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_one_server_is_not_measured_as_two_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "rtn-w4a16", "fp8-dynamic", "--vllm-url", "http://127.0.0.1:9"]) == 2
    assert "names the server of one checkpoint" in capsys.readouterr().err
