"""`quantpress doctor`: what this machine can do, what is missing for the main job, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, add_flags, add_vllm
from quantpress.errors import CapabilityError


@dataclass(frozen=True)
class Options:
    vllm: str | None


def add(commands: Commands) -> None:
    text = "say what this machine can do, and what is missing for the main job"
    parser = commands.add_parser(
        "doctor", help=text, description=text[0].upper() + text[1:] + ". Exit code 4 if it cannot run."
    )
    add_vllm(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.cli import this_machine
    from quantpress.runtime.console import show

    found = this_machine.facts(options.vllm)
    show(found.dump(), this_machine.text(found))
    blocking = [problem for problem in found.problems if problem.blocks]
    if blocking:
        raise CapabilityError(blocking[0].what, hint=blocking[0].command)
