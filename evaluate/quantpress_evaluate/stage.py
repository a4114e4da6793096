"""The evaluate stage: the model and a recipe's checkpoint on the same documents; each scored once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from quantpress.adopt.computed import untruthful_of
from quantpress.artifact import manifest, online, truth
from quantpress.artifact.accuracy import (
    AGAIN,
    OTHER_BACKEND,
    TRANSFORMERS_ONLY,
    Accuracy,
    Comparison,
    Gate,
    Overall,
    Run,
)
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.errors import GateError, StageError
from quantpress.model.source import Model, deciding_files
from quantpress.runtime import console, digests, environment, locks
from quantpress.statistics import power
from quantpress.statistics.conventions import CONFIDENCE
from quantpress_evaluate import foresight, looks, scoring
from quantpress_evaluate.comparison import compare, differences, gates, samples
from quantpress_evaluate.comparison.compare import Scored
from quantpress_evaluate.comparison.differences import Logged
from quantpress_evaluate.comparison.gates import Requirement
from quantpress_evaluate.looks import Look
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject

# Raise this when compare.py or figures.py makes other figures of the same scores.
COMPARISON = 6
# Where --extend starts when no limit is given.
FIRST_LOOK = 100


@dataclass(frozen=True)
class Again:
    """An evaluation on another engine, and the checkpoint's answers on record against those of today; or why these
    cannot be compared."""

    result: Accuracy
    against_record: Comparison | None
    reason: str | None = None


def evaluate(artifact: Artifact, model: Model, request: Request) -> Accuracy:
    """Scores the model (once, shared by all its recipes) and the checkpoint, and writes accuracy.json.

    With `request.extend` on more and more documents, until every gate is decided or there are no more.
    Raises StageError if there is no finished checkpoint or lm-eval fails.
    """
    request, reason = request.for_checkpoint(untruthful_of(artifact))
    if request.backend == "vllm":
        console.say(f"  scored by vLLM: {reason}")
    # Nothing may tidy scores away before accuracy.json names them, nor put another checkpoint there.
    with locks.using(artifact.folder.parent), locks.using(artifact.folder):
        return _looks(artifact, model, request)


def score_model(model: Model, request: Request, out: Path) -> Run:
    """Scores the model alone, as `evaluate` does for any of its recipes that this request (of one backend) is made for.

    Raises StageError if lm-eval or a server fails.
    """
    folder = out / model.name
    with locks.using(folder):
        return scoring.score(baseline(model, folder), request)


def _looks(artifact: Artifact, model: Model, request: Request) -> Accuracy:
    """One look, or with `extend` as many as the gates need."""
    results = results_of(artifact, Accuracy)
    known = results.known(request.suite.name)
    for line in foresight.lines_of(request, foresight.assumed(known)):
        console.say(f"  {line}")
    requests = [request.with_limit(limit) for limit in _limits(request)] if request.extend else [request]
    _say_what_changed(artifact, known, requests[0])
    planned = looks.planned(artifact.folder / "scores", requests)
    for number, one in enumerate(requests):
        result = _look(artifact, model, one, {gate: of_gate[number] for gate, of_gate in planned.items()})
        if len(requests) == 1 or not any(gate.decision == "inconclusive" for gate in result.gates):
            break
        console.say(f"  look {number + 1} of at most {len(requests)}: undecided on {result.documents} documents")
    return result


def evaluate_online(method: str, model: Model, request: Request, out: Path) -> Accuracy:
    """Scores the model as vLLM quantizes it while it loads it, beside the model, and writes accuracy.json. Nothing is
    made, so there is nothing to pass: it has no gates.

    That vLLM scores both sides, because nothing else computes the one. Raises StageError if it fails.
    """
    request = replace(request, backend="vllm", gates=(), extend=False, noise_floor=False)
    folder, digest = out / model.name, online.digest_of(model.identity().digest, method)
    with locks.using(folder):
        base = baseline(model, folder)
        own = replace(
            base, role=online.name_of(method), digest=digest, keeps=online.folder_of(folder, method), online=method
        )
        sides = _both(base, own, request)
        results, key = online.results_of(folder, base.digest, method, Accuracy), _key(request, sides.runs)
        known = results.known(request.suite.name)
        if known and known.key == key:
            results.to_front(request.suite.name)
            return known
        result = _computed(request, sides, key, digest)
        results.put(result)
        return result


def evaluate_again(artifact: Artifact, model: Model, request: Request, known: Accuracy) -> Again:
    """Scores model and checkpoint once more on the documents of an earlier evaluation, by the vLLM that the request
    names. Nothing but the scores is written.

    The gates are decided by intervals as wide as then. Raises StageError if it fails.
    """
    request = replace(request, backend="vllm", noise_floor=False)
    with locks.using(artifact.folder.parent), locks.using(artifact.folder):
        checkpoint = digests.seen(deciding_files(artifact.checkpoint))
        sides = _scored_sides(artifact, model, request, known.checkpoint_digest, checkpoint)
        result = _computed(request, sides, _key(request, sides.runs), known.checkpoint_digest)
        looked = {gate.gate: Look(gate.look or 1, gate.confidence or CONFIDENCE) for gate in known.gates}
        at = {gate: looked.get(gate.text, Look()) for gate in request.gates}
        result = result.model_copy(update={"gates": _decided(request, sides.folders, at, result)})
        before = artifact.folder / "scores" / known.runs["candidate"].folder
        pair = {"baseline": before, "candidate": sides.folders["candidate"]}
        try:
            return Again(result, _compared(request, pair, "candidate"))
        except StageError as error:
            return Again(result, None, error.message)


def _say_what_changed(artifact: Artifact, known: Accuracy | None, request: Request) -> None:
    changed = manifest.differences(known.settings.dump(), request.settings().dump()) if known else []
    if changed:
        console.say(f"  {artifact.name} is scored otherwise than before; changed: {', '.join(changed)}")


def first_look(request: Request) -> int:
    """How many documents of each task `evaluate` scores first with `extend`."""
    return _limits(request)[0]


def _limits(request: Request) -> list[int]:
    """Documents of a task at each look: doubled until the largest task is used up. Tasks that name their documents have
    no more."""
    growing = [task for task in request.tasks if not task.documents]
    most = max((task.available or 0 for task in growing), default=1)
    limits = [min(most, max((task.limit or 0 for task in growing), default=0) or FIRST_LOOK)]
    while limits[-1] < most:
        limits.append(min(2 * limits[-1], most))
    return limits


def _look(artifact: Artifact, model: Model, request: Request, at: dict[Requirement, Look]) -> Accuracy:
    """One evaluation on the request's documents; figures that the same scores gave before are not computed again."""
    checkpoint = digests.seen(deciding_files(artifact.checkpoint))
    results = results_of(artifact, Accuracy)
    known = results.known(request.suite.name)
    sides = _scored_sides(artifact, model, request, results.digest, checkpoint)
    key = _key(request, sides.runs)
    result = known if known and known.key == key else _computed(request, sides, key, results.digest)
    result = result.model_copy(update={"gates": _decided(request, sides.folders, at, result)})
    result = truth.mark(result, truth.served_of(artifact))
    for gate in request.gates:
        for floor, how in ((result.noise_floor, "in other batches"), (result.backend_floor, "by the other backend")):
            if gates.is_below_the_noise(gate, floor):
                console.warn(f"gate {gate.text} asks for less than the model differs from itself {how}")
    if result == known:
        results.to_front(request.suite.name)
    else:
        results.put(result)
    return result


