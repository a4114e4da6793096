"""The command line. A verb is a module: `add` its options, `Options` what it gets of them, `run` the work.

Verbs import the rooms below only when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import re
import signal
import sys
from collections.abc import Container, Sequence
from contextlib import nullcontext
from typing import Any

from quantpress import __version__
from quantpress.cli.options import taken
from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError, of_the_environment
from quantpress.runtime import console

_EPILOG = """exit codes: 0 done, 1 a stage failed, 2 the input is wrong (nothing was written),
3 a gate is not met (the results are there), 4 the environment or the hardware cannot do it, 130 interrupted"""

VERBS = (
    *("recipes", "plan", "quantize", "adopt", "evaluate", "bench", "run", "sweep", "demo", "serve", "compare"),
    *("report", "bundle", "package", "push", "status", "verify", "gc", "reproduce", "recertify", "doctor"),
)

_AT_ITS_OWN_PACE = ("serve", "gc")  # one lets the server speak, the other asks and waits


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Prints errors, never a traceback unless --traceback asks for it."""
    console.take_any_text()
    try:
        return _run(build_parser().parse_args(argv))
    finally:
        console.flush()


def _run(args: argparse.Namespace) -> int:
    # Ctrl-C and a polite kill take the same way out, so that servers are stopped and staging folders removed.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        console.use(args.quiet, args.json)
        verb = _verb(args.command)
        with console.watch(args.command) if args.command not in _AT_ITS_OWN_PACE else nullcontext():
            verb.run(taken(verb.Options, args))
        return 0
    except QuantpressError as error:
        return _fail(error, args)
    except KeyboardInterrupt:
        console.complain("interrupted; nothing half-written is left")
        return 130
    except Exception as error:
        return _fail(_explained(error), args, error)


def _explained(error: Exception) -> QuantpressError:
    if known := of_the_environment(error):
        return known
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return InputError(str(error)[:300], hint="name a path that can exist")
    if isinstance(error, ModuleNotFoundError):
        return CapabilityError(f"{error.name} is not installed in {sys.prefix}", hint="make setup")
    if isinstance(error, OSError):
        return StageError(str(error), hint="check that the file is there and may be used")
    return StageError(
        f"unexpected {type(error).__name__}: {error}", hint="run again with --traceback and report what it prints"
    )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fail(error: QuantpressError, args: argparse.Namespace, cause: BaseException | None = None) -> int:
    error.hint = for_command(error.hint, vars(args)) if error.hint else None
    console.complain(error.render())
    if args.traceback:
        import traceback

        console.complain("".join(traceback.format_exception(cause or error)).rstrip())
    return error.exit_code


def for_command(hint: str, options: Container[str]) -> str | None:
    """The hint without the ways to go on that name an option of ours which the command does not have: rooms below do
    not know who calls. Between ways stands `;` or `, or`; one that names a command is of that command.

    `options` are argparse's names. None where no way is left.
    """
    ours = option_names(build_parser())
    pieces = re.split(r"(; |, or )", hint)
    kept = ""
    for separator, way in zip(("", *pieces[1::2]), pieces[::2], strict=True):
        named = ours.intersection(re.findall(r"(?<![\w-])--[a-z][a-z-]*(?!\w)", way))
        if "quantpress " in way or all(name[2:].replace("-", "_") in options for name in named):
            kept += (separator if kept else "") + way
    return kept or None


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(
        prog="quantpress",
        description="From a declarative recipe to a compressed checkpoint that is proven in vLLM.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"quantpress {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in VERBS:
        _verb(name).add(commands)
    return parser


def option_names(parser: argparse.ArgumentParser) -> set[str]:
    """All options of a command and of the commands below it."""
    found = {name for action in parser._actions for name in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name for below in action.choices.values() for name in option_names(below)}
    return found


def _verb(name: str) -> Any:
    return importlib.import_module(f"quantpress.cli.{name}")


if __name__ == "__main__":
    raise SystemExit(main())
