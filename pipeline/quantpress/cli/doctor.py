"""`quantpress doctor`: show what this machine can do."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, add_flags


@dataclass(frozen=True)
class Options:
    """It takes none."""


def add(commands: Commands) -> None:
    add_flags(commands.add_parser("doctor", help="show what this machine can do"))


def run(_: Options) -> None:
    from quantpress.cli import this_machine
    from quantpress.runtime.console import show
    from quantpress_serve.vllm import find_vllm, vllm_version

    vllm = None
    try:
        found = find_vllm(None)
        vllm = this_machine.Vllm(executable=str(found), version=vllm_version(found))
    finally:
        facts = this_machine.facts_with(vllm)
        show(facts.dump(), this_machine.text(facts))
