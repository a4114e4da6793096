"""Servers that answer without end, drip or break off: an error that names the server, in bounded time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import answering

from quantpress.errors import InputError
from quantpress_serve.server import client, foreign, server
from quantpress_serve.server.client import BadStatus, NoAnswer
from quantpress_serve.server.foreign import Address

Speak = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@contextmanager
def speaking(speak: Speak) -> Iterator[str]:
    """The URL of a server that says to each caller what `speak` sends, whatever was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # the listener was closed
                while True:
                    caller = listener.accept()[0]
                    with caller, suppress(OSError):  # the caller has gone
                        caller.recv(65536)
                        speak(caller)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def without_end(caller: socket.socket) -> None:
    caller.sendall(HEAD)
    while True:
        caller.sendall(b" " * 2**20)


def drips_its_answer(caller: socket.socket) -> None:
    caller.sendall(HEAD)
    while True:
        caller.sendall(b" ")
        time.sleep(0.05)


def drips_its_headers(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        caller.sendall(b"a")
        time.sleep(0.05)


def says_nothing(caller: socket.socket) -> None:
    caller.recv(1)  # until the caller goes


def breaks_off(caller: socket.socket) -> None:
    caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


@pytest.mark.parametrize("speak", [drips_its_answer, drips_its_headers, says_nothing])
def test_an_answer_that_never_ends_is_an_error_in_time(speak: Speak) -> None:
    with speaking(speak) as url:
        started = time.monotonic()
        with pytest.raises(NoAnswer, match=f"timed out: no whole answer from {url} within 0.5 s"):
            client.fetched(url, timeout=0.5)
        assert time.monotonic() - started < 5


def test_an_answer_of_any_length_is_an_error_that_names_the_server(tmp_path: Path) -> None:
    with speaking(without_end) as url:
        with pytest.raises(NoAnswer, match=f"{url} answers without end: more than 16 MiB"):
            client.fetched(url)
        with pytest.raises(InputError, match=f"{url} does not answer as a vLLM server: .* answers without end"):
            foreign.attach(Address(url=url), tmp_path)
        assert not server.healthy(url)


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with speaking(breaks_off) as url, pytest.raises(NoAnswer):
        client.request_json(url)


def test_a_status_that_is_an_error_has_what_the_server_said() -> None:
    with answering(500, b"it is broken") as url, pytest.raises(BadStatus) as caught:
        client.request_json(url, {"prompt": "?"})
    assert str(caught.value) == "HTTP Error 500: Internal Server Error"
    assert (caught.value.code, caught.value.said) == (500, "it is broken")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://127.0.0.1/", "http://127.0.0.1:99999999/"])
def test_what_is_no_url_is_no_answer(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not answer as a vLLM server"):
        foreign.attach(Address(url=url), tmp_path)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.free_port()}")
    with answering(200, b"{}") as url:
        assert client.request_json(url) == {}


def test_an_answer_that_is_nested_too_deeply_is_no_traceback() -> None:
    deep = "[" * 4000
    with pytest.raises(ValueError, match="its answer is not JSON"):
        client.Answer(deep.encode(), "http://here").json()
    assert BadStatus(500, "Error", deep, "http://here").said.startswith("[[[")
    assert not foreign._is_piece(f"data: {deep}")
