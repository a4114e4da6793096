"""`quantpress run`: quantize, evaluate, bench and report, for one recipe or several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, Work, add_stage, add_vllm
from quantpress.cli.scoring import Scoring, add_scoring
from quantpress.cli.serving import Serving, add_serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quantpress.artifact.manifest import Artifact
    from quantpress.model.source import Model
    from quantpress.plan.resolve import Plan
    from quantpress.plan.sizes import Loadable


@dataclass(frozen=True)
class Options:
    recipes: list[str]
    work: Work
    scoring: Scoring
    serving: Serving


def add(commands: Commands) -> None:
    parser = add_stage(commands, "run", "quantize, evaluate, bench and report, for one recipe or several", several="+")
    add_scoring(parser)
    add_serving(parser)
    add_vllm(parser)


def run(options: Options) -> None:
    """All stages for each recipe. Everything that can be wrong is checked before the first one starts."""
    from quantpress.artifact.accuracy import Accuracy
    from quantpress.artifact.results import results_of
    from quantpress.cli import adopted, beforehand, prepare, scoring
    from quantpress.cli.report import report_of_model
    from quantpress.quantize.stage import check_data, quantize
    from quantpress.recipe.loading import load_recipes
    from quantpress.recipe.truthful import untruthful
    from quantpress_evaluate.stage import evaluate, evaluate_online, require_gates
    from quantpress_serve.bench import online
    from quantpress_serve.bench import stage as serving_stage
    from quantpress_serve.bench.stage import Beforehand
    from quantpress_serve.server import fit
    from quantpress_serve.workload import engines

    # What was asked for, read and checked.
    work, serving = options.work, options.serving
    beforehand.require_place(work.out)
    load, sides = serving.load(), serving.sides()
    names, theirs = adopted.told_apart(options.recipes, work, serving.require_kernels)
    recipes = load_recipes(names, work.set)
    sides.executable()
    serving.require_one(options.recipes)
    serving_stage.require_servers(load, sides)
    serving.require_online(sides.executable())
    engine = engines.layered(serving.engine)  # what it may set was asked beside the workload
    reasons = [*(untruthful(recipe.dump()) for recipe in recipes), *(one.untruthful for one in theirs)]
    request = scoring.checked_request(options.scoring, serving.vllm, work.compute_dtype, reasons, engine)

    def check(model: Model, plans: list[Plan]) -> None:
        beforehand.require_room(work.out, model, plans)
        if not serving.vllm_url:
            beforehand.require_servers_here(sides.executable(), load, work.out, model, plans, serving.pairing)

    model = prepare.loaded_model(work, recipes, serving.target, serving.vllm, check)
    plans = prepare.all_planned(work, recipes, model, serving.target, serving.vllm)
    for planned in plans:
        check_data(planned.plan, model)
    resolved = [planned.plan for planned in plans]
    loaded: list[Loadable] = [*resolved, *(one.loaded for one in theirs)]
    request = request.for_model(model).for_checkpoints(loaded, reasons, model)
    check(model, resolved)
    if not serving.vllm_url:
        load = fit.with_engine_for(load, loaded, model.config, serving.pairing)

    # The stages.
    largest = max(one.weight_bytes if serving.online else one.checkpoint_bytes for one in loaded)
    of_servers = [replace(prepare.known_of_servers(work, serving, planned), largest=largest) for planned in plans]

    def candidates() -> Iterator[tuple[Artifact, Beforehand]]:
        """Each is made when the one before was measured; what was adopted comes last."""
        for planned, known in zip(plans, of_servers, strict=True):
            yield quantize(planned.plan, model, work.out, work.offload).artifact, known
        for one in theirs:
            yield one.artifact, Beforehand(compute_dtype=work.compute_dtype, largest=largest)

    artifacts = []
    for artifact, known in candidates():
        scored = evaluate(artifact, model, request)
        measured = serving_stage.bench(artifact, model, load, sides, serving.fresh, known)
        artifacts.append(artifact)
    try:
        if serving.online:
            evaluate_online(serving.online, model, request.as_scored(scored.settings), work.out)
            online.bench(serving.online, model, load, sides.paired_as(measured), work.out, serving.fresh)
    finally:
        report_of_model(work.out, model)

    # Read anew: the bench may have found that the engine does not compute what was scored.
    newest = {artifact.name: results_of(artifact, Accuracy).newest() for artifact in artifacts}
    require_gates({name: result.gates if result else [] for name, result in newest.items()})
