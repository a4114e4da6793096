"""What the difference between two models' scores on the same documents means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantpress.artifact.accuracy import RULES, Comparison, Mean, Overall, TaskRow
from quantpress.errors import StageError
from quantpress.statistics.conventions import CONFIDENCE, Array
from quantpress.statistics.signs import SIGNIFICANCE
from quantpress_evaluate.comparison import metrics, signal
from quantpress_evaluate.comparison.figures import PER_DOCUMENT, Columns, figures, p_value, smallest_loss
from quantpress_evaluate.comparison.samples import (
    PERPLEXITIES,
    Sample,
    Samples,
    answer,
    common_filter,
    comparable_likelihoods,
    filtered,
    guessing,
    has_choices,
    pairs,
)

# Where this share of the documents holds half of the divergence, its mean says little of the others.
FEW, HALF = 0.05, 0.5


@dataclass(frozen=True)
class Scored:
    """One task as both models answered it. `filter` is one of lm-eval's (None: one that both have); the metric's values
    are `out_of` 1 or 100.

    `cluster` is the field of the documents that those have in common which were drawn together, such as a passage.
    Tasks of one `group` are parts of a whole that is the mean over its documents, as lm-eval has it of MMLU's subjects.
    """

    metric: str
    baseline: Samples
    candidate: Samples
    filter: str | None = None
    weight: float = 1.0
    out_of: int = 1
    cluster: str | None = None
    group: str | None = None

    def selected(self) -> Scored:
        """With the samples of its filter alone. Raises StageError for sides that have none in common."""
        name = self.filter or common_filter(self.baseline, self.candidate)
        if name is None and self.baseline and self.candidate:
            raise StageError("baseline and candidate have no filter in common", hint="score both with one lm-eval")
        return replace(
            self, baseline=filtered(self.baseline, name), candidate=filtered(self.candidate, name), filter=name
        )


@dataclass(frozen=True)
class _Whole:
    """A task, or the tasks of a group as one of which each is a cluster; and the quarter that each document is in."""

    tasks: list[str]
    columns: Columns
    quarter: Array


def compare_task(task: str, metric: str, baseline: Samples, candidate: Samples) -> TaskRow:
    """The comparison of one task: see `compare_suite`. Raises StageError for different documents."""
    return compare_suite({task: Scored(metric, baseline, candidate)}).tasks[task]


def compare_suite(
    tasks: Mapping[str, Scored], confidence: float = CONFIDENCE, count_no_signal: bool = False
) -> Comparison:
    """Every task's comparison, and the figures over those that carry a signal, by their weights.

    `confidence` is that of all intervals; `count_no_signal` lets the other tasks count too. No gates are decided.
    Raises StageError for different documents, and for a metric that is no number of each document.
    """
    chosen = {task: scored.selected() for task, scored in tasks.items()}
    columns = {task: columns_of(task, scored) for task, scored in chosen.items()}
    wholes = _wholes(chosen, columns)
    counting = [signal.counted(whole.columns, whole.quarter) for whole in wholes]
    rows = {}
    for whole, counted in zip(wholes, counting, strict=True):
        for task in whole.tasks:
            weight = whole.columns.weight * columns[task].size / whole.columns.size
            row = _row(chosen[task], replace(columns[task], weight=weight), confidence)
            rows[task] = row.model_copy(update=_signal(whole, counted)) if row.lost is not None else row
    kept = [whole.columns for whole in wholes] if count_no_signal else [one for one in counting if one]
    return Comparison(
        tasks={task: rows[task] for task in tasks},
        mean=_mean(kept),
        overall=_overall(kept, confidence),
        confidence=confidence,
        counts_no_signal=count_no_signal,
        rules=RULES,
        notes=_held_by_few(rows),
    )


def _wholes(chosen: Mapping[str, Scored], columns: Mapping[str, Columns]) -> list[_Whole]:
    """The tasks, those of a group together."""
    import numpy

    grouped: dict[str, list[str]] = {}
    for task, scored in chosen.items():
        grouped.setdefault(f"group {scored.group}" if scored.group else task, []).append(task)
    wholes = []
    for names in grouped.values():
        parts = [columns[task] for task in names]
        whole = parts[0] if len(parts) == 1 else _together(parts, [chosen[task] for task in names])
        documents = [f"{task} {sample['doc_hash']}" for task in names for sample in chosen[task].baseline]
        # A group's parts are clusters, but every one of them is in all quarters.
        cluster = whole.cluster if len(parts) == 1 else None
        wholes.append(
            _Whole(names, whole, signal.quarters(documents, numpy.asarray(cluster) if cluster is not None else None))
        )
    return wholes


def _together(parts: list[Columns], scored: list[Scored]) -> Columns:
    """The documents of all parts as one task's, each part a cluster. Their weights add up.

    A guess is one for all of them: the most frequent answer of each small part is more frequent there by chance.
    """
    import numpy

    def joined(name: str) -> Array:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else numpy.concatenate(values)

    return Columns(
        sum(part.weight for part in parts),
        **{name: joined(name) for name in PER_DOCUMENT},
        cluster=numpy.repeat(numpy.arange(len(parts)), [part.size for part in parts]),
        guess=guessing([sample for part in scored for sample in part.baseline]),
    )


def _signal(whole: _Whole, counted: Columns | None) -> dict[str, Any]:
    """What the row of a task says of its signal."""
    return {"no_signal": counted is None, "counting": counted.size / whole.columns.size if counted else 0.0}


def _held_by_few(rows: Mapping[str, TaskRow]) -> list[str]:
    """What is said of divergences that few documents decide."""
    shares = {task: row.kl_held_by_few for task, row in rows.items() if (row.kl_held_by_few or 0.0) >= HALF}
    if not shares:
        return []
    named = ", ".join(f"{share:.0%} in {task}" for task, share in shares.items())
    return [
        f"{FEW:.0%} of the documents hold most of the KL ({named}): its mean, and a gate on it, rest on these few; "
        "the median KL is that of an ordinary document"
    ]


def columns_of(task: str, scored: Scored) -> Columns:
    """Both models' answers, document by document. Raises StageError for different documents or what is no number."""
    import numpy

    both = list(pairs(task, scored.baseline, scored.candidate))
    metric, whole = scored.metric, scored.out_of
    for side in (scored.baseline, scored.candidate):
        if why := metrics.lacking(metric, side):
            raise StageError(f"{task} cannot be compared: {why}", hint="name another metric of the task in the suite")
    if metric in PERPLEXITIES:
        lost = [float(base[metric][0]) - float(own[metric][0]) for base, own in both]
        count = [float(base[metric][1]) for base, _ in both]
        return Columns(scored.weight, lost=numpy.array(lost), count=numpy.array(count), cluster=_clusters(task, scored))
    choices = all(has_choices(base) for base, _ in both)
    return Columns(
        scored.weight,
        base=numpy.array([float(base[metric]) / whole for base, _ in both]),
        own=numpy.array([float(own[metric]) / whole for _, own in both]),
        flips=numpy.array([float(answer(base, metric) != answer(own, metric)) for base, own in both]),
        kl=numpy.array([_divergence(base, own, metric) for base, own in both]) if choices else None,
        cluster=_clusters(task, scored),
        guess=guessing(scored.baseline),
    )


