"""Requests to a server over HTTP, bounded in time and in size: a server that answers without end is an error."""

from __future__ import annotations

import asyncio
import json
import ssl
from functools import cache
from typing import Any

# What a server answered. It is other people's data: whoever asked picks out what it needs.
Json = Any

LARGEST = 16 * 2**20  # bytes of an answer; the greatest that we ask for, likelihoods of 256 tokens, has about 100 kB


class NoAnswer(OSError):  # noqa: N818 -- what happened, not a fault of the code
    """A server was not reached, did not answer in time, or answered without end. It names the server."""


class BadStatus(NoAnswer):
    """A server answered with another status than 2xx. `said` is the beginning of its answer."""

    def __init__(self, code: int, reason: str, said: str) -> None:
        super().__init__(f"HTTP Error {code}: {reason}")
        self.code = code
        self.said = said


def request_json(url: str, body: Json = None, timeout: float = 300) -> Json:
    """What a server answers to a GET, or to a POST of this body. Raises NoAnswer, or ValueError if it is not JSON."""
    return json.loads(fetched(url, body, timeout))


def fetched(url: str, body: Json = None, timeout: float = 300) -> bytes:
    """The whole answer, within `timeout` seconds from the first to the last byte. Raises NoAnswer."""
    import httpx  # 0.1 s: only when a server is asked

    async def within_time() -> bytes:
        # One limit on everything: those of httpx start anew with each byte, so that a server that drips meets them.
        return await asyncio.wait_for(_fetched(url, body, timeout), timeout)

    try:
        if (httpx.URL(url).port or 0) > 65535:
            raise NoAnswer(f"{url} names no port")  # which sockets refuse with an OverflowError
        return asyncio.run(within_time())
    except (TimeoutError, httpx.TimeoutException) as error:
        raise NoAnswer(f"timed out: no whole answer from {url} within {timeout:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NoAnswer(_reason(error)) from error


async def _fetched(url: str, body: Json, timeout: float) -> bytes:
    import httpx

    content = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    # trust_env: our own servers must not be asked through a proxy of the environment, nor with a password of ~/.netrc.
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
        said = answer.decode("utf-8", "replace")[:400]
        raise BadStatus(response.status_code, response.reason_phrase, said)
    return bytes(answer)


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
