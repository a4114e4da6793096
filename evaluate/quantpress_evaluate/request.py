"""What an evaluation is asked to do, resolved and checked before anything is loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

from quantpress.errors import InputError
from quantpress.model.source import Model, cache_folder
from quantpress.plan import arithmetic
from quantpress.runtime import atomic, digests, environment, worker
from quantpress_evaluate import backend
from quantpress_evaluate.backend import SCORING
from quantpress_evaluate.comparison.gates import Gate
from quantpress_evaluate.suite import Suite
from quantpress_serve.vllm import find_vllm

# Raise this when a change here, in score.py or in tasks.py makes the same checkpoint score otherwise.
STAGE = 3
# What is known of a task but does not decide a score.
_NOT_DECISIVE = ("data", "weight", "available", "definition", "metric", "filter")


@dataclass(frozen=True)
class Request:
    """A suite with its tasks resolved (suite.resolve_tasks), the gates, and how to score.

    `backend` is hf or vllm, or auto until a recipe is known. `compute_dtype` is that of transformers, auto until the
    model is known. `extend`: more documents until every gate is decided.
    """

    suite: Suite
    tasks: list[dict[str, Any]]
    gates: tuple[Gate, ...] = ()
    noise_floor: bool = False
    backend: str = "auto"
    vllm: str | None = None
    compute_dtype: str = "auto"
    count_no_signal: bool = False
    extend: bool = False

    @property
    def device(self) -> str:
        return "cuda" if environment.gpus() else "cpu"

    def on(self, model: Model) -> Request:
        """The same with the type in which transformers computes this model on this machine."""
        return replace(self, compute_dtype=arithmetic.compute_dtype(model, self.compute_dtype))

    def for_recipe(self, recipe: dict[str, Any]) -> tuple[Request, str]:
        """The same with a backend that computes what this recipe's checkpoint is, and why that one."""
        chosen, reason = backend.choose(self.backend, recipe)
        return replace(self, backend=chosen), reason

    def in_other_batches(self) -> Request:
        """The same request with another batch size: what it changes in a score means nothing."""
        other = self.suite.batch_size // 2 or 2
        return replace(self, suite=self.suite.model_copy(update={"batch_size": other}))

    def with_limit(self, limit: int) -> Request:
        """The same for the first `limit` documents of each task that does not name its documents."""
        tasks = [task if task["documents"] else task | {"limit": limit} for task in self.tasks]
        return replace(self, tasks=tasks)

    def settings(self) -> dict[str, Any]:
        """Everything but the model that decides a score."""
        found = find_vllm(self.vllm) if self.backend == "vllm" else None
        return {
            "suite": self.suite.name,
            "tasks": [{k: v for k, v in task.items() if k not in _NOT_DECISIVE} for task in self.tasks],
            "batch_size": self.suite.batch_size,
            "max_length": self.suite.max_length,
            "chat_template": self.suite.chat_template,
            "stage": STAGE,
            "backend": self.backend,
            "compute_dtype": None if found else self.compute_dtype,
            "device": self.device,
            "versions": backend.versions("vllm" if found else "hf", found),
        }


def checked(request: Request) -> Request:
    """The request with groups resolved and `available` documents counted, asked of lm-eval; the answer is kept.

    Raises InputError for tasks, metrics or documents that do not work, CapabilityError for documents out of reach.
    """
    versions = environment.versions(SCORING)
    key = digests.sha256_json([request.tasks, versions, STAGE, sys.prefix])[:16]  # definitions name installed files
    folder = cache_folder() / "tasks"
    kept = folder / f"{key}.json"
    if not kept.is_file():
        with atomic.staging(folder / key) as staged:
            cache = (cache_folder() / "datasets").resolve()  # definitions name it
            job = {"tasks": request.tasks, "output": str(staged.resolve()), "cache": str(cache)}
            title, log = f"checking the tasks of {request.suite.name}", folder / f"{key}.log"
            try:
                result = worker.call_worker("quantpress_evaluate.tasks_worker", job, staged, title, log)
            except InputError as error:
                log.unlink(missing_ok=True)
                raise InputError(error.message, hint=error.hint) from error
            atomic.write_json(kept, result["tasks"])
            log.unlink(missing_ok=True)
    tasks = atomic.read_json(kept)
    _check_gates(request, tasks)
    return replace(request, tasks=tasks)


def _check_gates(request: Request, tasks: list[dict[str, Any]]) -> None:
    names = [task["task"] for task in tasks]
    for gate in request.gates:
        if gate.task is not None and gate.task not in names:
            raise InputError(
                f"gate {gate.text!r}: {gate.task!r} is a group", hint=f"its tasks: {', '.join(names)[:400]}"
            )
    if request.extend and not request.gates:
        raise InputError("--extend decides gates, and there is none", hint="name one with --gate 'recovery>=0.99'")
