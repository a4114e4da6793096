"""What each command does. A command takes the parsed arguments; an error or an exit code is its way to say no."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from quantpress import environment, shipped
from quantpress import model as models
from quantpress import quantize as quantizing
from quantpress import recipe as recipe_language
from quantpress import report as reporting
from quantpress.console import Console
from quantpress.errors import InputError
from quantpress.model import Model


def _console(args: Namespace) -> Console:
    return Console(quiet=args.quiet)


def _print(args: Namespace, result: Any, text: str) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else text)


def recipes(args: Namespace) -> None:
    if args.action == "list":
        found = {name: recipe_language.load(name).description for name in shipped.names("recipes")}
        width = max(map(len, found))
        _print(args, found, "\n".join(f"{name:{width}}  {text}" for name, text in found.items()))
    elif args.action == "show":
        sys.stdout.write(shipped.find("recipes", args.recipe).read_text(encoding="utf-8"))
    else:
        loaded = {name: recipe_language.load(name) for name in args.recipes}
        lines = [f"{name}: valid ({', '.join(m.name for m in recipe.modifiers)})" for name, recipe in loaded.items()]
        _print(args, {name: recipe.dump() for name, recipe in loaded.items()}, "\n".join(lines))


def quantize(args: Namespace) -> None:
    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    done = quantizing.quantize(recipe, models.resolve(args.model, console), Path(args.out), console)
    _print(args, done.manifest, str(done.artifact.checkpoint))


def evaluate(args: Namespace) -> None:
    from quantpress_evaluate import stage

    console, recipe, request = _console(args), recipe_language.load(args.recipe, args.set), _request(args)
    model = models.resolve(args.model, console)
    artifact = quantizing.quantize(recipe, model, Path(args.out), console).artifact
    result = stage.evaluate(artifact, model, request, console)
    _print(args, result, reporting.accuracy_table({recipe.name: result}))


def _request(args: Namespace) -> Any:
    """The evaluation asked for, checked before anything is loaded."""
    from quantpress_evaluate.stage import Request
    from quantpress_evaluate.suite import load, resolve_tasks

    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit}: at least one document", hint="leave --limit out to score them all")
    suite, path = load(args.suite)
    folder = args.data or os.environ.get("QUANTPRESS_DATA") or None
    return Request(suite, resolve_tasks(suite, path, Path(folder) if folder else None), args.limit)


def bench(args: Namespace) -> None:
    from quantpress_serve import stage, workload

    console, recipe, load = _console(args), recipe_language.load(args.recipe, args.set), workload.load(args.workload)
    sides = _sides(args)
    sides.check()
    model = models.resolve(args.model, console)
    artifact = quantizing.quantize(recipe, model, Path(args.out), console).artifact
    result = stage.bench(artifact, model, load, sides, console, args.fresh)
    _print(args, result, reporting.throughput_table({recipe.name: result}))


def _sides(args: Namespace) -> Any:
    from quantpress_serve.stage import Sides

    return Sides(args.vllm, args.port, args.vllm_url, args.baseline_url)


def run(args: Namespace) -> None:
    """All stages for each recipe. Everything that can be wrong is checked before the first one starts."""
    from quantpress_evaluate import stage as evaluating
    from quantpress_serve import stage as benching
    from quantpress_serve import workload

    console, request, load, sides = _console(args), _request(args), workload.load(args.workload), _sides(args)
    chosen = [recipe_language.load(name, args.set) for name in args.recipes]
    sides.check()
    model = models.resolve(args.model, console)
    for recipe in chosen:
        artifact = quantizing.quantize(recipe, model, Path(args.out), console).artifact
        evaluating.evaluate(artifact, model, request, console)
        benching.bench(artifact, model, load, sides, console, args.fresh)
    _write_report(args, model)


def report(args: Namespace) -> None:
    _write_report(args, models.resolve(args.model, _console(args)))


def _write_report(args: Namespace, model: Model) -> None:
    found = reporting.collect(Path(args.out) / model.name)
    text = reporting.render(model.identity(), found)
    path = reporting.write(Path(args.out) / model.name, text)
    _print(args, {"report": str(path), "recipes": sorted(found)}, f"{text.partition(reporting.PROVENANCE)[0]}{path}")


def serve(args: Namespace) -> int:
    from quantpress_serve import stage

    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    vllm = environment.find_vllm(args.vllm)
    model = models.resolve(args.model, console)
    artifact = quantizing.quantize(recipe, model, Path(args.out), console).artifact
    return stage.serve(artifact, vllm, args.port, console)


def doctor(args: Namespace) -> None:
    vllm = None
    try:
        found = environment.find_vllm(None)
        vllm = {"executable": str(found), "version": environment.vllm_version(found)}
    finally:
        facts = {
            "machine": environment.machine(),
            "vllm": vllm,
            "versions": environment.versions(environment.DECISIVE),
            "serving_environment": environment.serving_environment(),
        }
        _print(args, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))
