"""What each command does. A command takes the parsed arguments and returns an exit code."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from quantpress import model as models
from quantpress import quantize as quantizing
from quantpress import recipe as recipe_language
from quantpress import shipped
from quantpress.console import Console
from quantpress.quantize import Quantized


def _console(args: Namespace) -> Console:
    return Console(quiet=args.quiet)


def _print(args: Namespace, result: Any, text: str) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else text)


def recipes(args: Namespace) -> None:
    if args.action == "list":
        found = {path.stem: recipe_language.load(str(path)).description for path in _recipe_files()}
        width = max(map(len, found))
        _print(args, found, "\n".join(f"{name:{width}}  {text}" for name, text in found.items()))
    elif args.action == "show":
        sys.stdout.write(shipped.find("recipes", args.recipe).read_text(encoding="utf-8"))
    else:
        for name in args.recipes:
            loaded = recipe_language.load(name)
            _print(args, loaded.dump(), f"{name}: valid ({', '.join(m.name for m in loaded.modifiers)})")


def _recipe_files() -> list[Path]:
    return [shipped.find("recipes", name) for name in shipped.names("recipes")]


def quantize(args: Namespace) -> None:
    done = _quantize(args, args.recipe, _console(args))
    _print(args, done.manifest, str(done.artifact.checkpoint))


def _quantize(args: Namespace, name: str, console: Console) -> Quantized:
    recipe = recipe_language.load(name, args.set)
    model = models.resolve(args.model, console)
    return quantizing.quantize(recipe, model, Path(args.out), console)
