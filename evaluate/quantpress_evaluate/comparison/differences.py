"""What, besides the model, is not the same in two runs of one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from quantpress.artifact.accuracy import Difference
from quantpress.errors import listed
from quantpress_evaluate.comparison.asked import NOTHING, Asked
from quantpress_evaluate.comparison.samples import Sample, Samples, common, has_choices, is_same_document

_SHOWN = 60


@dataclass(frozen=True)
class Logged:
    """One task as one run logged it: its samples, and how lm-eval says that it asked."""

    samples: Samples
    asked: Asked = NOTHING


def between(task: str, baseline: Logged, candidate: Logged, metric: str, filter_name: str | None) -> list[Difference]:
    """Everything that was not the same, of samples of one filter; empty for runs that can be compared."""
    found: dict[str, Difference] = {}
    for what, one, other, documents in (
        *_documents(baseline.samples, candidate.samples),
        *_questions(baseline.samples, candidate.samples),
        *_settings(baseline.asked, candidate.asked, metric, filter_name),
    ):
        # What the samples show is not said again because the settings tell it too.
        difference = Difference(task=task, what=what, baseline=one, candidate=other, documents=documents)
        found.setdefault(what.removesuffix(" asked for"), difference)
    return list(found.values())


# What differs, both sides in words, and in how many documents (None: it is a setting of the whole task).
Found = Iterator[tuple[str, str, str, int | None]]


def _documents(baseline: Samples, candidate: Samples) -> Found:
    one, other = ({sample["doc_id"]: sample for sample in side} for side in (baseline, candidate))
    if alone := one.keys() ^ other.keys():
        yield "documents", _range(baseline), _range(candidate), len(alone)
        return
    changed = [number for number in one if one[number]["doc_hash"] != other[number]["doc_hash"]]
    if changed:
        first = f"document {_cut(str(changed[0]), 20)} with hash"
        hashes = [f"{first} {_cut(side[changed[0]]['doc_hash'], 12)}" for side in (one, other)]
        yield "documents", hashes[0], hashes[1], len(changed)
        return
    answers = [number for number in one if not is_same_document(one[number], other[number])]
    if answers:
        yield "answers", _answers(one[answers[0]]), _answers(other[answers[0]]), len(answers)


def _answers(sample: Sample) -> str:
    return f"{len(sample['filtered_resps'])} {'choices' if has_choices(sample) else 'answers'}"


def _range(samples: Samples) -> str:
    numbers = [_cut(str(sample["doc_id"]), 20) for sample in samples]
    return f"{len(numbers)} ({numbers[0]} to {numbers[-1]})" if numbers else "none"


def _questions(baseline: Samples, candidate: Samples) -> Found:
    """What was asked about the documents that both have: prompts, generation settings, and answers held to be right."""
    both = common(baseline, candidate)
    for what, digest, parts in (
        ("prompts", "prompt_hash", _prompts),
        ("generation settings", None, _generation),
        ("right answers", "target_hash", _target),
    ):
        changed = [pair for pair in both if _differ(*pair, digest, parts)]
        if changed:
            first = changed[0]
            one, other = _beside(*_where_they_differ(*(parts(sample) for sample in first)))
            if one == other and digest:  # only the digests tell
                one, other = (f"hash {_cut(str(sample.get(digest)), 12)}" for sample in first)
            yield what, one, other, len(changed)


def _differ(one: Sample, other: Sample, digest: str | None, parts: Callable[[Sample], Any]) -> bool:
    """By digests and by what was logged, as far as both sides have them: the digest is of the first prompt alone."""
    if digest and one.get(digest) and other.get(digest):
        if one[digest] != other[digest]:
            return True
        if parts is _target:  # the same text, whatever form it was logged in
            return False
    return bool(parts(one) and parts(other)) and parts(one) != parts(other)


def _prompts(sample: Sample) -> list[list[str]]:
    """The texts of each request about a document."""
    return [[part for part in request if isinstance(part, str)] for request in sample["arguments"]]


def _generation(sample: Sample) -> list[list[Any]]:
    """How the answer to each request was to be generated; nothing was where likelihoods are asked for."""
    return [[part for part in request if not isinstance(part, str)] for request in sample["arguments"]]


def _target(sample: Sample) -> str:
    return str(sample["target"])


def _where_they_differ(one: str | list[list[Any]], other: str | list[list[Any]]) -> tuple[str, str]:
    """The first of several requests about a document that differ, each as one text."""
    if isinstance(one, str) or isinstance(other, str):
        return str(one), str(other)
    if len(one) != len(other):
        return f"{len(one)} requests", f"{len(other)} requests"
    first = next((pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]), ([], []))
    texts = ["".join(part if isinstance(part, str) else _as_json(part) for part in request) for request in first]
    return texts[0], texts[1]


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _settings(baseline: Asked, candidate: Asked, metric: str, filter_name: str | None) -> Found:
    """What lm-eval tells of both sides."""
    one, other = baseline.settings, candidate.settings
    for name in (name for name in one if name in other):
        if one[name] != other[name] and not _is_idle(name, one, other):
            yield name, *_beside(one[name], other[name]), None
    definitions = {
        f"definition of metric {metric}": (baseline.metrics.get(metric), candidate.metrics.get(metric)),
        f"definition of filter {filter_name}": (
            baseline.filters.get(filter_name or ""),
            candidate.filters.get(filter_name or ""),
        ),
    }
    for what, (ours, theirs) in definitions.items():
        if ours and theirs and ours != theirs:
            yield what, *_beside(ours, theirs), None


def _is_idle(name: str, *settings: dict[str, str]) -> bool:
    """Whether a setting changes nothing: how examples are put, where there are none."""
    return "as turns" in name and all(side.get("few-shot examples") == "0" for side in settings)


def _beside(one: str, other: str) -> tuple[str, str]:
    """Both texts, cut to where they begin to differ."""
    if max(len(one), len(other)) <= _SHOWN:
        return _quoted(one), _quoted(other)
    shortest = min(len(one), len(other))
    start = max(0, next((n for n in range(shortest) if one[n] != other[n]), shortest) - 15)
    return _excerpt(one, start), _excerpt(other, start)


def _excerpt(text: str, start: int) -> str:
    part = text[start : start + _SHOWN]
    before, after = "..." if start else "", "..." if start + _SHOWN < len(text) else ""
    return f"{_quoted(before + part + after)} ({len(text)} characters)"


def _quoted(text: str) -> str:
    return text if text.isprintable() and text == text.strip() and text else repr(text)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


def in_words(differences: list[Difference], most: int = 8) -> list[str]:
    """A line for each difference, tasks that differ alike in one; the first `most` of them."""
    alike: dict[str, list[str]] = {}
    for item in differences:
        where = f" ({item.documents} documents)" if item.documents else ""
        text = f"{item.what}{where}: {item.baseline} in the baseline, {item.candidate} in the candidate"
        alike.setdefault(text, []).append(item.task)
    lines = [f"{listed(tasks, 5)}: {text}" for text, tasks in alike.items()]
    return first_of(lines, most)


def first_of(lines: list[str], most: int = 10) -> list[str]:
    """The first ones of many lines, and how many more there are."""
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]
