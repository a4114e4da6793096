"""The evaluate stage: the model and a recipe's checkpoint on the same documents; each scored once and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantpress import environment, files, manifest, process
from quantpress.console import Console
from quantpress.errors import GateError
from quantpress.manifest import Artifact
from quantpress.model import Model, cache_folder
from quantpress_evaluate import compare, gates
from quantpress_evaluate.gates import Gate
from quantpress_evaluate.suite import Suite

# Raise this when a change here or in score.py makes the same checkpoint score otherwise.
STAGE = 2
# Raise this when compare.py makes other figures of the same scores.
COMPARISON = 1


@dataclass(frozen=True)
class Request:
    """A suite resolved: its tasks with the files their documents come from."""

    suite: Suite
    tasks: list[dict[str, Any]]
    limit: int | None
    gates: tuple[Gate, ...] = ()
    noise_floor: bool = False

    def in_other_batches(self) -> Request:
        """The same request with another batch size: what it changes in a score means nothing."""
        other = self.suite.batch_size // 2 or 2
        return replace(self, suite=self.suite.model_copy(update={"batch_size": other}))

    def settings(self) -> dict[str, Any]:
        """Everything but the model that decides a score."""
        return {
            "suite": self.suite.name,
            "tasks": [{k: v for k, v in task.items() if k != "data"} for task in self.tasks],
            "num_fewshot": self.suite.num_fewshot,
            "limit": self.limit or self.suite.limit,
            "batch_size": self.suite.batch_size,
            "stage": STAGE,
            "backend": "hf",
            "device": "cuda" if environment.gpus() else "cpu",
            "versions": environment.versions(environment.SCORING),
        }


def evaluate(artifact: Artifact, model: Model, request: Request, console: Console) -> dict[str, Any]:
    """Scores the model (once, shared by all its recipes) and the checkpoint, and writes accuracy.json.

    Raises StageError if there is no finished checkpoint or lm-eval fails.
    """
    record = artifact.finished()
    baseline_folder = artifact.folder.parent / "baseline"
    trust, model_digest = model.trust_remote_code, model.identity()["digest"]
    known = artifact.result("accuracy")
    if known and (changed := manifest.differences(known["settings"], request.settings())):
        console.say(f"  {artifact.name} is scored otherwise than before; changed: {', '.join(changed)}")
    baseline = _scored("baseline", model.path, model_digest, baseline_folder, request, console, trust)
    reference = baseline_folder / "scores" / baseline["folder"]
    candidate = _scored(
        *(artifact.name, artifact.checkpoint, record["digest"], artifact.folder, request, console, trust), reference
    )
    runs = {"baseline": baseline, "candidate": candidate}
    other = request.in_other_batches()
    if request.noise_floor or _is_scored(model_digest, baseline_folder, other):
        runs["again"] = _scored("baseline", model.path, model_digest, baseline_folder, other, console, trust, reference)
    key = files.sha256_json([COMPARISON, *(run["key"] for run in runs.values())])
    if known and known["key"] == key:
        result = dict(known)
    else:
        result = {
            "schema_version": manifest.SCHEMA_VERSION,
            "checkpoint_digest": record["digest"],
            "key": key,
            "model_digest": model_digest,
            "suite": request.suite.name,
            "settings": request.settings(),
            **compare.compare_suite(_samples(request, reference, artifact.folder / "scores" / candidate["folder"])),
            "noise_floor": _noise(request, reference, runs),
            "runs": runs,
            "machine": environment.machine(),
        }
    result["gates"] = [gates.decide(gate, result) for gate in request.gates]
    for gate in request.gates:
        if gates.is_below_the_noise(gate, result["noise_floor"]):
            console.warn(f"gate {gate.text} asks for less than the model differs from itself in other batches")
    if result != known:
        files.write_json(artifact.folder / "accuracy.json", result)
    return result


def _noise(request: Request, reference: Path, runs: dict[str, Any]) -> dict[str, Any] | None:
    """How far the unquantized model is from itself when it is scored in batches of another size."""
    if "again" not in runs:
        return None
    again = reference.parent / runs["again"]["folder"]
    overall: dict[str, Any] | None = compare.compare_suite(_samples(request, reference, again))["overall"]
    return overall


def _samples(request: Request, baseline: Path, candidate: Path) -> dict[str, Any]:
    """For each task its metric and both sides' logged samples."""
    return {
        task["task"]: (task["metric"], *(compare.read_samples(side, task["task"]) for side in (baseline, candidate)))
        for task in request.tasks
    }


