"""A server that someone else runs: tried, when it is named, for all that a bench will ask of it."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from quantpress.artifact.throughput import ServerFacts
from quantpress.errors import InputError, listed
from quantpress.runtime import console
from quantpress_serve.server import client
from quantpress_serve.server.client import BadStatus, Json
from quantpress_serve.server.server import NOT_OFFERED, Server, metrics_of, version_of

_LIST_S = 20  # for what a server knows by heart
_ANSWER_S = 180  # for a token; a server compiles kernels for its first request
# What a server says that has no chat, or none for this model, or none with log-probabilities: plain prompts do then.
NO_CHAT = (400, 404, 405, 422, 501)
_BUSY = (429, 502, 503, 504)
# As the load generator and the chat check ask, so that what the server does not take shows here.
_COMPLETION = {
    **{"prompt": "Hello", "max_tokens": 1, "temperature": 0, "repetition_penalty": 1.0, "ignore_eos": True},
    **{"stream": True, "stream_options": {"include_usage": True}},
}
_CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1, "temperature": 0, "logprobs": True}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is and what to ask it for. `options` are the names of the options that said so, for hints.

    `model` is the name by which it serves the model, None for the only one; `key` what it asks for, if it does.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    options: tuple[str, str] = ("--vllm-url", "--vllm-model")


def attach(address: Address, path: Path, tokens: int = 0) -> Server:
    """The server, tried. `path` is the folder of what it serves, `tokens` what its longest request will need.

    Raises InputError if it is not reached, does not let us in, or does not do what a bench asks of it; and for a URL
    with a password.
    """
    _require_plain(address)
    with console.step(f"trying the server at {address.url}") as step:
        url, models = _models(address)
        name = _chosen(address, models)
        _require_context(address, models[name], tokens)
        _require_ready(address, url)
        nothing_known = ServerFacts(command=f"({name}, served at {url})")
        found = Server(url=url, name=name, path=path, facts=nothing_known, key=address.key)
        can_chat = _can_chat(address, found, list(models))
        _require_completions(address, found, list(models))
        step.result = name if can_chat else f"{name}; it has no chat, plain prompts are asked instead"
        metrics = metrics_of(url, address.key)
        facts = ServerFacts(
            command=found.command,
            kv_cache_tokens=metrics.kv_cache_tokens,
            prefix_caching=metrics.prefix_caching,
            version=version_of(url, address.key),
        )
    return replace(found, facts=facts, started=metrics.started)


def _require_plain(address: Address) -> None:
    """Raises InputError for a URL that holds more than where the server is: it ends up in results and logs."""
    parts = _parts(address.url)
    if "@" in parts.netloc:
        raise InputError(
            "a server's URL with a user name or a password in it would end up in results and logs",
            hint="name the server without them; --api-key-env names the variable of a key",
        )
    if parts.query or parts.fragment:
        raise InputError(
            f"{address.options[0]} takes a URL without ? and #, which would end up in results and logs",
            hint=f"{address.options[0]} http://host:8000; --api-key-env names the variable of a key",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"{address.url} does not answer as a vLLM server: it is no http:// or https:// URL",
            hint=f"{address.options[0]} http://host:8000",
        )


def _parts(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError as error:  # an IPv6 address without its brackets
        shown = "what was given" if "@" in url else url
        raise InputError(f"{shown} is no URL: {error}", hint="http://host:8000, http://[::1]:8000") from error


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


def _models(address: Address, moves: int = 3) -> tuple[str, dict[str, Json]]:
    """Where the server is after at most `moves` redirects, and what it says of each model by its name."""
    asked = f"{_base(address.url)}/v1/models"
    try:
        answer = client.fetched(asked, timeout=_LIST_S, key=address.key)
        url = _moved(address, asked, answer.url)
        models = {str(model["id"]): model for model in answer.json()["data"]}
    except BadStatus as error:
        if error.code == 401 and moves and (moved := _moved(address, asked, error.url)) != _base(address.url):
            return _models(replace(address, url=moved), moves - 1)  # another port of the host did not get the key
        _refused(address, asked, error, [])
    except (LookupError, TypeError) as error:
        raise _no_server(address, "its answer at /v1/models is no list of models") from error
    except (OSError, ValueError) as error:
        raise _no_server(address, str(error)) from error
    if not models:
        raise _no_server(address, "it serves no model")
    return url, models


def _no_server(address: Address, why: str) -> InputError:
    hint = f"check {address.options[0]}: the URL without /v1, as in http://host:8000"
    if "CERTIFICATE_VERIFY_FAILED" in why:
        hint = "export SSL_CERT_FILE=/path/to/authority.pem, the authority that signed its certificate"
    return InputError(f"{address.url} does not answer as a vLLM server: {why}", hint=hint)


def _moved(address: Address, asked: str, answered: str) -> str:
    """The URL to ask from here on. A POST that is redirected may arrive as a GET, so it must not be redirected.

    Raises InputError for a redirect to another host: whether that is meant, and may have the key, is not ours to say.
    """
    before, after = urllib.parse.urlsplit(asked), urllib.parse.urlsplit(answered)
    found = answered.rstrip("/").removesuffix("/v1/models")
    if answered == asked or found == _base(asked.removesuffix("/models")):
        return _base(address.url)
    if before.hostname != after.hostname or not answered.rstrip("/").endswith("/v1/models"):
        shown = urllib.parse.urlunsplit(after._replace(query="", fragment=""))
        raise InputError(
            f"{address.url} redirects to {shown}", hint=f"name the server itself with {address.options[0]}"
        )
    console.say(f"  {address.url} redirects to {found}, which is asked from here on")
    return found


def _chosen(address: Address, models: dict[str, Json]) -> str:
    """The name of the model to ask for: the one that was named, or the only one (of several names, the first)."""
    if address.model is not None:
        if address.model not in models:
            raise InputError(
                f"{address.url} serves no model {address.model!r}; it serves {_listed(list(models))}",
                hint=f"name one of them with {address.options[1]}",
            )
        return address.model
    own = {name: model for name, model in models.items() if not model.get("parent")}  # the others are adapters
    if len({model.get("root") or name for name, model in own.items()}) > 1:
        raise InputError(
            f"{address.url} serves several models: {_listed(list(own))}",
            hint=f"name one of them with {address.options[1]}",
        )
    return next(iter(own or models))


def _listed(models: list[str]) -> str:
    return listed(models, 20)


def _require_context(address: Address, model: dict[str, Any], tokens: int) -> None:
    """Raises InputError if the longest request is longer than the server takes; many servers do not say how long."""
    longest = model.get("max_model_len")
    if isinstance(longest, int) and longest < tokens:
        raise InputError(
            f"{address.url} takes requests of at most {longest} tokens (max_model_len), and the workload's longest has "
            f"{tokens} with its answer",
            hint="start it with a longer --max-model-len, or take another workload (--workload)",
        )


def _require_ready(address: Address, url: str) -> None:
    """Raises InputError for a server that says it is not; many gateways have no /health, and need none."""
    try:
        client.fetched(f"{url}/health", timeout=_LIST_S, key=address.key)
    except BadStatus as error:
        if error.code not in NOT_OFFERED:
            raise InputError(
                f"{address.url} says at /health that it is not well: {error.whole}",
                hint="try again when it is, or look into its log",
            ) from error
    except OSError as error:
        raise _no_server(address, f"at /health, {error}") from error


def _can_chat(address: Address, server: Server, models: list[str]) -> bool:
    """Whether it answers a chat. Raises InputError for one that should and cannot."""
    path = "/v1/chat/completions"
    try:
        answer = server.ask(path, _CHAT, _ANSWER_S)
        if not isinstance(answer["choices"][0]["message"], dict):
            raise TypeError
    except BadStatus as error:
        if error.code in NO_CHAT and not _of_model(error, models):
            return False
        _refused(address, server.url + path, error, models)
    except (LookupError, TypeError) as error:
        raise _no_server(address, f"its answer at {path} is no chat") from error
    except (OSError, ValueError) as error:
        raise _no_server(address, f"at {path}, {error}") from error
    return True


def _require_completions(address: Address, server: Server, models: list[str]) -> None:
    """Raises InputError unless it completes a prompt piece by piece, as the load generator asks it to."""
    url = f"{server.url}/v1/completions"
    body = {"model": server.name, **_COMPLETION}
    try:
        answer = client.fetched(url, body, _ANSWER_S, address.key).body.decode("utf-8", "replace")
    except BadStatus as error:
        _refused(address, url, error, models)
    except OSError as error:
        raise _no_server(address, f"at /v1/completions, {error}") from error
    if not any(_is_piece(line) for line in answer.splitlines()):
        said = client.Answer(answer.encode(), url).kind
        raise _no_server(address, f"its answer at /v1/completions is no piece of a completion but {said}")


def _is_piece(line: str) -> bool:
    try:
        piece = json.loads(line.strip().removeprefix("data:"))
    except (ValueError, RecursionError):
        return False
    return isinstance(piece, dict) and bool(piece.get("choices"))


def _of_model(error: BadStatus, models: list[str]) -> bool:
    """Whether a 404 is of the model, not of the path."""
    return error.code == 404 and ("model" in error.said.lower() or any(name in error.said for name in models))


def _refused(address: Address, url: str, error: BadStatus, models: list[str]) -> NoReturn:
    """The InputError for a request that was refused: it tells who is not let in from what is not there."""
    path = urllib.parse.urlsplit(url).path
    said = f" ({error.said})" if error.said else ""
    where, name = address.options
    if error.code == 401 and address.key is None:
        raise InputError(
            f"{address.url} asks for a key: {error}{said}",
            hint="export OPENAI_API_KEY, or name the variable that holds it with --api-key-env",
        ) from error
    if error.code == 401:
        raise InputError(
            f"{address.url} does not take the key: {error}{said}",
            hint="name the variable that holds the right one with --api-key-env (default: OPENAI_API_KEY)",
        ) from error
    if error.code == 403:
        raise InputError(
            f"{address.url} does not allow {'this key' if address.key else 'us'} to use {path}: {error}{said}",
            hint="ask for the right to, or name the variable of a key that has it with --api-key-env",
        ) from error
    if models and _of_model(error, models):
        raise InputError(
            f"{address.url} lists its model and then does not know it: {error}{said}; it lists {_listed(list(models))}",
            hint=f"name another of them with {name}",
        ) from error
    if error.code in (404, 405, 501):
        raise InputError(
            f"{address.url} has no {path}: {error}{said}",
            hint=f"check {where}: the URL without /v1, of a server that has /v1/completions",
        ) from error
    if error.code in _BUSY:
        raise InputError(
            f"{address.url} has no time for us at {path}: {error}{said}", hint="try again when it is less busy"
        ) from error
    raise InputError(
        f"{address.url} does not answer as a vLLM server: at {path}, {error}{said}",
        hint="what is sent is what the bench will send; a server that refuses it cannot be measured",
    ) from error
