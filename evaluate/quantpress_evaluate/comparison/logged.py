"""Logged samples of lm-eval, wherever they come from: our score folders, or what `lm_eval run --log_samples` wrote."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.samples import PERPLEXITIES, Sample, Samples, filters_of, has_choices, likelihoods

# samples_boolq.jsonl.gz is ours, samples_boolq_2026-01-31T12-00-00.123456.jsonl lm-eval's own.
_FILE = re.compile(r"^samples_(?P<task>.+?)(?:_(?P<time>\d{4}-\d{2}-\d{2}T[\d.-]+))?\.jsonl(?:\.gz)?$")
_HINT = "name a folder that holds samples_<task>.jsonl files, as lm_eval run --log_samples --output_path writes them"
# What can be compared document by document; the first one that a task was scored by is taken unless one is named.
METRICS = ("acc", "acc_norm", "exact_match", *PERPLEXITIES)


def read(folder: Path) -> dict[str, Samples]:
    """The samples of every task below a folder that can be compared, the newest where a task is there several times.

    Raises InputError if there is none, or a file is something else.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint=_HINT)
    newest: dict[str, tuple[tuple[str, float], Path]] = {}
    for path in folder.rglob("samples_*"):
        if found := _FILE.match(path.name):
            age = (found["time"] or "", path.stat().st_mtime)
            newest[found["task"]] = max(newest.get(found["task"], (age, path)), (age, path))
    samples = {task: _samples_in(path) for task, (_, path) in sorted(newest.items())}
    samples = {task: rows for task, rows in samples.items() if rows and _metrics_of(rows)}
    for task, rows in samples.items():
        _require_comparable(rows, newest[task][1])
    if not samples:
        raise InputError(f"{folder} holds no samples that were scored by {', '.join(METRICS)}", hint=_HINT)
    return samples


def paired(task: str, baseline: Samples, candidate: Samples, metric: str | None, name: str | None) -> Scored:
    """Both sides of one task by one metric and one of lm-eval's filters.

    Raises InputError if a side does not have them.
    """
    for side in (baseline, candidate):
        if metric and metric not in _metrics_of(side):
            raise InputError(
                f"{task} was not scored by {metric}", hint=f"it was scored by {', '.join(_metrics_of(side))}"
            )
        if name and name not in filters_of(side):
            raise InputError(f"{task} has no filter {name!r}", hint=f"its filters: {', '.join(filters_of(side))}")
    return Scored(metric or _metrics_of(baseline)[0], baseline, candidate, name)


def _metrics_of(samples: Samples) -> list[str]:
    return [metric for metric in METRICS if all(metric in sample for sample in samples)]


def _samples_in(path: Path) -> Samples:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            return sorted((_plain(json.loads(line)) for line in stream), key=lambda sample: sample["doc_id"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not hold lm-eval's samples: {error}", hint=_HINT) from error


def _plain(sample: Sample) -> Sample:
    """A sample as lm-eval has it in memory; its own files spell the arguments out by name."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        sample["arguments"] = [[pair["arg_0"], pair["arg_1"]] for pair in arguments.values() if "arg_1" in pair]
    return sample


def _require_comparable(samples: Samples, path: Path) -> None:
    """Raises InputError for a document that is there twice, or whose answers cannot be compared."""
    seen = set()
    for sample in samples:
        number = sample["doc_id"], sample.get("filter")
        try:
            sound = _is_sound(sample)
        except (LookupError, TypeError, ValueError):
            sound = False
        if not sound:
            raise InputError(
                f"{path}: document {number[0]} has no answers that can be compared (finite log-likelihoods of choices, "
                "a metric of 0 or 1, target and doc_hash)",
                hint=_HINT,
            )
        if number in seen:
            raise InputError(f"{path}: document {number[0]} is there twice", hint="keep one run of the task")
        seen.add(number)


def _is_sound(sample: Sample) -> bool:
    values: list[Any] = []
    for metric in PERPLEXITIES:
        if metric in sample:
            likelihood, count = sample[metric]
            values += [float(likelihood), 1 / float(count)]
    scores = [float(sample[metric]) for metric in METRICS if metric in sample and metric not in PERPLEXITIES]
    if has_choices(sample):
        values += likelihoods(sample)
        if len(sample["filtered_resps"]) != len(sample["arguments"]):
            return False
    elif {"acc", "acc_norm"} & sample.keys() and not len(sample["filtered_resps"]) == len(sample["arguments"]) == 1:
        return False  # one answer asked about, and whether it is the greedy one
    known = bool(sample["doc_hash"]) and "target" in sample and bool(sample["filtered_resps"])
    return known and all(map(math.isfinite, values)) and set(scores) <= {0.0, 1.0}
