"""`quantpress package`: turn a recipe's checkpoint into what a cluster takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.cli.options import Commands, Work, add_engine, add_stage

if TYPE_CHECKING:
    from quantpress.artifact.manifest import Artifact
    from quantpress.artifact.results import Results
    from quantpress.package.build import Order


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    to: Path | None
    storage: str | None
    device: str
    engine: list[str]
    trust_workload: list[str]
    base_model: str | None
    license: str | None
    sign_key: Path | None
    sbom: bool


def add(commands: Commands) -> None:
    parser = add_stage(commands, "package", "turn a recipe's checkpoint into what a cluster takes")
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="the package's folder (default: OUT/<model>/<recipe>/package)"
    )
    parser.add_argument(
        "--storage", metavar="URI", help="where the cluster will find it: s3://..., hf://org/name, pvc://claim/path"
    )
    parser.add_argument(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="what it runs on (default: as measured)"
    )
    add_engine(parser)
    parser.add_argument("--base-model", metavar="ORG/NAME", help="the model's id on the Hugging Face hub")
    parser.add_argument("--license", metavar="ID", help="the model's licence, where its files do not state it")
    parser.add_argument("--sign-key", type=Path, metavar="KEY.pem", help="sign it with this elliptic-curve private key")
    parser.add_argument(
        "--sbom", action="store_true", help="add sbom.cdx.json: what it was made of and with (CycloneDX)"
    )


def run(options: Options) -> None:
    from quantpress.artifact.manifest import artifact_of
    from quantpress.cli import adopted, prepare
    from quantpress.package import build
    from quantpress.package.signing import SIGNATURE
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show

    work, order = options.work, _order(options)
    if adopted.is_adopted(options.recipe, work.out):
        found = adopted.candidate(options.recipe, work)
        made, model = found.artifact, found.model
        build.require_possible(order, build.folder_of(made, order))
    else:
        recipe = load_recipe(options.recipe, work.set)
        model = prepare.loaded_model(work)
        plan = prepare.planned(work, recipe, model, "any").plan
        build.require_possible(order, build.folder_of(artifact_of(work.out, model.name, recipe.name), order))
        made = quantize(plan, model, work.out, work.offload).artifact
    _warn_of_gaps(made)
    about = build.build(made, model, order)
    folder = build.folder_of(made, order)
    signed = f", signed ({SIGNATURE})" if order.sign_key else ""
    text = f"{folder}: {len(about.files)} files, {about.bytes / 1e6:.0f} MB{signed}; quantpress push takes it"
    show({"folder": str(folder), **about.dump()}, text)


def _order(options: Options) -> Order:
    from quantpress.package.build import Order
    from quantpress_serve.workload.engines import load_engine

    engine = load_engine(options.engine, options.trust_workload)
    return Order(
        to=options.to,
        storage=options.storage,
        base_model=options.base_model,
        license=options.license,
        device=options.device,
        engine=tuple(engine.command_line()) if options.engine else (),
        sign_key=options.sign_key,
        sbom=options.sbom,
    )


def _warn_of_gaps(made: Artifact) -> None:
    """What the package's model card will have to say of gates and of what was not measured."""
    from quantpress.artifact import upkeep
    from quantpress.artifact.accuracy import Accuracy
    from quantpress.artifact.results import results_of
    from quantpress.artifact.throughput import Throughput
    from quantpress.runtime import console

    scored = results_of(made, Accuracy).all()
    decision = upkeep.worst_decision(gate.decision for result in scored for gate in result.gates)
    if decision not in (None, "pass"):
        console.warn(f"a gate of {made.name} is decided as {decision}; the model card says so")
    stages: tuple[tuple[str, Results[Any]], ...] = (
        ("evaluate", results_of(made, Accuracy)),
        ("bench", results_of(made, Throughput)),
    )
    for stage, results in stages:
        if results.newest() is None:
            what = f"{results.kind.STAGE} of {made.name}"
            console.warn(f"{what} was not measured, and the card says so: quantpress {stage} {made.name}")
