"""What each command does. A command takes the parsed arguments; an error or an exit code is its way to say no."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantpress import report as reporting
from quantpress.artifact import upkeep
from quantpress.artifact.manifest import Artifact
from quantpress.cli import doctor as doctoring
from quantpress.cli import package_commands, report_commands
from quantpress.cli.package_commands import push as push
from quantpress.cli.recipe_commands import plan as plan
from quantpress.cli.recipe_commands import recipes as recipes
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.language import shipped
from quantpress.model import source as models
from quantpress.model.source import Model
from quantpress.plan import hardware
from quantpress.plan import resolve as planning
from quantpress.plan import servable as serving
from quantpress.plan.resolve import Plan
from quantpress.quantize import calibration
from quantpress.quantize import stage as quantizing
from quantpress.recipe import recipe as recipe_language
from quantpress.recipe.recipe import Recipe
from quantpress.report.views import markdown
from quantpress.runtime import cpu, environment
from quantpress.runtime.console import Console, show


def _console(args: Namespace) -> Console:
    return Console(quiet=args.quiet)


def _model(args: Namespace, console: Console, chosen: Sequence[Recipe] = (), target: str = "any") -> Model:
    """The model. Of one on the hub, whether the target serves the recipes is found before its weights are fetched."""
    if chosen and models.is_on_the_hub(args.model):
        light = models.described(args.model, console)
        for recipe in chosen:
            with suppress(InputError):  # what a config alone does not tell is found when the weights are there
                _checked(args, planning.make(recipe, light), console, _named(args, target))
    return models.resolve(args.model, console, args.trust_remote_code)


def _named(args: Namespace, target: str) -> str:
    """--target, $QUANTPRESS_TARGET, or what the command takes otherwise."""
    return str(args.target or os.environ.get("QUANTPRESS_TARGET") or target)


@dataclass(frozen=True)
class Planned:
    """A plan, and why the engine that will serve it does not compute exactly what it says (None where it does)."""

    plan: Plan
    inexact: str | None = None


def _plan(args: Namespace, recipe: Recipe, model: Model, console: Console, target: str = "auto") -> Planned:
    """The plan, made once: a hub data set must not move to another commit between the check and the work.

    Raises CapabilityError if the target cannot serve what it makes: --target, $QUANTPRESS_TARGET, or `target`.
    """
    made = planning.make(recipe, model)
    if recipe.calibration:
        calibration.check_sources(recipe.calibration)  # wrong input comes before what the machine cannot do
    checked = _checked(args, made, console, _named(args, target))
    if checked.inexact:
        console.warn(checked.inexact)
    return replace(checked, plan=quantizing.prepare(recipe, model, args.compute_dtype, console))


def _checked(args: Namespace, made: Plan, console: Console, named: str) -> Planned:
    """Whether the target serves the plan; of this machine's CPU the vLLM that is installed is asked too."""
    if named == "any":
        return Planned(made)
    target = hardware.target_of(named)
    try:
        serving.check(made, target)
        vllm = _vllm_here(args) if target == cpu.THIS and not environment.gpus() else None
        return Planned(made, _asking().inexact_here(made, vllm, console) if vllm else serving.inexact(made, target))
    except CapabilityError as error:
        raise CapabilityError(error.message, hint=f"{error.hint}; --target any goes on all the same") from error


def _asking() -> Any:
    from quantpress_serve.probes import asking

    return asking


def _vllm_here(args: Namespace) -> Path | None:
    """The vLLM that would serve on this machine, if one is installed."""
    try:
        return environment.find_vllm(getattr(args, "vllm", None))
    except CapabilityError:
        return None


def quantize(args: Namespace) -> None:
    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    model = _model(args, console, [recipe], "auto")
    planned = _plan(args, recipe, model, console)
    done = quantizing.quantize(planned.plan, model, Path(args.out), console)
    show(args.json, done.manifest, str(done.artifact.checkpoint))


def evaluate(args: Namespace) -> None:
    from quantpress_evaluate import stage

    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    request = _checked_request(args, console, [recipe])
    model = _model(args, console, [recipe], "auto")
    made = _plan(args, recipe, model, console).plan
    artifact = quantizing.quantize(made, model, Path(args.out), console).artifact
    result = stage.evaluate(artifact, model, request.on(model, console), console)
    show(args.json, result, reporting.accuracy_table(recipe.name, result))
    stage.require_gates({recipe.name: result})


