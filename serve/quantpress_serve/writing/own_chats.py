"""`calibration.dataset: self`: the model writes its own chats with vLLM, once, before it is quantized."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from quantpress.artifact.manifest import Written
from quantpress.errors import CapabilityError, InputError, StageError, of_the_environment
from quantpress.language import shipped
from quantpress.model.config import positions
from quantpress.model.source import Model
from quantpress.plan import sizes
from quantpress.quantize import own_chats
from quantpress.quantize.calibration_data import tokens_by_source
from quantpress.recipe.recipe import OWN_DATASET, Calibration, Source
from quantpress.runtime import atomic, console, digests, environment, free_memory, process
from quantpress.runtime.cache import cache_folder, made_once
from quantpress_serve import surroundings
from quantpress_serve.server import causes, memory
from quantpress_serve.vllm import find_vllm, python_of, serving_environment, vllm_version

TEMPERATURE = 0.8
MAX_ANSWER_TOKENS = 640
AT_ONCE = 64  # conversations
_CONTEXT = 4096  # tokens that a conversation may have
_LEAST_CONTEXT = 512  # tokens, in which two short answers and their questions have room
_BESIDE_ANSWERS = 256  # tokens of questions and of what the chat template adds
_SCRIPT = Path(__file__).with_name("chats_probe.py")
# The chat template counts some tokens otherwise when it is given a whole conversation.
_MARGIN = 1.02


def with_own_chats(calibration: Calibration, model: Model, weight_bytes: int, vllm: str | None) -> Calibration:
    """The same with the chats written that its sources `self` stand for: each names them by its revision.

    They are written once for the same model, vLLM, questions and number of tokens. Raises InputError for a model that
    cannot chat, CapabilityError without a vLLM or with too little memory, StageError if vLLM fails.
    """
    needed = zip(calibration.sources, tokens_by_source(calibration), strict=True)
    return calibration.with_sources([_written(source, tokens, model, weight_bytes, vllm) for source, tokens in needed])


def to_be_written(calibration: Calibration | None) -> int:
    """How many tokens the model is to write for this data, as far as they are not named by a revision."""
    if calibration is None:
        return 0
    needed = zip(calibration.sources, tokens_by_source(calibration), strict=True)
    return sum(tokens for source, tokens in needed if _is_open(source))


def require_chatting(calibration: Calibration | None, model: Model) -> None:
    """Raises InputError for a model that is to write chats and cannot; reads no weight."""
    if to_be_written(calibration):
        _context(model)


def require_writable(calibration: Calibration | None, model: Model, vllm: str | None) -> None:
    """What `with_own_chats` raises where the model or the vLLM cannot do it; nothing is written."""
    require_chatting(calibration, model)
    if to_be_written(calibration):
        _python(find_vllm(vllm))


def _is_open(source: Source) -> bool:
    return source.dataset == OWN_DATASET and source.revision is None


def _written(source: Source, tokens: int, model: Model, weight_bytes: int, named: str | None) -> Source:
    if not _is_open(source):
        return source
    vllm, questions = find_vllm(named), shipped.folder("recipes") / "calibration" / "questions.jsonl"
    context = _context(model)
    longest_answer = min(MAX_ANSWER_TOKENS, (context - _BESIDE_ANSWERS) // 2)
    settings = {
        "tokens": int(tokens * _MARGIN),
        "context": context,
        "at_once": AT_ONCE,
        "max_answer_tokens": longest_answer,
        "temperature": TEMPERATURE,
        "trust_remote_code": model.trust_remote_code,
    }
    # The machine's: another one, or another number of its GPUs, is no reason to write other chats.
    on_this_machine = {"tensor_parallel_size": _gpus_for(model), "enforce_eager": not environment.gpus()}
    digest, version, prompts = model.identity().digest, vllm_version(vllm), digests.sha256_file(questions)
    scripts = [digests.sha256_file(path) for path in (_SCRIPT, _SCRIPT.with_name("repetition.py"))]
    revision = digests.sha256_json([digest, version, prompts, settings, scripts])[:16]

    def write(staged: Path) -> None:
        if not environment.gpus():  # which would hold the weights themselves
            free_memory.require_for_model(weight_bytes, meanwhile="it writes chats for its calibration")
        places = {"model": model.path, "questions": questions, "folder": staged}
        job = {name: str(path.resolve()) for name, path in places.items()} | settings | on_this_machine
        made = _run(_python(vllm), job, staged, model, weight_bytes)
        about = Written(
            model=digest,
            vllm=version,
            prompts=prompts,
            temperature=TEMPERATURE,
            max_answer_tokens=longest_answer,
            **made,
        )
        _require_some(about, model)
        atomic.write_json(staged / own_chats.ABOUT, about.dump())

    made_once(own_chats.folder_of(revision), write)
    _say(own_chats.about(revision))
    return source.model_copy(update={"revision": revision})


def _context(model: Model) -> int:
    """Tokens that a conversation may have. Raises InputError for a model that cannot hold one."""
    if model.has_tokenizer and not model.has_chat_template:
        raise InputError(
            f"calibration.dataset {OWN_DATASET}: {model.name} has no chat template, so it writes no chats",
            hint="name a .jsonl with `text` in calibration.dataset, or a model that was made for chats",
        )
    longest = positions(model.config) or _CONTEXT
    if longest < _LEAST_CONTEXT:
        raise InputError(
            f"calibration.dataset {OWN_DATASET}: {model.name} has {longest} positions, and a conversation needs "
            f"{_LEAST_CONTEXT}",
            hint="name a .jsonl in calibration.dataset",
        )
    return min(_CONTEXT, longest)


def _python(vllm: Path) -> Path:
    """The Python of vLLM's environment. Raises CapabilityError for a wrapper that stands elsewhere."""
    python = python_of(vllm)
    if python is None:
        raise CapabilityError(
            f"calibration.dataset {OWN_DATASET}: there is no Python beside {vllm}, so it cannot write chats",
            hint="name the vllm of an environment with VLLM=/path/to/venv/bin/vllm, or a .jsonl in calibration.dataset",
        )
    return python


