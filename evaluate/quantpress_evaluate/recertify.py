"""The same checkpoint on another engine: measured and scored again, and held against what is on record.

Nothing here compares anew: answers to documents are compared as `evaluate` does it, likelihoods and speed as `bench`
does, and two benches as the report does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from quantpress.artifact import recertification, truth
from quantpress.artifact.accuracy import Accuracy, Gate
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.recertification import (
    ON_RECORD,
    RECORD,
    Engine,
    GateAgain,
    LikelihoodPair,
    Recertification,
    Rescored,
)
from quantpress.artifact.results import StageResult, results_of
from quantpress.artifact.served import Served
from quantpress.artifact.throughput import CANDIDATE, Throughput
from quantpress.model.source import Model
from quantpress.package import signing
from quantpress.runtime import atomic, console, digests, environment, locks, ownership
from quantpress_evaluate import what_moved
from quantpress_evaluate.request import Request
from quantpress_evaluate.stage import evaluate_again
from quantpress_serve.bench import other_engine
from quantpress_serve.bench.other_engine import Remeasured
from quantpress_serve.bench.stage import Beforehand
from quantpress_serve.bench.subject import Sides
from quantpress_serve.workload import workload
from quantpress_serve.workload.workload import Workload

# Raise this when the same measurements would be judged otherwise.
RULES = 1


@dataclass(frozen=True)
class Order:
    """What is asked for. `engine` is the new one, `folder` that of its recertification. `suites` are those on record,
    each with the request that asks the same of the new engine (None: it is a server that cannot be asked to score).
    `throughput` is the record of speed and `load` its workload, None where there is none."""

    artifact: Artifact
    model: Model
    engine: Engine
    folder: Path
    suites: Sequence[tuple[Accuracy, Request | None]]
    throughput: Throughput | None
    load: Workload | None
    sides: Sides
    about: Beforehand
    sign_key: Path | None = None
    fresh: bool = False

    @property
    def recorded(self) -> dict[str, str]:
        """The sha256 of every result on record that is looked at, by its name in the artifact's folder."""
        scores, speeds = results_of(self.artifact, Accuracy), results_of(self.artifact, Throughput)
        paths = [path for path in scores.files() if scores.current(path)]
        paths += [path for path in speeds.files() if self.throughput and speeds.current(path) == self.throughput]
        return {str(path.relative_to(self.artifact.folder)): digests.sha256_file(path) for path in paths}

    @property
    def key(self) -> str:
        """What names everything that the recertification depends on."""
        asked = [
            [request.settings().dump(), [gate.text for gate in request.gates]] for _, request in self.suites if request
        ]
        load = workload.record(self.load).dump() if self.load else None
        old = other_engine.engine_on_record(self.throughput) if self.throughput else ""
        return digests.sha256_json(
            [RULES, self.recorded, self.engine.dump(), str(old), asked, load, environment.machine().dump()]
        )

    def is_answered_by(self, known: Recertification) -> bool:
        """Whether what was done before still holds. A server of somebody else's may be another one since, so it does
        not, unless what was measured on it is to be signed."""
        unsigned = self.sign_key and not (self.folder / signing.SIGNATURE).is_file()
        return known.key == self.key and not self.fresh and bool(not self.sides.vllm_url or unsigned)


def recertify(order: Order) -> Recertification:
    """Measures and scores on the new engine, and writes the recertification, complete or not at all, signed if a key
    was named. What was done before is not done again.

    Raises StageError if a server or lm-eval fails, or the checkpoint talks nonsense on the new engine.
    """
    known = _known(order)
    if known and order.is_answered_by(known):
        console.say(f"✓ {order.artifact.name} on vLLM {order.engine.version}: recertified before, nothing to do")
        if order.sign_key and not (order.folder / signing.SIGNATURE).is_file():
            _sign(order.folder, order.sign_key)
        return known
    ownership.require_ours(order.folder, recertification.strangers, f"move {order.folder} away")
    with locks.using(order.artifact.folder), locks.lock(order.folder), atomic.staging(order.folder) as staged:
        made = _made(order, staged)
        made.save(staged / RECORD)
        if order.sign_key:
            _sign(staged, order.sign_key)
        atomic.publish(staged, order.folder, recertification.strangers)
    return made


def _known(order: Order) -> Recertification | None:
    path = order.folder / RECORD
    return Recertification.load(path) if path.is_file() else None


def _sign(folder: Path, key: Path) -> None:
    with console.step("signing the recertification"):
        signing.sign(folder, key)


