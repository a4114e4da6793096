"""`quantpress bench`: measure a recipe's checkpoint and the model in vLLM."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, Work, add_stage, add_vllm
from quantpress.cli.serving import Serving, add_serving
from quantpress.errors import InputError

if TYPE_CHECKING:
    from quantpress.recipe.recipe import Recipe
    from quantpress_serve.workload.workload import Workload


@dataclass(frozen=True)
class Options:
    recipe: str
    work: Work
    serving: Serving
    weights: str
    largest: int


def add(commands: Commands) -> None:
    parser = add_stage(commands, "bench", "measure a recipe's checkpoint and the model in vLLM")
    add_serving(parser)
    parser.add_argument(
        "--weights",
        choices=("real", "dummy"),
        default="real",
        help="dummy: the speed on MODEL's shapes, of which config.json is enough; nothing is quantized (%(default)s)",
    )
    # Of a sweep: the bytes of the largest checkpoint that will be compared with this one, so that all are paired alike.
    parser.add_argument("--largest", type=int, default=0, help=argparse.SUPPRESS)
    add_vllm(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.artifact.online import name_of
    from quantpress.cli import adopted, beforehand, prepare
    from quantpress.quantize.stage import quantize
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show
    from quantpress_serve.bench import online, stage
    from quantpress_serve.server import fit

    work, serving = options.work, options.serving
    if adopted.is_adopted(options.recipe, work.out):
        _bench_adopted(options)
        return
    recipe, load, sides = load_recipe(options.recipe, work.set), serving.load(), serving.sides()
    sides.executable()
    if options.weights == "dummy" and serving.vllm_url:
        raise InputError("--weights dummy starts its own servers", hint="leave out --vllm-url, or --weights")
    stage.require_servers(load, sides)
    if options.weights == "dummy" and serving.online:
        raise InputError("--online measures the model's own weights", hint="leave out --weights dummy, or --online")
    serving.require_online(sides.executable())
    if options.weights == "dummy":
        _bench_dummy(options, recipe, load)
        return
    model = prepare.loaded_model(work, [recipe], serving.target, serving.vllm)
    planned = prepare.planned(work, recipe, model, serving.target, serving.vllm)
    if not serving.vllm_url:
        beforehand.require_servers_here(sides.executable(), load, work.out, model, [planned.plan], serving.pairing)
        load = fit.with_engine_for(load, [planned.plan], model.config, serving.pairing)
    largest = max(options.largest, planned.plan.weight_bytes if serving.online else 0)
    known = replace(prepare.known_of_servers(work, serving, planned), largest=largest)
    artifact = quantize(planned.plan, model, work.out, work.offload).artifact
    result = stage.bench(artifact, model, load, sides, serving.fresh, known)
    text, data = report.throughput_table(recipe.name, result), result.as_saved()
    try:
        if serving.online:
            beside = online.bench(serving.online, model, load, sides.paired_as(result), work.out, serving.fresh)
            text += f"\n\n{report.throughput_table(name_of(serving.online), beside)}"
            data |= {"online": beside.as_saved()}
    finally:
        show(data, text)


def _bench_adopted(options: Options) -> None:
    """Measures what was adopted under the name, and the model."""
    from quantpress import report
    from quantpress.cli import adopted, beforehand
    from quantpress.runtime.console import show
    from quantpress_serve.bench import stage
    from quantpress_serve.server import fit

    serving = options.serving
    adopted.require_none(options.recipe, {"--weights dummy": options.weights == "dummy", "--online": serving.online})
    load, sides = serving.load(), serving.sides()
    sides.executable()
    stage.require_servers(load, sides)
    _, [found] = adopted.told_apart([options.recipe], options.work, serving.require_kernels)
    if not serving.vllm_url:
        beforehand.require_context(load, found.model)
        load = fit.with_engine_for(load, [found.loaded], found.model.config, serving.pairing)
    known = stage.Beforehand(compute_dtype=options.work.compute_dtype)
    result = stage.bench(found.artifact, found.model, load, sides, serving.fresh, known)
    show(result.as_saved(), report.throughput_table(options.recipe, result))


def _bench_dummy(options: Options, recipe: Recipe, load: Workload) -> None:
    """The speed of a recipe on a model's shapes: neither needs weights, and nothing is quantized."""
    from quantpress import report
    from quantpress.cli import prepare
    from quantpress.model.source import described_model
    from quantpress.plan.resolve import plan_of
    from quantpress.runtime import console
    from quantpress_serve.bench import dummy
    from quantpress_serve.server import fit

    work, serving = options.work, options.serving
    model = described_model(work.model, work.dequantize, work.trust_remote_code)
    plan = plan_of(recipe, model)
    if inexact := prepare.inexactness(plan, prepare.target_of(work, "auto"), serving.vllm):
        console.warn(inexact)
    load = fit.with_engine_for(load, [plan], model.config, serving.pairing)
    known = prepare.known_of_servers(work, serving, prepare.Planned(plan, inexact))
    result = dummy.bench(plan, model, load, serving.sides(), work.out, serving.fresh, known)
    console.say("dummy weights: the shapes are those of the model, the numbers are random; nothing was asked in chat")
    console.show(result.as_saved(), report.throughput_table(f"{recipe.name} (dummy weights)", result))
