"""The bench stage: serves candidate and baseline, loads them in turns, and compares them pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.adopt.computed import untruthful_of
from quantpress.artifact import manifest, speed, truth
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.throughput import (
    ALTERNATING,
    BASELINE,
    CANDIDATE,
    WITH_ALL_OF_THE_MEMORY,
    Capacity,
    Executable,
    Inputs,
    Said,
    Throughput,
)
from quantpress.errors import StageError
from quantpress.model.source import Model, deciding_files
from quantpress.plan import arithmetic
from quantpress.plan.kernels import Kernels
from quantpress.runtime import atomic, console, digests, environment, locks
from quantpress_serve.bench import interference, kernels, looks, servers, unfinished
from quantpress_serve.bench.load import Generator
from quantpress_serve.bench.looks import Known
from quantpress_serve.bench.pairing import AS_ATTACHED, AUTO, Pairing, decide
from quantpress_serve.bench.run import Run, times_started
from quantpress_serve.bench.servers import Start
from quantpress_serve.bench.starter import Starter
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.bench.workers import Row
from quantpress_serve.probes import asking
from quantpress_serve.vllm import serving_environment, vllm_version
from quantpress_serve.workload import workload
from quantpress_serve.workload.workload import Workload


def require_servers(load: Workload, sides: Sides) -> None:
    """Raises InputError for a server of someone else's that does not do what the bench will ask of it, or for an engine
    setting that the installed vLLM does not take. vLLM is asked only if any is set."""
    attached = sides.attached({CANDIDATE: Path(), BASELINE: Path()}, load)
    if not attached:
        asking.require_engine(load.engine, sides.executable())


@dataclass(frozen=True, kw_only=True)
class Beforehand:
    """What is known before a server is asked: the type in which transformers computes (arithmetic), why the engine will
    not compute the same, and the kernels that are planned (None where that is not known), or even required. `largest`
    are the bytes of the largest checkpoint that will be measured with this one."""

    compute_dtype: str = "auto"
    inexact: str | None = None
    kernels: Kernels | None = None
    require_kernels: bool = False
    largest: int = 0


def bench(
    artifact: Artifact,
    model: Model,
    load: Workload,
    sides: Sides,
    fresh: bool = False,
    known: Beforehand = Beforehand(),
) -> Throughput:
    """Measures checkpoint and model under a workload and writes throughput.json, unless that was done before.

    `fresh` measures in any case. Raises StageError if a server or the load generator fails; what was measured until
    then is kept, marked as incomplete.
    """
    result = measure(subject_of(artifact, model, known), load, sides, fresh)
    if result.served:  # none in results of earlier versions
        truth.mark_scores(artifact, result.served)
    return result


def is_measured(artifact: Artifact, model: Model, load: Workload, sides: Sides) -> bool:
    """Whether `bench` would measure nothing on this machine."""
    subject = subject_of(artifact, model, Beforehand())
    known = subject.results.known(load.name)
    return bool(known and known.complete and not _changed(known, inputs_of(subject, load, sides.executable(), sides)))


def subject_of(artifact: Artifact, model: Model, known: Beforehand) -> Subject:
    """The checkpoint and the model beside it."""
    files = {CANDIDATE: deciding_files(artifact.checkpoint), BASELINE: model.deciding_files()}
    seen = {role: digests.seen(paths) for role, paths in files.items()}
    record = artifact.finished()
    return Subject(
        name=artifact.name,
        folder=artifact.folder,
        digest=record.digest,
        candidate=artifact.checkpoint.resolve(),
        model=model,
        model_digest=model.identity().digest,
        largest=known.largest,
        weight_bytes={CANDIDATE: record.bytes.checkpoint, BASELINE: record.bytes.model},
        compute_dtype=arithmetic.compute_dtype(model, known.compute_dtype),
        untruthful=untruthful_of(artifact),
        inexact=known.inexact,
        kernels=known.kernels,
        require_kernels=known.require_kernels,
        seen=seen,
        weight_bits=record.adopted.bits if record.adopted else weight_bits(artifact.checkpoint),
    )


def measure(subject: Subject, load: Workload, sides: Sides, fresh: bool) -> Throughput:
    """What `bench` does, for any two folders that vLLM serves."""
    vllm = sides.executable()

    # Nothing to do if it was measured before, and nothing has changed since.
    inputs = inputs_of(subject, load, vllm, sides)
    known = subject.results.known(load.name)
    changed = _changed(known, inputs) if known else []
    if known and known.complete and not changed and not (fresh or sides.vllm_url) and _kernels_known(subject, known):
        with locks.lock(subject.folder):
            subject.results.to_front(load.name)
        console.say(f"✓ {subject.name} under {load.name}: measured before, nothing to do (--fresh measures again)")
        return known
    if changed:
        console.say(f"  {subject.name} is measured again; changed: {', '.join(changed)}")

    subject.folder.mkdir(parents=True, exist_ok=True)
    with locks.lock(subject.folder), atomic.staging(subject.folder / "bench") as staged:
        if fresh:
            unfinished.drop(subject)
        measured = served_and_loaded(subject, load, sides, inputs, staged, goes_on=True)
        path = written(subject, measured.result)
        looks.keep_rows(subject, measured.result, measured.rows)
        if not measured.lost:
            unfinished.drop(subject)
    if measured.lost:
        raise StageError(
            f"{measured.lost.message}; {len(measured.result.cells)} finished cells are in {path}, marked as incomplete",
            hint=measured.lost.hint,
            log=measured.lost.log,
        )
    return measured.result


@dataclass(frozen=True)
class Measured:
    """What came of the servers of a bench: the result, the likelihoods of the fixed text by each server that gave them,
    and what ended it early."""

    result: Throughput
    rows: dict[str, list[Row]]
    lost: StageError | None


def served_and_loaded(
    subject: Subject, load: Workload, sides: Sides, inputs: Inputs, staged: Path, goes_on: bool = False
) -> Measured:
    """Serves both sides and loads them in turns; the result is written nowhere. `staged` is a folder for what the load
    generator writes. With `goes_on`, finished starts are kept, and those of a run that was stopped are not made again.

    Raises StageError as `measure` does, but for what ended it early with a cell at least.
    """
    pairing = AS_ATTACHED if sides.vllm_url else decide(sides.pairing, subject.model.config, load, subject.to_be_paired)
    console.say(f"  servers: {pairing.name} ({pairing.reason})")
    asked = _Asked(subject, load, inputs, pairing, goes_on)
    log = subject.logs / f"{subject.name}.bench.log"
    log.unlink(missing_ok=True)
    with Starter(sides.executable(), log, staged) as starter:
        run, known = _loaded(asked, sides, starter, staged)
    for files in subject.seen.values():
        digests.require_unchanged(files)
    return Measured(_result(asked, run, known), known.rows, run.lost)


def _kernels_known(subject: Subject, known: Throughput) -> bool:
    """Whether what is required of the kernels was looked at then. Raises CapabilityError for others than planned."""
    if not subject.require_kernels:
        return True
    if known.kernels is not None:
        kernels.require(known.kernels, subject.name)
    return known.kernels is not None


@dataclass(frozen=True)
class _Asked:
    """What one bench measures, under which load, with servers that are paired how; and whether finished starts are
    kept."""

    subject: Subject
    load: Workload
    inputs: Inputs
    pairing: Pairing
    goes_on: bool = False


def _loaded(asked: _Asked, sides: Sides, starter: Starter, staged: Path) -> tuple[Run, Known]:
    """Starts the servers as often as the workload and the pairing say, and loads them in turns. A run that was stopped
    goes on at the start that it did not finish. The run holds what ended it early.

    Raises StageError if not both sides were seen, or there is not a single cell.
    """
    subject, load, pairing = asked.subject, asked.load, asked.pairing
    spaces = servers.kv_spaces(subject.model.config, load, subject.weight_bytes, pairing)
    engines = {CANDIDATE: starter.vllm, BASELINE: sides.baseline_vllm or starter.vllm}
    scored = looks.expected(subject)
    run, known = _so_far(asked)
    seen: dict[str, looks.Look] = {}
    for number in range(run.started, run.starts):
        try:
            # Side by side, whatever else the machine does hits both sides alike; alternating, it hits both in turn.
            for roles in run.visits(pairing.name, number):
                others = interference.on_gpu()
                with servers.started(subject, load, sides, Start(engines, pairing, spaces, number), roles) as up:
                    if known is None:
                        seen |= {role: looks.look_at(role, up[role], subject, scored) for role in up}
                        if pairing.name != ALTERNATING or len(seen) > 1:
                            known = looks.judged(seen, subject, scored, engines[BASELINE])
                    ours = interference.on_gpu() - others
                    run.measure(Generator(starter, load, staged, ours), up, number)
        except StageError as error:
            if not run.cells or not (known or CANDIDATE in seen):
                raise
            # Of one side alone, if the other was never up.
            known = known or looks.judged(seen, subject, scored, engines[BASELINE])
            run.lost = error
            break
        assert known  # both sides were seen in the first start
        if asked.goes_on and number + 1 < run.starts:
            so_far = _result(asked, run, known)
            if number == 0:  # the only start whose servers are asked
                looks.keep_rows(subject, so_far, known.rows)
            unfinished.keep(subject, so_far)
    assert known  # of the first start, without which there is no pair
    return run, known


def _so_far(asked: _Asked) -> tuple[Run, Known | None]:
    """The run, from its beginning or from where it was stopped, and what is known of its servers then."""
    starts = times_started(asked.load, asked.pairing.name)
    before = unfinished.kept(asked.subject, asked.load.name) if asked.goes_on else None
    if (
        before is None
        or before.pairing != asked.pairing.name
        or _changed(before, asked.inputs)
        or not _kernels_known(asked.subject, before)
        or (known := unfinished.known_from(before)) is None
    ):
        return Run(asked.load, starts), None
    run = unfinished.run_from(before, asked.load, starts)
    console.say(f"  going on: {run.started} of {starts} starts of the servers were measured before it was stopped")
    return run, known


def _changed(known: Throughput, inputs: Inputs) -> list[str]:
    """What a result depends on and is otherwise now. Where no pairing is asked for, the one that it has will do."""
    before = known.inputs.model_copy(update={"pairing": known.paired})
    now = inputs.model_copy(update={"pairing": inputs.pairing or known.paired})
    return manifest.differences(before.dump(), now.dump())


def _result(asked: _Asked, run: Run, known: Known) -> Throughput:
    subject, inputs, pairing = asked.subject, asked.inputs, asked.pairing
    assert inputs.vllm  # `inputs_of` names it
    first = {role: given[0] for role, given in known.answers.items()}
    return Throughput(
        checkpoint_digest=subject.digest,
        weights=subject.weights,
        weight_bits=subject.weight_bits,
        complete=run.ended is None,
        ended=run.ended,
        sittings=run.sittings,
        inputs=inputs.model_copy(update={"pairing": pairing.name}),
        workload=workload.record(run.load),
        vllm=inputs.vllm,
        baseline_vllm=inputs.baseline_vllm,
        environment=serving_environment(),
        servers=known.servers,
        answers={role: Said(question=said.question, answer=said.answer) for role, said in first.items()},
        chat=known.answers or None,
        picture=known.picture,
        seed_base=run.base,
        cells=run.cells,
        saturated=run.saturated,
        summary=speed.summarize(run.cells),
        machine=environment.machine(),
        served=known.served,
        kernels=known.kernels,
        pairing=pairing.name,
        pairing_reason=pairing.reason,
        capacity=_capacity(run, known) if pairing.name in WITH_ALL_OF_THE_MEMORY else {},
    )


def _capacity(run: Run, known: Known) -> dict[str, Capacity]:
    return {
        role: Capacity(kv_cache_tokens=facts.kv_cache_tokens, saturates_at=speed.saturates_at(run.cells, role))
        for role, facts in known.servers.items()
    }


def weight_bits(folder: Path) -> list[int]:
    """Bits of the weights of each of the checkpoint's schemes, as its config names them."""
    config = atomic.read_json(folder / "config.json").get("quantization_config") or {}
    groups = (config.get("config_groups") or {}).values()
    return sorted({group["weights"]["num_bits"] for group in groups if group.get("weights")})


def written(subject: Subject, result: Throughput) -> Path:
    """The file to which the result was written; an incomplete one never takes a complete one's place."""
    results = subject.results
    there = results.newest()
    if not result.complete and there and there.complete:
        path = results.front.with_name("throughput-incomplete.json")
        result.save(path)
        return path
    results.put(result)
    return results.front


def executable(vllm: Path) -> Executable:
    """A vLLM as results name it."""
    return Executable(executable=str(vllm.resolve()), version=vllm_version(vllm))


def inputs_of(subject: Subject, load: Workload, vllm: Path, sides: Sides) -> Inputs:
    """Everything that a measurement depends on and that can be named; no pairing where none is asked for."""
    return Inputs(
        checkpoint=subject.digest,
        model=subject.model_digest,
        weights=subject.weights,
        workload=workload.record(load),
        vllm=executable(vllm),
        servers={CANDIDATE: sides.vllm_url, BASELINE: sides.baseline_url},
        baseline_vllm=executable(sides.baseline_vllm) if sides.baseline_vllm else None,
        environment=serving_environment(),
        machine=environment.machine(),
        pairing=None if sides.pairing == AUTO else sides.pairing,
    )
