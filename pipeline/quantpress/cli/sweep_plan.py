"""From the cells of a sweep to its stages: what each is asked, its digest, and what it needs of a node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.artifact.accuracy import Accuracy, Gate
from quantpress.artifact.manifest import Artifact, artifact_of
from quantpress.artifact.results import results_of
from quantpress.cli import beforehand, needed, prepare, scoring, sweep_words
from quantpress.cli.words import words
from quantpress.errors import CapabilityError, InputError, QuantpressError
from quantpress.model.source import Model, described_model
from quantpress.plan.resolve import Plan
from quantpress.quantize.stage import check_data, inputs_of, processes_of
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.truthful import untruthful
from quantpress.runtime import console, digests, environment
from quantpress.sweep.file import HINT, Cell, Read
from quantpress.sweep.placing import Node
from quantpress.sweep.stages import Needs, Stage
from quantpress_evaluate.stage import baseline, first_look, is_scored
from quantpress_serve.bench import stage as serving_stage
from quantpress_serve.server import fit
from quantpress_serve.workload import engines, workload
from quantpress_serve.writing import own_chats

if TYPE_CHECKING:
    from quantpress.cli.options import Work
    from quantpress.cli.scoring import Scoring
    from quantpress.cli.sweep import Options
    from quantpress.recipe.recipe import Recipe
    from quantpress_evaluate.request import Request
    from quantpress_serve.workload.workload import Workload


@dataclass(frozen=True)
class PlannedCell:
    """A cell with all that it names: the recipe's plan on the model; of each suite and workload, as the file names it,
    what is asked and where it lies. The backend of a request may be auto until it is known what will score."""

    cell: Cell
    model: Model
    source: str
    recipe: str
    plan: Plan
    requests: dict[str, Request]
    loads: dict[str, Workload]
    suites: dict[str, str]
    workloads: dict[str, str]

    def artifact(self, out: Path) -> Artifact:
        return artifact_of(out, self.model.name, self.plan.recipe.name)

    def scored_with(self, gpus: bool) -> PlannedCell:
        """The same with the backends that score where there are GPUs, or are none."""
        untruth = untruthful(self.plan.recipe.dump())
        known = {name: request.for_checkpoint(untruth, gpus)[0] for name, request in self.requests.items()}
        return replace(self, requests=known)


@dataclass(frozen=True)
class Named:
    """What a sweep's file names, by the values in it: recipes, requests of its suites, loads of its workloads."""

    recipes: dict[str, Recipe]
    requests: dict[str, Request]
    loads: dict[str, Workload]


def named(options: Options, read: Read) -> Named:
    """The files and models that a sweep names. Raises InputError with the place of each that cannot be used."""
    engine = engines.layered(options.serving.engine)
    recipes = read.loaded("recipes", lambda name: load_recipe(name, options.work.set), lambda recipe: recipe.name)
    requests = read.loaded(
        "suites",
        lambda name: scoring.requested(*_asked(options, name), engine),
        lambda request: request.suite.name,
    )
    loads = read.loaded(
        "workloads", lambda name: replace(options.serving, workload=name).load(), lambda load: load.name
    )
    read.loaded(
        "models",
        lambda name: described_model(name, options.work.dequantize, options.work.trust_remote_code),
        lambda model: model.name,
    )
    return Named(recipes, requests, loads)


def planned(options: Options, read: Read, named: Named) -> list[PlannedCell]:
    """Every cell, its tasks and documents tried, its recipe planned on its model.

    Raises InputError or CapabilityError, naming everything that is wrong with any cell; nothing was made.
    """
    recipes = named.recipes
    requests = {name: _checked(options, read.located("suites", name), recipes) for name in named.requests}
    checked = Named(recipes, requests, named.loads)
    for load in named.loads.values():
        serving_stage.require_servers(load, options.serving.sides())
    cells, problems = [], list[QuantpressError]()
    for model_name in read.sweep.models:
        of_model = [cell for cell in read.cells if cell.model == model_name]
        if not of_model:
            continue
        model = _model(options, read.located("models", model_name), [recipes[cell.recipe] for cell in of_model])
        for cell in of_model:
            try:
                cells.append(_planned(options, read, cell, model, checked))
            except (InputError, CapabilityError) as error:
                error.message = f"{cell.model} with {cell.recipe}: {error.message}"
                problems.append(error)
    _raise_all(problems)
    return cells


