"""What a gate needs, and what the documents of a request can show: said before hours are spent on them."""

from __future__ import annotations

from collections.abc import Sequence

from quantpress.artifact.accuracy import Accuracy
from quantpress.statistics import power
from quantpress.statistics.conventions import POWER
from quantpress.statistics.power import Assumed, Need
from quantpress_evaluate.comparison.gates import Requirement
from quantpress_evaluate.request import Request
from quantpress_evaluate.suite import ResolvedTask


def assumed(known: Accuracy | None) -> Assumed:
    """What an earlier result of the recipe measured; power's own assumption where there is none."""
    overall = known.overall if known else None
    if known is None or overall is None or overall.flips is None or not 0 < known.mean.baseline < 1:
        return Assumed()
    accuracy = known.mean.baseline
    return Assumed(accuracy, min(max(overall.flips, 0.002), 2 * accuracy, 2 * (1 - accuracy)))


def need(gate: Requirement, of: Assumed) -> Need | None:
    """What the gate needs of documents; None for figures whose spread is only known when they are measured."""
    if gate.metric == "recovery":
        return power.of_recovery(gate.limit, of)
    return power.of_flips(gate.limit, of) if gate.metric == "flips" else None


def lines(gates: Sequence[Requirement], of: Assumed) -> list[str]:
    """For each gate, how many documents it needs."""
    return [f"{gate.text}: {_needed(gate, of)}" for gate in gates]


def lines_of(request: Request, of: Assumed) -> list[str]:
    """For each gate of the request, how many documents it needs, and what those that it has can show."""
    return [f"{gate.text}: {_needed(gate, of)}{_shown(gate, request, of)}" for gate in request.gates]


def _needed(gate: Requirement, of: Assumed) -> str:
    found = need(gate, of)
    if found is None:
        return f"how many documents it needs is known when {gate.metric} has been measured"
    if found.documents is None:
        return f"no number of documents is enough where {of.flips:.1%} of the answers flip"
    return (
        f"needs about {rounded(found.documents)} documents, for {POWER:.0%} of the checkpoints that lose nothing "
        f"and answer {of.flips:.1%} otherwise (the model having {of.accuracy:.0%} right) to pass"
    )


def _shown(gate: Requirement, request: Request, of: Assumed) -> str:
    tasks = [task for task in request.tasks if gate.task in (None, task.task)]
    found = need(gate, of)
    if found is None or not tasks or not all(_documents(task, request) for task in tasks):
        return ""
    counts = [_documents(task, request) for task in tasks]
    tell = power.effective([task.weight for task in tasks], counts)
    text = f"; on {sum(counts)} documents {found.power(tell):.0%} pass"
    if gate.metric == "recovery":
        text += f", and {POWER:.0%} would pass recovery>={_floored(power.recovery_shown(tell, of))}"
    return text


def _documents(task: ResolvedTask, request: Request) -> int:
    """How many documents of a task are scored, at most where more are taken until gates are decided."""
    if task.documents:
        return len(task.documents)
    return (None if request.extend else task.limit) or task.available or 0


def rounded(number: int) -> str:
    """Two digits of a number that is known to no more."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _floored(limit: float) -> str:
    return f"{int(limit * 1000) / 1000:g}"
