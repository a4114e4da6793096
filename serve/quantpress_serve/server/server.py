"""A vLLM server: started under a guard, waited for, and gone when its block ends, whatever happens."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact.throughput import ServerFacts
from quantpress.errors import InputError, StageError
from quantpress.runtime import console, environment, process
from quantpress_serve.server import causes, client, server_log
from quantpress_serve.server.server_log import AtMetrics
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.engine import Engine

START_TIMEOUT_S = 1800.0
HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers. `name` is the served model's name, `path` the folder it was loaded from.

    `running` is its process (or rather the guard's), None for a server that someone else runs. `started` is when the
    server says that it was started; another time, later on, shows that it was restarted.
    """

    url: str
    name: str
    path: Path
    facts: ServerFacts
    started: float | None = None
    log: Path | None = None
    trust_remote_code: bool = False
    tokenizer: Path | None = None
    running: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> str:
        """The line that starts it by hand."""
        return self.facts.command

    @property
    def tokens_by(self) -> Path:
        """The folder of the tokenizer."""
        return self.tokenizer or self.path

    def require_running(self) -> None:
        """Raises ServerLost if the process that was started has ended."""
        if self.running is not None and self.running.poll() is not None:
            cause = causes.explain(self.log) if self.log else "it left no log"
            raise ServerLost(f"the server of {self.name} stopped: {cause}", hint="read its log's end", log=self.log)

    def require_healthy(self) -> None:
        """Raises ServerLost if it has ended, does not answer any more, or was started anew in the meantime."""
        self.require_running()
        if not _healthy_soon(self.url):
            self.require_running()
            cause = f": {causes.explain(self.log)}" if self.log else ""
            raise ServerLost(
                f"the server of {self.name} no longer answers at {self.url}{cause}",
                hint="read its log's end",
                log=self.log,
            )
        now = metrics_of(self.url).started
        if self.started and now and self.started != now:
            raise ServerLost(f"the server of {self.name} at {self.url} was restarted", hint="run again", log=self.log)


class ServerLost(StageError):  # noqa: N818 -- what happened, not a fault of the code
    """A server went away under load. What was measured before still counts."""


@dataclass(frozen=True, kw_only=True)
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
    tokenizer: Path | None = None
    load_format: str | None = None
    kv_space_gib: int | None = 2

    def environment(self) -> dict[str, str]:
        """Environment variables of the server; on a CPU they size the KV cache."""
        return serving_environment(self.kv_space_gib)

    def command(self, port: int) -> list[str]:
        eager = not environment.gpus() if self.engine.enforce_eager == "auto" else self.engine.enforce_eager
        command = [str(self.vllm), "serve", str(self.path), "--served-model-name", self.name]
        command += ["--host", HOST, "--port", str(port), "--seed", "0"]
        command += self.engine.arguments()
        command += ["--tokenizer", str(self.tokenizer)] if self.tokenizer else []
        command += ["--load-format", self.load_format] if self.load_format else []
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
                hint="name a free one with --port",
            ) from error


@contextmanager
def serving(launch: Launch, log: Path, port: int | None = None) -> Iterator[Server]:
    """Starts the server and waits until it is healthy.

    Raises StageError, naming the cause where it is a known one, if it dies first.
    """
    port = port or free_port()
    command = launch.command(port)
    settings = launch.environment()
    shown = shlex.join(f"{k}={v}" for k, v in settings.items()) + " " + shlex.join(command)
    log.unlink(missing_ok=True)
    with process.guarded(command, log, settings) as running:
        url = f"http://{HOST}:{port}"
        with console.step(f"starting vLLM on {launch.name}", log) as step:
            _wait(running, url, log)
            startup = step.elapsed
        metrics = metrics_of(url)
        facts = ServerFacts(
            command=shown,
            argv=command,
            env=settings,
            startup_s=round(startup, 1),
            prefix_caching=metrics.prefix_caching,
            version=_version_of(url),
            **server_log.told_in_log(log.read_text(encoding="utf-8", errors="replace")).dump(),
        )
        yield Server(
            url=url,
            name=launch.name,
            path=launch.path,
            facts=facts,
            started=metrics.started,
            log=log,
            trust_remote_code=launch.trust_remote_code,
            tokenizer=launch.tokenizer,
            running=running,
        )


def _wait(running: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise StageError(f"vLLM stopped while starting: {causes.explain(log)}", hint="read the log's end", log=log)
        if healthy(url):
            return
        time.sleep(0.2)
    raise StageError(f"vLLM was not ready after {START_TIMEOUT_S:.0f} s", hint="read the log's end", log=log)


def healthy(url: str) -> bool:
    """Whether the server answers that it is ready."""
    try:
        client.fetched(f"{url}/health", timeout=5)
    except client.NoAnswer:
        return False
    return True


def _healthy_soon(url: str) -> bool:
    """Whether it answers one of three times. A server that is dying may answer once more, so it is given a second; a
    busy server may not answer at once."""
    for _ in range(3):
        time.sleep(1)
        if healthy(url):
            return True
    return False


def metrics_of(url: str) -> AtMetrics:
    """What the server tells at /metrics; nothing if it does not answer there."""
    try:
        text = client.fetched(f"{url}/metrics", timeout=20).decode("utf-8", "replace")
    except client.NoAnswer:
        return AtMetrics()
    return server_log.told_at_metrics(text)


def _version_of(url: str) -> str | None:
    """vLLM's version as the server says it; None if it does not."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(client.request_json(f"{url}/version", timeout=20)["version"])
    return None


def attach(url: str, path: Path, tokenizer: Path | None = None) -> Server:
    """A server that someone else runs. Raises InputError if it does not answer, or for a URL with a password."""
    if "@" in urllib.parse.urlsplit(url).netloc:
        raise InputError(
            "a server's URL with a user name or a password in it would end up in results and logs",
            hint="name the server without them",
        )
    url = url.rstrip("/").removesuffix("/v1")
    try:
        served = client.request_json(f"{url}/v1/models", timeout=20)["data"][0]["id"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{url} does not answer as a vLLM server: {error}", hint="check the URL (without /v1)"
        ) from error
    metrics = metrics_of(url)
    facts = ServerFacts(
        command=f"(served at {url})",
        kv_cache_tokens=metrics.kv_cache_tokens,
        prefix_caching=metrics.prefix_caching,
        version=_version_of(url),
    )
    return Server(url=url, name=str(served), path=path, facts=facts, started=metrics.started, tokenizer=tokenizer)