@dataclass(frozen=True)
class _Sides:
    """What was scored, and the folders with the samples: `baseline`, `candidate`, and the model once more, in other
    batches and by the other backend, where it was."""

    model_digest: str
    runs: dict[str, Run]
    folders: dict[str, Path]


def _scored_sides(artifact: Artifact, model: Model, request: Request, digest: str, checkpoint: digests.Seen) -> _Sides:
    own = _candidate(artifact, model, digest, checkpoint)
    return _both(baseline(model, artifact.folder.parent), own, request)


def _candidate(artifact: Artifact, model: Model, digest: str, checkpoint: digests.Seen) -> Subject:
    return Subject(
        role=artifact.name,
        path=artifact.checkpoint,
        digest=digest,
        keeps=artifact.folder,
        trust_remote_code=model.trust_remote_code,
        seen=checkpoint,
    )


def is_scored(artifact: Artifact, model: Model, request: Request) -> bool:
    """Whether `evaluate` would score nothing: both sides' scores are there. `request` is of one backend."""
    own = _candidate(artifact, model, artifact.finished().digest, {})
    return all(one.is_scored(request) for one in (own, baseline(model, artifact.folder.parent)))


def baseline(model: Model, model_folder: Path) -> Subject:
    """The model as it is, whose scores all its recipes share."""
    seen = digests.seen(model.deciding_files())
    return Subject(
        role="baseline",
        path=model.path,
        digest=model.identity().digest,
        keeps=model_folder / "baseline",
        trust_remote_code=model.trust_remote_code,
        seen=seen,
    )


def _both(base: Subject, own: Subject, request: Request) -> _Sides:
    folders = {"baseline": base.scores_folder(request), "candidate": own.scores_folder(request)}
    runs = {"baseline": scoring.score(base, request)}
    runs["candidate"] = scoring.score(own, request, folders["baseline"])
    for side, other in ((AGAIN, request.in_other_batches()), (OTHER_BACKEND, request.by_the_other_backend())):
        if other and (request.noise_floor or base.is_scored(other)):
            runs[side] = scoring.score(base, other, folders["baseline"])
            folders[side] = base.scores_folder(other)
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
        noise_floor=_floor(request, sides, AGAIN),
        backend_floor=_floor(request, sides, OTHER_BACKEND),
        runs=sides.runs,
        machine=environment.machine(),
    )


def _floor(request: Request, sides: _Sides, side: str) -> Overall | None:
    """How far the model is from itself, scored otherwise."""
    return _compared(request, sides.folders, side).overall if side in sides.folders else None


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
            hint=f"move {folders[0]} and {folders[1]} away, and evaluate again",
        )


def _decided(request: Request, folders: dict[str, Path], at: dict[Requirement, Look], result: Comparison) -> list[Gate]:
    """How each gate was decided; by wider intervals where this is one of several looks."""
    compared = {CONFIDENCE: result}
    decided = []
    for gate in request.gates:
        look = at[gate]
        if look.confidence not in compared:
            compared[look.confidence] = _compared(request, folders, "candidate", look.confidence)
        about = {"confidence": look.confidence, "documents": result.documents, "look": look.number}
        decided.append(gates.decide(gate, compared[look.confidence]).model_copy(update=about))
    return decided


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
    return f"{word}: {gate.figure:.4g}, {share} interval {low:.4g} to {high:.4g}{_needed(gate)}"


def _needed(gate: Gate) -> str:
    """How many documents would decide an inconclusive gate, if its figure stays what it is."""
    if gate.decision != "inconclusive" or gate.interval is None or gate.figure is None or not gate.documents:
        return ""
    low, high = gate.interval
    away = gate.figure - gates.parse(gate.gate).limit
    needed = power.more_documents(high - low, away, gate.documents, gate.confidence or CONFIDENCE)
    return f"; about {foresight.rounded(needed)} documents would decide it" if needed else ""
