"""The commands about recipes: list, show, validate, schema, suggest, and plan."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from quantpress.errors import InputError
from quantpress.language import shipped
from quantpress.model import source as models
from quantpress.plan import hardware
from quantpress.plan import resolve as planning
from quantpress.plan import servable as serving
from quantpress.plan import suggest as suggesting
from quantpress.plan import summary as plan_report
from quantpress.quantize import calibration as calibration_data
from quantpress.recipe import json_schema as schema
from quantpress.recipe import recipe as recipe_language
from quantpress.runtime import environment
from quantpress.runtime.console import Console, show


def recipes(args: Namespace) -> None:
    actions = {"list": _list, "show": _show, "validate": _validate, "schema": _schema, "suggest": _suggest}
    actions[args.action](args)


def _list(args: Namespace) -> None:
    found = {name: recipe_language.load(name).description for name in shipped.names("recipes")}
    width = max(map(len, found))
    show(args.json, found, "\n".join(f"{name:{width}}  {text}" for name, text in found.items()))


def _show(args: Namespace) -> None:
    sys.stdout.write(shipped.find("recipes", args.recipe).read_text(encoding="utf-8"))


def _validate(args: Namespace) -> None:
    loaded = {name: recipe_language.load(name) for name in args.recipes}
    lines = [f"{name}: valid ({', '.join(m.name for m in recipe.modifiers)})" for name, recipe in loaded.items()]
    show(args.json, {name: recipe.dump() for name, recipe in loaded.items()}, "\n".join(lines))


def _schema(args: Namespace) -> None:
    sys.stdout.write(schema.text())


def _suggest(args: Namespace) -> None:
    target = hardware.target_of(args.target)
    model = _light_model(args)
    ranked = suggesting.suggest(model, target, args.goal)
    show(args.json, ranked, suggesting.text(ranked, target, args.goal))


def plan(args: Namespace) -> None:
    """Everything that is known before a weight is read. Exit code 4 if --target cannot serve it."""
    for option in ("context", "concurrency"):
        if not 0 < getattr(args, option) < 10**8:
            raise InputError(
                f"--{option} {getattr(args, option)}: from 1 to 99999999", hint=f"leave --{option} out, or correct it"
            )
    target = hardware.target_of(args.target) if args.target else None
    recipe = recipe_language.load(args.recipe, args.set)
    model = _light_model(args)
    made = planning.make(recipe, model)
    if recipe.calibration:
        calibration_data.check_sources(recipe.calibration)
    found = plan_report.report(made, model.config, args.context, args.concurrency)
    if args.ask_vllm:
        found["vllm"] = _asked(args, made, target)
    show(
        args.json,
        found | {"model": model.name, "target": target},
        f"model        {model.name}\n" + plan_report.text(found),
    )
    if target:
        serving.check(made, target)


def _asked(args: Namespace, made: planning.Plan, target: str | None) -> dict[str, Any]:
    """What the installed vLLM says of the plan's presets. Raises CapabilityError if `target` cannot have one."""
    from quantpress_serve.probes import asking

    vllm = environment.find_vllm(args.vllm)
    answer = asking.ask(vllm, Console(quiet=args.quiet))
    presets = sorted(set(made.labels.values()) & answer.keys())
    if target:
        asking.require(answer, presets, target, vllm)
    return {"version": environment.vllm_version(vllm), "schemes": {preset: answer[preset] for preset in presets}}


def _light_model(args: Namespace) -> models.Model:
    return models.described(args.model, Console(quiet=args.quiet))
