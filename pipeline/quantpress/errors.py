"""The one error family. Every error states the value, the rule and the next command; its class is its exit code."""

from __future__ import annotations

from pathlib import Path


class QuantpressError(Exception):
    """Base of all errors that quantpress raises on purpose.

    `hint` is the next command or the remedy; `log` names the file that holds the tools' own output.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def render(self) -> str:
        lines = [f"error: {self.message}"]
        if self.hint:
            lines.append(f"  next: {self.hint}")
        if self.log:
            lines.append(f"  log:  {self.log}")
        return "\n".join(lines)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class StageError(QuantpressError):
    """A stage started and failed."""

    exit_code = 1


class InputError(QuantpressError):
    """The input is wrong. Nothing was written."""

    exit_code = 2


class GateError(QuantpressError):
    """A gate was not met. The results are there."""

    exit_code = 3


class CapabilityError(QuantpressError):
    """The environment or the hardware cannot do it."""

    exit_code = 4
