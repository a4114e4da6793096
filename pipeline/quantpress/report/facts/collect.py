"""The report as data: everything that its views show, from the files of every artifact of one model.

report.md, report.html and report.json are three views of what `collect` returns, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from quantpress import __version__
from quantpress.artifact import calibrations
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact, Manifest, artifacts_of
from quantpress.artifact.online import methods_in, name_of
from quantpress.artifact.online import results_of as online_results
from quantpress.artifact.results import Results, results_of
from quantpress.artifact.throughput import Throughput
from quantpress.errors import InputError, StageError
from quantpress.report.facts import comparable, decide, layer_errors, other_engines
from quantpress.report.facts.accuracy import score_of
from quantpress.report.facts.data import (
    Dummy,
    LeftOut,
    Load,
    Online,
    OtherEngine,
    Recipe,
    Report,
    Score,
    Size,
    Speed,
    Unfinished,
)
from quantpress.report.facts.speed import speed_of
from quantpress.runtime import console, foreign
from quantpress.runtime.identity import Identity

T = TypeVar("T", Score, Speed)
S = TypeVar("S", Accuracy, Throughput)
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def collect(folder: Path, model: Identity | None) -> Report:
    """Everything known of the artifacts in `folder` that were made from this very model (None: the newest one's).

    What cannot be read, or belongs to another model, is named in `left_out`. Raises InputError if nothing is left.
    """
    left_out: list[LeftOut] = []
    draws = _other_draws(folder, left_out)
    readables = [entry for artifact in artifacts_of(folder) if (entry := _read(artifact, left_out))]
    readables = [entry for entry in readables if entry[0].name not in draws]
    if model is None and readables:
        model = max(readables, key=lambda entry: entry[1].created)[1].model
    recipes = []
    for artifact, record in readables:
        if model and record.model.digest == model.digest:
            recipes.append(_recipe(artifact, record))
        else:
            left_out.append(LeftOut(recipe=artifact.name, reason="it was made from another model of this name"))
    for gone in left_out:
        console.warn(f"{gone.recipe} is left out of the report: {gone.reason}")
    if not recipes or model is None:
        raise InputError(f"{folder} holds no artifact to report on", hint="quantpress quantize RECIPE first")
    ranked = decide.ranked(comparable.aligned(recipes))
    numbered = [recipe.model_copy(update={"number": number}) for number, recipe in enumerate(ranked, 1)]
    online = _online(folder, model.digest, left_out, comparable.compared_load(numbered))
    return Report(
        quantpress=__version__,
        model=model,
        recipes=numbered,
        dummy=_dummy(folder, left_out),
        unfinished=_unfinished(folder),
        left_out=left_out,
        moved=None,
        decision=decide.decision_on(numbered, online),
        online=online,
    )


def _other_draws(folder: Path, left_out: list[LeftOut]) -> set[str]:
    """Calibrations of a recipe under other seeds: to choose the best of them would be to choose the luckiest.

    Their own marks say so, and calibrations.json of the recipe, which earlier versions had alone.
    """
    draws: set[str] = set()
    for artifact in artifacts_of(folder):
        draws |= {artifact.name} if calibrations.is_marked(artifact) else set()
        try:
            draws |= calibrations.calibrations_of(artifact).others(artifact.name)
        except StageError as error:
            left_out.append(LeftOut(recipe=f"{artifact.name} (other calibrations)", reason=error.message))
    return draws


def _read(artifact: Artifact, left_out: list[LeftOut]) -> tuple[Artifact, Manifest] | None:
    try:
        return artifact, artifact.finished()
    except StageError as error:
        left_out.append(LeftOut(recipe=artifact.name, reason=error.message))
        return None


def _dummy(folder: Path, left_out: list[LeftOut]) -> list[Dummy]:
    """Speeds measured on the model's shapes alone; of what cannot be read, `left_out` says why."""
    measured = []
    for path in sorted(folder.glob("dummy/*/throughput.json")):
        name = path.parent.name
        try:
            results = Results(path.parent, Throughput, Throughput.load(path).checkpoint_digest)
            measured += [Dummy(name=name, throughput=speed_of(result)) for result in results.all()]
        except StageError as error:
            left_out.append(LeftOut(recipe=f"{name} (dummy weights)", reason=error.message))
    return measured


def _online(folder: Path, model_digest: str, left_out: list[LeftOut], load: Load | None) -> list[Online]:
    """The model as vLLM quantizes it while it loads, under the load that is compared if it was measured under it."""
    found = []
    for method in methods_in(folder):
        try:
            speeds = [speed_of(one) for one in online_results(folder, model_digest, method, Throughput).all()]
            scores = [score_of(one) for one in online_results(folder, model_digest, method, Accuracy).all()]
        except StageError as error:
            left_out.append(LeftOut(recipe=name_of(method), reason=error.message))
            continue
        speeds.sort(key=lambda speed: not comparable.is_under(speed, load))
        if speeds or scores:  # none of another model of this name
            front = {"throughput": next(iter(speeds), None), "accuracy": next(iter(scores), None)}
            found.append(Online.model_validate({"method": method, **front}))
    return found


def _unfinished(folder: Path) -> list[Unfinished]:
    """Recipes that `quantize` was started for and that have no checkpoint: it failed, was killed, or is running."""
    names = [path.name.removesuffix(".quantize.log") for path in sorted((folder / "logs").glob("*.quantize.log"))]
    return [
        Unfinished(recipe=name, log=f"logs/{name}.quantize.log")
        for name in names
        if not (folder / name / "manifest.json").is_file()
    ]


def _recipe(artifact: Artifact, record: Manifest) -> Recipe:
    """One recipe of the report; its number is not known yet."""
    scores, unscored = _stage(artifact, results_of(artifact, Accuracy), "evaluate", score_of)
    scores = [_with_spread(score, artifact) for score in scores]
    speeds, unmeasured = _stage(artifact, results_of(artifact, Throughput), "bench", speed_of)
    layers, unknown = layer_errors.known(artifact, record)
    engines, unread = _other_engines(artifact)
    missing = {"accuracy": unscored, "throughput": unmeasured, "layers": unknown, "other engines": unread}
    return Recipe(
        number=0,
        name=artifact.name,
        description=record.recipe.get("description") or "",
        digest=record.digest,
        created=record.created,
        size=_size(record, artifact.checkpoint),
        accuracy=scores[0] if scores else None,
        other_suites=scores[1:],
        throughput=speeds[0] if speeds else None,
        other_workloads=speeds[1:],
        layers=layers,
        missing={name: reason for name, reason in missing.items() if reason},
        warnings=record.warnings,
        resolved=_resolved(artifact),
        versions=record.inputs.versions,
        machine=record.machine,
        adopted=record.adopted,
        other_engines=engines,
    )


def _with_spread(score: Score, artifact: Artifact) -> Score:
    """The score with how far several calibrations of the recipe are apart, where that was seen."""
    try:
        scored = calibrations.calibrations_of(artifact).suites.get(score.suite or "", [])
    except StageError:  # collect says so
        return score
    return score.model_copy(update={"notes": [*score.notes, calibrations.spread(scored)]}) if scored else score


def _stage(
    artifact: Artifact, results: Results[S], command: str, facts_of: Callable[[S], T]
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
    return [], f"{command} was started and has not finished" if started else "not measured"


def _other_engines(artifact: Artifact) -> tuple[list[OtherEngine], str | None]:
    """The checkpoint on other engines, or why that cannot be read."""
    try:
        return other_engines.other_engines(artifact), None
    except StageError as error:
        return [], error.message


def _size(record: Manifest, checkpoint: Path) -> Size:
    """Bytes of the weights, and bits for each weight of the model."""
    before, after = record.bytes.model, record.bytes.checkpoint
    each = _BYTES.get(_dtype(checkpoint))
    calibration = record.calibration
    return Size(
        model_bytes=before,
        checkpoint_bytes=after,
        ratio=after / before if before else None,
        bits_per_weight=8 * after * each / before if each and before else None,
        quantized_layers=record.quantized_layers,
        scales=record.scales,
        calibration_tokens=calibration.tokens if calibration else None,
        calibrated=calibration is not None,
        seconds=record.seconds,
    )


def _dtype(checkpoint: Path) -> str:
    """The type of the unquantized weights, which the checkpoint's config.json keeps."""
    try:
        config = foreign.read_json(checkpoint / "config.json")
    except (OSError, ValueError):
        return ""
    return str(config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else ""


def _resolved(artifact: Artifact) -> str | None:
    try:
        return (artifact.folder / "recipe.resolved.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
