"""The bench stage: serves candidate and baseline side by side, loads them in turns, and compares them pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.artifact import manifest, speed, truth
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.served import DIFFERS, Served
from quantpress.artifact.throughput import (
    BASELINE,
    CANDIDATE,
    Answer,
    Executable,
    Inputs,
    KernelUse,
    Picture,
    Said,
    ServerFacts,
    Throughput,
)
from quantpress.errors import QuantpressError, StageError
from quantpress.model.source import Model, deciding_files
from quantpress.plan import arithmetic
from quantpress.plan.kernels import Kernels
from quantpress.recipe.truthful import untruthful
from quantpress.runtime import atomic, console, digests, environment, locks
from quantpress_serve.bench import chat, interference, kernels, likelihoods, picture, servers
from quantpress_serve.bench.load import Generator
from quantpress_serve.bench.run import Run
from quantpress_serve.bench.servers import Start
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.probes import asking
from quantpress_serve.server.server import Server
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
    not compute the same, and the kernels that are planned (None where that is not known), or even required."""

    compute_dtype: str = "auto"
    inexact: str | None = None
    kernels: Kernels | None = None
    require_kernels: bool = False


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
    files = {CANDIDATE: deciding_files(artifact.checkpoint), BASELINE: model.deciding_files()}
    seen = {role: digests.seen(paths) for role, paths in files.items()}
    record = artifact.finished()
    subject = Subject(
        name=artifact.name,
        folder=artifact.folder,
        digest=record.digest,
        candidate=artifact.checkpoint.resolve(),
        model=model,
        model_digest=model.identity().digest,
        weight_bytes=record.bytes.model + record.bytes.checkpoint,
        compute_dtype=arithmetic.compute_dtype(model, known.compute_dtype),
        untruthful=untruthful(record.recipe),
        inexact=known.inexact,
        kernels=known.kernels,
        require_kernels=known.require_kernels,
        seen=seen,
    )
    result = measure(subject, load, sides, fresh)
    if result.served:  # none in results of earlier versions
        truth.mark_scores(artifact, result.served)
    return result


def measure(subject: Subject, load: Workload, sides: Sides, fresh: bool) -> Throughput:
    """What `bench` does, for any two folders that vLLM serves."""
    vllm = sides.executable()

    # Nothing to do if it was measured before, and nothing has changed since.
    inputs = _inputs(subject, load, vllm, sides)
    known = subject.results.known(load.name)
    changed = manifest.differences(known.inputs.dump(), inputs.dump()) if known else []
    if known and known.complete and not changed and not (fresh or sides.vllm_url) and _kernels_known(subject, known):
        with locks.lock(subject.folder):
            subject.results.to_front(load.name)
        console.say(f"✓ {subject.name} under {load.name}: measured before, nothing to do (--fresh measures again)")
        return known
    if changed:
        console.say(f"  {subject.name} is measured again; changed: {', '.join(changed)}")

    subject.folder.mkdir(parents=True, exist_ok=True)
    with locks.lock(subject.folder), atomic.staging(subject.folder / "bench") as staged:
        run, known_of = _loaded(subject, load, sides, vllm, staged)
        for files in subject.seen.values():
            digests.require_unchanged(files)
        result = _result(subject, inputs, run, known_of)
        path = written(subject, result)
    if run.lost:
        raise StageError(
            f"{run.lost.message}; {len(run.cells)} finished cells are in {path}, marked as incomplete",
            hint=run.lost.hint,
            log=run.lost.log,
        )
    return result


def _kernels_known(subject: Subject, known: Throughput) -> bool:
    """Whether what is required of the kernels was looked at then. Raises CapabilityError for others than planned."""
    if not subject.require_kernels:
        return True
    if known.kernels is not None:
        kernels.require(known.kernels, subject.name)
    return known.kernels is not None


@dataclass(frozen=True)
class Known:
    """What was found out of the servers before the first load: facts and answers by role, the kernels, and whether the
    engine computes what was scored. `picture` is None for a model that takes no images."""

    servers: dict[str, ServerFacts]
    served: Served
    answers: dict[str, list[Answer]]
    picture: Picture | None
    kernels: list[KernelUse] | None = None


