"""The workers of the serve room, as their callers see them. Light: a worker's own module loads the heavy libraries."""

from __future__ import annotations

from pathlib import Path

from quantpress.runtime.records import Record
from quantpress.runtime.worker import Job, Result, Worker

Row = list[float | None]  # natural log-likelihoods; None where one is not finite


class Likelihoods(Record):
    """Token ids, and of each window one natural log-likelihood fewer than it has tokens."""

    windows: list[list[int]]
    likelihoods: list[Row]


class ScoredModel(Record):
    """A model for transformers, and how many tokens it sees together."""

    path: Path
    trust_remote_code: bool
    window: int


class LikelihoodJob(Job):
    """Models by role, the type in which transformers computes, and on what (`cpu`, `cuda`)."""

    models: dict[str, ScoredModel]
    compute_dtype: str
    device: str


class LikelihoodResult(Result):
    """What transformers computes of the fixed text, by role."""

    models: dict[str, Likelihoods]


LIKELIHOODS = Worker("quantpress_serve.bench.likelihood_worker", LikelihoodJob, LikelihoodResult)
