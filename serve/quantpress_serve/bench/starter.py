"""Starting load generators. vLLM takes ten seconds to import: where that can be, it is imported once for many loads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from quantpress.runtime import atomic, process
from quantpress.runtime.secrets import scrub

Environment = Mapping[str, str | None]
Poll = Callable[[], int | None]  # the exit code, or None while it runs
KILLED = 128  # and the signal: the exit code of what was killed
_CONSOLE_SCRIPT = "from vllm.entrypoints.cli.main import main"


@dataclass
class Starter:
    """Starts the load generators of one bench; all of them print to `log`, and `folder` holds their commands while they
    run. At the end of its block none is left.

    vLLM's console script is Python: a process imports what it does and waits (load_probe), and each load is a fork of
    it. Servers that are asked with other keys, or past other proxies, have a process each. Of an executable that is
    something else, each load is a process of its own.
    """

    vllm: Path
    log: Path
    folder: Path
    _waiting: dict[frozenset[tuple[str, str | None]], _Waiting] = field(default_factory=dict)

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ExitStack() as stack:
            for one in self._waiting.values():
                stack.callback(one.close)
        self._waiting.clear()

    @contextmanager
    def started(self, command: Sequence[str], env: Environment) -> Iterator[Poll]:
        """Starts one; if the block ends before it does, it is taken down."""
        python = _interpreter(self.vllm)
        if python is None:
            with process.guarded(command, self.log, env) as running:
                yield running.poll
            return
        key = frozenset(env.items())
        if key in self._waiting and not self._waiting[key].is_up:  # killed since the last load
            self._waiting.pop(key).close()
        if key not in self._waiting:
            self._waiting[key] = _Waiting(python, self.log, self.folder, env)
        waiting = self._waiting[key]
        poll = waiting.run(command)
        try:
            yield poll
        finally:
            if poll() is None or not waiting.is_up:
                del self._waiting[key]
                waiting.close()
            scrub(self.log)


class _Waiting:
    """A process that has imported vLLM, and the folder that it reads its commands from."""

    def __init__(self, python: Path, log: Path, folder: Path, env: Environment) -> None:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="commands-", dir=folder)))
            command = [str(python), str(Path(__file__).with_name("load_probe.py")), str(self._folder)]
            self._process = stack.enter_context(process.guarded(command, log, env))
            self.close = stack.pop_all().close
        self._asked = 0

    @property
    def is_up(self) -> bool:
        return self._process.poll() is None

    def run(self, command: Sequence[str]) -> Poll:
        number, self._asked = self._asked, self._asked + 1
        atomic.write_json(self._folder / f"{number}.command.json", list(command))
        written = self._folder / f"{number}.code"

        def poll() -> int | None:
            ended = self._process.poll()
            if not written.exists() and ended is None:
                return None
            if written.exists():
                return int(written.read_text(encoding="utf-8"))
            # It ended without the load: by a signal, or by itself, and then with an exit code that is none of a load.
            return ended if ended and ended > KILLED else 1

        return poll


def _interpreter(vllm: Path) -> Path | None:
    """The Python that an executable names in its first line, if it is the console script that pip writes for vLLM."""
    try:
        with vllm.open("rb") as file:
            first, *rest = file.read(1000).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return None
    python = Path(first.removeprefix("#!").strip())
    named = first.startswith("#!") and python.is_absolute() and python.name.startswith("python")
    return python if named and _CONSOLE_SCRIPT in rest and python.is_file() else None
