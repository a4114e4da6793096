"""One model on one suite: scored once, kept under a key, continued where a killed run stopped."""

from __future__ import annotations

import shlex
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from quantpress.artifact import own
from quantpress.artifact.accuracy import Run
from quantpress.errors import StageError
from quantpress.runtime import atomic, console, digests, environment, locks, ownership
from quantpress_evaluate import backend, workers
from quantpress_evaluate.request import Request
from quantpress_evaluate.suite import ResolvedTask
from quantpress_evaluate.workers import ScoreJob, Scores, ServerAddress
from quantpress_serve.bench.likelihoods import Scored
from quantpress_serve.server import causes, devices, server
from quantpress_serve.server.server import Server
from quantpress_serve.vllm import find_vllm


@dataclass(frozen=True)
class Subject:
    """What is scored: the folder to load, what names its content, and the folder that keeps its scores.

    `seen` are the files as they were before the digest was taken: they must be the same when they were loaded. `online`
    is the method by which vLLM quantizes it while it loads it; None for what is served as it is.
    """

    role: str
    path: Path
    digest: str
    keeps: Path
    trust_remote_code: bool
    seen: digests.Seen = field(default_factory=dict)
    online: str | None = None

    def key(self, request: Request) -> str:
        """What names its scores under a request."""
        return digests.sha256_json({"model": self.digest, "settings": request.settings().decisive()})

    def scores_folder(self, request: Request) -> Path:
        """The folder for its scores under a request."""
        return self.keeps / "scores" / f"{request.suite.name}-{self.key(request)[:12]}"

    def answers_file(self, request: Request) -> Path:
        """The file that keeps answered requests, whatever documents were asked for: never read for another model."""
        settings = request.settings().decisive()
        alike = {name: value for name, value in settings.items() if name not in ("suite", "tasks")}
        key = digests.sha256_json({"model": self.digest, "settings": alike})
        return self.keeps / "scores" / f".requests-{key[:12]}"

    @property
    def as_scored(self) -> Scored:
        """What the likelihoods of a fixed text are kept by, to be compared with an engine's."""
        return Scored(self.path, self.digest, self.keeps, self.trust_remote_code, self.seen)

    def is_scored(self, request: Request) -> bool:
        return _score_file(self.scores_folder(request)).is_file()


def _score_file(folder: Path) -> Path:
    return folder / "score.json"


def score(subject: Subject, request: Request, reference: Path | None = None) -> Run:
    """The scores under this request; lm-eval runs only for what is not there yet.

    `reference`: the baseline's scores, by which a broken checkpoint is told. Raises StageError if it is broken, or a
    server or lm-eval fails.
    """
    if not subject.is_scored(request):
        with locks.turn(subject.answers_file(request)):
            if not subject.is_scored(request):  # by another run meanwhile: recipes share their baseline
                return _score(subject, request, reference)
    console.say(f"✓ {subject.role} on {request.suite.name}: scored before, nothing to do")
    return Run.load(_score_file(subject.scores_folder(request)))


def _score(subject: Subject, request: Request, reference: Path | None) -> Run:
    final, requests = subject.scores_folder(request), subject.answers_file(request)
    ownership.require_ours(final, own.score_strangers, f"move {final} away")
    with atomic.staging(final) as staged, ExitStack() as stack:
        started = time.time()
        max_length = backend.context(subject.path, request.suite.max_length)
        by_vllm = request.backend == "vllm"
        up = stack.enter_context(_server(subject, request, max_length)) if by_vllm else None
        job = ScoreJob(
            model=subject.path.resolve(),
            tasks=request.tasks,
            batch_size=request.suite.batch_size,
            max_length=max_length,
            chat_template=request.suite.chat_template,
            device=request.device,
            compute_dtype=request.compute_dtype,
            window=None if by_vllm else subject.as_scored.window,
            trust_remote_code=subject.trust_remote_code,
            reference=reference.resolve() if reference else None,
            requests=requests.resolve(),
            output=staged.resolve(),
            server=ServerAddress(url=up.url, name=up.name) if up else None,
        )
        scores = _scores(subject, request, job, up)
        stack.close()  # the server, which need not wait for what is written now
        digests.require_unchanged(subject.seen)
        if scores.likelihoods:
            subject.as_scored.keep(request.compute_dtype, scores.likelihoods)
        run = Run(
            key=subject.key(request),
            folder=final.name,
            scores=scores.scores,
            documents=scores.documents,
            task_versions=scores.task_versions,
            answered_before=scores.answered_before,
            note=scores.note,
            seconds=round(time.time() - started, 1),
            server=up.command if up else None,
            command=lm_eval_command(job, final),
        )
        if chosen := _samples(job):
            atomic.write_json(staged / _SAMPLES, chosen)
        run.save(_score_file(staged))
        atomic.publish(staged, final, own.score_strangers)
    return run