def _checked(options: Options, suite: str, recipes: dict[str, Recipe]) -> Request:
    engine = engines.layered(options.serving.engine)
    reasons = [untruthful(recipe.dump()) for recipe in recipes.values()]
    return scoring.checked_request(*_asked(options, suite), reasons, engine, options.elsewhere)


def _asked(options: Options, suite: str) -> tuple[Scoring, str | None, str]:
    """How a suite is scored: by which vLLM, and in which type transformers computes."""
    return replace(options.scoring, suite=suite), options.serving.vllm, options.work.compute_dtype


def _raise_all(problems: Sequence[QuantpressError]) -> None:
    if not problems:
        return
    kind = InputError if any(isinstance(one, InputError) for one in problems) else CapabilityError
    first = next(one for one in problems if isinstance(one, kind))
    lines = "\n       ".join(one.message for one in problems)
    raise kind(lines, hint=f"{first.hint or HINT}; or leave the cell out: exclude: [{{model: ..., recipe: ...}}]")


def _model(options: Options, source: str, recipes: Sequence[Recipe]) -> Model:
    """The model, fetched once for all: the cache is shared. A hub model is pinned to its commit."""
    return prepare.loaded_model(_work(options, source), recipes, _target(options), options.serving.vllm)


def _work(options: Options, source: str) -> Work:
    return replace(options.work, model=source)


def _target(options: Options) -> str:
    """On a cluster each node knows what it serves."""
    return "any" if options.elsewhere else "auto"


def _planned(options: Options, read: Read, cell: Cell, model: Model, named: Named) -> PlannedCell:
    source, recipe, loads = read.located("models", cell.model), named.recipes[cell.recipe], named.loads
    out, serving, work = options.work.out, options.serving, _work(options, source)
    found = prepare.planned_before_chats(
        work, recipe, model, _target(options), serving.vllm, elsewhere=options.elsewhere
    )
    if found.inexact:
        console.warn(found.inexact)
    check_data(found.plan, model)
    if not options.elsewhere:
        beforehand.require_room(out, model, [found.plan])
        for name in cell.workloads:
            vllm = serving.sides().executable()
            beforehand.require_servers_here(vllm, loads[name], out, model, [found.plan], serving.pairing)
    return PlannedCell(
        cell=cell,
        model=model,
        source=f"{source}@{model.revision}" if _is_unpinned(source, model) else source,
        recipe=read.located("recipes", cell.recipe),
        plan=found.plan,
        requests={name: named.requests[name].for_model(model) for name in cell.suites},
        loads={name: loads[name] for name in cell.workloads},
        suites={name: read.located("suites", name) for name in cell.suites},
        workloads={name: read.located("workloads", name) for name in cell.workloads},
    )


def _is_unpinned(source: str, model: Model) -> bool:
    """Whether a name on the hub could mean another commit on another node, or later."""
    return bool(model.revision) and "@" not in source and not Path(source).exists()


def stages(options: Options, cells: Sequence[PlannedCell], nodes: Sequence[Node]) -> list[Stage]:
    """All stages in an order in which each comes after those that it waits for; the model itself is scored once for
    all cells that score it alike."""
    found: dict[str, Stage] = {}
    cells = [one.scored_with(any(node.gpus for node in nodes)) for one in cells]
    for one in cells:
        for stage in _of_cell(_Making(options, one, cells, nodes)):
            found.setdefault(stage.key, stage)
    return list(found.values())


def _of_cell(making: _Making) -> Iterator[Stage]:
    """A cell's stages, one after the other: evaluate and bench of one artifact keep each other out."""
    last = made = making.quantize()
    yield made
    for suite in making.one.requests:
        alone = making.baseline(suite)
        yield alone
        yield (last := making.evaluate(suite, made, alone, last))
    for load in making.one.loads:
        yield (last := making.bench(load, made, last))


