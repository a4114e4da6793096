"""Two models, right or wrong on the same documents: intervals from a posterior over what becomes of a document.

Both have it right, the candidate has lost it, it has gained it, or neither has it: four cells, whose shares are drawn
from a Dirichlet distribution for each task. Where nothing changed in few documents, a bootstrap draws nothing but "no
change" and gives an interval of no width; this posterior does not. Bowyer, Aitchison and Ivanova, "Don't use the CLT
in LLM evals with fewer than a few hundred datapoints" (arXiv 2503.01747), compare such posteriors with the bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantpress.statistics.conventions import Array, Interval

# Documents that were not seen: half a lost and half a gained one, and a quarter more on the side of the limit that is
# drawn, all tasks together. Half alone lets up to 4% pass a gate at the truth, a whole one makes few documents useless
# (benchmarks/coverage.py; Clopper and Pearson count a whole one more, Jeffreys' prior half a one).
UNSEEN = 0.5
BEYOND = 0.25
_IN_A_TAIL = 200  # draws beyond each limit: 8000 in all at 95%
_MOST = 100  # effective documents of one, where all change alike by a fraction
_LIKE_BINOMIAL = 2  # documents fewer: the variance of a Dirichlet's share is p (1 - p) / (sum + 1), and n - 1 is sound


@dataclass(frozen=True)
class Cells:
    """One task: its weight, and its documents by cell. Shares of documents that hang together, or that change by
    fractions, count as their `effective_documents`. What one document that was not seen changes counts as so many of
    them: `unseen`."""

    weight: float
    both: float
    lost: float
    gained: float
    neither: float
    unseen: float = 1.0

    @property
    def documents(self) -> float:
        return self.both + self.lost + self.gained + self.neither

    def scaled(self, documents: float) -> Cells:
        """The same shares of another number of documents; none that was not seen counts as less than one of them."""
        by = documents / self.documents
        cells = (self.both * by, self.lost * by, self.gained * by, self.neither * by)
        return Cells(self.weight, *cells, unseen=max(1.0, self.unseen * by))


# Of the mean metric of the baseline and of the candidate over the tasks, arrays of shape (draws,).
Figure = Callable[[Array, Array], Array]


def intervals(
    tasks: Sequence[Cells], figures: Sequence[Figure], confidence: float, draws: int | None = None
) -> list[Interval | None]:
    """The interval of each figure of the weighted mean metric of both models; each must grow with what is gained.

    A task's shares are Dirichlet with counts * (n - 2) / n, plus UNSEEN documents lost and as many gained, which the
    tasks share by what one document of theirs weighs: weight / n, so that a task of few documents and much weight
    cannot hide. For the lower limits BEYOND more are lost, for the upper ones gained. None where a task has fewer than
    three documents, and for a figure that is no finite number in more draws than lie beyond a limit.
    """
    import numpy

    if min(task.documents for task in tasks) < 3:
        return [None] * len(figures)
    tail = (1 - confidence) / 2
    number = draws or math.ceil(_IN_A_TAIL / tail)
    limits = []
    for share, lost, gained in ((tail, UNSEEN + BEYOND, UNSEEN), (1 - tail, UNSEEN, UNSEEN + BEYOND)):
        base, own = _means(tasks, lost, gained, number)
        with numpy.errstate(divide="ignore", invalid="ignore"):
            limits.append([_quantile(figure(base, own), share, tail) for figure in figures])
    return [None if low is None or high is None else (low, high) for low, high in zip(*limits, strict=True)]


def _means(tasks: Sequence[Cells], lost: float, gained: float, number: int) -> tuple[Array, Array]:
    """Draws of the weighted mean metric of both models; equal cells give equal draws."""
    import numpy

    random = numpy.random.default_rng(0)
    total = sum(task.weight for task in tasks)
    shares = _shared(tasks)
    base, own = numpy.zeros(number), numpy.zeros(number)
    for task, share in zip(tasks, shares, strict=True):
        share *= task.unseen
        by = (task.documents - _LIKE_BINOMIAL) / task.documents
        counts = (task.both * by, task.lost * by + lost * share, task.gained * by + gained * share, task.neither * by)
        drawn = random.standard_gamma(numpy.array(counts)[:, None], (4, number))
        drawn *= task.weight / total / drawn.sum(0)
        base += drawn[0] + drawn[1]
        own += drawn[0] + drawn[2]
    return base, own


def _shared(tasks: Sequence[Cells]) -> list[float]:
    """What each task gets of what all share: by the weight of one of its documents. The sum is 1."""
    weights = [task.weight / task.documents for task in tasks]
    return [weight / sum(weights) for weight in weights]


def _quantile(values: Array, share: float, tail: float) -> float | None:
    """None where more than `tail` of the values are no finite number."""
    import numpy

    finite = values[numpy.isfinite(values)]
    if len(finite) < (1 - tail) * len(values):
        return None
    return float(numpy.quantile(finite, share))


def share_interval(
    tasks: Sequence[tuple[float, float, float]], confidence: float, draws: int | None = None
) -> Interval:
    """The interval of a share of the documents (answers that changed), from each task's weight, how many of its
    documents have it, and how many there are (effective ones may be fractions).

    One task: exact, Clopper and Pearson (Biometrika 26, 1934), limits of Beta(x, n - x + 1) and Beta(x + 1, n - x).
    Several: the weighted sum of draws from both Betas, whose one more document the tasks share by the weight of a
    document, as Fay and Feuer (Statistics in Medicine 16, 1997) do for weighted sums of rates.
    """
    import numpy
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    if len(tasks) == 1:
        _, x, n = tasks[0]
        low = float(beta.ppf(tail, x, n - x + 1)) if x > 0 else 0.0
        return low, float(beta.ppf(1 - tail, x + 1, n - x)) if x < n else 1.0
    random = numpy.random.default_rng(0)
    number = draws or math.ceil(_IN_A_TAIL / tail)
    total = sum(weight for weight, _, _ in tasks)
    of_one = [weight / n for weight, _, n in tasks]
    lower, upper = numpy.zeros(number), numpy.zeros(number)
    for (weight, x, n), share in zip(tasks, (one / sum(of_one) for one in of_one), strict=True):
        for sums, have, lack in ((lower, x, n - x + share), (upper, x + share, n - x)):
            yes, no = (random.standard_gamma(max(shape, 0.0), number) for shape in (have, lack))
            sums += weight / total * yes / (yes + no)
    return float(numpy.quantile(lower, tail)), float(numpy.quantile(upper, 1 - tail))


def effective_documents(
    values: Array, of_cells: float, clusters: Array | None, confidence: float, are_whole: bool = True
) -> float:
    """How many documents, each right or wrong by itself, fix the mean of `values` (one a document) as these do.

    `of_cells` is the variance that a document's value has in the cells; the mean's own is that of `clusters` drawn
    whole (an integer a document; None: each its own). Their ratio is the effective sample size, less what Student's t
    takes for as many clusters as have a value other than 0 (Korn and Graubard, Survey Methodology 24, 1998). It is no
    less than the number of clusters, which it is where fewer than two have such a value; more than there are documents
    only where documents change by fractions (not `are_whole`).
    """
    import numpy
    from scipy.stats import norm, t

    n = len(values)
    ids = numpy.arange(n) if clusters is None else numpy.unique(clusters, return_inverse=True)[1]
    number = int(ids.max()) + 1
    if number == n and are_whole:
        return float(n)
    changed = len(numpy.unique(ids[values != 0]))
    if changed < 2:
        return float(number)
    sums = numpy.bincount(ids, values - values.mean(), number)
    variance = number / (number - 1) * float((sums**2).sum()) / n**2
    most = n if are_whole else _MOST * n
    tail = (1 + confidence) / 2
    by_t = float(norm.ppf(tail) / t.ppf(tail, changed - 1)) ** 2
    return float(max(number, min(most, by_t * of_cells / max(variance, of_cells / most))))
