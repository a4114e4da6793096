"""Runs in vLLM's environment: prints the arguments of `vllm serve` as one JSON object on the last line.

    python arguments_probe.py

For each long option: whether it is a flag, its choices, the name of its type and whether it takes several values.
"""

from __future__ import annotations

import json
from typing import Any, TypedDict


class Argument(TypedDict):
    """As quantpress_serve.workload.engine.Argument, which cannot be imported here."""

    flag: bool
    choices: list[str] | None
    type: str | None
    several: bool


def parser() -> Any:
    """vLLM's own parser; its module has moved between releases."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    return make_arg_parser(FlexibleArgumentParser())


def main() -> dict[str, Argument]:
    """Of each long option, without its dashes."""
    return {
        name.removeprefix("--"): {
            "flag": action.nargs == 0,
            "choices": [str(choice) for choice in action.choices] if action.choices else None,
            "type": getattr(action.type, "__name__", None),
            "several": action.nargs in ("+", "*") or type(action).__name__ == "_AppendAction",
        }
        for action in parser()._actions
        for name in action.option_strings
        if name.startswith("--")
    }


if __name__ == "__main__":
    print(json.dumps(main()))
