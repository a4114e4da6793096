"""A vLLM server: started under a guard, waited for, and gone when its block ends, whatever happens."""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress import environment, process
from quantpress.console import Console
from quantpress.errors import InputError, StageError
from quantpress_serve.workload import Engine

START_TIMEOUT_S = 1800.0
HOST = "127.0.0.1"

# What vLLM prints when it will not serve a checkpoint, and what that means. First match wins.
KNOWN_CAUSES = (
    ("address already in use", "the port was taken in the meantime; run again"),
    ("No available memory for the cache blocks", "no memory is left for the KV cache; lower max_model_len"),
    ("CUDA out of memory", "the model does not fit this GPU; raise tensor_parallel_size or use a smaller scheme"),
    ("Cannot allocate memory", "the machine has too little memory; lower VLLM_CPU_KVCACHE_SPACE"),
    ("KeyError", "vLLM does not know a tensor of this checkpoint; compare vLLM's and compressed-tensors' versions"),
    (
        "not supported",
        "this machine's vLLM has no kernel for the scheme; see the table of hardware in the recipe's header",
    ),
    ("not divisible", "a layer's shape does not fit the kernel or the tensor-parallel size"),
)

# Requests to our own server must not go through a proxy of the environment.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Server:
    """A server that answers. `name` is the served model's name, `path` the folder it was loaded from."""

    url: str
    name: str
    path: Path
    command: str
    startup_s: float | None
    log: Path | None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Launch:
    """What to serve and how: everything the command line of `vllm serve` needs."""

    vllm: Path
    path: Path
    name: str
    engine: Engine
    model_len: int | None
    prefix_caching: bool = False
    memory_share: float = 1.0
    trust_remote_code: bool = False

    def command(self, port: int) -> list[str]:
        eager = not environment.gpus() if self.engine.enforce_eager == "auto" else self.engine.enforce_eager
        command = [str(self.vllm), "serve", str(self.path), "--served-model-name", self.name]
        command += ["--host", HOST, "--port", str(port), "--seed", "0"]
        command += ["--tensor-parallel-size", str(self.engine.tensor_parallel_size)]
        command += ["--kv-cache-dtype", self.engine.kv_cache_dtype]
        command += ["--max-model-len", str(self.model_len)] if self.model_len else []
        command += ["--enforce-eager"] if eager else []
        command += ["--trust-remote-code"] if self.trust_remote_code else []
        command += [] if self.prefix_caching else ["--no-enable-prefix-caching"]
        if environment.gpus():
            share = (self.engine.gpu_memory_utilization or 0.9) * self.memory_share
            command += ["--gpu-memory-utilization", f"{share:.2f}"]
        return command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raises InputError if something listens on `port`, or the port cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} on {HOST} cannot be used: {getattr(error, 'strerror', None) or error}",
                hint="leave --port out to take a free one, or name another",
            ) from error


@contextmanager
def serving(launch: Launch, log: Path, console: Console, port: int | None = None) -> Iterator[Server]:
    """Starts the server and waits until it is healthy.

    Raises StageError, naming the cause where it is a known one, if it dies first.
    """
    port = port or free_port()
    command = launch.command(port)
    shown = shlex.join(f"{k}={v}" for k, v in environment.serving_environment().items()) + " " + shlex.join(command)
    log.unlink(missing_ok=True)
    with process.guarded(command, log, environment.serving_environment()) as running:
        url = f"http://{HOST}:{port}"
        with console.step(f"starting vLLM on {launch.name}", log) as step:
            _wait(running, url, log)
            startup = step.elapsed
        yield Server(url, launch.name, launch.path, shown, round(startup, 1), log, launch.trust_remote_code)


def _wait(running: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise StageError(f"vLLM stopped while starting: {explain(log)}", hint="read the log's end", log=log)
        if healthy(url):
            return
        time.sleep(0.2)
    raise StageError(f"vLLM was not ready after {START_TIMEOUT_S:.0f} s", hint="read the log's end", log=log)


def healthy(url: str) -> bool:
    try:
        with _opener.open(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def explain(log: Path) -> str:
    """The last error in a vLLM log, and what it means if it is a known one."""
    errors = process.errors_in(log)
    meaning = next((meaning for sign, meaning in KNOWN_CAUSES if any(sign in line for line in errors)), None)
    return f"{meaning} ({errors[-1]})" if meaning else errors[-1]


def attach(url: str, path: Path) -> Server:
    """A server that someone else runs. Raises InputError if it does not answer, or for a URL with a password."""
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise InputError(
            "a server's URL with a user name or a password in it would end up in results and logs",
            hint="name the server without them",
        )
    url = url.rstrip("/").removesuffix("/v1")
    try:
        served = request(f"{url}/v1/models", timeout=20)["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise InputError(
            f"{url} does not answer as a vLLM server: {error}", hint="check the URL (without /v1)"
        ) from error
    return Server(url, str(served), path, f"(served at {url})", None, None)


def request(url: str, body: dict[str, Any] | None = None, timeout: float = 300) -> Any:
    """One JSON request. Raises OSError (URLError) or ValueError."""
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _opener.open(asked, timeout=timeout) as response:
        return json.load(response)
