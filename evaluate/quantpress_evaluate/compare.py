"""What the difference between two models' scores on the same documents means."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantpress.errors import StageError

SIGNIFICANCE = 0.05
RESAMPLES = 2000
Samples = list[dict[str, Any]]
Rows = list[tuple[float, float, float, float]]


def read_samples(folder: Path, task: str) -> Samples:
    """lm-eval's logged samples of one task, by document id."""
    try:
        with gzip.open(folder / f"samples_{task}.jsonl.gz", "rt", encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]
    except (OSError, EOFError, ValueError) as error:
        raise StageError(
            f"the samples of {task} in {folder} cannot be read: {error}", hint=f"delete {folder} and evaluate again"
        ) from error


def compare_task(task: str, metric: str, baseline: Samples, candidate: Samples) -> dict[str, Any]:
    """Accuracy of both on the same documents, and the exact McNemar test on those where only one is right.

    McNemar, exact: under "no difference" the documents that only the candidate has right are binomial with p = 1/2
    among those on which the two differ (Psychometrika 12, 1947). `no_signal`: the baseline itself is not better than
    guessing (uniformly, or always the most frequent answer), one-sided exact binomial test at 5%.
    Raises StageError if the two were not scored on the same documents.
    """
    return _compared(metric, baseline, rows_of(task, metric, baseline, candidate))


def _compared(metric: str, baseline: Samples, rows: Rows) -> dict[str, Any]:
    from scipy.stats import binomtest

    right = [(bool(base), bool(own)) for base, own, _, _ in rows]
    count = len(right)
    lost = sum(one and not other for one, other in right)
    gained = sum(other and not one for one, other in right)
    p_value = float(binomtest(gained, lost + gained).pvalue) if lost + gained else 1.0
    base_right = sum(one for one, _ in right)
    guess = _guessing(baseline)
    luck = float(binomtest(base_right, count, min(guess, 1.0), alternative="greater").pvalue)
    return {
        "metric": metric,
        "documents": count,
        "baseline": base_right / count,
        "candidate": sum(other for _, other in right) / count,
        "difference": (gained - lost) / count,
        "lost": lost,
        "gained": gained,
        "p_value": p_value,
        "significant": p_value < SIGNIFICANCE,
        **figures([rows]),
        "guessing": guess,
        "no_signal": luck >= SIGNIFICANCE,
    }


def compare_suite(samples: dict[str, tuple[str, Samples, Samples]]) -> dict[str, Any]:
    """The comparison of every task (metric, baseline's and candidate's samples), and of those with a signal together.

    `overall` is None where no task has one. Each task counts alike, however many documents it has.
    """
    rows = {task: rows_of(task, *given) for task, given in samples.items()}
    tasks = {task: _compared(metric, one, rows[task]) for task, (metric, one, _) in samples.items()}
    kept = [rows[task] for task in tasks if not tasks[task]["no_signal"]]
    return {"tasks": tasks, "mean": mean(tasks), "overall": figures(kept) if kept else None}


def rows_of(task: str, metric: str, baseline: Samples, candidate: Samples) -> Rows:
    """For each document: baseline right, candidate right, answer changed, KL divergence of the choices (nats)."""
    return [
        (
            float(one[metric]),
            float(other[metric]),
            float(_answer(one, metric) != _answer(other, metric)),
            _divergence(one, other),
        )
        for one, other in _pairs(task, baseline, candidate)
    ]


def _divergence(one: dict[str, Any], other: dict[str, Any]) -> float:
    """KL(baseline || candidate) of the two distributions over the choices: softmax of their log-likelihoods."""
    from scipy.special import log_softmax, softmax

    p, q = ([float(response[0]) for response in sample["filtered_resps"]] for sample in (one, other))
    return float((softmax(p) * (log_softmax(p) - log_softmax(q))).sum())


def figures(tasks: Sequence[Rows]) -> dict[str, Any]:
    """Recovery, changed answers and KL over one task or several that count alike, each with its 95% interval.

    Recovery is the candidate's accuracy over the baseline's. The intervals are percentile bootstrap over documents,
    paired: a document is drawn with both models' answers (Efron and Tibshirani 1993, chapter 13). Recovery and its
    interval are None if the baseline has nothing right, every interval for a single document.
    """
    import numpy
    from scipy.stats import bootstrap

    table = numpy.array([(1 / len(rows), *row) for rows in tasks for row in rows])
    weight, base, own, changed, kl = table.T

    def recovery(weight: Any, base: Any, own: Any, axis: int = -1) -> Any:
        return (weight * own).sum(axis) / numpy.maximum((weight * base).sum(axis), 1e-12)

    def mean(weight: Any, value: Any, axis: int = -1) -> Any:
        return (weight * value).sum(axis) / weight.sum(axis)

    def interval(statistic: Any, *data: Any) -> list[float] | None:
        if len(weight) < 2:
            return None
        drawn = bootstrap(
            data, statistic, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=100, method="percentile", rng=0
        )
        return [float(edge) for edge in drawn.confidence_interval]

    has_base = bool(base.any())
    return {
        "recovery": float(recovery(weight, base, own)) if has_base else None,
        "recovery_interval": interval(recovery, weight, base, own) if has_base else None,
        "changed": float(mean(weight, changed)),
        "changed_interval": interval(mean, weight, changed),
        "kl": float(mean(weight, kl)),
        "kl_median": float(numpy.median(kl)),
        "kl_interval": interval(mean, weight, kl),
    }


def mean(tasks: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Unweighted mean over the tasks that carry a signal, and how many these are."""
    kept = [task for task in tasks.values() if not task["no_signal"]]
    sides = {side: sum(task[side] for task in kept) / len(kept) if kept else 0.0 for side in ("baseline", "candidate")}
    return {"tasks": len(kept), **sides}


def _pairs(
    task: str, baseline: list[dict[str, Any]], candidate: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    others = {sample["doc_id"]: sample for sample in candidate}
    if len(baseline) != len(others) or any(
        others.get(sample["doc_id"], {}).get("doc_hash") != sample["doc_hash"]
        or len(others[sample["doc_id"]]["filtered_resps"]) != len(sample["filtered_resps"])
        for sample in baseline
    ):
        raise StageError(
            f"{task}: baseline and candidate were scored on different documents",
            hint="delete both score folders and evaluate again",
        )
    for sample in baseline:
        yield sample, others[sample["doc_id"]]


def _answer(sample: dict[str, Any], metric: str) -> int:
    """Index of the chosen answer: the highest log-likelihood; per character of the answer for acc_norm."""
    likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    if metric == "acc_norm":
        lengths = [len(continuation.lstrip()) for _, continuation in sample["arguments"]]
        likelihoods = [value / max(length, 1) for value, length in zip(likelihoods, lengths, strict=True)]
    return max(range(len(likelihoods)), key=likelihoods.__getitem__)


def _guessing(samples: list[dict[str, Any]]) -> float:
    """Accuracy of the better of two guesses: uniform over the choices, or always the most frequent target."""
    chance = sum(1 / len(sample["filtered_resps"]) for sample in samples) / len(samples)
    majority = Counter(str(sample["target"]) for sample in samples).most_common(1)[0][1] / len(samples)
    positional = all(str(sample["target"]).isdigit() for sample in samples)
    return max(chance, majority) if positional else chance
