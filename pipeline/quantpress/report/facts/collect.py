"""The report as data: everything that its views show, from the files of every artifact of one model.

report.md, report.html and report.json are three views of what `collect` returns, so they cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from quantpress import __version__
from quantpress.artifact.accuracy import Accuracy, Comparison
from quantpress.artifact.manifest import Artifact, artifacts_of, readable
from quantpress.artifact.results import ResultsOf
from quantpress.artifact.throughput import Throughput
from quantpress.errors import InputError, StageError
from quantpress.report.facts import accuracy, comparable, decide, layer_errors, speed
from quantpress.report.facts.data import (
    Dummy,
    Layers,
    LeftOut,
    ModelIdentity,
    Recipe,
    Report,
    Score,
    Size,
    Speed,
    Unfinished,
)
from quantpress.runtime import console

T = TypeVar("T", Score, Speed)
S = TypeVar("S", Accuracy, Throughput)
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def collect(folder: Path, model: dict[str, Any] | None) -> Report:
    """Everything known of the artifacts in `folder` that were made from this very model (None: the newest one's).

    What cannot be read, or belongs to another model, is named in `left_out`. Raises InputError if nothing is left.
    """
    left_out: list[LeftOut] = []
    readables = [entry for artifact in artifacts_of(folder) if (entry := _read(artifact, left_out))]
    if model is None and readables:
        model = max(readables, key=lambda entry: str(entry[1]["created"]))[1]["model"]
    recipes = []
    for artifact, record in readables:
        if model and record["model"]["digest"] == model["digest"]:
            recipes.append(_recipe(artifact, record))
        else:
            left_out.append(LeftOut(recipe=artifact.name, reason="it was made from another model of this name"))
    for gone in left_out:
        console.warn(f"{gone.recipe} is left out of the report: {gone.reason}")
    if not recipes or model is None:
        raise InputError(f"{folder} holds no artifact to report on", hint="quantpress quantize RECIPE first")
    ranked = decide.ranked(comparable.aligned(recipes))
    numbered = [recipe.model_copy(update={"number": number}) for number, recipe in enumerate(ranked, 1)]
    return Report(
        quantpress=__version__,
        model=ModelIdentity.model_validate(model),
        recipes=numbered,
        dummy=_dummy(folder, left_out),
        unfinished=_unfinished(folder),
        left_out=left_out,
        moved=None,
        decision=decide.decision_on(numbered),
    )


def score_of(result: Comparison) -> Score:
    """What the report takes from accuracy.json, or from the result of `compare`."""
    return Score.model_validate(accuracy.accuracy(result))


def speed_of(result: Throughput) -> Speed:
    """What the report takes from throughput.json."""
    return Speed.model_validate(speed.speed(result))


def _read(artifact: Artifact, left_out: list[LeftOut]) -> tuple[Artifact, dict[str, Any]] | None:
    try:
        with readable(artifact.folder):
            record = artifact.finished()
            str(record["model"]["digest"])
            _size(record, artifact.checkpoint)
    except StageError as error:
        left_out.append(LeftOut(recipe=artifact.name, reason=error.message))
        return None
    return artifact, record


def _dummy(folder: Path, left_out: list[LeftOut]) -> list[Dummy]:
    """Speeds measured on the model's shapes alone; of what cannot be read, `left_out` says why."""
    measured = []
    for path in sorted(folder.glob("dummy/*/throughput.json")):
        name = path.parent.name
        try:
            results = ResultsOf(path.parent, Throughput, Throughput.load(path).checkpoint_digest)
            measured += [Dummy(name=name, throughput=speed_of(result)) for result in results.all()]
        except StageError as error:
            left_out.append(LeftOut(recipe=f"{name} (dummy weights)", reason=error.message))
    return measured


def _unfinished(folder: Path) -> list[Unfinished]:
    """Recipes that `quantize` was started for and that have no checkpoint: it failed, was killed, or is running."""
    names = [path.name.removesuffix(".quantize.log") for path in sorted((folder / "logs").glob("*.quantize.log"))]
    return [
        Unfinished(recipe=name, log=f"logs/{name}.quantize.log")
        for name in names
        if not (folder / name / "manifest.json").is_file()
    ]


def _recipe(artifact: Artifact, record: dict[str, Any]) -> Recipe:
    """One recipe of the report; its number is not known yet."""
    scores, unscored = _stage(artifact, ResultsOf(artifact.folder, Accuracy, record["digest"]), "evaluate", score_of)
    speeds, unmeasured = _stage(artifact, ResultsOf(artifact.folder, Throughput, record["digest"]), "bench", speed_of)
    layers, unknown = layer_errors.known(artifact, record)
    missing = {"accuracy": unscored, "throughput": unmeasured, "layers": unknown}
    return Recipe(
        number=0,
        name=artifact.name,
        description=record["recipe"].get("description") or "",
        digest=str(record["digest"]),
        created=str(record["created"]),
        size=_size(record, artifact.checkpoint),
        accuracy=scores[0] if scores else None,
        other_suites=scores[1:],
        throughput=speeds[0] if speeds else None,
        other_workloads=speeds[1:],
        layers=Layers.model_validate(layers) if layers else None,
        missing={name: reason for name, reason in missing.items() if reason},
        warnings=[str(text) for text in record["warnings"]],
        resolved=_resolved(artifact),
        versions=record["inputs"].get("versions") or {},
        machine=record["machine"],
    )


def _stage(
    artifact: Artifact, results: ResultsOf[S], command: str, facts_of: Callable[[S], T]
) -> tuple[list[T], str | None]:
    """A stage's figures by suite or workload, the last one's first, or why there are none."""
    try:
        if measured := results.all():
            return [facts_of(result) for result in measured], None
    except StageError as error:
        return [], error.message
    if results.front.is_file():
        return [], "measured on an older checkpoint, so it is not shown"
    started = (artifact.folder.parent / "logs" / f"{artifact.name}.{command}.log").is_file()
    return [], f"`{command}` was started and has not finished" if started else "not measured"


def _size(record: dict[str, Any], checkpoint: Path) -> Size:
    """Bytes of the weights, and bits for each weight of the model."""
    before, after = int(record["bytes"]["model"]), int(record["bytes"]["checkpoint"])
    each = _BYTES.get(_dtype(checkpoint))
    calibration = record.get("calibration")
    return Size(
        model_bytes=before,
        checkpoint_bytes=after,
        ratio=after / before if before else None,
        bits_per_weight=8 * after * each / before if each and before else None,
        quantized_layers=record.get("quantized_layers"),
        scales=record.get("scales"),
        calibration_tokens=calibration.get("tokens") if calibration else None,
        calibrated=calibration is not None,
        seconds=record.get("seconds"),
    )


def _dtype(checkpoint: Path) -> str:
    """The type of the unquantized weights, which the checkpoint's config.json keeps."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else ""


def _resolved(artifact: Artifact) -> str | None:
    try:
        return (artifact.folder / "recipe.resolved.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
