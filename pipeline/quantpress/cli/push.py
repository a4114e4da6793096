"""`quantpress push`: upload a package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags


@dataclass(frozen=True)
class Options:
    folder: Path
    destination: str
    public: bool


def add(commands: Commands) -> None:
    parser = commands.add_parser("push", help="upload a package")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a package's folder")
    parser.add_argument("destination", help="s3://bucket/prefix, hf://org/name, or oci://registry/repository:tag")
    parser.add_argument("--public", action="store_true", help="make a new repository of the hub public")
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress.package.push import push
    from quantpress.runtime.console import show

    done = push(options.folder, options.destination, options.public)
    show(done.dump(), f"{options.destination}: published; {done.summary}")
