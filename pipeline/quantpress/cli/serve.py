"""`quantpress serve`: serve a recipe's checkpoint with vLLM in the foreground."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.cli.options import Commands, Work, add_engine, add_stage, add_vllm


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    vllm: str | None
    port: int
    engine: list[str]
    trust_workload: list[str]


def add(commands: Commands) -> None:
    parser = add_stage(commands, "serve", "serve a recipe's checkpoint with vLLM in the foreground")
    add_vllm(parser)
    add_engine(parser)
    parser.add_argument("--port", type=int, default=8000, help="port of the server (default: %(default)s)")


def run(options: Options) -> None:
    from quantpress.cli import adopted, prepare
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress_serve.probes import asking
    from quantpress_serve.server import fit
    from quantpress_serve.server.foreground import serve
    from quantpress_serve.server.server import require_free
    from quantpress_serve.vllm import find_vllm
    from quantpress_serve.workload.engines import load_engine

    work = options.work
    if adopted.is_adopted(options.recipe, work.out):
        _serve_adopted(options)
        return
    recipe, engine = load_recipe(options.recipe, work.set), load_engine(options.engine, options.trust_workload)
    vllm = find_vllm(options.vllm)
    require_free(options.port)
    asking.require_engine(engine, vllm)
    model = prepare.loaded_model(work, [recipe], "auto", options.vllm)
    plan = prepare.planned(work, recipe, model, vllm=options.vllm).plan
    found = fit.alone(engine, plan, model.config)
    fit.say(found)
    artifact = quantize(plan, model, work.out, work.offload).artifact
    serve(artifact, model, vllm, options.port, found.engine)


def _serve_adopted(options: Options) -> None:
    """Serves what was adopted under the name."""
    from quantpress.cli import adopted
    from quantpress_serve.probes import asking
    from quantpress_serve.server import fit
    from quantpress_serve.server.foreground import serve
    from quantpress_serve.server.server import require_free
    from quantpress_serve.vllm import find_vllm
    from quantpress_serve.workload.engines import load_engine

    engine, vllm = load_engine(options.engine, options.trust_workload), find_vllm(options.vllm)
    require_free(options.port)
    asking.require_engine(engine, vllm)
    found = adopted.candidate(options.recipe, options.work)
    fitted = fit.alone(engine, found.loaded, found.model.config)
    fit.say(fitted)
    serve(found.artifact, found.model, vllm, options.port, fitted.engine)
