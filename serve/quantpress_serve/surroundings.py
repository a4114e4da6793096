"""What of the caller's environment reaches vLLM: what tunes it does, what would make another server of it does not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from quantpress.errors import CapabilityError
from quantpress.runtime import console
from quantpress.runtime.secrets import is_named_like_one

# A variable of vLLM's with one of these words in its name says where the server listens and with which machines it
# works together, who may ask it, which model and whose code it loads, or what it prints; not how fast it computes.
# That is quantpress's to say: it looks for the server at its own port, asks without a key, and reads the log.
_SERVER_WORDS = {
    *("PORT", "HOST", "HOSTNAME", "IP", "IPS", "ADDR", "ADDRESS", "SERVICE", "SERVER", "NAME"),
    *("DP", "RANK", "RAY", "ELASTIC", "DEATH", "INSECURE", "VALIDATION"),
    *("REDIRECT", "MODELSCOPE", "UPDATING", "TEST", "SIMULATION"),
    *("PLUGIN", "PLUGINS", "CONNECTOR", "RESOLVER", "RUST"),
    *("LOG", "LOGGING", "DEBUG", "TRACE", "PREFIX"),
}
# Others that vLLM reads: they belong to another job (torchrun, a job of several machines), or are shared by servers
# that must not share anything, or write files.
_OTHERS = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("PROMETHEUS_MULTIPROC_DIR", "SAVE_TO_PYTORCH_BENCHMARK_FORMAT", "WEB_CONCURRENCY"),
}
KEY = "OPENAI_API_KEY"  # where vLLM's load generator looks for the key of the server that it asks
# The first is the Makefile's. We say that nobody is told of this vLLM, and where its processes meet (see `sockets`).
_OURS = ("VLLM_BUILD", "VLLM_NO_USAGE_STATS", "VLLM_RPC_BASE_PATH")

# The path of a Unix socket has at most so many bytes (unix(7)); vLLM's are FOLDER/UUID.
_LONGEST_SOCKET = 107
LONGEST_FOLDER = _LONGEST_SOCKET - len("/") - 36
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def _is_vllms(name: str) -> bool:
    return name.startswith("VLLM_") and not name.startswith(_OURS)


def _reconfigures(name: str) -> bool:
    if not _is_vllms(name):
        return name in _OTHERS
    return is_named_like_one(name) or not _SERVER_WORDS.isdisjoint(name.split("_"))


def tuning() -> dict[str, str]:
    """The caller's variables that tune vLLM. They are passed on, and results record them."""
    return {name: value for name, value in sorted(os.environ.items()) if _is_vllms(name) and not _reconfigures(name)}


def withheld() -> dict[str, None]:
    """The caller's variables that would make another server of ours, as `process.guarded` takes them out."""
    return dict.fromkeys(sorted(name for name in os.environ if _reconfigures(name)))


def without_words() -> list[str]:
    """The words before a command that do by hand what `withheld` does."""
    names = withheld()
    return ["env", *(word for name in names for word in ("-u", name))] if names else []


def of_server(settings: Mapping[str, str], for_people: bool = False) -> dict[str, str | None]:
    """The changes to our environment for a server of ours with these settings; what is left out is said once.

    `for_people`: they ask it, so that VLLM_API_KEY may guard it, and read what it prints. Raises CapabilityError if
    there is no folder for its sockets.
    """
    left_out = withheld()
    if for_people:
        left_out.pop("VLLM_API_KEY", None)
    _say_once(tuple(left_out))
    plain = {} if for_people else {"NO_COLOR": "1"}  # with FORCE_COLOR, its log would have to be read through colours
    return {**settings, **plain, **sockets(), **direct(), **left_out, KEY: None}


def of_load_generator(settings: Mapping[str, str], host: str, key: str | None) -> dict[str, str | None]:
    """The changes to our environment for the load generator. It asks `host` directly, with this key or with none."""
    # aiohttp, by which it asks, would prefer a password for this host in ~/.netrc to the key.
    return {**settings, **direct(host), **withheld(), "NETRC": os.devnull, KEY: key}


@cache
def _say_once(names: tuple[str, ...]) -> None:
    if names:
        console.warn(
            f"not passed on to vLLM: {', '.join(names)}. They say what a server is or where it listens; what tunes it "
            "is passed on and recorded"
        )


def direct(*hosts: str) -> dict[str, str]:
    """Excepts this machine and `hosts` from the environment's proxies, in both spellings."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    value = ",".join(filter(None, (excepted, "127.0.0.1", "localhost", *hosts)))
    return {"no_proxy": value, "NO_PROXY": value}


def sockets() -> dict[str, str]:
    """Where vLLM's processes meet. A temporary folder whose path is too long for sockets is replaced by a shorter one.

    Raises CapabilityError if no shorter one can be written to.
    """
    named = os.environ.get("VLLM_RPC_BASE_PATH")
    folder = named or tempfile.gettempdir()
    if _holds_sockets(folder):
        return {"VLLM_RPC_BASE_PATH": folder} if named else {}
    shorter = next((known for known in _SHORT_FOLDERS if _holds_sockets(known)), None)
    size = len(os.fsencode(folder))
    if shorter is None:
        raise CapabilityError(
            f"vLLM's processes meet at sockets in {folder}, which has {size} bytes or cannot be written to; a folder "
            f"for sockets has at most {LONGEST_FOLDER}",
            hint="export TMPDIR=/a/short/folder that exists, and run again",
        )
    return {"VLLM_RPC_BASE_PATH": shorter}


def _holds_sockets(folder: str) -> bool:
    short = len(os.fsencode(folder)) <= LONGEST_FOLDER
    return short and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK)
