"""`quantpress bundle`: collect what a run needs, for a machine without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, Work, add_stage
from quantpress.cli.scoring import Scoring, add_suite
from quantpress.cli.serving import add_workload
from quantpress.errors import InputError


@dataclass(frozen=True)
class Options:
    recipes: list[str]
    work: Work
    to: Path
    no_wheels: bool
    suite: str
    data: str | None
    workload: str
    engine: list[str]
    trust_workload: list[str]


def add(commands: Commands) -> None:
    parser = add_stage(commands, "bundle", "collect what a run needs, for a machine without a network", several="+")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="the bundle's folder")
    parser.add_argument("--no-wheels", action="store_true", help="quantpress and vLLM are installed there already")
    add_suite(parser)
    add_workload(parser)


def run(options: Options) -> None:
    from quantpress.cli import prepare
    from quantpress.cli.scoring import requested
    from quantpress.cli.words import unless_auto, words
    from quantpress.language import shipped
    from quantpress.package.bundle import Contents, bundle
    from quantpress.recipe.loading import load_recipes
    from quantpress.runtime.console import show
    from quantpress_evaluate.workers import DOCUMENTS
    from quantpress_serve.workload import engines
    from quantpress_serve.workload.workload import load_workload

    work = options.work
    scoring = Scoring(
        suite=options.suite,
        data=options.data,
        backend=None,
        gate=[],
        extend=False,
        count_no_signal=False,
        noise_floor=False,
        limit=None,
    )
    request = requested(scoring, None, work.compute_dtype)
    if load_workload(options.workload, options.trust_workload, options.engine).prompts:
        raise InputError(
            f"{options.workload} takes its prompts from a file, which a bundle does not carry",
            hint="use a workload with random prompts",
        )
    recipes = load_recipes(options.recipes, work.set)
    model = prepare.loaded_model(work)
    own = {task.task for task in request.suite.tasks if task.data}
    contents = Contents(
        recipes=[planned.plan.recipe for planned in prepare.all_planned(work, recipes, model, "any")],
        model=model,
        suite=shipped.find("suites", options.suite),
        workload=shipped.find("workloads", options.workload),
        engine=[one if engines.is_setting(one) else shipped.find("engines", one) for one in options.engine],
        options=words(
            trust_remote_code=work.trust_remote_code,
            trust_workload=options.trust_workload,
            compute_dtype=unless_auto(work.compute_dtype),
            offload=unless_auto(work.offload),
        ),
        documents={task.task: Path(task.data) for task in request.tasks if task.data and task.task not in own},
        on_the_hub=[task.dump() for task in request.tasks if not task.data],
        documents_worker=DOCUMENTS,
        wheels=not options.no_wheels,
    )
    about = bundle(contents, options.to)
    show(about.dump(), f"{options.to}: {about.bytes / 1e6:.0f} MB; {options.to}/run.sh runs it without a network")
