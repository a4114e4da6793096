"""The evaluate stage: the model and a recipe's checkpoint on the same documents; each scored once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.artifact import manifest, truth
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import Results
from quantpress.errors import GateError
from quantpress.model.source import Model
from quantpress.runtime import console, digests, environment
from quantpress_evaluate import scoring
from quantpress_evaluate.comparison import compare, gates, samples
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.figures import CONFIDENCE
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject

# Raise this when compare.py or figures.py makes other figures of the same scores.
COMPARISON = 3
# Where --extend starts when no limit is given.
FIRST_LOOK = 100


@dataclass(frozen=True)
class Look:
    """One of several looks at growing numbers of documents, `number` of `planned`."""

    number: int = 1
    planned: int = 1

    @property
    def confidence(self) -> float:
        """Of the gates' intervals. Every look may err, so the 5% are shared among them (Bonferroni)."""
        return 1 - (1 - CONFIDENCE) / self.planned


def evaluate(artifact: Artifact, model: Model, request: Request) -> dict[str, Any]:
    """Scores the model (once, shared by all its recipes) and the checkpoint, and writes accuracy.json.

    With `request.extend` on more and more documents, until every gate is decided or there are no more.
    Raises StageError if there is no finished checkpoint or lm-eval fails.
    """
    request, reason = request.for_recipe(artifact.finished().recipe)
    if request.backend == "vllm":
        console.say(f"  scored by vLLM: {reason}")
    if not request.extend:
        return _look(artifact, model, request, Look())
    limits = _limits(request)
    for number, limit in enumerate(limits, start=1):
        result = _look(artifact, model, request.with_limit(limit), Look(number, len(limits)))
        open_gates = [gate["gate"] for gate in result["gates"] if gate["decision"] == "inconclusive"]
        if not open_gates:
            break
        console.say(f"  look {number} of at most {len(limits)}: undecided on {_documents(result)} documents")
    return result


def _limits(request: Request) -> list[int]:
    """Documents of a task at each look: doubled until the largest task is used up."""
    most = max(task["available"] for task in request.tasks)
    limits = [min(most, max((task["limit"] or 0 for task in request.tasks), default=0) or FIRST_LOOK)]
    while limits[-1] < most:
        limits.append(min(2 * limits[-1], most))
    return limits


def _documents(result: dict[str, Any]) -> int:
    return sum(int(row["documents"]) for row in result["tasks"].values())


def _look(artifact: Artifact, model: Model, request: Request, look: Look) -> dict[str, Any]:
    record, trust = artifact.finished(), model.trust_remote_code
    results = Results(artifact.folder, "accuracy", record.digest)
    known = results.known(request.suite.name)
    if known and (changed := manifest.differences(known["settings"], request.settings())) and look.number == 1:
        console.say(f"  {artifact.name} is scored otherwise than before; changed: {', '.join(changed)}")
    base = Subject("baseline", model.path, model.identity().digest, artifact.folder.parent / "baseline", trust)
    own = Subject(artifact.name, artifact.checkpoint, record.digest, artifact.folder, trust)
    runs = {"baseline": scoring.score(base, request)}
    folders = {"baseline": base.place(request)[1], "candidate": own.place(request)[1]}
    runs["candidate"] = scoring.score(own, request, folders["baseline"])
    other = request.in_other_batches()
    if request.noise_floor or base.is_scored(other):
        runs["again"] = scoring.score(base, other, folders["baseline"])
        folders["again"] = base.place(other)[1]
    weighed = [[task["task"], task["weight"], task["metric"], task["filter"]] for task in request.tasks]
    keys = [run["key"] for run in runs.values()]
    key = digests.sha256_json([COMPARISON, weighed, request.count_no_signal, *keys])
    if known and known["key"] == key:
        result = dict(known)
    else:
        result = {
            "schema_version": manifest.SCHEMA_VERSION,
            "checkpoint_digest": record.digest,
            "key": key,
            "model_digest": base.digest,
            "suite": request.suite.name,
            "settings": request.settings(),
            **_compared(request, folders, "candidate"),
            "noise_floor": _compared(request, folders, "again")["overall"] if "again" in folders else None,
            "runs": runs,
            "machine": environment.machine().dump(),
        }
    result["gates"] = _decided(request, folders, look, result)
    result = truth.mark(result, truth.served_of(artifact))
    _warn_below_the_noise(request, result)
    if result == known:
        results.to_front(request.suite.name)
    else:
        results.put(result)
    return result


def _compared(request: Request, folders: dict[str, Path], side: str, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """The baseline's scores against those of a side, on every task."""
    tasks = {
        task["task"]: Scored(
            task["metric"],
            samples.read_samples(folders["baseline"], task["task"]),
            samples.read_samples(folders[side], task["task"]),
            task["filter"],
            task["weight"],
        )
        for task in request.tasks
    }
    return compare.compare_suite(tasks, confidence, request.count_no_signal)


def _decided(request: Request, folders: dict[str, Path], look: Look, result: dict[str, Any]) -> list[dict[str, Any]]:
    """How each gate was decided; by wider intervals where this is one of several looks."""
    if look.planned > 1 and request.gates:
        result = _compared(request, folders, "candidate", look.confidence)
    about = {"confidence": look.confidence, "documents": _documents(result), "look": look.number}
    return [gates.decide(gate, result) | about for gate in request.gates]


def _warn_below_the_noise(request: Request, result: dict[str, Any]) -> None:
    for gate in request.gates:
        if gates.is_below_the_noise(gate, result["noise_floor"]):
            console.warn(f"gate {gate.text} asks for less than the model differs from itself in other batches")


def require_gates(results: dict[str, dict[str, Any]]) -> None:
    """Raises GateError naming every gate of these results, by recipe, that was not passed."""
    missed = [
        f"{name}: {gate['gate']} {_verdict(gate)}"
        for name, result in results.items()
        for gate in result["gates"]
        if gate["decision"] != "pass"
    ]
    if missed:
        raise GateError(
            "\n       ".join(missed),
            hint="the results are there; --extend takes more documents until an inconclusive gate is decided",
        )


def _verdict(gate: dict[str, Any]) -> str:
    if gate["decision"] == truth.TRANSFORMERS_ONLY:
        return "was passed for transformers only: the engine does not compute what was scored (see the report)"
    if gate["interval"] is None:
        return "cannot be decided: there is no figure"
    low, high = gate["interval"]
    word = "failed" if gate["decision"] == "fail" else "is inconclusive"
    share = f"{100 * gate.get('confidence', CONFIDENCE):.4g}%"
    return f"{word}: {gate['figure']:.4g}, {share} interval {low:.4g} to {high:.4g}"