def require_gates(results: dict[str, dict[str, Any]]) -> None:
    """Raises GateError naming every gate of these results, by recipe, that was not passed."""
    missed = [
        f"{name}: {gate['gate']} {_verdict(gate)}"
        for name, result in results.items()
        for gate in result["gates"]
        if gate["decision"] != "pass"
    ]
    if missed:
        raise GateError(
            "\n       ".join(missed), hint="the results are there; more documents narrow an inconclusive interval"
        )


def _verdict(gate: dict[str, Any]) -> str:
    if gate["interval"] is None:
        return "cannot be decided: there is no figure"
    low, high = gate["interval"]
    word = "failed" if gate["decision"] == "fail" else "is inconclusive"
    return f"{word}: {gate['figure']:.4g}, 95% interval {low:.4g} to {high:.4g}"


def _place(digest: str, folder: Path, request: Request) -> tuple[str, Path]:
    """The key of a model's scores under a request, and the folder that keeps them."""
    key = files.sha256_json({"model": digest, "settings": request.settings()})
    return key, folder / "scores" / f"{request.suite.name}-{key[:12]}"


def _is_scored(digest: str, folder: Path, request: Request) -> bool:
    return (_place(digest, folder, request)[1] / "score.json").is_file()


def _scored(
    role: str,
    path: Path,
    digest: str,
    folder: Path,
    request: Request,
    console: Console,
    trust_remote_code: bool,
    reference: Path | None = None,
) -> dict[str, Any]:
    """The scores of one model under these settings; lm-eval runs only if they are not there yet."""
    settings = request.settings()
    key, final = _place(digest, folder, request)
    if (final / "score.json").is_file():
        console.say(f"✓ {role} on {request.suite.name}: scored before, nothing to do")
        return dict(files.read_json(final / "score.json"))
    with files.lock(final), files.staging(final) as staged:
        log = folder.parent / "logs" / f"{role}.evaluate.log"
        log.unlink(missing_ok=True)
        job = {
            "model": str(path.resolve()),
            "tasks": request.tasks,
            **{name: settings[name] for name in ("num_fewshot", "limit", "batch_size", "device")},
            "trust_remote_code": trust_remote_code,
            "reference": str(reference.resolve()) if reference else None,
            "output": str(staged.resolve()),
            "cache": str((cache_folder() / "datasets").resolve()),
        }
        started = time.time()
        title = f"scoring {role} on {request.suite.name}"
        worker = "quantpress_evaluate.score"
        result = process.call_worker(worker, job, staged, console, title, log)
        score = {
            "schema_version": manifest.SCHEMA_VERSION,
            "key": key,
            "folder": final.name,
            **result,
            "seconds": round(time.time() - started, 1),
            "command": _by_hand(job, final),
        }
        files.write_json(staged / "score.json", score)
        files.publish(staged, final)
    return score


def _by_hand(job: dict[str, Any], final: Path) -> str:
    """The lm-eval command that gives the same numbers."""
    names = ",".join(task["task"] for task in job["tasks"])
    trust = ",trust_remote_code=True" if job["trust_remote_code"] else ""
    command = (
        f"lm_eval run --model hf --model_args pretrained={job['model']},dtype=auto{trust} --tasks {names} "
        f"--include_path {final.resolve() / 'tasks'} --batch_size {job['batch_size']} --device {job['device']} "
        "--log_samples --output_path OUT"
    )
    if job["limit"]:
        command += f" --limit {job['limit']}"
    return command + (f" --num_fewshot {job['num_fewshot']}" if job["num_fewshot"] is not None else "")