def compare(args: Namespace) -> None:
    from quantpress_evaluate import stage
    from quantpress_evaluate.comparison import compare as comparing
    from quantpress_evaluate.comparison import gates
    from quantpress_evaluate.comparison import logged as results

    sides = results.read(Path(args.baseline)), results.read(Path(args.candidate))
    tasks = sorted(sides[0].keys() & sides[1].keys())
    if not tasks:
        raise InputError(
            f"{args.baseline} and {args.candidate} have no task in common",
            hint=f"they hold {', '.join(sides[0])} and {', '.join(sides[1])}",
        )
    asked = [gates.parse(gate, tasks) for gate in args.gate]
    scored = {task: results.paired(task, sides[0][task], sides[1][task], args.metric, args.filter) for task in tasks}
    try:
        result = comparing.compare_suite(scored, count_no_signal=args.count_no_signal)
    except StageError as error:
        raise InputError(error.message, hint="score both on the same documents") from error
    result["gates"] = [gates.decide(gate, result) for gate in asked]
    show(args.json, result, reporting.accuracy_table(Path(args.candidate).name, result))
    stage.require_gates({args.candidate: result})


def _request(args: Namespace) -> Any:
    """The evaluation asked for; what is wrong with its files and options is found here."""
    from quantpress_evaluate.comparison.gates import parse
    from quantpress_evaluate.request import Request
    from quantpress_evaluate.suite import load, resolve_tasks

    limit = getattr(args, "limit", None)
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least one document", hint="leave --limit out to score them all")
    suite, path = load(args.suite)
    folder = args.data or os.environ.get("QUANTPRESS_DATA") or None
    tasks = resolve_tasks(suite, path, Path(folder) if folder else None, limit)
    names = [task["task"] for task in tasks]
    return Request(
        suite,
        tasks,
        gates=tuple(parse(gate, names) for gate in (*suite.gates, *getattr(args, "gate", ()))),
        noise_floor=getattr(args, "noise_floor", False),
        backend=getattr(args, "backend", None) or suite.backend,
        vllm=getattr(args, "vllm", None),
        compute_dtype=getattr(args, "compute_dtype", "auto"),
        count_no_signal=suite.count_no_signal or getattr(args, "count_no_signal", False),
        extend=getattr(args, "extend", False),
    )


def _checked_request(args: Namespace, console: Console, recipes: list[Recipe]) -> Any:
    """The evaluation asked for, its tasks and documents tried before anything is made.

    Raises CapabilityError if a recipe's checkpoint can be scored by vLLM alone and there is none.
    """
    from quantpress_evaluate.request import checked

    request = checked(_request(args), console)
    for recipe in recipes:
        if request.for_recipe(recipe.dump())[0].backend == "vllm":
            environment.find_vllm(request.vllm)
    return request


def bench(args: Namespace) -> None:
    from quantpress_serve.bench import stage
    from quantpress_serve.workload import workload

    console, recipe, load = _console(args), recipe_language.load(args.recipe, args.set), workload.load(args.workload)
    sides = _sides(args)
    sides.check()
    stage.check_engine(load, sides, console)
    if args.weights == "dummy":
        _bench_dummy(args, recipe, load, sides, console)
        return
    target = "any" if args.vllm_url else "auto"
    model = _model(args, console, [recipe], target)
    planned = _plan(args, recipe, model, console, target)
    artifact = quantizing.quantize(planned.plan, model, Path(args.out), console).artifact
    known = stage.Beforehand(args.compute_dtype, planned.inexact)
    result = stage.bench(artifact, model, load, sides, console, args.fresh, known)
    show(args.json, result, reporting.throughput_table(recipe.name, result))


def _bench_dummy(args: Namespace, recipe: Recipe, load: Any, sides: Any, console: Console) -> None:
    """The speed of a recipe on a model's shapes: neither needs weights, and nothing is quantized."""
    from quantpress_serve.bench import dummy

    if args.vllm_url:
        raise InputError("--weights dummy starts its own servers", hint="leave out --vllm-url, or --weights")
    model = replace(models.described(args.model, console), trust_remote_code=args.trust_remote_code)
    made = planning.make(recipe, model)
    if inexact := _checked(args, made, console, _named(args, "auto")).inexact:
        console.warn(inexact)
    result = dummy.bench(made, model, load, sides, Path(args.out), console, args.fresh)
    console.say("dummy weights: the shapes are those of the model, the numbers are random; nothing was asked in chat")
    show(args.json, result, reporting.throughput_table(f"{recipe.name} (dummy weights)", result))


