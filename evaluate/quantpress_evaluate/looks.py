"""How often a gate was decided on one checkpoint, and how sure each decision has to be so that all of them together do
not err too often: also where someone starts `evaluate` again and again, on more documents each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from quantpress.runtime import digests, locks
from quantpress.runtime.records import Record, Stored
from quantpress.statistics.conventions import CONFIDENCE
from quantpress_evaluate.comparison.gates import Requirement
from quantpress_evaluate.request import Request

# What the looks of one start may err by, shared among them (Bonferroni), and what those of all later starts may err by
# together, of which the first has 1/2, the second 1/6, the j-th 1/(j(j+1)): however many there are, their sum stays
# below. A gate errs on one side, so it is passed by 3% of the checkpoints at its limit at most.
FIRST = 1 - CONFIDENCE
LATER = 0.01


@dataclass(frozen=True)
class Look:
    """The how-manieth decision about a gate this is, and the confidence of the interval that it is made by."""

    number: int = 1
    confidence: float = CONFIDENCE


class Start(Record):
    """The looks that one start planned: what names the documents of each, and what they may err by together."""

    error: float
    documents: list[str]

    @property
    def confidence(self) -> float:
        return 1 - self.error / len(self.documents)


class Looks(Stored):
    """By gate, every start that decided it."""

    SCHEMA_VERSION = 1

    gates: dict[str, list[Start]] = Field(default_factory=dict)

    def planned(self, gate: str, documents: Sequence[str]) -> tuple[Looks, list[Look]]:
        """The looks at a gate on these documents, one after the other, and the record with those that are new.

        A look on documents on which the gate was decided before is that look again, and errs no more often.
        """
        starts = self.gates.get(gate, [])
        known = {name for start in starts for name in start.documents}
        if new := [name for name in dict.fromkeys(documents) if name not in known]:
            error = LATER / (len(starts) * (len(starts) + 1)) if starts else FIRST
            starts = [*starts, Start(error=error, documents=new)]
        looks: dict[str, Look] = {}
        for start in starts:
            for name in start.documents:
                looks[name] = Look(len(looks) + 1, start.confidence)
        return Looks(gates={**self.gates, gate: starts}), [looks[name] for name in documents]


def planned(folder: Path, requests: Sequence[Request]) -> dict[Requirement, list[Look]]:
    """For each gate of these requests, which differ in their documents alone, the look at each of them. They are
    remembered in the folder, which goes with its checkpoint."""
    path = folder / ".looks.json"
    documents = [_named(request) for request in requests]
    found = {}
    with locks.turn(path):
        record = known = Looks.load(path) if path.is_file() else Looks()
        for gate in requests[0].gates:
            # However it was written: recovery>=99% is recovery >= 0.99.
            name = f"{requests[0].suite.name} {gate.task or ''}:{gate.metric} {gate.limit}"
            record, found[gate] = record.planned(name, documents)
        if record != known:
            record.save(path)
    return found


def _named(request: Request) -> str:
    """What names the documents of a request."""
    return digests.sha256_json([task.dump() for task in request.settings().tasks])[:16]
