"""A vLLM server: started under a guard, waited for, and gone when its block ends, whatever happens."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from quantpress.artifact.throughput import ServerFacts
from quantpress.errors import InputError, StageError
from quantpress.runtime import console, environment, process
from quantpress_serve import surroundings
from quantpress_serve.server import causes, client, server_log
from quantpress_serve.server.server_log import AtMetrics
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.engine import UTILIZATION, Engine

START_TIMEOUT_S = 1800.0
HOST = "127.0.0.1"
# Statuses of a server that does not have what was asked for, /health say: a gateway passes on what is on its list.
NOT_OFFERED = (401, 403, 404, 405, 501)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers. `name` is the served model's name, `path` the folder it was loaded from.

    `running` is its process (or rather the guard's), None for a server that someone else runs. `started` is when the
    server says that it was started; another time, later on, shows that it was restarted. `key` is what it asks for.
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
    key: str | None = field(default=None, repr=False)

    def ask(self, path: str, body: client.Json, timeout: float = 300) -> client.Json:
        """What it answers to this body, with the name of its model added. Raises NoAnswer, ValueError if not JSON."""
        return client.request_json(f"{self.url}{path}", {"model": self.name, **body}, timeout, self.key)

    @property
    def where_to_look(self) -> str:
        """The hint for a failure of this server."""
        return "read its log's end" if self.log else "look into the server's own log"

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
            raise ServerLost(f"the server of {self.name} stopped: {cause}", hint=self.where_to_look, log=self.log)

    def require_healthy(self) -> None:
        """Raises ServerLost if it has ended, does not answer any more, or was started anew in the meantime."""
        self.require_running()
        if not _healthy_soon(self.url, self.key):
            self.require_running()
            cause = f": {causes.explain(self.log)}" if self.log else ""
            raise ServerLost(
                f"the server of {self.name} no longer answers at {self.url}{cause}",
                hint=self.where_to_look,
                log=self.log,
            )
        now = metrics_of(self.url, self.key).started
        if self.started and now and self.started != now:
            raise ServerLost(f"the server of {self.name} at {self.url} was restarted", hint="run again", log=self.log)


class ServerLost(StageError):  # noqa: N818 -- what happened, not a fault of the code
    """A server went away under load. What was measured before still counts."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to serve and how: everything the command line of `vllm serve` needs.

    `devices` are the GPUs that it may take, as CUDA_VISIBLE_DEVICES names them; none: all that are shown.
    """

    vllm: Path
    path: Path
    name: str
    engine: Engine
    model_len: int | Literal["auto"] | None
    prefix_caching: bool = False
    memory_share: float = 1.0
    devices: tuple[str, ...] = ()
    trust_remote_code: bool = False
    tokenizer: Path | None = None
    load_format: str | None = None
    kv_space_gib: int | None = 2

    def environment(self) -> dict[str, str]:
        """What tunes the server; on a CPU it sizes the KV cache. GPUs are numbered as nvidia-smi numbers them."""
        settings = serving_environment(self.kv_space_gib, self.engine.devices)
        if self.devices:
            settings |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(self.devices)}
        return settings

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
            share = (self.engine.gpu_memory_utilization or UTILIZATION) * self.memory_share
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
    changes = surroundings.of_server(launch.environment())
    settings = {name: value for name, value in changes.items() if value is not None}
    shown = shlex.join([*surroundings.without_words(), *(f"{k}={v}" for k, v in settings.items()), *command])
    log.unlink(missing_ok=True)
    with process.guarded(command, log, changes) as running:
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
            version=version_of(url),
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


def healthy(url: str, key: str | None = None) -> bool:
    """Whether the server answers that it is ready; one that was not made to say so (a gateway), that it answers."""
    try:
        client.fetched(f"{url}/health", timeout=5, key=key)
    except client.BadStatus as error:
        return error.code in NOT_OFFERED and _lists_models(url, key)
    except client.NoAnswer:
        return False
    return True


def _lists_models(url: str, key: str | None) -> bool:
    try:
        client.fetched(f"{url}/v1/models", timeout=5, key=key)
    except client.NoAnswer:
        return False
    return True


def _healthy_soon(url: str, key: str | None) -> bool:
    """Whether it answers one of three times. A server that is dying may answer once more, so it is given a second; a
    busy server may not answer at once."""
    for _ in range(3):
        time.sleep(1)
        if healthy(url, key):
            return True
    return False


def metrics_of(url: str, key: str | None = None) -> AtMetrics:
    """What the server tells at /metrics; nothing if it does not answer there."""
    try:
        text = client.fetched(f"{url}/metrics", timeout=20, key=key).body.decode("utf-8", "replace")
    except client.NoAnswer:
        return AtMetrics()
    return server_log.told_at_metrics(text)


def version_of(url: str, key: str | None = None) -> str | None:
    """vLLM's version as the server says it; None if it does not."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(client.request_json(f"{url}/version", timeout=20, key=key)["version"])
    return None
