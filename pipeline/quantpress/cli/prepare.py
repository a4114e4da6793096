"""From the name of a model and a recipe to a plan that the target can serve: what every stage begins with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.artifact.manifest import artifact_of
from quantpress.cli.options import Work
from quantpress.errors import CapabilityError, InputError
from quantpress.model import hub
from quantpress.model.hub import is_on_the_hub
from quantpress.model.source import Model, described_model, find_model
from quantpress.plan import hardware, kernels, servable
from quantpress.plan.resolve import NoMatchError, Plan, plan_of
from quantpress.quantize import calibration_data, streaming
from quantpress.quantize.own_chats import restore
from quantpress.quantize.stage import check_data, prepared
from quantpress.runtime import console, cpu, disk, environment
from quantpress.runtime.cache import cache_folder
from quantpress_serve.vllm import find_vllm
from quantpress_serve.writing import own_chats

if TYPE_CHECKING:
    from quantpress.cli.serving import Serving
    from quantpress.recipe.recipe import Recipe
    from quantpress_serve.bench.stage import Beforehand


@dataclass(frozen=True)
class Planned:
    """A plan, and why the engine that will serve it does not compute exactly what it says (None where it does)."""

    plan: Plan
    inexact: str | None = None


Check = Callable[[Model, list[Plan]], None]


def loaded_model(
    work: Work,
    recipes: Sequence[Recipe] = (),
    target: str = "any",
    vllm: str | None = None,
    check: Check = lambda model, plans: None,
) -> Model:
    """The model. Of one on the hub, what can be wrong is found before its weights are fetched: all that its other
    other files, the weights' headers and this machine tell, and what `check` raises. What `--dequantize` makes is known
    by its config."""
    if recipes and is_on_the_hub(work.model):
        light = described_model(work.model, work.dequantize, work.trust_remote_code)
        if light.tensors:
            plans = [_checked(work, recipe, light, target, vllm).plan for recipe in recipes]
            for plan in plans:
                check_data(plan, light)
            _require_room_for_weights(light, plans, work.offload)
            check(light, plans)
        elif light.tensors is None:  # what is dequantized
            plans = []
            for recipe in recipes:
                with suppress(NoMatchError):  # found when the weights are there
                    plans.append(_checked(work, recipe, light, target, vllm).plan)
            if plans:
                _require_room_for_weights(light, plans, work.offload)
                check(light, plans)
        else:
            for recipe in recipes:
                with suppress(InputError):  # what a config alone does not tell is found when the weights are there
                    inexactness(plan_of(recipe, light), target_of(work, target), vllm)
    return find_model(work.model, work.trust_remote_code, work.dequantize)


def _require_room_for_weights(light: Model, plans: Sequence[Plan], offload: str) -> None:
    """Raises CapabilityError if weights that are not fetched yet, and what is dequantized of them, do not fit on the
    disk, or not into the memory."""
    if not light.to_fetch:
        return
    disk.require_space(hub.cache(), light.to_fetch)
    if light.tensors is None:
        disk.require_space(cache_folder(), max(plan.weight_bytes for plan in plans))
        return
    for plan in plans:
        streaming.stay_on_disk(plan, light, offload)


def planned(work: Work, recipe: Recipe, model: Model, target: str = "auto", vllm: str | None = None) -> Planned:
    """The plan, made once: a hub data set must not move to another commit between the check and the work.

    Wrong input comes before what the machine cannot do. Raises InputError, and CapabilityError if the target cannot
    serve what the plan makes: --target, $QUANTPRESS_TARGET, or `target`.
    """
    return all_planned(work, [recipe], model, target, vllm)[0]


def all_planned(
    work: Work, recipes: Sequence[Recipe], model: Model, target: str = "auto", vllm: str | None = None
) -> list[Planned]:
    """The same for several recipes: what is wrong with one is found before the model writes chats for another."""
    checked = [_checked(work, recipe, model, target, vllm) for recipe in recipes]
    for inexact in filter(None, (one.inexact for one in checked)):
        console.warn(inexact)
    return [
        replace(one, plan=prepared(_with_own_chats(work, one.plan, model, vllm), model, work.compute_dtype))
        for one in checked
    ]


def planned_before_chats(
    work: Work, recipe: Recipe, model: Model, target: str, vllm: str | None = None, elsewhere: bool = False
) -> Planned:
    """The same for a recipe whose stages plan anew: chats that the model is to write itself are not written here, and
    the plan is not prepared then. `elsewhere`: on other machines, whose GPUs are not known here."""
    checked = _checked(work, recipe, model, target, vllm)
    if own_chats.to_be_written(checked.plan.recipe.calibration):
        return checked
    return replace(checked, plan=prepared(checked.plan, model, work.compute_dtype, elsewhere))


def _checked(work: Work, recipe: Recipe, model: Model, target: str, vllm: str | None) -> Planned:
    plan = plan_of(recipe, model)
    if plan.recipe.calibration:
        calibration_data.check_sources(plan.recipe.calibration)
    inexact = inexactness(plan, target_of(work, target), vllm)
    own_chats.require_writable(plan.recipe.calibration, model, vllm)
    return Planned(plan, inexact)


def _with_own_chats(work: Work, plan: Plan, model: Model, vllm: str | None) -> Plan:
    """The plan with the chats written that the model is to write itself; those that an artifact keeps are its own."""
    if not own_chats.to_be_written(plan.recipe.calibration):
        return plan
    assert plan.recipe.calibration
    restore(artifact_of(work.out, model.name, plan.recipe.name).folder)
    calibration = own_chats.with_own_chats(plan.recipe.calibration, model, plan.weight_bytes, vllm)
    return replace(plan, recipe=plan.recipe.model_copy(update={"calibration": calibration}))


def target_of(work: Work, target: str) -> str:
    """--target, $QUANTPRESS_TARGET, or what the command takes otherwise."""
    return work.target or os.environ.get("QUANTPRESS_TARGET") or target


def inexactness(plan: Plan, named: str, vllm: str | None = None) -> str | None:
    """Why the target computes something else than the plan says, or None; `any` is never asked.

    Of this machine's CPU the vLLM that is installed is asked too. Raises CapabilityError if it cannot serve the plan,
    InputError if it is of another version than our table and runs as one what the plan does not treat as one.
    """
    if named == "any":
        return None
    try:
        here = _vllm_here(vllm)
        target = target_named(named, vllm)
        servable.require_served(plan, target)
        if here is None:
            return servable.inexact(plan, target)
        from quantpress_serve.probes import asking

        asking.require_fused(plan, here)
        if target != cpu.THIS or environment.gpus():
            return servable.inexact(plan, target)
        return asking.inexact_here(plan, here)
    except CapabilityError as error:
        raise CapabilityError(error.message, hint=f"{error.hint}; --target any goes on all the same") from error


def known_of_servers(work: Work, serving: Serving, planned: Planned) -> Beforehand:
    """What is known before the servers of a bench are asked, with the kernels that this machine is to serve it with,
    whichever target it was made for.

    Raises CapabilityError for kernels that are required of a machine that the table of kernels does not know.
    """
    from quantpress_serve.bench.stage import Beforehand

    found = None
    if not serving.vllm_url:
        try:
            found = kernels.planned(planned.plan, target_named("auto", serving.vllm))
        except CapabilityError:
            if serving.require_kernels:
                raise
    return Beforehand(
        compute_dtype=work.compute_dtype,
        inexact=planned.inexact,
        kernels=found,
        require_kernels=serving.require_kernels,
    )


def target_named(named: str, vllm: str | None = None) -> str:
    """The target of this name; `auto` is this machine, as far as the installed vLLM serves on it.

    Raises InputError or CapabilityError for one not known.
    """
    return hardware.target_of(named, _platform(_vllm_here(vllm)) if named == "auto" else None)


def _platform(here: Path | None) -> str | None:
    """What the installed vLLM serves on; None without one."""
    if here is None:
        return None
    from quantpress_serve.probes import asking

    return asking.platform(here)


def _vllm_here(named: str | None) -> Path | None:
    """The vLLM that would serve on this machine, if one is installed."""
    try:
        return find_vllm(named)
    except CapabilityError:
        return None
