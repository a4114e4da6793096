"""One file of samples, whoever wrote it: lm-eval's own or one of our score folders. The file is of others: whatever it
holds, reading it gives samples that can be compared, or an InputError with file and line."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from quantpress.errors import InputError, first_line, shown
from quantpress_evaluate.comparison import metrics
from quantpress_evaluate.comparison.samples import (
    PERPLEXITIES,
    Sample,
    Samples,
    answer,
    filtered,
    filters_of,
    has_choices,
    likelihoods,
)

HINT = "name a folder that holds samples_<task>.jsonl files, as lm_eval run --log_samples --output_path writes them"
_LONGEST = 64 * 2**20  # bytes of one document; the longest contexts of real tasks have some MiB
_LARGEST = 4 * 2**30  # bytes of a file, unpacked: a few kilobytes of gzip could be any number of lines
_UNUSED = ("doc", "resps")
# Beyond these the figures leave what a float can hold.
_LARGEST_LIKELIHOOD = 1e12
_LARGEST_LOG_PERPLEXITY = 350.0


def read(path: Path) -> Samples:
    """The samples in a file, by document id, each once for every filter.

    Raises InputError for a file that is something else, a document that is there twice, or answers that cannot be
    compared; every error names the line or the document.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a regular file", hint=HINT)
    samples = []
    seen: dict[tuple[Any, str], int] = {}
    for number, line in _lines(path):
        sample = _sample_in(line, f"{path}, line {number}")
        name = sample["doc_id"], sample["filter"]
        if name in seen:
            raise InputError(
                f"{path}, line {number}: document {name[0]} is there twice, first in line {seen[name]}",
                hint="keep one run of the task in a file",
            )
        seen[name] = number
        samples.append(sample)
    samples.sort(key=lambda sample: (isinstance(sample["doc_id"], str), sample["doc_id"]))
    for filter_name in filters_of(samples):
        _require_one_kind(filtered(samples, filter_name), path)
    return samples


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    number = total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            lines: IO[bytes] = stream  # type: ignore[assignment]
            while line := lines.readline(_LONGEST + 1):
                number += 1
                total += len(line)
                if total > _LARGEST:
                    raise InputError(f"{path} holds more than {_LARGEST >> 30} GiB", hint=HINT)
                if len(line) > _LONGEST:
                    raise InputError(f"{path}, line {number} has more than {_LONGEST >> 20} MiB", hint=HINT)
                if line.strip():
                    yield number, line
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path} does not hold lm-eval's samples: after line {number}: {first_line(error)}", hint=HINT
        ) from error


def _sample_in(line: bytes, place: str) -> Sample:
    """The sample in a line, as lm-eval has it in memory. Raises InputError, which names the place and the document."""
    try:
        sample = json.loads(line)
        if not isinstance(sample, dict):
            raise ValueError(f"{shown(sample)} is no object")
        sample = _plain(sample)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} does not hold lm-eval's samples: {first_line(error)}", hint=HINT) from error
    try:
        _require_sound(sample)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"{place}: document {shown(sample['doc_id'])} has no answers that can be compared: {why}", hint=HINT
        ) from error
    return sample


def _plain(sample: Sample) -> Sample:
    """A sample as lm-eval has it in memory, without what is not compared; its own files spell arguments out by name.

    Raises ValueError for a document without an id.
    """
    number = sample.get("doc_id")
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise ValueError(f"doc_id {shown(number)} is neither a number nor a name")
    arguments = sample.get("arguments") or []
    if isinstance(arguments, dict):
        arguments = [list(part.values()) if isinstance(part, dict) else part for part in arguments.values()]
    if not isinstance(arguments, list) or not all(isinstance(part, list) for part in arguments):
        raise ValueError(f"document {shown(number)}: arguments {shown(arguments)} are none of lm-eval's")
    kept = {name: value for name, value in sample.items() if name not in _UNUSED}
    _require_shallow(kept)
    kept |= {"arguments": arguments, "filter": str(sample.get("filter", "none"))}
    return kept | ({"target": str(sample["target"])} if "target" in sample else {})


def _require_shallow(value: Any, levels: int = 50) -> None:
    """Raises ValueError for what is nested deeper than anything of lm-eval's, which Python could not compare."""
    if isinstance(value, list | dict):
        if levels == 0:
            raise ValueError("nested too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            _require_shallow(item, levels - 1)


def _require_sound(sample: Sample) -> None:
    """Raises ValueError, or what strange values raise, for answers that cannot be compared."""
    _require_question(sample)
    responses = sample["filtered_resps"]
    if not isinstance(responses, list) or not responses:
        raise ValueError(f"filtered_resps is {shown(responses)}")
    for metric in PERPLEXITIES:
        if metric in sample:
            _require_perplexity(metric, sample[metric])
    if has_choices(sample):
        _require_choices(sample)
    elif {"acc", "acc_norm"} & sample.keys() and sample["arguments"] and len(sample["arguments"]) != len(responses):
        raise ValueError(f"{len(responses)} answers to {len(sample['arguments'])} requests")
    answer(sample, "acc")


def _require_question(sample: Sample) -> None:
    """Raises ValueError for a sample that does not tell which document it answers, and what was asked."""
    for name in ("doc_hash", "prompt_hash", "target_hash"):
        if not isinstance(sample.get(name) or "", str):
            raise ValueError(f"{name} is {shown(sample[name])}, not a text")
    if not sample.get("doc_hash") or "target" not in sample:
        raise ValueError("doc_hash or target is missing")
    if not sample["arguments"] and not sample.get("prompt_hash"):
        raise ValueError("neither prompt_hash nor arguments tells what was asked")


def _require_perplexity(metric: str, value: Any) -> None:
    """Raises ValueError for what is no log-likelihood over a number of words or bytes."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{metric} is {shown(value)}, not a log-likelihood and a number of words or bytes")
    likelihood, count = float(value[0]), float(value[1])
    if not math.isfinite(count) or count <= 0:
        raise ValueError(f"{metric} is over {shown(value[1])} words or bytes")
    if not abs(likelihood / count) < _LARGEST_LOG_PERPLEXITY:
        raise ValueError(f"{metric} has the log-likelihood {shown(value[0])} over {shown(value[1])} words or bytes")


def _require_choices(sample: Sample) -> None:
    if not all(abs(value) < _LARGEST_LIKELIHOOD for value in likelihoods(sample)):
        raise ValueError("a choice's log-likelihood is not finite")
    if not sample["arguments"]:
        return
    if len(sample["filtered_resps"]) != len(sample["arguments"]):
        raise ValueError(f"{len(sample['filtered_resps'])} answers to {len(sample['arguments'])} requests")
    if "acc_norm" in sample:
        answer(sample, "acc_norm")


def _require_one_kind(samples: Samples, path: Path) -> None:
    """Raises InputError for a metric of METRICS that is a share in some documents of one filter only."""
    for metric in metrics.METRICS:
        if metric in PERPLEXITIES:
            continue
        values = [(sample["doc_id"], sample[metric]) for sample in samples if metric in sample]
        shares = [_is_share(value) for _, value in values]
        if any(shares) or any(metrics.number(value) is not None for _, value in values):
            wrong = next((pair for pair, share in zip(values, shares, strict=True) if not share), None)
            if wrong:
                raise InputError(
                    f"{path}: document {shown(wrong[0])} has no answers that can be compared: "
                    f"{metric} is {shown(wrong[1])}, not a share between 0 and 1",
                    hint=HINT,
                )


def _is_share(value: Any) -> bool:
    number = metrics.number(value)
    return number is not None and 0 <= number <= 1
