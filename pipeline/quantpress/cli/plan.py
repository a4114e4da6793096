"""`quantpress plan`: what a recipe makes of a model, before a weight is read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpress.cli.options import (
    MODEL,
    TARGET,
    Commands,
    add_dequantize,
    add_engine,
    add_flags,
    add_out,
    add_trust,
    add_vllm,
)
from quantpress.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from quantpress.model.source import Model
    from quantpress.plan.resolve import Plan
    from quantpress.plan.summary import Asked, Data
    from quantpress_serve.workload.engine import Engine


@dataclass(frozen=True)
class Options:
    recipe: str
    set: list[str]
    model: str
    dequantize: bool
    trust_remote_code: bool
    ask_vllm: bool
    vllm: str | None
    target: str | None
    context: int
    concurrency: int
    gate: list[str]
    out: Path
    engine: list[str]
    trust_workload: list[str]


def add(commands: Commands) -> None:
    parser = commands.add_parser("plan", help="what a recipe makes of a model, before a weight is read")
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name or a path")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe field")
    parser.add_argument("--model", default="embedded", help=MODEL + "; a folder needs no more than a config.json")
    add_dequantize(parser)
    add_trust(parser)
    parser.add_argument("--ask-vllm", action="store_true", help="ask the installed vLLM too (seconds, the first time)")
    add_vllm(parser)
    parser.add_argument(
        "--target",
        help=TARGET + "; exit code 4 if it cannot serve the result; or any. "
        "Too little memory or disk on this machine is one too, unless another target is named here or by "
        "$QUANTPRESS_TARGET",
    )
    add_out(parser)
    parser.add_argument("--context", type=int, default=4096, help="tokens of each sequence in memory (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="sequences in memory at once (%(default)s)")
    add_engine(parser)
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="GATE",
        help="say how many documents `evaluate` needs to decide this gate: recovery>=0.99, flips<=10%%",
    )
    add_flags(parser)


def run(options: Options) -> None:
    """Everything that is known before a weight is read. Exit code 4 if --target cannot serve it, or if it is this
    machine that it is planned for, and its memory or disk is too small."""
    from quantpress.cli import needed
    from quantpress.model.source import described_model
    from quantpress.plan import servable, summary
    from quantpress.plan.resolve import plan_of
    from quantpress.quantize import calibration_data
    from quantpress.recipe.loading import load_recipe
    from quantpress.runtime.console import show
    from quantpress.statistics.power import Assumed
    from quantpress_evaluate import foresight
    from quantpress_evaluate.comparison import gates
    from quantpress_serve.workload.engines import load_engine
    from quantpress_serve.writing import own_chats

    for option, value in (("context", options.context), ("concurrency", options.concurrency)):
        if not 0 < value < 10**8:
            raise InputError(f"--{option} {value}: from 1 to 99999999", hint=f"leave --{option} out, or correct it")
    target = _target(options)
    asked_for = [gates.parse(text) for text in options.gate]
    recipe, engine = load_recipe(options.recipe, options.set), load_engine(options.engine, options.trust_workload)
    model = described_model(options.model, options.dequantize, options.trust_remote_code)
    plan = plan_of(recipe, model)
    if recipe.calibration:
        calibration_data.check_sources(recipe.calibration)
        own_chats.require_chatting(recipe.calibration, model)
    known = _with_images(plan, model)
    found = summary.summary_of(plan, model.config, options.context, options.concurrency, known)
    asked = _asked(options.vllm, plan, target) if options.ask_vllm else None
    of_gates = foresight.lines(asked_for, Assumed())
    machine = needed.machine_for(model, options.out)
    stages = needed.stages(plan, model, options.out, machine)
    data = found.dump() | ({"vllm": asked.dump()} if asked else {}) | ({"gates": of_gates} if of_gates else {})
    here = _here(engine, plan, model, options)
    show(
        data | {"model": model.name, "target": target, "needs": [stage.dump() for stage in stages], "engine": here},
        f"model        {model.name}\n"
        + summary.text(found, asked, of_gates, needed.lines(stages))
        + f"\nengine       {here['why']}",
    )
    if target:
        servable.require_served(plan, target)
    if (options.target or os.environ.get("QUANTPRESS_TARGET") or "auto") == "auto":
        needed.require_fits(plan, model, machine, stages)


def _target(options: Options) -> str | None:
    """None where none is named, or any."""
    if options.target in (None, "any"):
        return None
    from quantpress.cli import prepare

    return prepare.target_named(options.target, options.vllm)


def _here(engine: Engine, plan: Plan, model: Model, options: Options) -> dict[str, Any]:
    """The engine as it would serve the checkpoint alone on this machine, and why; its settings are None if it fits
    not at all."""
    from quantpress_serve.server import fit
    from quantpress_serve.server.fit import Asked

    asked = Asked(context=options.context, at_once=options.concurrency)
    try:
        found = fit.fitted(engine, fit.need_of([plan], model.config, engine, asked, plan.checkpoint_bytes))
    except CapabilityError as error:
        return {"settings": None, "why": f"none fits this machine: {error.message}"}
    size = found.engine.tensor_parallel_size
    return {
        "settings": found.engine.model_dump(exclude_none=True),
        "why": f"on this machine {found.why or f'tensor parallel {size}'}",
    }


def _with_images(plan: Plan, model: Model) -> Data | None:
    """What calibration data with images come to, by the model's processor; None where they are texts, where some are on
    the hub, and where the model's folder holds no tokenizer yet."""
    from quantpress.plan.summary import Data
    from quantpress.quantize import calibration_data
    from quantpress.quantize.stage import check_data

    calibration = plan.recipe.calibration
    if calibration is None or not all(map(calibration_data.local_file, calibration.sources)):
        return None
    if not (model.path / "tokenizer_config.json").is_file() or not calibration_data.first_image(calibration):
        return None
    asked = check_data(plan, model)
    return Data(samples=calibration.samples, tokens=asked.tokens, images=asked.images) if asked else None


def _asked(named: str | None, plan: Plan, target: str | None) -> Asked:
    """What the installed vLLM says of the plan's presets. Raises CapabilityError if `target` cannot have one."""
    from quantpress.plan.summary import Asked
    from quantpress_serve.probes import asking
    from quantpress_serve.vllm import find_vllm, vllm_version

    vllm = find_vllm(named)
    answer = asking.schemes(vllm)
    presets = sorted(set(plan.labels.values()) & answer.keys())
    if target:
        asking.require_presets(answer, presets, target, vllm)
    return Asked(
        version=vllm_version(vllm),
        schemes={preset: answer[preset] for preset in presets},
        model=asking.said_of(plan.architecture, vllm),
    )
