"""The metrics that a task's samples carry, and which of them can be compared document by document."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from quantpress.errors import bounded
from quantpress_evaluate.comparison.asked import Asked
from quantpress_evaluate.comparison.samples import PERPLEXITIES, Sample, Samples

# The first one that both sides have is compared unless one is named; others come after these.
METRICS = ("acc", "acc_norm", "exact_match", *PERPLEXITIES)
# What lm-eval logs of a document beside its metrics.
_OTHER = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
_OTHER |= {"doc_hash", "prompt_hash", "target_hash"}
# How results files write a mean: by its name, as a function, as the function's source.
_MEAN = re.compile(r"(<function |def )?(nan)?mean\b")
# Less is better by name, where no results file says so.
_LOWER = ("ter", "wer", "cer", "mse", "mae", "rmse", "brier_score", "perplexity", "bits_per_byte", "loss")


def names(samples: Samples) -> list[str]:
    """The metrics that every sample has: those of METRICS in their order, then the others in the samples' order."""
    everywhere = set(samples[0]).intersection(*samples) if samples else set()
    listed = samples[0].get("metrics") if samples else None
    others = [
        name
        for name in (samples[0] if samples else ())
        if name in everywhere and name not in METRICS and name not in _OTHER and (not listed or name in listed)
    ]
    return [*(name for name in METRICS if name in everywhere), *others]


def number(value: Any) -> float | None:
    """A metric's value as a number, None for what is none or not finite."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def lacking(metric: str, samples: Samples) -> str | None:
    """What the samples lack that the metric's figures are made from; None where they have it."""
    if metric in PERPLEXITIES:
        return None
    if any(number(sample.get(metric)) is None for sample in samples):
        return f"{metric} is no number of each document"
    if metric == "acc_norm" and any(_lacks_choices(sample) for sample in samples):
        return "acc_norm needs the choices' texts (arguments), which were not logged"
    return None


def obstacle(metric: str, samples: Samples, asked: Asked) -> str | None:
    """Why a metric of these samples cannot be compared document by document; None where it can."""
    if missing := lacking(metric, samples):
        return missing
    if metric in PERPLEXITIES:
        return None
    if metric not in METRICS and asked.higher_is_better.get(metric, metric not in _LOWER) is not True:
        return f"less {metric} is better, and only what is better when higher is compared"
    aggregation = asked.aggregations.get(metric, "mean")
    if not _MEAN.match(aggregation):
        return f"lm-eval does not average {metric} over documents but takes their {bounded(aggregation)}"
    if metric in METRICS:
        return None
    values = [float(sample[metric]) for sample in samples]
    if min(values) < 0 or max(values) > 100:
        return f"{metric} goes from {min(values):g} to {max(values):g}, and only shares of 1 or of 100 are compared"
    return None


def _lacks_choices(sample: Sample) -> bool:
    return len(sample["filtered_resps"]) > 1 and not sample["arguments"]


def out_of(metric: str, sides: Iterable[Samples]) -> int:
    """What the metric's values are shares of, on both sides alike: 1 or 100."""
    if metric in METRICS:
        return 1
    return 100 if max(float(sample[metric]) for samples in sides for sample in samples) > 1 else 1
