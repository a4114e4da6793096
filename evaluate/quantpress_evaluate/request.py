"""What an evaluation is asked to do, resolved and checked before anything is loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantpress.artifact.accuracy import ScoredTask, Settings
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model.source import Model
from quantpress.plan import arithmetic
from quantpress.plan.resolve import Plan
from quantpress.plan.sizes import Loadable
from quantpress.quantize.stage import try_template
from quantpress.recipe.truthful import untruthful
from quantpress.runtime import atomic, digests, environment, locks
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.worker import without_log_of_wrong_input
from quantpress_evaluate import backend, workers
from quantpress_evaluate.backend import SCORING
from quantpress_evaluate.comparison import gates
from quantpress_evaluate.comparison.gates import Requirement
from quantpress_evaluate.kept_tasks import KNOWN_TASKS, KnownTasks, kept_tasks
from quantpress_evaluate.suite import ResolvedTask, Suite
from quantpress_serve.server import fit
from quantpress_serve.server.fit import Asked, Need
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.engine import Engine

# Raise this when a change here, in score_worker.py or in tasks_worker.py makes the same checkpoint score otherwise.
STAGE = 5
# What of a task decides its scores. Metric, filter and weight choose among them and come after.
_DECISIVE = {"task", "like", "num_fewshot", "limit", "documents", "sha256"}
# ... and of one whose documents are drawn.
_DRAWN = {"seed"}


@dataclass(frozen=True)
class Request:
    """A suite with its tasks resolved (suite.resolve_tasks), the gates, and how to score.

    `backend` is hf or vllm, or auto until a checkpoint is known. `compute_dtype` is that of transformers, auto until
    the model is known. `engine` is that of vLLM, fitted to this machine once the checkpoints are known
    (`for_checkpoints`). `extend`: more documents until every gate is decided.
    """

    suite: Suite
    tasks: list[ResolvedTask]
    gates: tuple[Requirement, ...] = ()
    noise_floor: bool = False
    backend: str = "auto"
    vllm: str | None = None
    compute_dtype: str = "auto"
    engine: Engine = field(default_factory=Engine)
    count_no_signal: bool = False
    extend: bool = False

    @property
    def device(self) -> str:
        return "cuda" if environment.gpus() else "cpu"

    def for_model(self, model: Model) -> Request:
        """The same with the type in which transformers computes this model on this machine.

        Raises InputError if questions are to be put as a chat, and the model's chat template does not take them.
        """
        if self.suite.chat_template and not model.has_chat_template:
            raise InputError(
                f"the suite {self.suite.name} puts questions as a chat, and {model.name} has no chat template",
                hint="name another --suite, or set chat_template: false in it",
            )
        if self.suite.chat_template:
            _try_template(self.suite.name, model, examples=any(task.num_fewshot != 0 for task in self.tasks))
        return replace(self, compute_dtype=arithmetic.compute_dtype(model, self.compute_dtype))

    def for_plans(self, plans: Sequence[Plan], model: Model) -> Request:
        """`for_checkpoints` of recipes."""
        return self.for_checkpoints(plans, [untruthful(plan.recipe.dump()) for plan in plans], model)

    def for_checkpoints(self, checkpoints: Sequence[Loadable], reasons: Sequence[str | None], model: Model) -> Request:
        """The same with an engine that fits this machine, the same one for the model and all of its checkpoints.

        `reasons` say of each why transformers does not compute it as vLLM does. Raises CapabilityError if vLLM is to
        score one of them, and no such engine fits.
        """
        by_vllm = any(self.for_checkpoint(reason)[0].backend == "vllm" for reason in reasons)
        try:
            found = fit.fitted(self.engine, self.need(checkpoints, model))
        except CapabilityError:
            if by_vllm:
                raise
            return self
        if by_vllm:
            fit.say(found)
        return replace(self, engine=found.engine)

    def need(self, checkpoints: Sequence[Loadable], model: Model) -> Need:
        """What a server needs that scores the model or any of its checkpoints."""
        context = backend.context(model.path, self.suite.max_length) + 2  # which lm-eval's client sets aside
        asked = Asked(context=context, at_once=self.suite.batch_size)
        return fit.need_of(checkpoints, model.config, self.engine, asked, fit.largest(checkpoints))

    def for_checkpoint(self, untruthful: str | None, gpus: bool | None = None) -> tuple[Request, str]:
        """The same with a backend that computes what a checkpoint is, and why that one; `untruthful` says why
        transformers does not, and `gpus` whether there are any where it will be scored (None: on this machine)."""
        chosen, reason = backend.backend_for(untruthful, self.backend, gpus)
        return replace(self, backend=chosen), reason

    def in_other_batches(self) -> Request:
        """The same request with another batch size: what it changes in a score means nothing."""
        other = self.suite.batch_size // 2 or 2
        return replace(self, suite=self.suite.model_copy(update={"batch_size": other}))

    def with_limit(self, limit: int) -> Request:
        """The same on a sample of `limit` documents of each task that does not name its documents."""
        return replace(self, tasks=[task.limited(limit, self.suite.seed) for task in self.tasks])

    def as_scored(self, settings: Settings) -> Request:
        """The same documents as an evaluation by these settings came to, without gates to decide."""
        limits = {task.task: task.limit for task in settings.tasks}
        tasks = [task.limited(limits[task.task], self.suite.seed) for task in self.tasks]
        return replace(self, tasks=tasks, gates=(), extend=False)

    def by_the_other_backend(self) -> Request | None:
        """The same request to the other engine, where there is one: what that changes in a score means nothing."""
        if self.backend == "vllm":
            return replace(self, backend="hf")
        if self.engine.tensor_parallel_size == "auto" and environment.gpus():
            return None  # no engine fitted
        try:
            find_vllm(self.vllm)
        except CapabilityError:
            return None
        return replace(self, backend="vllm")

    def settings(self) -> Settings:
        """Everything but the model that decides a score.

        What is set here names kept scores (Settings.decisive), None included: leave nothing out, and raise STAGE with
        what you add.
        """
        vllm = find_vllm(self.vllm) if self.backend == "vllm" else None
        settings = Settings(
            suite=self.suite.name,
            tasks=[
                ScoredTask(**task.model_dump(include=_DECISIVE | (_DRAWN if task.limit else set())))
                for task in self.tasks
            ],
            batch_size=self.suite.batch_size,
            max_length=self.suite.max_length,
            chat_template=self.suite.chat_template,
            stage=STAGE,
            backend=self.backend,
            compute_dtype=None if vllm else self.compute_dtype,
            device=self.device,
            versions=backend.versions("vllm" if vllm else "hf", vllm),
        )
        deciding = self.engine.deciding() if vllm else {}
        return settings.model_copy(update={"engine": deciding}) if deciding else settings


def _try_template(suite: str, model: Model, examples: bool) -> None:
    """Questions with examples are put as turns, and without a system message."""
    roles = ("user", "assistant", "user") if examples else ("user",)
    turns = [{"role": role, "content": "A text."} for role in roles]
    questions = cache_folder() / "chats" / "questions.jsonl"
    atomic.write_text(questions, json.dumps({"messages": turns}) + "\n")
    try:
        try_template([questions], model)
    except InputError as error:
        why = error.message.removeprefix(f"{questions.resolve()}:1: ")
        if why == error.message:  # not of the conversation, which is ours and nobody can change
            raise
        raise InputError(
            f"the suite {suite} puts questions as a chat: {why}",
            hint="name another --suite, or set chat_template: false in it",
        ) from error


def checked(request: Request) -> Request:
    """The request with groups resolved and `available` documents counted, asked of lm-eval; the answer is kept.

    Raises InputError for tasks, metrics, documents or gates that do not work, CapabilityError for documents out of
    reach.
    """
    first = max((task.limit or 0 for task in request.tasks), default=0) or None
    if request.extend:  # any document may be scored, so all of them are tried
        request = replace(request, tasks=[task.limited(None, 0) for task in request.tasks])
    asked = [task.dump() for task in request.tasks]
    # Of the environment too (sys.prefix): definitions name files that are installed in it.
    decisive = [KNOWN_TASKS, asked, environment.versions(SCORING), STAGE, sys.prefix]
    folder = cache_folder() / "tasks"
    kept = folder / f"{digests.sha256_json(decisive)[:16]}.json"
    tasks = kept_tasks(kept)
    if tasks is None:
        with locks.turn(kept), atomic.staging(folder / kept.stem) as staged:
            if kept_tasks(kept) is None:
                _ask(request, kept, staged)
        tasks = kept_tasks(kept)
    if tasks is None:
        raise StageError(
            f"{kept} could not be kept", hint="name a cache folder that can be written in QUANTPRESS_CACHE"
        )
    if request.extend:  # where to begin, also beyond the documents that a small task has
        known = [task if task.documents else task.model_copy(update={"limit": first}) for task in tasks]
    else:
        known = [task.limited(task.limit, request.suite.seed) for task in tasks]
    request = replace(request, tasks=known)
    _require_gates_to_decide(request)
    return request


def _ask(request: Request, kept: Path, staged: Path) -> None:
    cache = (cache_folder() / "datasets").resolve()  # definitions name it
    job = workers.TasksJob(tasks=request.tasks, output=staged.resolve(), cache=cache)
    log = kept.with_suffix(".log")
    log.unlink(missing_ok=True)
    with without_log_of_wrong_input(log):
        result = workers.TASKS.run(job, staged, f"checking the tasks of {request.suite.name}", log)
    atomic.write_kept(kept, KnownTasks(tasks=result.tasks).dump())
    log.unlink(missing_ok=True)


def _require_gates_to_decide(request: Request) -> None:
    """Raises InputError for a gate of no task, and for looking again without any gate."""
    groups = [task.task for task in request.suite.tasks]
    gates.require_tasks(request.gates, [task.task for task in request.tasks], groups)
    if request.extend and not request.gates:
        raise InputError("--extend decides gates, and there is none", hint="name one with --gate 'recovery>=0.99'")
