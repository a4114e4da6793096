"""`quantpress report`: one report for each model asked for, and an index where there are several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.cli.options import MODEL, Commands, add_dequantize, add_flags, add_out, add_trust
from quantpress.errors import InputError

if TYPE_CHECKING:
    from quantpress.model.source import Model
    from quantpress.report.facts.data import Report

Made = tuple[Path, "Report"]  # with its folder


@dataclass(frozen=True)
class Options:
    model: list[str] | None
    all: bool
    out: Path
    layer_errors: bool
    mlflow: str | None
    against: Path | None
    trust_remote_code: bool
    dequantize: bool


def add(commands: Commands) -> None:
    parser = commands.add_parser("report", help="write report.html, report.md and report.json over a model's recipes")
    parser.add_argument("--model", action="append", help=MODEL + "; several times for several models (embedded)")
    parser.add_argument("--all", action="store_true", help="every model below --out")
    add_out(parser)
    parser.add_argument(
        "--layer-errors", action="store_true", help="measure each decoder layer's error first (both models in memory)"
    )
    parser.add_argument("--mlflow", metavar="URI", help="log the report to this MLflow server too")
    parser.add_argument(
        "--against", type=Path, metavar="REPORT", help="an older report.json: say what moved since, beyond noise"
    )
    add_trust(parser)
    add_dequantize(parser)
    add_flags(parser)


def run(options: Options) -> None:
    """Reports of every --model, or of all models below --out."""
    from quantpress.report.facts import changes
    from quantpress.report.views import index

    _require_consistent(options)
    if options.mlflow:
        from quantpress.report.views import to_mlflow

        to_mlflow.require_usable(options.mlflow)
    if options.all or len(options.model or []) > 1:
        index.require_ours(options.out)
    older = changes.older_report(options.against) if options.against else None
    made = _of_all(options) if options.all else _of_named(options, older)
    if len(made) > 1:
        index.write(options.out, made)
    if not options.mlflow:
        _show(made)
        return
    _show(made, {"mlflow_runs": to_mlflow.track(made, options.mlflow)})


def _require_consistent(options: Options) -> None:
    if options.all and options.model:
        raise InputError("--all and --model exclude each other", hint="leave one of them out")
    if options.against and (options.all or len(options.model or []) > 1):
        raise InputError("--against compares the report of one model", hint="name one --model")
    if options.layer_errors and options.all:
        raise InputError("--layer-errors needs the model's weights", hint="name the models with --model")


def _of_all(options: Options) -> list[Made]:
    from quantpress.artifact import manifest
    from quantpress.runtime import console

    folders = [path for path in sorted(options.out.glob("*")) if manifest.artifacts_of(path)]
    if not folders:
        raise InputError(f"{options.out} holds no artifact to report on", hint="quantpress quantize RECIPE first")
    made = []
    for folder in folders:
        try:
            made.append(_written(folder))
        except InputError as error:  # nothing in it can be read: the other models have their reports all the same
            console.warn(error.message)
    if not made:
        raise InputError(f"{options.out} holds no artifact that can be read", hint="quantpress status says why")
    return made


def _of_named(options: Options, older: Report | None) -> list[Made]:
    from quantpress.model.source import find_model

    named = options.model or ["embedded"]
    models = [find_model(name, options.trust_remote_code, options.dequantize) for name in named]
    if options.layer_errors:
        for model in models:
            _measure_layers(options.out / model.name, model)
    return [_written(options.out / model.name, model, older, str(options.against)) for model in models]


def _measure_layers(folder: Path, model: Model) -> None:
    from quantpress.artifact import manifest
    from quantpress_evaluate import layer_errors

    for artifact in manifest.artifacts_of(folder):
        if artifact.finished().model.digest == model.identity().digest:
            layer_errors.measure(artifact, model)


def report_of_model(out: Path, model: Model) -> None:
    """The report at the end of `run`."""
    _show([_written(out / model.name, model)])


def report_of_models(out: Path, names: list[str]) -> None:
    """The reports at the end of `sweep`, of models by the names of their folders, and their index."""
    from quantpress.artifact import manifest
    from quantpress.report.views import index
    from quantpress.runtime import console

    made = [_written(out / name) for name in names if manifest.artifacts_of(out / name)]
    if len(made) > 1:
        index.require_ours(out)
        index.write(out, made)
    rows = [_row(folder, collected) for folder, collected in made]
    lines = [f"{row['model']}: {row['headline']}\n{row['report_html']}" for row in rows]
    console.event({"event": "report", "reports": rows}, "\n".join(lines))


def _row(folder: Path, collected: Report) -> dict[str, Any]:
    from quantpress import report

    return {
        "model": collected.model.name,
        "headline": collected.decision.headline,
        "recipes": [recipe.name for recipe in collected.recipes],
        **{name.replace(".", "_"): str(folder / name) for name in report.NAMES},
    }


def _written(folder: Path, model: Model | None = None, older: Report | None = None, against: str = "") -> Made:
    """Collects and writes one model's report (of the newest artifact's model where none is named)."""
    from quantpress import report
    from quantpress.report.facts import changes, collect

    collected = collect.collect(folder, model.identity() if model else None)
    if older:
        collected = collected.model_copy(update={"moved": changes.moved_since(older, collected, against)})
    report.write(folder, collected)
    return folder, collected


def _show(made: list[Made], more: dict[str, Any] | None = None) -> None:
    from quantpress.report.views import markdown
    from quantpress.runtime.console import show

    rows = [_row(folder, collected) for folder, collected in made]
    texts = [
        f"{markdown.render(collected).partition(markdown.PROVENANCE)[0]}{folder / 'report.html'}"
        for folder, collected in made
    ]
    show({"reports": rows, **(more or {})}, "\n\n".join(texts))
