"""The options that several commands share: how they are written, and what the commands get of them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

Commands = Any  # argparse's own type for sub-commands is private
T = TypeVar("T")

MODEL = "`embedded`, org/name[@revision], a folder or a .gguf file"
TARGET = "sm_75, sm_80, sm_86, sm_89, sm_90, sm_100, sm_120, cpu-avx2, cpu-avx512, cpu-amx, or auto for this machine"


def taken(kind: type[T], args: argparse.Namespace) -> T:
    """An options dataclass filled from the arguments of the same names; a field that is one itself likewise."""
    hints = get_type_hints(kind)
    values = {
        field.name: taken(hints[field.name], args) if is_dataclass(hints[field.name]) else getattr(args, field.name)
        for field in fields(kind)  # type: ignore[arg-type]
    }
    return kind(**values)


@dataclass(frozen=True)
class Work:
    """What every command takes that applies a recipe to a model."""

    model: str
    out: Path
    set: list[str]
    target: str | None
    compute_dtype: str
    offload: str
    trust_remote_code: bool
    dequantize: bool


def add_stage(commands: Commands, name: str, text: str, several: str | None = None) -> argparse.ArgumentParser:
    """A command that takes one recipe, or `several` ("+": at least one, "*": any number), and `Work`."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    if several:
        parser.add_argument("recipes", nargs=several, metavar="RECIPE", help="shipped names or paths")
    else:
        parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a path")
    add_work(parser)
    parser.add_argument("--model", default="embedded", help=MODEL + " (%(default)s)")
    add_flags(parser)
    return parser


def add_work(parser: argparse.ArgumentParser) -> None:
    """The options of `Work`, without --model."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a recipe field: calibration.samples=32",
    )
    parser.add_argument(
        "--target",
        help=TARGET + "; or any: do not check whether vLLM serves the result "
        "(default: $QUANTPRESS_TARGET, or this machine)",
    )
    parser.add_argument(
        "--compute-dtype",
        choices=("auto", "stored", "float32"),
        default="auto",
        help="for calibration and scoring: float32 where a CPU multiplies the model's type slowly (%(default)s)",
    )
    parser.add_argument(
        "--offload",
        choices=("auto", "never", "disk"),
        default="auto",
        help="leave the weights on the disk while they are quantized: auto where the memory is too small (%(default)s)",
    )
    add_out(parser)
    add_trust(parser)
    add_dequantize(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out."""
    parser.add_argument("--out", type=Path, default=Path("artifacts"), help="the artifacts' root folder (%(default)s)")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """--trust-remote-code."""
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings")


def add_dequantize(parser: argparse.ArgumentParser) -> None:
    """--dequantize."""
    parser.add_argument(
        "--dequantize",
        action="store_true",
        help="of a model that is quantized already, make 16 bits first (compressed-tensors, FP8, MXFP4); kept",
    )


def add_vllm(parser: argparse.ArgumentParser) -> None:
    """--vllm."""
    parser.add_argument("--vllm", help="the vllm executable (default: $VLLM, .venv-vllm, or the path)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--engine and --trust-workload."""
    parser.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="NAME|FILE|KEY=VALUE",
        help="how vLLM runs: a shipped engine, a file, or one setting such as tensor_parallel_size=2, each over those "
        "before it (default: auto, as few GPUs as fit)",
    )
    parser.add_argument(
        "--trust-workload",
        action="extend",
        type=_names,
        default=[],
        metavar="NAME,...",
        help="arguments of vLLM's that workload and engine may set although they are not about speed: they may run "
        "code",
    )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What every command takes; `main` reads these."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
