"""`quantpress evaluate`: score a recipe's checkpoint and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, Work, add_engine, add_stage, add_vllm
from quantpress.cli.scoring import Scoring, add_scoring
from quantpress.cli.serving import add_online
from quantpress.errors import InputError

if TYPE_CHECKING:
    from quantpress.recipe.recipe import Recipe


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    scoring: Scoring
    seeds: int
    only_model: bool
    online: str | None
    vllm: str | None
    engine: list[str]
    trust_workload: list[str]


def add(commands: Commands) -> None:
    parser = add_stage(commands, "evaluate", "score a recipe's checkpoint and the model with lm-eval")
    add_scoring(parser)
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="K",
        help="make and score K calibrations of the recipe, each with a calibration.seed of its own: how far they are "
        "apart is the recipe's, one of them is a checkpoint's (%(default)s)",
    )
    parser.add_argument(
        "--only-model",
        action="store_true",
        help="score the model alone, as RECIPE's checkpoint would be scored: the part that all its recipes share",
    )
    add_online(parser)
    add_vllm(parser)
    add_engine(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.artifact import calibrations
    from quantpress.artifact.online import name_of
    from quantpress.cli import adopted, prepare, scoring
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress.recipe.truthful import untruthful
    from quantpress.runtime.console import show
    from quantpress_evaluate.stage import evaluate, evaluate_online, require_gates, score_model
    from quantpress_serve.bench.online import require_method
    from quantpress_serve.vllm import find_vllm
    from quantpress_serve.workload.engines import load_engine

    _require_consistent(options)
    work = options.work
    if adopted.is_adopted(options.recipe, work.out):
        _evaluate_adopted(options)
        return
    engine = load_engine(options.engine, options.trust_workload)
    recipe = load_recipe(options.recipe, work.set)
    others = _other_calibrations(options, recipe)
    reasons = [untruthful(recipe.dump())]
    request = scoring.checked_request(options.scoring, options.vllm, work.compute_dtype, reasons, engine)
    if options.online:
        require_method(options.online, find_vllm(options.vllm))
    model = prepare.loaded_model(work, [recipe], "auto", options.vllm)
    plans = [prepare.planned(work, one, model, vllm=options.vllm).plan for one in (recipe, *others.values())]
    request = request.for_model(model).for_plans(plans, model)

    if options.only_model:
        scored_alone = score_model(model, request.for_checkpoint(reasons[0])[0], work.out)
        show(scored_alone.as_saved(), str(work.out / model.name / "baseline" / "scores" / scored_alone.folder))
        return
    artifact = quantize(plans[0], model, work.out, work.offload).artifact
    result = evaluate(artifact, model, request)
    text, data = report.accuracy_table(recipe.name, result), result.as_saved()
    if others and recipe.calibration:
        scored = [calibrations.calibrated(recipe.calibration.seed, artifact, result)]
        for seed, plan in zip(others, plans[1:], strict=True):
            made = quantize(plan, model, work.out, work.offload).artifact
            calibrations.mark_as_other(made, recipe.name)
            scored.append(
                calibrations.calibrated(seed, made, evaluate(made, model, request.as_scored(result.settings)))
            )
            calibrations.keep(artifact, result.suite, scored)
        text += f"\n\n{recipe.name}: {calibrations.spread(scored)}"
        data |= {"calibrations": [one.dump() for one in scored]}
    try:
        if options.online:
            beside = evaluate_online(options.online, model, request.as_scored(result.settings), work.out)
            text += f"\n\n{report.accuracy_table(name_of(options.online), beside)}"
            data |= {"online": beside.as_saved()}
    finally:
        show(data, text)
    require_gates({recipe.name: result.gates})


def _require_consistent(options: Options) -> None:
    given = {"--gate": options.scoring.gate, "--online": options.online, "--seeds": options.seeds != 1}
    if options.only_model and (beside := [name for name, is_given in given.items() if is_given]):
        raise InputError(
            f"--only-model scores no checkpoint, and {beside[0]} is about one", hint=f"leave {beside[0]} out"
        )


def _evaluate_adopted(options: Options) -> None:
    """Scores what was adopted under the name, and the model."""
    from quantpress import report
    from quantpress.cli import adopted, scoring
    from quantpress.runtime.console import show
    from quantpress_evaluate.stage import evaluate, require_gates
    from quantpress_serve.workload.engines import load_engine

    of_recipes = {"--seeds": options.seeds != 1, "--online": options.online, "--only-model": options.only_model}
    adopted.require_none(options.recipe, of_recipes)
    engine = load_engine(options.engine, options.trust_workload)
    found = adopted.candidate(options.recipe, options.work)
    request = scoring.checked_request(
        options.scoring, options.vllm, options.work.compute_dtype, [found.untruthful], engine
    )
    request = request.for_model(found.model).for_checkpoints([found.loaded], [found.untruthful], found.model)
    result = evaluate(found.artifact, found.model, request)
    show(result.as_saved(), report.accuracy_table(options.recipe, result))
    require_gates({options.recipe: result.gates})


def _other_calibrations(options: Options, recipe: Recipe) -> dict[int, Recipe]:
    """The recipe under other seeds, by seed, each with a name of its own.

    Raises InputError for no number of them, and for a recipe without data, which is the same under every seed.
    """
    from quantpress.recipe.loading import load_recipe

    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds}: at least one", hint="leave --seeds out for the recipe's own")
    if options.seeds == 1:
        return {}
    if recipe.calibration is None:
        raise InputError(
            f"--seeds {options.seeds}: {recipe.name} calibrates on no data, so every seed makes the same checkpoint",
            hint="leave --seeds out",
        )
    first = recipe.calibration.seed
    return {
        seed: load_recipe(
            options.recipe, [*options.work.set, f"calibration.seed={seed}", f"name={recipe.name}-seed-{seed}"]
        )
        for seed in range(first + 1, first + options.seeds)
    }