def _clusters(task: str, scored: Scored) -> Array:
    """A number for each document, the same for those whose field `cluster` has the same value; None without a field.

    Raises StageError for documents that lack the field.
    """
    import numpy

    if scored.cluster is None:
        return None
    try:
        values = [json.dumps(sample["doc"][scored.cluster], sort_keys=True) for sample in scored.baseline]
    except (KeyError, TypeError) as error:
        raise StageError(
            f"{task}: its documents have no field {scored.cluster!r}, by which they are drawn together",
            hint="name another field as the task's `cluster` in the suite, or none",
        ) from error
    return numpy.unique(values, return_inverse=True)[1]


def _divergence(base: Sample, own: Sample, metric: str) -> float:
    """KL(baseline || candidate), in nats, of the two distributions over the choices: softmax of the values that decide
    the answer, which are log-likelihoods per character for acc_norm."""
    from scipy.special import log_softmax, softmax

    p, q = comparable_likelihoods(base, metric), comparable_likelihoods(own, metric)
    return float((softmax(p) * (log_softmax(p) - log_softmax(q))).sum())


def _row(scored: Scored, columns: Columns, confidence: float) -> TaskRow:
    """Both models on one task; every model has a perplexity, so there is always a signal in those, and what a guess
    would have of a fraction is not known."""
    metric = scored.metric
    sides = scored.baseline, scored.candidate
    if metric in PERPLEXITIES:
        baseline, candidate = (_perplexity(samples, metric) for samples in sides)
    else:
        baseline, candidate = float(columns.base.mean()), float(columns.own.mean())
    row = TaskRow(
        metric=metric,
        filter=None if scored.filter in (None, "none") else scored.filter,
        out_of=scored.out_of,
        documents=columns.size,
        weight=columns.weight,
        baseline=baseline,
        candidate=candidate,
        **dict(figures([columns], confidence)),
    )
    if columns.base is None:
        return row
    row = row.model_copy(update={"smallest_loss": smallest_loss([columns])})
    return _tested(row, columns) if columns.is_right_or_wrong else row


def _perplexity(samples: Samples, metric: str) -> float:
    """exp of the mean negative log-likelihood of a word or byte, as lm-eval has it."""
    likelihood, count = (sum(float(sample[metric][part]) for sample in samples) for part in (0, 1))
    return math.exp(-likelihood / count)


def _tested(row: TaskRow, columns: Columns) -> TaskRow:
    """The row with the test on the documents that only one of both models has right: McNemar's, or where documents are
    drawn together the one that flips the signs of whole clusters."""
    base, own = columns.base > 0.5, columns.own > 0.5
    lost, gained = int((base & ~own).sum()), int((own & ~base).sum())
    p = p_value([columns])
    return row.model_copy(
        update={
            "lost": lost,
            "gained": gained,
            "p_value": p,
            "significant": p is not None and p < SIGNIFICANCE,
            "guessing": columns.guess,
        }
    )


def _overall(kept: list[Columns], confidence: float) -> Overall | None:
    """The figures over tasks, and the test for a difference by the same weights."""
    if not kept:
        return None
    tested = [one for one in kept if one.is_right_or_wrong]
    lost = sum(int((one.base > one.own).sum()) for one in tested) if tested else None
    gained = sum(int((one.base < one.own).sum()) for one in tested) if tested else None
    found = Overall(**dict(figures(kept, confidence)), lost=lost, gained=gained)
    return found.model_copy(update={"p_value": p_value(kept), "smallest_loss": smallest_loss(kept)})


def _mean(kept: list[Columns]) -> Mean:
    """Weighted mean metric over tasks, perplexities left out; 0 where no task is left."""
    tasks = [one for one in kept if one.base is not None]
    total = sum(one.weight for one in tasks) or 1.0
    return Mean(
        tasks=len(tasks),
        baseline=sum(one.weight * float(one.base.mean()) for one in tasks) / total,
        candidate=sum(one.weight * float(one.own.mean()) for one in tasks) / total,
    )
