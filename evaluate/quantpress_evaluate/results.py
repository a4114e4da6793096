"""Logged samples of lm-eval, wherever they come from: our score folders, or what `lm_eval run --log_samples` wrote."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress_evaluate.compare import Samples

# samples_boolq.jsonl.gz is ours, samples_boolq_2026-01-31T12-00-00.123456.jsonl lm-eval's own.
_FILE = re.compile(r"^samples_(?P<task>.+?)(?:_(?P<time>\d{4}-\d{2}-\d{2}T[\d.-]+))?\.jsonl(?:\.gz)?$")
_HINT = "name a folder that holds samples_<task>.jsonl files, as lm_eval run --log_samples --output_path writes them"


def read(folder: Path) -> dict[str, Samples]:
    """The samples of every multiple-choice task below a folder, the newest where a task is there several times.

    Raises InputError if there is none, or a file is something else.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint=_HINT)
    newest: dict[str, tuple[tuple[str, float], Path]] = {}
    for path in folder.rglob("samples_*"):
        if found := _FILE.match(path.name):
            age = (found["time"] or "", path.stat().st_mtime)
            newest[found["task"]] = max(newest.get(found["task"], (age, path)), (age, path))
    samples = {task: _read(path) for task, (_, path) in sorted(newest.items())}
    samples = {task: rows for task, rows in samples.items() if _is_multiple_choice(rows)}
    for task, rows in samples.items():
        _check(rows, newest[task][1])
    if not samples:
        raise InputError(f"{folder} holds no samples of a multiple-choice task", hint=_HINT)
    return samples


def _read(path: Path) -> Samples:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            return sorted((_plain(json.loads(line)) for line in stream), key=lambda sample: sample["doc_id"])
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not hold lm-eval's samples: {error}", hint=_HINT) from error


def _plain(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as lm-eval has it in memory; its own files spell the arguments out by name."""
    arguments = sample["arguments"]
    if isinstance(arguments, dict):
        sample["arguments"] = [[one["arg_0"], one["arg_1"]] for one in arguments.values() if "arg_1" in one]
    return sample


def _is_multiple_choice(samples: Samples) -> bool:
    """Whether each answer is a pair of a log-likelihood and whether it is the greedy one, for several choices."""
    first = samples[0].get("filtered_resps") if samples else None
    return isinstance(first, list) and len(first) > 1 and all(isinstance(a, list) and len(a) == 2 for a in first)


def _check(samples: Samples, path: Path) -> None:
    """Raises InputError for a document that is there twice, or whose answers cannot be compared."""
    seen = set()
    for sample in samples:
        number = sample["doc_id"]
        try:
            likelihoods = [float(answer[0]) for answer in sample["filtered_resps"]]
            scores = [float(sample[metric]) for metric in ("acc", "acc_norm") if metric in sample]
            sound = len(likelihoods) > 1 and len(likelihoods) == len(sample["arguments"]) and bool(sample["doc_hash"])
            sound &= all(map(math.isfinite, likelihoods)) and set(scores) <= {0.0, 1.0} and "target" in sample
        except (LookupError, TypeError, ValueError):
            sound = False
        if not sound:
            raise InputError(
                f"{path}: document {number} has no answers that can be compared (finite log-likelihoods of choices, "
                "acc of 0 or 1, target and doc_hash)",
                hint=_HINT,
            )
        if number in seen:
            raise InputError(f"{path}: document {number} is there twice", hint="keep one run of the task")
        seen.add(number)