def _sides(args: Namespace) -> Any:
    from quantpress_serve.bench.stage import Sides

    return Sides(args.vllm, args.port, args.vllm_url, args.baseline_url)


def run(args: Namespace) -> None:
    """All stages for each recipe. Everything that can be wrong is checked before the first one starts."""
    from quantpress_evaluate import stage as evaluating
    from quantpress_serve.bench import stage as benching
    from quantpress_serve.workload import workload

    console, load, sides = _console(args), workload.load(args.workload), _sides(args)
    chosen = [recipe_language.load(name, args.set) for name in args.recipes]
    _require_distinct(chosen)
    sides.check()
    benching.check_engine(load, sides, console)
    request = _checked_request(args, console, chosen)
    target = "any" if args.vllm_url else "auto"
    model = _model(args, console, chosen, target)
    environment.versions(environment.DECISIVE)
    plans = [_plan(args, recipe, model, console, target) for recipe in chosen]
    for planned in plans:
        quantizing.check_data(planned.plan)
    request = request.on(model, console)
    artifacts = []
    for planned in plans:
        artifact = quantizing.quantize(planned.plan, model, Path(args.out), console).artifact
        evaluating.evaluate(artifact, model, request, console)
        known = benching.Beforehand(args.compute_dtype, planned.inexact)
        benching.bench(artifact, model, load, sides, console, args.fresh, known)
        artifacts.append(artifact)
    report_commands.of_model(args, model)
    # Read anew: the bench may have found that the engine does not compute what was scored.
    evaluating.require_gates({artifact.name: artifact.result("accuracy") or {"gates": []} for artifact in artifacts})


# What `demo` tries in turn, with the documents of each task (None: all): the first that this machine serves exactly.
# CPUs without AVX-512 take the last, and are slow.
DEMO = {"gptq-w4a16": None, "fp8-dynamic": 12}


def demo(args: Namespace) -> None:
    """The main job, small, with a recipe for the machine that it runs on."""
    console = _console(args)
    if not args.recipes:
        chosen = _first_served_exactly(args, _model(args, console), console)
        args.recipes, args.limit = [chosen], args.limit or DEMO[chosen]
    loaded = [recipe_language.load(name, []) for name in args.recipes]
    if all(recipe.needs_data for recipe in loaded):
        args.set = ["calibration.samples=16", *args.set]
    run(args)


def _first_served_exactly(args: Namespace, model: Model, console: Console) -> str:
    for name in DEMO:
        try:
            reason = _checked(args, planning.make(recipe_language.load(name), model), console, "auto").inexact
        except CapabilityError as error:
            reason = error.message
        if reason is None:
            console.say(f"demo: {name}, which this machine serves as it is")
            return name
        console.say(f"demo: not {name} here: {reason}")
    raise CapabilityError(
        f"this machine serves none of {', '.join(DEMO)} exactly", hint="name a recipe: make demo RECIPE=..."
    )


def _require_distinct(recipes: list[Recipe]) -> None:
    names = [recipe.name for recipe in recipes]
    if len(set(names)) < len(names):
        raise InputError(f"two of the recipes have the same name: {', '.join(names)}", hint="rename one")


def bundle(args: Namespace) -> None:
    from quantpress.package import bundle as bundling
    from quantpress_serve.workload import workload as workloads

    console, request = _console(args), _request(args)
    suite = shipped.find("suites", args.suite)
    workload = shipped.find("workloads", args.workload)
    if workloads.load(args.workload).prompts:
        raise InputError(
            f"{args.workload} takes its prompts from a file, which a bundle does not carry",
            hint="use a workload with random prompts",
        )
    chosen = [recipe_language.load(name, args.set) for name in args.recipes]
    _require_distinct(chosen)
    model = _model(args, console)
    pinned = [_plan(args, recipe, model, console, "any").plan.recipe for recipe in chosen]
    own = {task.task for task in request.suite.tasks if task.data}
    documents = {task["task"]: Path(task["data"]) for task in request.tasks if task["data"] and task["task"] not in own}
    on_the_hub = [task for task in request.tasks if not task["data"]]
    contents = bundling.Contents(pinned, model, suite, workload, documents, on_the_hub, not args.no_wheels)
    about = bundling.bundle(contents, Path(args.to), console)
    show(args.json, about, f"{args.to}: {about['bytes'] / 1e6:.0f} MB; {args.to}/run.sh runs it without a network")


