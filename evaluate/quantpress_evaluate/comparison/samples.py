"""Logged samples of one task: how they are read, and what one document's answer is."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantpress.errors import StageError

# What lm-eval logs of one document, in its own form.
Sample = dict[str, Any]
Samples = list[Sample]

# Metrics that lm-eval logs for each document as (log-likelihood, number of words or bytes).
PERPLEXITIES = ("word_perplexity", "byte_perplexity")


def read_samples(folder: Path, task: str) -> Samples:
    """lm-eval's logged samples of one task, by document id."""
    try:
        with gzip.open(folder / f"samples_{task}.jsonl.gz", "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except (OSError, EOFError, ValueError) as error:
        raise StageError(
            f"the samples of {task} in {folder} cannot be read: {error}", hint=f"move {folder} away and evaluate again"
        ) from error


def filters_of(samples: Samples) -> list[str]:
    """The names of lm-eval's filters in the samples, sorted: each document is logged once for every one."""
    return sorted({str(sample.get("filter", "none")) for sample in samples})


def common_filter(baseline: Samples, candidate: Samples) -> str | None:
    """The filter by which both are compared where none is named: one that both have, None where there is none.

    Of several a strict one, then none at all, then the first of the alphabet: the order of the files decides nothing.
    """
    both = set(filters_of(baseline)) & set(filters_of(candidate))
    return min(both, key=lambda name: ("strict" not in name, name != "none", name), default=None)


def filtered(samples: Samples, name: str | None) -> Samples:
    """The samples of one filter; all of them where none is named."""
    return [sample for sample in samples if name is None or str(sample.get("filter", "none")) == name]


def has_choices(sample: Sample) -> bool:
    """Whether the answer is a choice: a pair of a log-likelihood and whether it is the greedy one, several times."""
    responses = sample.get("filtered_resps")
    return (
        isinstance(responses, list)
        and len(responses) > 1
        and all(isinstance(response, list | tuple) and len(response) == 2 for response in responses)
    )


def is_same_document(one: Sample, other: Sample) -> bool:
    """Whether two samples of one id are answers to one document, with as many choices."""
    return (
        one["doc_hash"] == other["doc_hash"]
        and len(one["filtered_resps"]) == len(other["filtered_resps"])
        and has_choices(one) == has_choices(other)
    )


def common(baseline: Samples, candidate: Samples) -> list[tuple[Sample, Sample]]:
    """Both models' samples of each document that both have, in the baseline's order."""
    others = {sample["doc_id"]: sample for sample in candidate}
    both = ((sample, others[sample["doc_id"]]) for sample in baseline if sample["doc_id"] in others)
    return [pair for pair in both if is_same_document(*pair)]


def pairs(task: str, baseline: Samples, candidate: Samples) -> Iterator[tuple[Sample, Sample]]:
    """Both models' samples of each document. Raises StageError if they were not scored on the same documents."""
    both = common(baseline, candidate)
    if not len(both) == len(baseline) == len(candidate):
        raise StageError(
            f"{task}: baseline and candidate were scored on different documents",
            hint="move both score folders away and evaluate again",
        )
    yield from both


def likelihoods(sample: Sample) -> list[float]:
    """The log-likelihood of each choice, in nats."""
    return [float(response[0]) for response in sample["filtered_resps"]]


def answer(sample: Sample, metric: str) -> Any:
    """The chosen answer: the index of the highest log-likelihood (per character of the answer for acc_norm), or the
    text that was generated, or whether the one answer asked about is the greedy one.
    """
    if not has_choices(sample):
        first = sample["filtered_resps"][0]
        about_one = isinstance(first, list | tuple) and len(first) == 2 and str(first[1]) in ("True", "False")
        return str(first[1]) if about_one else str(first)
    values = comparable_likelihoods(sample, metric)
    return max(range(len(values)), key=values.__getitem__)


def comparable_likelihoods(sample: Sample, metric: str) -> list[float]:
    """What the choices are compared by: log-likelihoods in nats, for acc_norm per character of the choice as lm-eval
    normalises them."""
    values = likelihoods(sample)
    if metric != "acc_norm":
        return values
    lengths = [len(continuation.lstrip()) for _, continuation in sample["arguments"]]
    return [value / max(length, 1) for value, length in zip(values, lengths, strict=True)]


def guessing(samples: Samples) -> float:
    """Accuracy of the better of two guesses: uniform over the choices, or always the most frequent target.

    The second is none where documents have choices of their own: the right one may then always stand first (BLiMP,
    truthfulqa_mc1), which says nothing of its text. Of documents without choices nothing is guessed.
    """
    with_choices = [sample for sample in samples if has_choices(sample)]
    return _guessing(with_choices) * len(with_choices) / len(samples) if with_choices else 0.0


def _guessing(samples: Samples) -> float:
    chance = sum(1 / len(sample["filtered_resps"]) for sample in samples) / len(samples)
    targets = Counter(str(sample["target"]) for sample in samples)
    if not (_have_the_same_choices(samples) and all(target.isdigit() for target in targets)):
        return chance
    return max(chance, targets.most_common(1)[0][1] / len(samples))


def _have_the_same_choices(samples: Samples) -> bool:
    """Whether every document has the same texts to choose among (A to D; yes and no), as far as they were logged."""
    first, *others = ([request[1:] for request in sample["arguments"]] for sample in samples)
    return bool(first) and all(first) and all(other == first for other in others)
