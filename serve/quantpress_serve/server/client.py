"""Requests to a server over HTTP, bounded in time and in size: a server that answers without end is an error."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any

from quantpress.runtime.secrets import without_secrets

# What a server answered. It is other people's data: whoever asked picks out what it needs.
Json = Any

LARGEST = 16 * 2**20  # bytes of an answer; the greatest that we ask for, likelihoods of 256 tokens, has about 100 kB
_SAID = 4096  # bytes of an answer that is an error


@dataclass(frozen=True)
class Answer:
    """What a server answered, and the URL that did after any redirects."""

    body: bytes
    url: str

    def json(self) -> Json:
        """Raises ValueError if it is not JSON; it then says what it is instead."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its answer is not JSON but {self.kind}") from error

    @property
    def kind(self) -> str:
        """What an answer is that is not what was asked for, in words."""
        return _kind_of(self.body)


class NoAnswer(OSError):  # noqa: N818 -- what happened, not a fault of the code
    """A server was not reached, did not answer in time, or answered without end. It names the server."""


class BadStatus(NoAnswer):
    """A server answered with another status than 2xx. `reason` is what HTTP calls it, `said` what the server wrote, as
    far as it did, and `url` the one that answered after any redirects."""

    def __init__(self, code: int, reason: str, body: str, url: str) -> None:
        self.reason = without_secrets(reason)
        super().__init__(f"HTTP Error {code}: {self.reason}")
        self.code = code
        self.url = url
        self.said = without_secrets(_said(body))

    @property
    def whole(self) -> str:
        """Status and reason."""
        return f"{self}: {self.said}" if self.said else str(self)


def request_json(url: str, body: Json = None, timeout: float = 300, key: str | None = None) -> Json:
    """What a server answers to a GET, or to a POST of this body. Raises NoAnswer, or ValueError if it is not JSON."""
    return fetched(url, body, timeout, key).json()


def fetched(url: str, body: Json = None, timeout: float = 300, key: str | None = None) -> Answer:
    """The whole answer, within `timeout` seconds from the first to the last byte. Raises NoAnswer.

    `key` is sent as a bearer token, but not on to another host that the server redirects to.
    """
    import httpx  # 0.1 s: only when a server is asked

    async def within_time() -> Answer:
        # One limit on everything: those of httpx start anew with each byte, so that a server that drips meets them.
        return await asyncio.wait_for(_fetched(url, body, timeout, key), timeout)

    try:
        if (httpx.URL(url).port or 0) > 65535:
            raise NoAnswer(f"{url} names no port")  # which sockets refuse with an OverflowError
        return asyncio.run(within_time())
    except (TimeoutError, httpx.TimeoutException) as error:
        raise NoAnswer(f"timed out: no whole answer from {url} within {timeout:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(_reason(error)) from error


async def _fetched(url: str, body: Json, timeout: float, key: str | None) -> Answer:
    import httpx

    content = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    # trust_env: no server must be asked through a proxy of the environment, nor with a password of ~/.netrc.
    async with (
        httpx.AsyncClient(timeout=timeout, trust_env=False, verify=_trusted(), follow_redirects=True) as client,
        client.stream("POST" if content else "GET", url, content=content, headers=headers) as response,
    ):
        answer = bytearray()
        async for piece in response.aiter_raw():
            answer += piece
            if len(answer) > LARGEST:
                raise NoAnswer(f"{url} answers without end: more than {LARGEST / 2**20:.0f} MiB")
    if not response.is_success:
        said = answer[:_SAID].decode("utf-8", "replace")
        raise BadStatus(response.status_code, response.reason_phrase, said, str(response.url))
    return Answer(bytes(answer), str(response.url))


def _said(body: str) -> str:
    """The reason in the body of an error: the message of vLLM's JSON or of a gateway's, or the text's beginning."""
    found: Json
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return _kind_of(body.encode()) if body.lstrip().startswith("<") else " ".join(body.split())[:400]
    for name in ("error", "message", "detail"):
        found = found.get(name, found) if isinstance(found, dict) else found
    return " ".join((found if isinstance(found, str) else json.dumps(found)).split())[:400]


def _kind_of(body: bytes) -> str:
    """What an answer is that is not JSON, in words."""
    text = body[:400].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        return "a page, as of a proxy or a login in between"
    return f"the text {without_secrets(text)[:80]!r}" if text else "empty"


def _reason(error: BaseException) -> str:
    """What the system said, if that is what happened: httpx says no more than "All connection attempts failed"."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.errno is not None:
            return str(below)
        below = below.__cause__ or below.__context__
    return str(error) or type(error).__name__


@cache
def _trusted() -> ssl.SSLContext:
    """The authorities that this system trusts; httpx would take a list of its own."""
    return ssl.create_default_context()
