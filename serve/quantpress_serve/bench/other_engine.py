"""A checkpoint that was measured, on another engine: in turns with the engine on record, or as it was measured then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantpress.artifact.manifest import Artifact
from quantpress.artifact.recertification import IN_PAIRS, ON_RECORD, AnswerPair, LikelihoodPair, Source
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Said, Throughput
from quantpress.errors import StageError
from quantpress.model.source import Model, deciding_files, read_config
from quantpress.runtime import digests
from quantpress_serve.bench import likelihoods, looks, stage
from quantpress_serve.bench.stage import Beforehand, Measured
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.bench.workers import Row
from quantpress_serve.vllm import vllm_version
from quantpress_serve.workload.workload import Workload


@dataclass(frozen=True)
class Remeasured:
    """What the new engine does. `source` says what stands beside it: the engine on record, started again, or what is
    on record alone, with the `reason`."""

    source: Source
    reason: str
    result: Throughput
    rows: dict[str, list[Row]]
    before: list[Row] | None


def engine_on_record(known: Throughput) -> Path | str:
    """The executable of the engine that is on record, or why it cannot be started."""
    then = known.engine(CANDIDATE)
    path = Path(then.executable)
    if "://" in then.executable:
        return f"the engine on record, {then.executable}, is somebody else's server"
    if not path.is_file():
        return f"the engine on record, {then.executable} ({then.version}), is gone"
    if (now := vllm_version(path)) != then.version:
        return f"the engine on record was {then.version}, and {then.executable} is {now} now"
    return path


def remeasured(
    artifact: Artifact, model: Model, known: Throughput, load: Workload, sides: Sides, about: Beforehand, staged: Path
) -> Remeasured:
    """Serves the checkpoint by the engine that `sides` names, under the `load` on record; no result is written.

    The engine on record is loaded in turns with it where it is still there. Elsewhere the new one serves what was
    served then: checkpoint and model in turns. `staged` is a folder for what the load generator writes. Raises
    StageError as stage.measure does.
    """
    subject = stage.subject_of(artifact, model, about)
    old = "the new engine is somebody else's server" if sides.vllm_url else engine_on_record(known)
    if isinstance(old, Path):
        both, sides = _on_two_engines(subject, artifact), replace(sides, baseline_vllm=old)
        measured = _measured(both, load, sides, staged)
        _require_as_recorded(known, measured.result)
        rows = measured.rows
        return Remeasured(IN_PAIRS, "", measured.result, rows, rows.get(BASELINE))
    measured = _measured(_named(subject), load, sides.paired_as(known) if not sides.vllm_url else sides, staged)
    kept = subject.scored[CANDIDATE].kept_served(known.engine(CANDIDATE).version)
    return Remeasured(ON_RECORD, old, measured.result, measured.rows, kept.likelihoods if kept else None)


def _named(subject: Subject) -> Subject:
    """With logs of its own."""
    return replace(subject, name=f"{subject.name}.recertify")


def _on_two_engines(subject: Subject, artifact: Artifact) -> Subject:
    """The checkpoint on both sides."""
    path = subject.candidate
    seen, size = digests.seen(deciding_files(path)), subject.weight_bytes[CANDIDATE]
    own = Model(
        name=artifact.name,
        path=path,
        source=str(path),
        config=read_config(path),
        trust_remote_code=subject.model.trust_remote_code,
    )
    return replace(
        _named(subject),
        model=own,
        model_digest=subject.digest,
        weight_bytes={CANDIDATE: size, BASELINE: size},
        seen={CANDIDATE: seen, BASELINE: seen},
    )


def _measured(subject: Subject, load: Workload, sides: Sides, staged: Path) -> Measured:
    """Raises StageError also for what ended early: half a measurement certifies nothing."""
    inputs = stage.inputs_of(subject, load, sides.executable(), sides)
    measured = stage.served_and_loaded(subject, load, sides, inputs, staged)
    if measured.lost:
        raise measured.lost
    looks.keep_rows(subject, measured.result, measured.rows)
    return measured


def _require_as_recorded(known: Throughput, now: Throughput) -> None:
    """Raises StageError if what was started as the engine on record says that it is another one."""
    then, told = known.servers[CANDIDATE].version, now.servers[BASELINE].version
    if then and told and then != told:
        raise StageError(
            f"{known.engine(CANDIDATE).executable} was vLLM {then} when it was measured, and now it says {told}",
            hint="move it away: without it the new engine is held against the record alone",
        )


def answers(known: Throughput, now: Throughput) -> list[AnswerPair]:
    """The candidate's answers to the questions that it was asked both times."""
    after = {said.question: said.answer for said in _said(now)}
    return [
        AnswerPair(question=said.question, before=said.answer, after=after[said.question])
        for said in _said(known)
        if said.question in after
    ]


def _said(result: Throughput) -> Sequence[Said]:
    """All answers; older results hold the first alone."""
    if result.chat:
        return result.chat.get(CANDIDATE, [])
    return [result.answers[CANDIDATE]] if CANDIDATE in result.answers else []


def likelihood_pair(known: Throughput, now: Remeasured) -> LikelihoodPair | str:
    """Both engines' likelihoods of the fixed text token by token, their means where the record holds no more, or why
    there are none."""
    after, bound = now.rows.get(CANDIDATE), likelihoods.BOUND
    if after is None:
        return (now.result.served.reason if now.result.served else None) or "the new engine gave none"
    if now.before is not None:
        pair = likelihoods.side(now.before, after)
        return LikelihoodPair(
            source=now.source,
            tokens=pair.tokens,
            before=pair.scored,
            after=pair.served,
            difference=pair.difference,
            interval=pair.interval,
            per_token=pair.per_token,
            bound=bound,
            moved=likelihoods.beyond(pair.interval, bound),
        )
    then = known.served.sides.get(CANDIDATE) if known.served else None
    mean = likelihoods.side(after, after).served
    if then is None or then.served is None:
        return "the record holds none"
    return LikelihoodPair(
        source=now.source,
        tokens=then.tokens,
        before=then.served,
        after=mean,
        difference=None if mean is None else mean - then.served,
        bound=bound,
        moved=mean is None,
    )
