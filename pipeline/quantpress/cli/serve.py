"""`quantpress serve`: serve a recipe's checkpoint with vLLM in the foreground."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, Work, add_stage, add_vllm


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    vllm: str | None
    port: int


def add(commands: Commands) -> None:
    parser = add_stage(commands, "serve", "serve a recipe's checkpoint with vLLM in the foreground")
    add_vllm(parser)
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: %(default)s)")


def run(options: Options) -> None:
    from quantpress.cli import prepare
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress_serve.server.foreground import serve
    from quantpress_serve.server.server import require_free
    from quantpress_serve.vllm import find_vllm

    work = options.work
    recipe = load_recipe(options.recipe, work.set)
    vllm = find_vllm(options.vllm)
    require_free(options.port)
    model = prepare.loaded_model(work, [recipe], "auto", options.vllm)
    plan = prepare.planned(work, recipe, model, vllm=options.vllm).plan
    artifact = quantize(plan, model, work.out).artifact
    serve(artifact, model, vllm, options.port)