def report(args: Namespace) -> None:
    report_commands.make(args)


def serve(args: Namespace) -> None:
    from quantpress_serve.bench import stage
    from quantpress_serve.server import server

    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    vllm = environment.find_vllm(args.vllm)
    server.require_free(args.port)
    model = _model(args, console, [recipe], "auto")
    made = _plan(args, recipe, model, console).plan
    artifact = quantizing.quantize(made, model, Path(args.out), console).artifact
    stage.serve(artifact, model, vllm, args.port, console)


def status(args: Namespace) -> None:
    rows = upkeep.status(_root(args))
    header = ["model", "recipe", "age", "held by", "stage", "digest", "size", "accuracy", "throughput", "gates"]
    lines = [_status_line(row) for row in rows]
    show(args.json, rows, markdown.table(header, lines, len(header)) if rows else f"{args.out} holds no artifact")
    if any(row["problem"] for row in rows):
        raise StageError("an artifact cannot be read", hint="delete its folder and quantize again")


def _status_line(row: dict[str, Any]) -> list[str]:
    line = [row["model"], row["recipe"], f"{row['age_s'] / 3600:.1f} h", row["held_by"] or "-"]
    if row["problem"]:
        return [*line, f"damaged: {row['problem']}", *["-"] * 5]
    line += [row["stage"], row["digest"][:12], f"{row['bytes'] / 1e6:.0f} MB"]
    return line + [row[name] or "-" for name in ("accuracy", "throughput", "gates")]


def package(args: Namespace) -> None:
    console, recipe = _console(args), recipe_language.load(args.recipe, args.set)
    model = _model(args, console)
    made = _plan(args, recipe, model, console, "any").plan
    package_commands.check(args, model, recipe.name)
    artifact = quantizing.quantize(made, model, Path(args.out), console).artifact
    package_commands.build(args, artifact, model, console)


def verify(args: Namespace) -> None:
    chosen = [Path(name) for name in args.artifacts]
    chosen = chosen or [artifact.folder for artifact in upkeep.artifacts(_root(args))]
    problems = {str(folder): package_commands.problems(folder, args.public_key) for folder in chosen}
    sound = {name: package_commands.sound(Path(name), args.public_key) for name in problems}
    lines = [f"{name}: {'; '.join(found) or sound[name]}" for name, found in problems.items()]
    show(args.json, problems, "\n".join(lines) or f"{args.out} holds no artifact")
    if any(problems.values()):
        raise StageError(
            "an artifact is not what was made", hint="delete its folder; quantpress quantize or package makes it again"
        )


def gc(args: Namespace) -> None:
    found = upkeep.garbage(_root(args))
    names = [str(path) for path in found]
    if found and not args.yes:
        print("\n".join(names), file=sys.stderr)
        if not sys.stdin.isatty() or _answer(f"remove these {len(found)}? [y/N] ") != "y":
            raise InputError("nothing was removed", hint="quantpress gc --yes removes them without asking")
    upkeep.remove(found)
    show(args.json, {"removed": names}, "\n".join(f"removed {name}" for name in names) or "nothing to remove")


def _answer(question: str) -> str:
    try:
        return input(question).strip().lower()
    except EOFError:
        return ""


def _root(args: Namespace) -> Path:
    if not Path(args.out).is_dir():
        raise InputError(f"--out {args.out} is not a folder", hint="name the folder that holds the artifacts")
    return Path(args.out)


def reproduce(args: Namespace) -> None:
    from quantpress.quantize import reproduce as reproducing

    result = reproducing.reproduce(Artifact(Path(args.artifact)), _console(args), args.trust_remote_code)
    differing, far = result["differing_tensors"], result["beyond_bound"]
    text = "byte-identical" if result["identical"] else f"{len(differing)} tensors differ, first {differing[0]}; "
    if differing:
        text += f"{len(far)} of them by more than the stated bound"
    if not result["promised"]:
        text += f" (equal bits are not promised here: {', '.join(result['why_not_promised'])} changed)"
    show(args.json, result, f"{args.artifact}: {text}")
    if far or (result["promised"] and not result["identical"]):
        raise StageError("the rebuilt checkpoint differs", hint="compare the logs of both runs; report this")


def doctor(args: Namespace) -> None:
    vllm = None
    try:
        found = environment.find_vllm(None)
        vllm = {"executable": str(found), "version": environment.vllm_version(found)}
    finally:
        facts = doctoring.facts(vllm)
        show(args.json, facts, doctoring.text(facts))
