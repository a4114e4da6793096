"""One model on one suite: scored once, kept under a key, continued where a killed run stopped."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.artifact import manifest
from quantpress.errors import StageError
from quantpress.runtime import atomic, console, digests, locks, worker
from quantpress_evaluate import backend
from quantpress_evaluate.request import Request
from quantpress_serve.bench.likelihoods import Scored
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.server import causes, server
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.workload import Engine


@dataclass(frozen=True)
class Subject:
    """What is scored: the folder to load, what names its content, and the folder that keeps its scores."""

    role: str
    path: Path
    digest: str
    keeps: Path
    trust_remote_code: bool

    def place(self, request: Request) -> tuple[str, Path]:
        """The key of its scores under a request, and the folder for them."""
        key = digests.sha256_json({"model": self.digest, "settings": request.settings()})
        return key, self.keeps / "scores" / f"{request.suite.name}-{key[:12]}"

    def requests(self, request: Request) -> Path:
        """The file that keeps answered requests, whatever documents were asked for: never read for another model."""
        settings = {name: value for name, value in request.settings().items() if name not in ("suite", "tasks")}
        key = digests.sha256_json({"model": self.digest, "settings": settings})
        return self.keeps / "scores" / f".requests-{key[:12]}"

    @property
    def as_scored(self) -> Scored:
        """What the likelihoods of a fixed text are kept by, to be compared with an engine's."""
        return Scored(self.path, self.digest, self.keeps, self.trust_remote_code)

    def is_scored(self, request: Request) -> bool:
        return (self.place(request)[1] / "score.json").is_file()


def score(subject: Subject, request: Request, reference: Path | None = None) -> dict[str, Any]:
    """The scores under this request; lm-eval runs only for what is not there yet.

    `reference`: the baseline's scores, by which a broken checkpoint is told. Raises StageError if it is broken, or a
    server or lm-eval fails.
    """
    key, final = subject.place(request)
    if subject.is_scored(request):
        console.say(f"✓ {subject.role} on {request.suite.name}: scored before, nothing to do")
        return dict(atomic.read_json(final / "score.json"))
    requests = subject.requests(request)
    with locks.lock(requests), atomic.staging(final) as staged:
        started = time.time()
        job = _job(subject, request, staged, requests, reference)
        title = f"scoring {subject.role} on {request.suite.name}"
        log = _log(subject, "evaluate")
        with ExitStack() as stack:
            up = stack.enter_context(_server(subject, request, job)) if request.backend == "vllm" else None
            job["server"] = {"url": up.url, "name": up.name} if up else None
            try:
                result = worker.call_worker("quantpress_evaluate.score_worker", job, staged, title, log)
            except StageError as error:
                if up and up.log and not server.healthy(up.url):
                    raise StageError(f"vLLM died while scoring: {causes.explain(up.log)}", log=up.log) from error
                raise
        if likelihoods := result.pop("likelihoods"):
            subject.as_scored.keep(request.compute_dtype, Likelihoods.model_validate(likelihoods))
        done = {
            "schema_version": manifest.SCHEMA_VERSION,
            "key": key,
            "folder": final.name,
            **result,
            "seconds": round(time.time() - started, 1),
            "server": up.command if up else None,
            "command": by_hand(job, final),
        }
        atomic.write_json(staged / "score.json", done)
        atomic.publish(staged, final)
    return done


def _log(subject: Subject, what: str) -> Path:
    log = subject.keeps.parent / "logs" / f"{subject.role}.{what}.log"
    log.unlink(missing_ok=True)
    return log


def _job(subject: Subject, request: Request, staged: Path, requests: Path, reference: Path | None) -> dict[str, Any]:
    return {
        "model": str(subject.path.resolve()),
        "tasks": request.tasks,
        "batch_size": request.suite.batch_size,
        "max_length": backend.context(subject.path, request.suite.max_length),
        "chat_template": request.suite.chat_template,
        "device": request.device,
        "compute_dtype": request.compute_dtype,
        "window": None if request.backend == "vllm" else subject.as_scored.window,
        "trust_remote_code": subject.trust_remote_code,
        "reference": str(reference.resolve()) if reference else None,
        "requests": str(requests.resolve()),
        "output": str(staged.resolve()),
    }


def _server(subject: Subject, request: Request, job: dict[str, Any]) -> Any:
    """The context of a vLLM server on the subject, with as much context as lm-eval's client counts on."""
    launch = server.Launch(
        vllm=find_vllm(request.vllm),
        path=subject.path.resolve(),
        name=subject.role,
        engine=Engine(),
        model_len=job["max_length"] + 2,
        trust_remote_code=subject.trust_remote_code,
    )
    return server.serving(launch, _log(subject, "evaluate-vllm"))


def by_hand(job: dict[str, Any], final: Path) -> str:
    """The lm-eval command that gives the same numbers: task by task, as they were scored."""
    alike: dict[str, list[str]] = {}
    for task in job["tasks"]:
        alike.setdefault(_options(task), []).append(task["task"])
    common = f"{_model_arguments(job)} --include_path {shlex.quote(str(final.resolve() / 'tasks'))}"
    common += " --apply_chat_template" if job["chat_template"] else ""
    loops = [
        f"for task in {' '.join(names)}; do lm_eval run {common} --tasks $task{options} --log_samples "
        "--output_path OUT; done"
        for options, names in alike.items()
    ]
    return "; ".join(loops)


def _model_arguments(job: dict[str, Any]) -> str:
    trust = ",trust_remote_code=True" if job["trust_remote_code"] else ""
    if job["server"]:
        arguments = (
            f"base_url={job['server']['url']}/v1/completions,model={job['server']['name']},tokenizer={job['model']},"
            f"tokenizer_backend=huggingface,max_length={job['max_length'] + 2},"
            f"num_concurrent={job['batch_size']}{trust}"
        )
        return f"--model local-completions --model_args {shlex.quote(arguments)}"
    dtype = "float32" if job["compute_dtype"] == "float32" else "auto"
    arguments = f"pretrained={job['model']},dtype={dtype},max_length={job['max_length']}{trust}"
    return f"--model hf --model_args {shlex.quote(arguments)} --batch_size {job['batch_size']} --device {job['device']}"


def _options(task: dict[str, Any]) -> str:
    options = f" --limit {task['limit']}" if task["limit"] else ""
    options += f" --num_fewshot {task['num_fewshot']}" if task["num_fewshot"] is not None else ""
    if task["documents"]:
        options += f" --samples {shlex.quote(json.dumps({task['task']: task['documents']}))}"
    return options