def _gpus_for(model: Model) -> int:
    """As many of this machine's GPUs as the attention heads can be split over; 1 on a CPU."""
    here = len(environment.visible_gpus())
    return max((size for size in sizes.tensor_parallel_sizes(model.config, {}, {}) if size <= here), default=1)


def _kv_space(model: Model, job: dict[str, Any], weight_bytes: int) -> int | None:
    """GiB of the KV cache on a CPU: what the conversations fill that are held together, if the machine has it."""
    if environment.gpus():
        return None
    tokens = min(job["context"], 2 * (job["max_answer_tokens"] + _BESIDE_ANSWERS))
    needed = sizes.kv_cache_bytes(model.config, tokens, job["at_once"]) or 2 * memory.GIB
    return min(memory.kv_space_alone(weight_bytes), math.ceil(needed / memory.GIB))


def _run(python: Path, job: dict[str, Any], staged: Path, model: Model, weight_bytes: int) -> dict[str, Any]:
    """Has vLLM write. Gives what the script says of it. Raises StageError with the cause if it fails."""
    name, log = model.name, cache_folder() / own_chats.KEPT / f"{model.name}.log"
    log.unlink(missing_ok=True)
    job_file = staged / "job.json"
    atomic.write_json(job_file, job)
    changes = surroundings.of_server(serving_environment(_kv_space(model, job, weight_bytes)))
    title = f"{name} writes chats for its calibration with vLLM ({job['tokens']} tokens)"
    with console.step(title, log):
        code = process.run([str(python), str(_SCRIPT), str(job_file)], log, changes)
    job_file.unlink()
    told = staged / "written.json"
    if code != 0 or not told.is_file():
        cause = causes.explain(log)
        lacking = of_the_environment(RuntimeError(cause))
        error = type(lacking) if lacking else StageError
        raise error(
            f"vLLM failed while {name} wrote its chats: {cause}",
            hint="read the log; or name a .jsonl in calibration.dataset",
            log=log,
        )
    made: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    told.unlink()
    log.unlink(missing_ok=True)
    return made


def _require_some(about: Written, model: Model) -> None:
    if not about.conversations:
        raise StageError(
            f"{model.name} wrote no chat that can be used: of {about.asked} answers {_dropped(about)}",
            hint="name a .jsonl in calibration.dataset, or quantpress-chat",
        )


def _say(about: Written) -> None:
    dropped = f"; answers left out: {_dropped(about)}" if about.dropped else ""
    console.say(f"  {about.conversations} chats of its own, {about.tokens} tokens{dropped}")


def _dropped(about: Written) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in about.dropped.items())
