"""`quantpress quantize`: apply a recipe to a model and write the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, Work, add_stage, add_vllm


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    vllm: str | None


def add(commands: Commands) -> None:
    add_vllm(add_stage(commands, "quantize", "apply a recipe to a model and write the checkpoint"))


def run(options: Options) -> None:
    from quantpress.cli import prepare
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show

    recipe = load_recipe(options.recipe, options.work.set)
    model = prepare.loaded_model(options.work, [recipe], "auto", options.vllm)
    plan = prepare.planned(options.work, recipe, model, vllm=options.vllm).plan
    done = quantize(plan, model, options.work.out, options.work.offload)
    show(done.manifest.as_saved(), str(done.artifact.checkpoint))
