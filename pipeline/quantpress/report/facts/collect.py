"""The report as data: everything that its views show, from the files of every artifact of one model.

report.md, report.html and report.json are three views of what `collect` returns, so they cannot disagree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantpress import __version__
from quantpress.artifact.manifest import Artifact, artifacts_of, readable
from quantpress.artifact.results import Results
from quantpress.errors import InputError, StageError
from quantpress.report.facts import accuracy, comparable, decide, layer_errors, speed
from quantpress.report.facts.fields import Data, get
from quantpress.runtime import atomic, console

# Raise this when report.json changes its shape.
SCHEMA_VERSION = 1
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Of each stage its command, what the report calls its other results, and what it takes from one.
_STAGES = {
    "accuracy": ("evaluate", "other_suites", accuracy.accuracy),
    "throughput": ("bench", "other_workloads", speed.speed),
}


def collect(folder: Path, model: dict[str, Any] | None) -> Data:
    """Everything known of the artifacts in `folder` that were made from this very model (None: the newest one's).

    What cannot be read, or belongs to another model, is named in `left_out`. Raises InputError if nothing is left.
    """
    left_out: list[Data] = []
    read = [entry for artifact in artifacts_of(folder) if (entry := _read(artifact, left_out))]
    if model is None and read:
        model = max(read, key=lambda entry: str(entry[1]["created"]))[1]["model"]
    made = []
    for artifact, record in read:
        if model and record["model"]["digest"] == model["digest"]:
            made.append((artifact, record))
        else:
            left_out.append({"recipe": artifact.name, "reason": "it was made from another model of this name"})
    for one in left_out:
        console.warn(f"{one['recipe']} is left out of the report: {one['reason']}")
    if not made or model is None:
        raise InputError(f"{folder} holds no artifact to report on", hint="quantpress quantize RECIPE first")
    found = decide.ranked(comparable.aligned([_recipe(artifact, record) for artifact, record in made]))
    recipes = [{"number": number, **recipe} for number, recipe in enumerate(found, 1)]
    data = {
        "schema_version": SCHEMA_VERSION,
        "quantpress": __version__,
        "model": {"revision": None, "notes": [], **model},
        "recipes": recipes,
        "dummy": _dummy(folder, left_out),
        "unfinished": _unfinished(folder),
        "left_out": left_out,
        "moved": None,
    }
    return data | {"decision": decide.decide(data)}


def _read(artifact: Artifact, left_out: list[Data]) -> tuple[Artifact, Data] | None:
    try:
        return artifact, artifact.finished().dump()
    except StageError as error:
        left_out.append({"recipe": artifact.name, "reason": error.message})
        return None


def _dummy(folder: Path, left_out: list[Data]) -> list[Data]:
    """Speeds measured on the model's shapes alone, without its weights and without a checkpoint."""
    found = []
    for path in sorted(folder.glob("dummy/*/throughput.json")):
        name = path.parent.name
        try:
            with readable(path.parent):
                results = Results(path.parent, "throughput", atomic.read_json(path)["checkpoint_digest"])
                found += [{"name": name, "throughput": speed.speed(result)} for result in results.all()]
        except StageError as error:
            left_out.append({"recipe": f"{name} (dummy weights)", "reason": error.message})
    return found


def _unfinished(folder: Path) -> list[Data]:
    """Recipes that `quantize` was started for and that have no checkpoint: it failed, was killed, or is running."""
    logs = sorted((folder / "logs").glob("*.quantize.log"))
    names = [path.name.removesuffix(".quantize.log") for path in logs]
    return [{"recipe": name, "log": f"logs/{name}.quantize.log"} for name in names if not _made(folder / name)]


def _made(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _recipe(artifact: Artifact, record: Data) -> Data:
    """One recipe: what was made, and what each stage found. `missing` says why a stage has nothing to show."""
    found: Data = {}
    missing = {}
    for name, (command, others, extract) in _STAGES.items():
        measured, missing[name] = _stage(artifact, Results(artifact.folder, name, record["digest"]), command, extract)
        found[name], found[others] = (measured[0], measured[1:]) if measured else (None, [])
    found["layers"], missing["layers"] = layer_errors.known(artifact, record)
    return {
        "name": artifact.name,
        "description": get(record, "recipe", "description", default=""),
        "digest": str(record["digest"]),
        "created": str(record["created"]),
        "size": _size(record, artifact.checkpoint),
        **found,
        "missing": {name: reason for name, reason in missing.items() if reason},
        "warnings": [str(text) for text in record["warnings"]],
        "resolved": _resolved(artifact),
        "versions": get(record, "inputs", "versions", default={}),
        "machine": get(record, "machine", default={}),
    }


def _stage(artifact: Artifact, results: Results, command: str, extract: Any) -> tuple[list[Data], str | None]:
    """A stage's figures by suite or workload, the last one's first, or why there are none."""
    try:
        with readable(artifact.folder):
            if measured := results.all():
                return [extract(result) for result in measured], None
            started = (artifact.folder.parent / "logs" / f"{artifact.name}.{command}.log").is_file()
            why = f"`{command}` was started and has not finished" if started else "not measured"
            if results.front.is_file():
                why = "measured on an older checkpoint, so it is not shown"
    except StageError as error:
        why = error.message
    return [], why


def _size(record: Data, checkpoint: Path) -> Data:
    """Bytes of the weights, and bits for each weight of the model."""
    before, after = int(record["bytes"]["model"]), int(record["bytes"]["checkpoint"])
    each = _BYTES.get(_dtype(checkpoint))
    return {
        "model_bytes": before,
        "checkpoint_bytes": after,
        "ratio": after / before if before else None,
        "bits_per_weight": 8 * after * each / before if each and before else None,
        "quantized_layers": get(record, "quantized_layers"),
        "scales": get(record, "scales"),
        "calibration_tokens": get(record, "calibration", "tokens"),
        "calibrated": record.get("calibration") is not None,
        "seconds": get(record, "seconds"),
    }


def _dtype(checkpoint: Path) -> str:
    """The type of the unquantized weights, which the checkpoint's config.json keeps."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(get(config, "dtype", default=get(config, "torch_dtype")))


def _resolved(artifact: Artifact) -> str | None:
    try:
        return (artifact.folder / "recipe.resolved.yaml").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