def _loaded(subject: Subject, load: Workload, sides: Sides, vllm: Path, staged: Path) -> tuple[Run, Known]:
    """Starts the servers as often as the workload says, and loads them in turns. The run holds what ended it early.

    Raises StageError if there is not a single cell.
    """
    on_gpu, scored, space = interference.on_gpu(), _scored(subject), servers.kv_space(subject, load, sides)
    log = subject.logs / f"{subject.name}.bench.log"
    log.unlink(missing_ok=True)
    run, known = Run(load, starts=1 if sides.vllm_url else load.times_started), None
    for start in range(run.starts):
        try:
            # Both servers first, then the load in turns: whatever else the machine does hits both sides alike.
            with servers.started(subject, load, sides, Start(vllm, space, start)) as both:
                known = known or _looked_at(subject, both, scored)
                generator = Generator(vllm, load, staged, log, interference.on_gpu() - on_gpu)
                run.measure(generator, both, start)
        except StageError as error:
            if not run.cells:
                raise
            run.lost = error
            break
    assert known  # of the first start, without which there is no cell
    return run, known


def _looked_at(subject: Subject, servers: dict[str, Server], scored: dict[str, Likelihoods] | str) -> Known:
    """Is it served by the planned kernels, does the engine compute what was scored, and does the checkpoint talk sense?

    Raises CapabilityError for other kernels where the planned ones are required, StageError if it talks nonsense.
    """
    used = kernels.looked_at(subject, servers)
    served = _served(subject, servers, scored)
    answers = chat.sane_answers(servers, served) if subject.weights == "real" else {}
    sees = subject.weights == "real" and picture.takes_images(subject.model.config)
    seen = picture.asked(servers, served) if sees else None
    return Known({role: _facts(one, subject) for role, one in servers.items()}, served, answers, seen, used)


def _scored(subject: Subject) -> dict[str, Likelihoods] | str:
    """Both sides' likelihoods of a fixed text by transformers, or why there are none; before a server takes memory."""
    if subject.weights != "real":
        return "the weights are random"
    if subject.untruthful:
        return subject.untruthful
    log = subject.logs / f"{subject.name}.likelihoods.log"
    log.unlink(missing_ok=True)
    try:
        return likelihoods.by_transformers(subject.scored, subject.compute_dtype, log)
    except QuantpressError as error:
        return f"transformers gave no likelihoods: {error.message}"


def _served(subject: Subject, servers: dict[str, Server], scored: dict[str, Likelihoods] | str) -> Served:
    """Whether the engine computes what transformers scored; it is said here, whichever it is."""
    if isinstance(scored, str):
        return likelihoods.unknown(scored)
    with console.step("likelihoods of a fixed text by the servers"):
        served = likelihoods.compared_with_servers(servers, scored, subject.inexact)
    say = console.warn if served.verdict == DIFFERS else console.say
    say(likelihoods.sentence(served))
    return served


def _result(subject: Subject, inputs: Inputs, run: Run, known: Known) -> Throughput:
    assert inputs.vllm  # `_inputs` names it
    first = {role: given[0] for role, given in known.answers.items()}
    return Throughput(
        checkpoint_digest=subject.digest,
        weights=subject.weights,
        weight_bits=_weight_bits(subject.candidate),
        complete=run.lost is None,
        ended=run.lost.message if run.lost else None,
        inputs=inputs,
        workload=workload.record(run.load),
        vllm=inputs.vllm,
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
    )


def _weight_bits(folder: Path) -> list[int]:
    """Bits of the weights of each of the checkpoint's schemes, as its config names them."""
    config = atomic.read_json(folder / "config.json").get("quantization_config") or {}
    groups = (config.get("config_groups") or {}).values()
    return sorted({group["weights"]["num_bits"] for group in groups if group.get("weights")})


def _facts(started: Server, subject: Subject) -> ServerFacts:
    """What is known of a server, the size of its weights from their files where vLLM did not tell (on a CPU)."""
    if started.facts.weights_gib is not None or started.running is None or subject.weights != "real":
        return started.facts
    size = sum(path.stat().st_size for path in started.path.glob("*.safetensors"))
    return started.facts.model_copy(update={"weights_gib": round(size / 2**30, 3), "weights_gib_from": "files"})


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


def _inputs(subject: Subject, load: Workload, vllm: Path, sides: Sides) -> Inputs:
    """Everything that a measurement depends on and that can be named."""
    return Inputs(
        checkpoint=subject.digest,
        model=subject.model_digest,
        weights=subject.weights,
        workload=workload.record(load),
        vllm=Executable(executable=str(vllm.resolve()), version=vllm_version(vllm)),
        servers={CANDIDATE: sides.vllm_url, BASELINE: sides.baseline_url},
        environment=serving_environment(),
        machine=environment.machine(),
    )