def _made(order: Order, staged: Path) -> Recertification:
    unknown: list[str] = []

    # By lm-eval first: scores are kept, so a run that is killed over the servers goes on there.
    scored = [_scored(order, known, request, unknown) for known, request in order.suites if request]
    measured = _remeasured(order, unknown)
    pair = _likelihoods(order, measured, unknown)
    served = measured.result.served if measured else None
    gates = [gate for one in scored for gate in one.gates]
    for known, request in order.suites:
        if request is None:
            unknown.append(f"accuracy on {known.suite}: only a vLLM that quantpress starts is asked for scores")
            gates += _standing(known, served, pair)

    throughput = order.throughput
    speeds = what_moved.speeds(throughput, measured) if throughput and measured else None
    unknown += what_moved.not_told(speeds)
    made = Recertification(
        key=order.key,
        checkpoint_digest=order.artifact.finished().digest,
        manifest=digests.sha256_file(order.artifact.manifest_file),
        recorded=order.recorded,
        files=_saved(staged, measured, scored),
        before=Engine.of(throughput.engine(CANDIDATE)) if throughput else None,
        after=order.engine,
        answers=other_engine.answers(throughput, measured.result) if throughput and measured else [],
        likelihoods=pair,
        served=served,
        accuracy=[one.rescored for one in scored],
        speeds=speeds,
        gates=gates,
        moved=[],
        unknown=unknown,
        verdict="holds",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=environment.machine(),
    )
    moved = what_moved.sentences(made, throughput)
    return made.model_copy(update={"moved": moved, "verdict": "moved" if moved else "holds"})


def _saved(staged: Path, measured: Remeasured | None, scored: list[_Scored]) -> dict[str, str]:
    """Writes the results beside the record; the sha256 of each by its name."""
    results: dict[str, StageResult] = {f"{Accuracy.STAGE}/{one.result.suite}.json": one.result for one in scored}
    if measured:
        results["throughput.json"] = measured.result
    for name, result in results.items():
        result.save(staged / name)
    return {name: digests.sha256_file(staged / name) for name in results}


def _remeasured(order: Order, unknown: list[str]) -> Remeasured | None:
    if order.throughput is None or order.load is None:
        unknown.append(f"answers, likelihoods and speed: none on record (quantpress bench {order.artifact.name})")
        return None
    with atomic.staging(order.folder.with_name("load")) as load:
        measured = other_engine.remeasured(
            order.artifact, order.model, order.throughput, order.load, order.sides, order.about, load
        )
    if measured.source == ON_RECORD:
        unknown.append(f"speed in pairs: {measured.reason}")
    return measured


def _likelihoods(order: Order, measured: Remeasured | None, unknown: list[str]) -> LikelihoodPair | None:
    if measured is None or order.throughput is None:
        return None
    pair = other_engine.likelihood_pair(order.throughput, measured)
    if isinstance(pair, str):
        unknown.append(f"likelihoods: {pair}")
        return None
    if pair.interval is None and pair.difference is not None:
        unknown.append("likelihoods token by token: the record holds their mean alone, so there is no interval")
    return pair


def _standing(known: Accuracy, served: Served | None, pair: LikelihoodPair | None) -> list[GateAgain]:
    """The gates of a suite as they stand on a server that is not asked for scores.

    Those that transformers passed hold if the server computes what transformers does, those that the old engine passed
    if it computes what that did; if neither is known, they are inconclusive.
    """
    if known.settings.backend == "vllm":
        shown = pair is not None and pair.interval is not None and not pair.moved
    else:
        shown = served is not None and served.verdict is not None
    after = truth.mark(known, served).gates
    if not shown:
        after = [_not_shown(gate) if gate.decision == "pass" else gate for gate in after]
    pairs = zip(known.gates, after, strict=True)
    return [GateAgain(suite=known.suite, before=before, after=now) for before, now in pairs]


def _not_shown(gate: Gate) -> Gate:
    reason = "passed on record, and that the new engine computes the same was not shown"
    return gate.model_copy(update={"decision": "inconclusive", "reason": reason})


@dataclass(frozen=True)
class _Scored:
    """One suite on the new engine: against the record, its gates, and the whole result."""

    rescored: Rescored
    gates: list[GateAgain]
    result: Accuracy


def _scored(order: Order, known: Accuracy, request: Request, unknown: list[str]) -> _Scored:
    again = evaluate_again(order.artifact, order.model, request, known)
    if again.reason:
        unknown.append(f"answers to the documents of {known.suite}: {again.reason}")
    backend = known.settings.backend
    if backend != "vllm":
        unknown.append(
            f"accuracy on {known.suite} by the engine on record: transformers scored then, and vLLM does now, so what "
            "differs between these two counts as moved"
        )
    before = {gate.gate: gate for gate in known.gates}
    gates = [GateAgain(suite=known.suite, before=before.get(gate.gate), after=gate) for gate in again.result.gates]
    pairs_of = again.against_record
    rescored = Rescored(suite=known.suite, backend=backend, comparison=pairs_of, moved=what_moved.tasks(pairs_of))
    return _Scored(rescored, gates, again.result)