def _scores(subject: Subject, request: Request, job: ScoreJob, up: Server | None) -> Scores:
    """What lm-eval finds. Raises StageError, which names the server's end where that was the cause."""
    title, log = f"scoring {subject.role} on {request.suite.name}", _new_log(subject, "evaluate")
    try:
        return workers.SCORE.run(job, job.output, title, log)
    except StageError as error:
        if up and up.log and not server.healthy(up.url):
            raise StageError(f"vLLM died while scoring: {causes.explain(up.log)}", log=up.log) from error
        raise


def _new_log(subject: Subject, what: str) -> Path:
    log = subject.keeps.parent / "logs" / f"{subject.role}.{what}.log"
    log.unlink(missing_ok=True)
    return log


def _server(subject: Subject, request: Request, max_length: int) -> AbstractContextManager[Server]:
    """A vLLM server on the subject, with as much context as lm-eval's client counts on."""
    engine = request.engine.online(subject.online)
    launch = server.Launch(
        vllm=find_vllm(request.vllm),
        path=subject.path.resolve(),
        name=subject.role,
        engine=engine,
        devices=devices.for_one(engine),
        model_len=max_length + 2,
        trust_remote_code=subject.trust_remote_code,
    )
    return server.serving(launch, _new_log(subject, "evaluate-vllm"))


# In a folder of scores: the documents of each task that were not scored all, as lm-eval takes them.
_SAMPLES = "samples.json"


def _samples(job: ScoreJob) -> dict[str, list[int]]:
    return {task.task: chosen for task in job.tasks if (chosen := task.scored_documents())}


def lm_eval_command(job: ScoreJob, final: Path) -> str:
    """The lm-eval command that gives the same numbers as the scores in the folder `final`: task by task, as they were
    scored."""
    alike: dict[str, list[str]] = {}
    for task in job.tasks:
        alike.setdefault(_options(task), []).append(task.task)
    common = f"{_model_arguments(job)} --include_path {shlex.quote(str(final.resolve() / 'tasks'))}"
    common += " --apply_chat_template" if job.chat_template else ""
    common += f" --samples {shlex.quote(str(final.resolve() / _SAMPLES))}" if _samples(job) else ""
    loops = [
        f"for task in {' '.join(names)}; do lm_eval run {common} --tasks $task{options} --log_samples "
        "--output_path OUT; done"
        for options, names in alike.items()
    ]
    return "; ".join(loops)


def _model_arguments(job: ScoreJob) -> str:
    trust = ",trust_remote_code=True" if job.trust_remote_code else ""
    if job.server:
        arguments = (
            f"base_url={job.server.url}/v1/completions,model={job.server.name},tokenizer={job.model},"
            f"tokenizer_backend=huggingface,max_length={job.max_length + 2},"
            f"num_concurrent={job.batch_size}{trust}"
        )
        return f"--model local-completions --model_args {shlex.quote(arguments)}"
    dtype = "float32" if job.compute_dtype == "float32" else "auto"
    split = ",parallelize=True" if job.device == "cuda" and len(environment.gpu_memory()) > 1 else ""
    arguments = f"pretrained={job.model},dtype={dtype},max_length={job.max_length}{split}{trust}"
    return f"--model hf --model_args {shlex.quote(arguments)} --batch_size {job.batch_size} --device {job.device}"


def _options(task: ResolvedTask) -> str:
    return f" --num_fewshot {task.num_fewshot}" if task.num_fewshot is not None else ""