@dataclass(frozen=True)
class _Making:
    """What the stages of a cell have in common; `cells` are all of the sweep."""

    options: Options
    one: PlannedCell
    cells: Sequence[PlannedCell]
    nodes: Sequence[Node]

    def quantize(self) -> Stage:
        vllm = sweep_words.of_executable(self.options.serving.vllm, Path.cwd())
        return Stage(
            key=_quantize_key(self.one),
            verb="quantize",
            model=self._model,
            recipe=self._recipe,
            arguments=["quantize", *self._work, *words(vllm=vllm)],
            results=["manifest.json"],
            writes=self._folder,
            needs=Needs(gpus=self._gpu * processes_of(self.one.plan), memory=self._memory("quantize")),
        )

    def baseline(self, suite: str) -> Stage:
        request = _of_model(self.one.requests[suite])
        scoring = self.options.scoring
        if scoring.extend:
            scoring = replace(scoring, extend=False, limit=first_look(self.one.requests[suite]))
        return Stage(
            key=_baseline_key(self.one, request),
            verb="baseline",
            model=self._model,
            of=request.suite.name,
            arguments=[*self._scoring(suite, scoring), "--only-model"],
            results=[f"scores/{request.suite.name}-*/score.json"],
            writes=baseline(self.one.model, self._folder.parent).keeps,
            needs=self._needs_to_score(request),
        )

    def evaluate(self, suite: str, made: Stage, alone: Stage, last: Stage) -> Stage:
        request = self.one.requests[suite]
        return Stage(
            key=digests.sha256_json([made.key, alone.key, [gate.text for gate in request.gates]]),
            verb="evaluate",
            model=self._model,
            recipe=self._recipe,
            of=request.suite.name,
            arguments=[*self._scoring(suite, self.options.scoring), *words(gate=self.options.scoring.gate)],
            results=["accuracy.json", "accuracy/*.json"],
            writes=self._folder,
            needs=self._needs_to_score(request),
            after=list(dict.fromkeys([made.key, alone.key, last.key])),
            requires=[made.key, alone.key],
        )

    def bench(self, name: str, made: Stage, last: Stage) -> Stage:
        load, where = self.one.loads[name], self.one.workloads[name]
        how = sweep_words.of_serving(self.options.serving)
        return Stage(
            key=digests.sha256_json([made.key, workload.record(load).dump(), self.options.serving.pairing]),
            verb="bench",
            model=self._model,
            recipe=self._recipe,
            of=load.name,
            arguments=["bench", *self._work, "--workload", where, *how, *words(largest=self._largest(name))],
            results=["throughput.json", "throughput/*.json"],
            writes=self._folder,
            needs=Needs(gpus=self._gpu * load.engine.devices, memory=self._memory("bench"), alone=True),
            after=list(dict.fromkeys([made.key, last.key])),
            requires=[made.key],
        )

    def _largest(self, load: str) -> int | None:
        """Bytes of the largest checkpoint of the model under this workload, by which the servers of all are paired:
        the report compares only what was measured alike. None where there is one alone."""
        beside = [
            cell.plan.checkpoint_bytes for cell in self.cells if cell.model.name == self._model and load in cell.loads
        ]
        return max(beside) if len(beside) > 1 else None

    @property
    def _model(self) -> str:
        return self.one.model.name

    @property
    def _recipe(self) -> str:
        return self.one.plan.recipe.name

    @property
    def _folder(self) -> Path:
        return self.one.artifact(self.options.work.out.absolute()).folder

    @property
    def _work(self) -> list[str]:
        return [self.one.recipe, "--model", self.one.source, *sweep_words.of_work(self.options.work)]

    def _scoring(self, suite: str, scoring: Scoring) -> list[str]:
        how = sweep_words.of_scoring(replace(self.options, scoring=scoring))
        return ["evaluate", *self._work, "--suite", self.one.suites[suite], *how]

    @property
    def _gpu(self) -> int:
        """1 where nodes have any."""
        return int(any(node.gpus for node in self.nodes))

    def _memory(self, stage: str) -> int:
        """Bytes at its peak, by the plan; 0 where the engine is told (on a GPU)."""
        machine = needed.Machine(free=max(node.memory for node in self.nodes), disk=0, speeds=None, compute="stored")
        found = needed.stages(self.one.plan, self.one.model, self.options.work.out, machine)
        return next(one.memory or 0 for one in found if one.name == stage)

    def _needs_to_score(self, request: Request) -> Needs:
        """With as many GPUs as the engine takes, or as transformers spreads the model over."""
        memory = self._memory("evaluate")
        of_node = max((node.gpu_memory for node in self.nodes), key=len)
        if not of_node:
            return Needs(gpus=self._gpu, memory=memory)
        if request.backend == "hf":
            return Needs(gpus=min(len(of_node), -(-memory // min(of_node))), memory=memory)
        need = request.need([self.one.plan], self.one.model)
        return Needs(gpus=fit.fitted(request.engine, need, of_node).engine.devices, memory=memory)


def _of_model(request: Request) -> Request:
    """What the model alone is asked, of which no gate decides how many documents it takes: with --extend, those of the
    first look."""
    return replace(request.with_limit(first_look(request)), extend=False) if request.extend else request


def _baseline_key(one: PlannedCell, request: Request) -> str:
    """The digest of the model's scores; they lie in one folder for each name of a model."""
    return digests.sha256_json([one.model.name, baseline(one.model, Path()).key(request)])


def _quantize_key(one: PlannedCell) -> str:
    """The digest of the artifact; chats that are yet to be written have none, so there it is that of what is asked."""
    if own_chats.to_be_written(one.plan.recipe.calibration):
        return digests.sha256_json([one.model.identity().digest, one.plan.recipe.dump()])
    return digests.sha256_json([one.model.name, one.plan.recipe.name, inputs_of(one.plan, one.model).digest])


def gates(out: Path, cells: Sequence[PlannedCell]) -> dict[str, list[Gate]]:
    """How the gates of every cell and suite are decided in the results that are there, by their names for people."""
    found = {}
    for one in cells:
        for suite in (request.suite.name for request in one.requests.values()):
            known = results_of(one.artifact(out), Accuracy).known(suite)
            found[f"{one.model.name} with {one.plan.recipe.name}, {suite}"] = known.gates if known else []
    return found


def there(options: Options, cells: Sequence[PlannedCell], stages: Sequence[Stage]) -> set[str]:
    """The keys of those stages that would find on this machine that they have nothing to do."""
    cells = [one.scored_with(bool(environment.gpus())) for one in cells]
    by_recipe = {(one.model.name, one.plan.recipe.name): one for one in cells}
    of_cells = [stage for stage in stages if stage.recipe]
    made = {stage.key for stage in of_cells if _is_there(options, by_recipe[stage.model, stage.recipe or ""], stage)}
    return made.union(*(_scored_alone(options, one) for one in cells))


def _scored_alone(options: Options, one: PlannedCell) -> Iterator[str]:
    """The keys of the stages of a cell by which nothing of the model itself would be scored."""
    subject = baseline(one.model, one.artifact(options.work.out).folder.parent)
    for request in map(_of_model, one.requests.values()):
        if subject.is_scored(request):
            yield _baseline_key(one, request)


def _is_there(options: Options, one: PlannedCell, stage: Stage) -> bool:
    artifact = one.artifact(options.work.out)
    known = artifact.manifest()
    if known is None or own_chats.to_be_written(one.plan.recipe.calibration):
        return False
    if known.digest != inputs_of(one.plan, one.model).digest:
        return False
    if stage.verb == "evaluate":
        request = next(request for request in one.requests.values() if request.suite.name == stage.of)
        return is_scored(artifact, one.model, request)
    if stage.verb == "bench":
        load = next(load for load in one.loads.values() if load.name == stage.of)
        load = load.model_copy(
            update={"engine": fit.for_load(load, [one.plan], one.model.config, options.serving.pairing).engine}
        )
        return serving_stage.is_measured(artifact, one.model, load, options.serving.sides())
    return True
