"""Whether what was scored is what is served: what an engine was found to compute, marked in the scores."""

from __future__ import annotations

from quantpress.artifact.accuracy import TRANSFORMERS_ONLY, Accuracy, Gate
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.artifact.served import DIFFERS, Served
from quantpress.artifact.throughput import Throughput


def served_of(artifact: Artifact) -> Served | None:
    """The newest comparison of this checkpoint's engine with its scores, if a bench made one."""
    measured = results_of(artifact, Throughput).all()
    compared = [result.served for result in measured if result.served]
    return next((served for served in compared if served.verdict), next(iter(compared), None))


def mark(score: Accuracy, served: Served | None) -> Accuracy:
    """An accuracy result with what is known of the engine: gates that transformers passed hold for it only if the
    engine computes the same. Scores by the engine itself are left alone."""
    by_engine = score.settings.backend == "vllm"
    differs = served is not None and served.verdict == DIFFERS and not by_engine
    return score.model_copy(update={"served": served, "gates": [_marked(gate, differs) for gate in score.gates]})


def _marked(gate: Gate, differs: bool) -> Gate:
    if gate.decision not in ("pass", TRANSFORMERS_ONLY):
        return gate
    return gate.model_copy(update={"decision": TRANSFORMERS_ONLY if differs else "pass"})


def mark_scores(artifact: Artifact, served: Served) -> None:
    """Marks every accuracy result of this checkpoint, after a bench has compared."""
    scored = results_of(artifact, Accuracy)
    for path in scored.files():
        if (score := scored.current(path)) and (marked := mark(score, served)) != score:
            marked.save(path)
