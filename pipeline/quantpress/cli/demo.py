"""`quantpress demo`: the main job, small, with a recipe for the machine that it runs on."""

from __future__ import annotations

from dataclasses import replace

from quantpress.cli import run as whole_run
from quantpress.cli.options import Commands, add_stage, add_vllm
from quantpress.cli.run import Options as Options
from quantpress.cli.scoring import add_scoring
from quantpress.cli.serving import add_serving
from quantpress.errors import CapabilityError

# What is tried in turn, with the documents of each task: the first that this machine serves exactly. CPUs without
# AVX-512 take the last, and are slow.
RECIPES = {"gptq-w4a16": 24, "fp8-dynamic": 12}
SAMPLES = 16  # sequences to calibrate on; with 8 the model no longer knows the capital of France


def add(commands: Commands) -> None:
    parser = add_stage(commands, "demo", "run, small, with a recipe that this machine serves exactly", several="*")
    add_scoring(parser)
    add_serving(parser)
    add_vllm(parser)
    parser.set_defaults(suite="smoke", workload="glance")


def run(options: Options) -> None:
    from quantpress.recipe.loading import load_recipe

    if not options.recipes:
        chosen = _first_served_exactly(options)
        scoring = replace(options.scoring, limit=options.scoring.limit or RECIPES[chosen])
        options = replace(options, recipes=[chosen], scoring=scoring)
    if all(load_recipe(name).needs_data for name in options.recipes):
        work = replace(options.work, set=[f"calibration.samples={SAMPLES}", *options.work.set])
        options = replace(options, work=work)
    whole_run.run(options)


def _first_served_exactly(options: Options) -> str:
    from quantpress.cli import prepare
    from quantpress.plan.resolve import plan_of
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime import console

    model = prepare.loaded_model(options.work)
    target = prepare.target_of(options.work, "auto")
    for name in RECIPES:
        reason: str | None
        try:
            reason = prepare.inexactness(plan_of(load_recipe(name), model), target, options.serving.vllm)
        except CapabilityError as error:
            reason = error.message
        if reason is None:
            console.say(f"demo: {name}, which this machine serves as it is")
            return name
        console.say(f"demo: not {name} here: {reason}")
    raise CapabilityError(
        f"this machine serves none of {', '.join(RECIPES)} exactly", hint="name a recipe: make demo RECIPE=..."
    )
