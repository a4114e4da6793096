"""`quantpress recertify`: the same checkpoint on another engine, held against what is on record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, add_engine, add_flags, add_trust
from quantpress.errors import GateError, InputError, StageError

if TYPE_CHECKING:
    from quantpress.artifact.accuracy import Accuracy
    from quantpress.artifact.manifest import Artifact, Manifest
    from quantpress.artifact.recertification import Engine, Recertification
    from quantpress.artifact.throughput import Throughput
    from quantpress.model.source import Model
    from quantpress.plan.sizes import Loadable
    from quantpress_evaluate.recertify import Order
    from quantpress_evaluate.request import Request
    from quantpress_serve.bench.subject import Sides
    from quantpress_serve.workload.workload import Workload

_URL = "://"


@dataclass(frozen=True)
class Options:
    artifact: Path
    vllm: str
    suite: list[str]
    data: str | None
    workload: str | None
    engine: list[str]
    trust_workload: list[str]
    vllm_model: str | None
    api_key_env: str | None
    port: int | None
    sign_key: Path | None
    unsigned: bool
    fresh: bool
    trust_remote_code: bool


def add(commands: Commands) -> None:
    text = "hold a checkpoint on another vLLM against what is on record"
    parser = commands.add_parser("recertify", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="an artifact's folder, with its manifest.json")
    parser.add_argument(
        "--vllm",
        required=True,
        metavar="OTHER",
        help="the other engine: a vllm executable, or the URL of a server that serves the checkpoint (no scores then)",
    )
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        help="where a suite on record is to be found, if it is none of the shipped ones (default: all on record)",
    )
    parser.add_argument("--data", help="folder of <task>.jsonl in the hub's schema (default: $QUANTPRESS_DATA)")
    parser.add_argument("--workload", metavar="NAME", help="which workload on record (default: the last one)")
    add_engine(parser)
    parser.add_argument("--vllm-model", metavar="NAME", help="its name at the URL, if that serves several models")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="the environment variable that holds the server's key (OPENAI_API_KEY)"
    )
    parser.add_argument("--port", type=int, help="port of the server on this machine (default: a free one)")
    parser.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="sign the new record with this private key")
    parser.add_argument(
        "--unsigned", action="store_true", help="leave the new record unsigned although the package is signed"
    )
    parser.add_argument("--fresh", action="store_true", help="do it again even if it was done before")
    add_trust(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.artifact.manifest import Artifact
    from quantpress.runtime.console import show
    from quantpress_evaluate.recertify import recertify

    artifact = Artifact(options.artifact.absolute())
    if not artifact.manifest_file.is_file():
        raise InputError(f"{options.artifact} holds no manifest.json", hint="quantpress status lists the artifacts")
    order = _order(options, artifact)
    made = recertify(order)
    text = report.recertification_text(artifact.name, order.folder, made)
    show({"folder": str(order.folder), **made.as_saved()}, text)
    _require_gates(made)


def _require_gates(made: Recertification) -> None:
    """Raises GateError naming every gate that was passed on record and is no more."""
    lost = [
        f"{gate.suite}: {gate.after.gate} was passed on record, and on vLLM {made.after.version} it is decided as "
        f"{gate.after.decision}"
        for gate in made.gates
        if gate.lost
    ]
    if lost:
        raise GateError("\n       ".join(lost), hint="the record on the old engine still holds: serve with that one")


def _order(options: Options, artifact: Artifact) -> Order:
    """Everything that can be wrong is found here, before a server is started."""
    from quantpress.adopt.computed import untruthful_of
    from quantpress.artifact import recertification, upkeep
    from quantpress.artifact.accuracy import Accuracy
    from quantpress.artifact.results import results_of
    from quantpress_evaluate.recertify import Order
    from quantpress_serve.bench.stage import Beforehand

    # What is on record, and whether it is the record of these bytes.
    made = artifact.finished()
    if problems := upkeep.verify(artifact):
        raise StageError(
            f"{artifact.folder} is not what was made: {problems[0]}", hint=f"quantpress verify {artifact.folder}"
        )
    throughput, scored = _throughput(options, artifact), results_of(artifact, Accuracy).all()
    if throughput is None and not scored:
        raise InputError(
            f"{artifact.folder} has no results on record that another engine could be held against",
            hint=f"quantpress evaluate {artifact.name}, quantpress bench {artifact.name}",
        )
    _require_signing(options, artifact)

    # The engine, the model, and what is asked of both.
    engine, sides = _engine(options), _sides(options)
    load = _load(options, throughput, sides)
    model = _model(options, made)
    inexact: str | None = None
    requests: list[tuple[Accuracy, Request | None]] = [(known, None) for known in scored]
    if _URL not in options.vllm:
        checkpoint, inexact = _checkpoint(options, artifact, made, model)
        asked = _Asked(model, checkpoint, untruthful_of(artifact))
        requests = [(known, _request(options, known, asked)) for known in scored]
    return Order(
        artifact=artifact,
        model=model,
        engine=engine,
        folder=recertification.folder_of(artifact, engine.name),
        suites=requests,
        throughput=throughput,
        load=load,
        sides=sides,
        about=Beforehand(compute_dtype=made.compute_dtype or "stored", inexact=inexact),
        sign_key=options.sign_key,
        fresh=options.fresh,
    )


def _throughput(options: Options, artifact: Artifact) -> Throughput | None:
    from quantpress.artifact.results import results_of
    from quantpress.artifact.throughput import Throughput

    results = results_of(artifact, Throughput)
    if options.workload is None:
        return results.newest()
    found = results.known(options.workload)
    if found is None:
        names = ", ".join(one.name for one in results.all()) or "none"
        raise InputError(f"--workload {options.workload}: not on record", hint=f"on record: {names}")
    return found


def _load(options: Options, known: Throughput | None, sides: Sides) -> Workload | None:
    """The workload on record, with --engine over its settings. Raises InputError for one that is not what it was, and
    for settings that the engine does not take."""
    from quantpress_serve.bench import other_engine, stage
    from quantpress_serve.probes import asking
    from quantpress_serve.workload import workload
    from quantpress_serve.workload.engines import load_engine

    load_engine(options.engine, options.trust_workload)  # raises for what is not trusted
    if known is None:
        return None
    load = workload.recorded(known.workload, options.engine)
    stage.require_servers(load, sides)
    if options.engine and isinstance(old := other_engine.engine_on_record(known), Path):
        asking.require_engine(load.engine, old)  # which is loaded in turns with the new one, by the same settings
    return load


def _require_signing(options: Options, artifact: Artifact) -> None:
    """Raises InputError for a key that cannot sign, and for none where the package of this artifact is signed."""
    from quantpress.package import signing

    if options.sign_key:
        signing.check_key(options.sign_key)
        return
    signature = artifact.folder / "package" / signing.SIGNATURE
    if signature.is_file() and not options.unsigned:
        raise InputError(
            f"{signature.parent} is signed, so its recertification is to be signed too",
            hint="--sign-key KEY.pem; or --unsigned, and sign it later with the same command",
        )


def _engine(options: Options) -> Engine:
    """The new engine. Raises CapabilityError if there is no such executable."""
    from quantpress.artifact.recertification import Engine
    from quantpress_serve.bench.stage import executable
    from quantpress_serve.server.server import version_of
    from quantpress_serve.vllm import find_vllm

    if _URL in options.vllm:
        return Engine(served_by=options.vllm, version=version_of(options.vllm.removesuffix("/v1")) or "unknown")
    return Engine.of(executable(find_vllm(options.vllm)))


def _sides(options: Options) -> Sides:
    """The new engine as the candidate's server. Raises InputError for options that do not go with it, a key that is not
    there and a port that is taken."""
    from quantpress_serve.bench.subject import Sides
    from quantpress_serve.server.key import read_key

    is_url = _URL in options.vllm
    if options.api_key_env is not None and not is_url:
        raise InputError("--api-key-env goes with --vllm URL", hint="our own servers ask for no key: leave it out")
    if options.engine and is_url:
        raise InputError("--engine is for servers that quantpress starts", hint="leave it out with --vllm URL")
    if options.vllm_model and not is_url:
        raise InputError("--vllm-model goes with --vllm URL", hint="leave it out")
    sides = Sides(
        vllm=None if is_url else options.vllm,
        port=options.port,
        vllm_url=options.vllm if is_url else None,
        vllm_model=options.vllm_model,
        key=read_key(options.api_key_env) if is_url else None,
    )
    sides.executable()
    return sides


def _model(options: Options, made: Manifest) -> Model:
    """The unquantized model. Raises InputError if it is not the one that the checkpoint was made from."""
    from quantpress.model.source import find_model
    from quantpress.quantize.reproduce import source_of

    model = find_model(source_of(made.model), options.trust_remote_code, made.model.dequantized is not None)
    if model.identity().digest != made.model.digest:
        raise InputError(
            f"{made.model.source} is no longer the model that {made.recipe_name} was made from",
            hint="put back the files that it had then: gates hold the checkpoint against that model",
        )
    return model


def _checkpoint(options: Options, artifact: Artifact, made: Manifest, model: Model) -> tuple[Loadable, str | None]:
    """What the engine loads, and why the new one will not compute exactly that (None where it does, or where nothing
    was planned: a checkpoint that was adopted).

    Raises CapabilityError if it cannot serve it.
    """
    from quantpress.adopt.loaded import loaded_of
    from quantpress.cli.prepare import inexactness
    from quantpress.plan.resolve import plan_of
    from quantpress.quantize.reproduce import recipe_of

    if made.adopted:
        return loaded_of(artifact, model), None
    plan = plan_of(recipe_of(artifact, made), model)
    return plan, inexactness(plan, "auto", options.vllm)


@dataclass(frozen=True)
class _Asked:
    """What is scored: the model and its checkpoint, and why transformers does not compute that as vLLM does."""

    model: Model
    checkpoint: Loadable
    untruthful: str | None


def _request(options: Options, known: Accuracy, asked: _Asked) -> Request:
    """What asks the new engine the same as on record. Raises InputError for a suite that is not what it was."""
    from quantpress.cli.scoring import Scoring, requested
    from quantpress_evaluate.comparison import gates
    from quantpress_evaluate.request import checked
    from quantpress_evaluate.suite import load_suite
    from quantpress_serve.workload.engines import load_engine

    files = {load_suite(name)[0].name: name for name in options.suite}
    scoring = Scoring(
        suite=files.get(known.suite, known.suite),
        data=options.data,
        backend="vllm",
        gate=[],
        extend=False,
        count_no_signal=known.counts_no_signal,
        noise_floor=False,
        limit=None,
    )
    request = checked(requested(scoring, options.vllm, "auto", load_engine(options.engine, options.trust_workload)))
    then = {task.task: task.sha256 for task in known.settings.tasks}
    if {task.task: task.sha256 for task in request.tasks} != then:
        raise InputError(
            f"the suite {known.suite} has other tasks or documents than on record",
            hint="put its files back, name them with --suite FILE and --data, or quantpress evaluate anew",
        )
    request = request.for_model(asked.model)
    request = request.for_checkpoints([asked.checkpoint], [asked.untruthful], asked.model).as_scored(known.settings)
    return replace(request, gates=tuple(gates.parse(gate.gate) for gate in known.gates))
