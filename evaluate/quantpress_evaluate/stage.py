"""The evaluate stage: the model and a recipe's checkpoint on the same documents; each scored once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact import manifest, truth
from quantpress.artifact.accuracy import CONFIDENCE, TRANSFORMERS_ONLY, Accuracy, Comparison, Gate, Run
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.errors import GateError, StageError
from quantpress.model.source import Model
from quantpress.runtime import console, digests, environment
from quantpress_evaluate import scoring
from quantpress_evaluate.comparison import compare, differences, gates, samples
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.differences import Logged
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject

# Raise this when compare.py or figures.py makes other figures of the same scores.
COMPARISON = 5
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


def evaluate(artifact: Artifact, model: Model, request: Request) -> Accuracy:
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
        if not any(gate.decision == "inconclusive" for gate in result.gates):
            break
        console.say(f"  look {number} of at most {len(limits)}: undecided on {result.documents} documents")
    return result


def _limits(request: Request) -> list[int]:
    """Documents of a task at each look: doubled until the largest task is used up."""
    most = max(task.available or 0 for task in request.tasks)
    limits = [min(most, max((task.limit or 0 for task in request.tasks), default=0) or FIRST_LOOK)]
    while limits[-1] < most:
        limits.append(min(2 * limits[-1], most))
    return limits


def _look(artifact: Artifact, model: Model, request: Request, look: Look) -> Accuracy:
    """One evaluation on the request's documents; figures that the same scores gave before are not computed again."""
    results = results_of(artifact, Accuracy)
    known = results.known(request.suite.name)
    if known and look.number == 1:
        changed = manifest.differences(known.settings.dump(), request.settings().dump())
        if changed:
            console.say(f"  {artifact.name} is scored otherwise than before; changed: {', '.join(changed)}")
    sides = _scored_sides(artifact, model, request, results.digest)
    key = _key(request, sides.runs)
    result = known if known and known.key == key else _computed(request, sides, key, results.digest)
    result = result.model_copy(update={"gates": _decided(request, sides.folders, look, result)})
    result = truth.mark(result, truth.served_of(artifact))
    for gate in request.gates:
        if gates.is_below_the_noise(gate, result.noise_floor):
            console.warn(f"gate {gate.text} asks for less than the model differs from itself in other batches")
    if result == known:
        results.to_front(request.suite.name)
    else:
        results.put(result)
    return result


@dataclass(frozen=True)
class _Sides:
    """What was scored, and the folders with the samples: `baseline`, `candidate`, and `again`, the model in other
    batches, where there is one."""

    model_digest: str
    runs: dict[str, Run]
    folders: dict[str, Path]


def _scored_sides(artifact: Artifact, model: Model, request: Request, digest: str) -> _Sides:
    base = Subject(
        role="baseline",
        path=model.path,
        digest=model.identity().digest,
        keeps=artifact.folder.parent / "baseline",
        trust_remote_code=model.trust_remote_code,
    )
    own = Subject(
        role=artifact.name,
        path=artifact.checkpoint,
        digest=digest,
        keeps=artifact.folder,
        trust_remote_code=model.trust_remote_code,
    )
    folders = {"baseline": base.scores_folder(request), "candidate": own.scores_folder(request)}
    runs = {"baseline": scoring.score(base, request)}
    runs["candidate"] = scoring.score(own, request, folders["baseline"])
    other = request.in_other_batches()
    if request.noise_floor or base.is_scored(other):
        runs["again"] = scoring.score(base, other, folders["baseline"])
        folders["again"] = base.scores_folder(other)
    return _Sides(base.digest, runs, folders)


def _computed(request: Request, sides: _Sides, key: str, digest: str) -> Accuracy:
    """The figures, without gates, for the checkpoint of this digest."""
    return Accuracy(
        **dict(_compared(request, sides.folders, "candidate")),
        checkpoint_digest=digest,
        key=key,
        model_digest=sides.model_digest,
        suite=request.suite.name,
        settings=request.settings(),
        noise_floor=_compared(request, sides.folders, "again").overall if "again" in sides.folders else None,
        runs=sides.runs,
        machine=environment.machine(),
    )


def _key(request: Request, runs: dict[str, Run]) -> str:
    """What names everything that the figures are made from."""
    weighed = [[task.task, task.weight, task.metric, task.filter, task.cluster, task.group] for task in request.tasks]
    return digests.sha256_json([COMPARISON, weighed, request.count_no_signal, *(run.key for run in runs.values())])


def _compared(request: Request, folders: dict[str, Path], side: str, confidence: float = CONFIDENCE) -> Comparison:
    """The baseline's scores against those of a side, on every task.

    Raises StageError for scores that were kept of other documents or questions than the other side's.
    """
    tasks = {
        task.task: Scored(
            metric=task.metric,
            baseline=samples.read_samples(folders["baseline"], task.task),
            candidate=samples.read_samples(folders[side], task.task),
            filter=task.filter,
            weight=task.weight,
            cluster=task.cluster,
            group=task.group,
        )
        for task in request.tasks
    }
    for name, task in tasks.items():
        _require_alike(name, task.selected(), [folders["baseline"], folders[side]])
    return compare.compare_suite(tasks, confidence, request.count_no_signal)


def _require_alike(name: str, task: Scored, folders: list[Path]) -> None:
    """Raises StageError for a task that both models were not asked alike."""
    one, other = Logged(task.baseline), Logged(task.candidate)
    found = differences.between(name, one, other, task.metric, task.filter)
    if found:
        raise StageError(
            "\n       ".join(["the two were not scored alike:", *differences.in_words(found)]),
            hint=f"delete {folders[0]} and {folders[1]}, and evaluate again",
        )


def _decided(request: Request, folders: dict[str, Path], look: Look, result: Comparison) -> list[Gate]:
    """How each gate was decided; by wider intervals where this is one of several looks."""
    if look.planned > 1 and request.gates:
        result = _compared(request, folders, "candidate", look.confidence)
    about = {"confidence": look.confidence, "documents": result.documents, "look": look.number}
    return [gates.decide(gate, result).model_copy(update=about) for gate in request.gates]


EXTEND = "the results are there; --extend takes more documents until an inconclusive gate is decided"


def require_gates(decided: Mapping[str, list[Gate]], hint: str = EXTEND) -> None:
    """Raises GateError naming every gate, by recipe, that was not passed; `hint` says what to do about it."""
    missed = [
        f"{name}: {gate.gate} {_verdict(gate)}"
        for name, of_recipe in decided.items()
        for gate in of_recipe
        if gate.decision != "pass"
    ]
    if missed:
        raise GateError("\n       ".join(missed), hint=hint)


def _verdict(gate: Gate) -> str:
    if gate.decision == TRANSFORMERS_ONLY:
        return "was passed for transformers only: the engine does not compute what was scored (see the report)"
    if gate.reason:
        return f"is inconclusive: {gate.reason}"
    if gate.interval is None:
        return "cannot be decided: there is no figure"
    low, high = gate.interval
    word = "failed" if gate.decision == "fail" else "is inconclusive"
    share = f"{100 * (gate.confidence or CONFIDENCE):.4g}%"
    return f"{word}: {gate.figure:.4g}, {share} interval {low:.4g} to {high:.4g}"
