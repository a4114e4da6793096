"""`quantpress report`: one report for each model asked for, and an index where there are several."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from quantpress import report
from quantpress.artifact import manifest
from quantpress.errors import InputError
from quantpress.model import source as models
from quantpress.model.source import Model
from quantpress.report.facts import changes as moved
from quantpress.report.facts import collect
from quantpress.report.views import index, markdown
from quantpress.runtime.console import Console, show


def make(args: Namespace) -> None:
    """Reports of every --model, or of all models below --out."""
    if args.all and args.model:
        raise InputError("--all and --model exclude each other", hint="leave one of them out")
    names = args.model or ["embedded"]
    if args.against and (args.all or len(names) > 1):
        raise InputError("--against compares the report of one model", hint="name one --model")
    console, out = Console(quiet=args.quiet), Path(args.out)
    older = moved.read(Path(args.against)) if args.against else None
    if args.layer_errors and args.all:
        raise InputError("--layer-errors needs the model's weights", hint="name the models with --model")
    if args.all:
        folders = [path for path in sorted(out.glob("*")) if manifest.artifacts_of(path)]
        if not folders:
            raise InputError(f"{out} holds no artifact to report on", hint="quantpress quantize RECIPE first")
        made = [of_folder(folder, None, console) for folder in folders]
    else:
        found = [models.resolve(name, console, args.trust_remote_code) for name in names]
        for one in found if args.layer_errors else []:
            _measure_layers(out / one.name, one, console)
        made = [of_folder(out / one.name, one.identity(), console, older, args.against) for one in found]
    if len(made) > 1:
        index.write(out, made)
    if args.mlflow:
        from quantpress.report.views import mlflow as tracking

        _show(args, made, {"mlflow_runs": tracking.track(made, args.mlflow)})
    else:
        _show(args, made)


def _measure_layers(folder: Path, model: Model, console: Console) -> None:
    from quantpress_evaluate import layer_errors

    for artifact in manifest.artifacts_of(folder):
        if artifact.finished()["model"]["digest"] == model.identity()["digest"]:
            layer_errors.measure(artifact, model, console)


def of_model(args: Namespace, model: Model) -> None:
    """The report at the end of `run`."""
    _show(args, [of_folder(Path(args.out) / model.name, model.identity(), Console(quiet=args.quiet))])


def of_folder(
    folder: Path,
    model: dict[str, Any] | None,
    console: Console,
    older: dict[str, Any] | None = None,
    against: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Collects and writes one model's report; returns its folder and its data."""
    with manifest.readable(folder):
        data = collect.collect(folder, model, console)
        if older:
            data["moved"] = moved.compare(older, data, str(against))
        report.write(folder, data)
    return folder, data


def _show(args: Namespace, made: list[tuple[Path, dict[str, Any]]], more: dict[str, Any] | None = None) -> None:
    rows = [
        {
            "model": data["model"]["name"],
            "headline": data["decision"]["headline"],
            "recipes": [recipe["name"] for recipe in data["recipes"]],
            **{name.replace(".", "_"): str(folder / name) for name in report.NAMES},
        }
        for folder, data in made
    ]
    texts = [
        f"{markdown.render(data).partition(markdown.PROVENANCE)[0]}{folder / 'report.html'}" for folder, data in made
    ]
    show(args.json, {"reports": rows, **(more or {})}, "\n\n".join(texts))
