"""The finished starts of a bench, kept until it is done: one that was stopped goes on at the next start.

A start is what can be kept whole: its pairs share the servers that it started, and no later server is the same.
"""

from __future__ import annotations

from quantpress.artifact.throughput import UNFINISHED, Throughput
from quantpress_serve.bench.looks import Known
from quantpress_serve.bench.run import Run
from quantpress_serve.bench.subject import Subject
from quantpress_serve.workload.workload import Workload


def kept(subject: Subject, workload: str) -> Throughput | None:
    """What a run that was stopped had measured of this very checkpoint under the workload of this name."""
    found = subject.results.current(subject.folder / UNFINISHED)
    return found if found and found.name == workload else None


def keep(subject: Subject, result: Throughput) -> None:
    """Keeps the result of the starts that are finished, in the place of what was kept before."""
    result.save(subject.folder / UNFINISHED)


def drop(subject: Subject) -> None:
    """Forgets what was kept."""
    (subject.folder / UNFINISHED).unlink(missing_ok=True)


def run_from(before: Throughput, load: Workload, starts: int) -> Run:
    """The run that measured it, as it was after its last finished start."""
    return Run(
        load,
        starts,
        cells=list(before.cells),
        saturated=before.saturated,
        base=before.seed_base or 0,
        sittings=before.sittings + 1,
    )


def known_from(before: Throughput) -> Known | None:
    """What its first servers said; None where it does not hold all of it (files of older versions)."""
    if before.served is None:
        return None
    return Known(before.servers, before.served, before.chat or {}, before.picture, before.kernels)
