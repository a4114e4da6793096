"""`quantpress evaluate`: score a recipe's checkpoint and the model."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, Work, add_stage, add_vllm
from quantpress.cli.scoring import Scoring, add_scoring


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    scoring: Scoring
    vllm: str | None


def add(commands: Commands) -> None:
    parser = add_stage(commands, "evaluate", "score a recipe's checkpoint and the model with lm-eval")
    add_scoring(parser)
    add_vllm(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.cli import prepare, scoring
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show
    from quantpress_evaluate.stage import evaluate, require_gates

    work = options.work
    recipe = load_recipe(options.recipe, work.set)
    request = scoring.checked_request(options.scoring, options.vllm, work.compute_dtype, [recipe])
    model = prepare.loaded_model(work, [recipe], "auto", options.vllm)
    plan = prepare.planned(work, recipe, model, vllm=options.vllm).plan
    request = request.for_model(model)
    artifact = quantize(plan, model, work.out).artifact
    result = evaluate(artifact, model, request)
    show(result.as_saved(), report.accuracy_table(recipe.name, result))
    require_gates({recipe.name: result.gates})
