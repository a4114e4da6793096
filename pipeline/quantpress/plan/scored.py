"""What `evaluate` found of a model's recipes: the accuracy.json files below --out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.errors import StageError, listed
from quantpress.runtime import console
from quantpress.runtime.records import Record
from quantpress.statistics.conventions import Interval


class Loss(Record):
    """How far a recipe's checkpoint is from the unquantized model, as mean KL divergence in nats, over the documents of
    one suite; `failed` names the gates that it did not pass."""

    recipe: str
    suite: str
    documents: int
    backend: str
    kl: float
    interval: Interval | None
    recovery: float | None
    failed: list[str]
    file: str

    @property
    def claim(self) -> str:
        least, greatest = self.interval or (self.kl, self.kl)
        recovery = f", recovery {self.recovery:.3f}" if self.recovery is not None else ""
        gates = f", failed {listed(self.failed)}" if self.failed else ""
        return (
            f"measured: KL {self.kl:.3f} ({least:.3f} to {greatest:.3f}) from the unquantized model{recovery}{gates}; "
            f"{self.suite}, {self.documents} documents"
        )


def losses(model_folder: Path) -> dict[str, Loss]:
    """By recipe. All on the same suite, documents and backend, because others do not compare: of those that most
    recipes were scored with, the most documents. Results that cannot be read are named on the screen."""
    found = list(_found(model_folder))
    if not found:
        return {}
    recipes = Counter((one.documents, one.suite, one.backend) for one in found)
    chosen = max(recipes, key=lambda asked: (recipes[asked], asked))
    return {one.recipe: one for one in found if (one.documents, one.suite, one.backend) == chosen}


def _found(model_folder: Path) -> Iterator[Loss]:
    for path in sorted(model_folder.glob("[!.]*/accuracy.json")):
        try:
            for result in results_of(Artifact(path.parent), Accuracy).all():
                overall = result.overall
                if overall and overall.kl is not None and not result.left_out and not result.differences:
                    yield _loss(path, result, overall.kl, overall.kl_interval, overall.recovery)
        except StageError as error:
            console.warn(f"a score is left out: {error.message}")


def _loss(path: Path, result: Accuracy, kl: float, interval: Interval | None, recovery: float | None) -> Loss:
    return Loss(
        recipe=path.parent.name,
        suite=result.suite,
        documents=result.documents,
        backend=result.settings.backend,
        kl=kl,
        interval=interval,
        recovery=recovery,
        failed=[gate.gate for gate in result.gates if gate.decision in ("fail", "transformers only")],
        file=str(path),
    )
