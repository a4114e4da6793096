"""What an installed vLLM says of itself: schemes, arguments, operators. Asking takes seconds: answers are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from quantpress.errors import CapabilityError, bounded
from quantpress.plan import fused, hardware, servable
from quantpress.plan.fused import Packing
from quantpress.plan.resolve import Plan
from quantpress.recipe.presets import SCHEMES
from quantpress.runtime import atomic, console, cpu, digests, environment, locks, process
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.records import Record
from quantpress_serve.vllm import serving_environment, versions_beside, vllm_version
from quantpress_serve.workload import engine as engines
from quantpress_serve.workload.engine import Argument, Engine

# For each preset and target (sm_75 ...) the class of vLLM's that takes it, or "no: ..." with its reason.
Schemes = dict[str, dict[str, str]]

# What of its environment decides an answer, and whether it starts at all.
_DECIDING = ("vllm", "torch", "torchvision", "transformers", "compressed-tensors")


class Operators(Record):
    """The operators of vLLM's library for this CPU. `int8_is_exact` is None where it has no INT8 product,
    `rotates_heads` (operators_probe.rotates_heads) where it has no rotary operator."""

    operators: list[str]
    int8_is_exact: bool | None
    rotates_heads: bool | None


class Platform(Record):
    """What a vLLM serves on; None where it finds nothing to serve on."""

    platform: str | None


class Online(Record):
    """Of which layers a method quantizes the weights, and why this machine does not compute linear ones."""

    linear: bool
    moe: bool
    reason: str | None


class Taken(Record):
    """The method by which a vLLM would load a model, and why it does not."""

    method: str | None
    reason: str | None


class Architectures(Record):
    """What a vLLM does with each architecture, and why it serves some no more."""

    architectures: dict[str, Packing]
    dropped: dict[str, str]


def _script(what: str) -> Path:
    """A script that runs in vLLM's environment; it is not imported, since it imports vLLM."""
    return Path(__file__).with_name(f"{what}_probe.py")


def _kept(vllm: Path, script: Path, words: list[str]) -> Path:
    machine, installed = sorted(cpu.features()), versions_beside(vllm, _DECIDING)
    known = digests.sha256_json([str(vllm), installed, digests.sha256_file(script), machine, words])
    return cache_folder() / "vllm" / f"{known[:16]}.json"


def schemes(vllm: Path) -> Schemes:
    """Which presets this vLLM takes at which target. Raises CapabilityError if it cannot be asked."""
    answer = _answer(vllm, _script("schemes"), [json.dumps(sorted(SCHEMES))], "what it takes")
    return TypeAdapter(Schemes).validate_python(answer)


def arguments(vllm: Path) -> dict[str, Argument]:
    """The arguments of `vllm serve` by name, as vLLM's own parser knows them.

    Raises CapabilityError if this vLLM cannot be asked.
    """
    answer = _answer(vllm, _script("arguments"), [], "for its arguments")
    return TypeAdapter(dict[str, Argument]).validate_python(answer)


def require_engine(engine: Engine, vllm: Path) -> None:
    """Raises InputError for an engine setting that this vLLM does not take. It is asked only if any is set; where it
    cannot be asked, that is said."""
    if engine == Engine(max_model_len=engine.max_model_len):
        return
    try:
        known = arguments(vllm)
    except CapabilityError as error:
        console.warn(f"{error.message}; the engine settings go to it unchecked")
        return
    engines.require_taken(engine, known, vllm_version(vllm))


def online(vllm: Path) -> dict[str, Online]:
    """By which names this vLLM quantizes weights while it loads them, each tried on this machine; an older has none.

    Raises CapabilityError if this vLLM cannot be asked.
    """
    answer = _answer(vllm, _script("online"), environment.gpus(), "what it quantizes while it loads")
    return TypeAdapter(dict[str, Online]).validate_python(answer)


def require_taken(model: Path, vllm: Path, trust_remote_code: bool = False) -> None:
    """Raises CapabilityError, with vLLM's own reason, for a model that this vLLM does not take by its config, and if it
    cannot be asked. What its kernels take is not found before it is loaded."""
    config = model / "config.json"
    trust = "trusted" if trust_remote_code else "untrusted"
    words = [str(model), trust, digests.sha256_file(config) if config.is_file() else "", *environment.gpus()]
    answer = _answer(vllm, _script("takes"), words, f"whether it takes {model.name}")
    if reason := Taken.model_validate(answer).reason:
        raise CapabilityError(
            f"vLLM {vllm_version(vllm)} does not take {model}: {bounded(reason)}",
            hint="--dequantize adopts the 16 bits that its weights are, where that can be done; --vllm names another; "
            "--target any asks none",
        )


def architectures(vllm: Path, *names: str) -> Architectures:
    """What this vLLM does with models of these architectures: seconds; without names of all, half a minute.

    Raises CapabilityError if this vLLM cannot be asked.
    """
    what = f"what it makes of {', '.join(names)}" if names else "for its architectures"
    return Architectures.model_validate(_answer(vllm, _script("packing"), list(names), what))


def platform(vllm: Path) -> str | None:
    """What this vLLM serves on here, in its own words: cpu, cuda, rocm, xpu, tpu ...; None where it cannot tell.

    A build for CPUs serves on nothing else, and NVIDIA's GPUs are seen without vLLM: only others are asked.
    """
    if environment.gpus():
        return "cuda"
    if "cpu" in vllm_version(vllm):
        return cpu.THIS
    devices = environment.other_accelerators()  # an answer is kept for the devices that there were
    try:
        answer = Platform.model_validate(_answer(vllm, _script("platform"), devices, "what it serves on"))
    except CapabilityError:
        return None
    return answer.platform


def said_of(architecture: str | None, vllm: Path) -> str:
    """What this vLLM says of an architecture, in words. Raises CapabilityError if it cannot be asked."""
    if architecture is None:
        return "the model's config names no architecture"
    answer = architectures(vllm, architecture)
    if known := answer.architectures.get(architecture):
        served = f"{architecture} is served by {known.module}"
        return f"{served}, which cannot be imported here: {known.missing}" if known.missing else served
    if architecture in answer.dropped:
        return f"{architecture} is not served: {answer.dropped[architecture]}"
    return f"{architecture} has no class of its own: its backend for models of transformers may serve it"


def require_fused(plan: Plan, vllm: Path) -> None:
    """Raises InputError for a plan that treats parts of one layer differently, by a vLLM that is not the table's.

    Where it cannot be asked, the table has answered already.
    """
    version = vllm_version(vllm).partition("+")[0]
    if version in (fused.table_version(), "unknown") or not plan.architectures:
        return
    try:
        answer = architectures(vllm, *plan.architectures)
    except CapabilityError:
        return
    if packing := fused.joined(plan.architectures, answer.architectures):
        fused.check(plan.schemes, plan.structure, packing)


def inexact_here(plan: Plan, vllm: Path) -> str | None:
    """Why the vLLM on this machine's CPU will not compute what the checkpoint says; None where it will.

    Its library for this processor is asked for its operators and for one INT8 product (operators_probe). Raises
    CapabilityError for an operator that it lacks. Where it cannot be asked, the table answers.
    """
    by_table = servable.inexact(plan, cpu.THIS)
    try:
        answer = _operators(vllm)
    except CapabilityError:
        return by_table
    for kind in servable.kinds_of(plan):
        operator = hardware.cell(kind, cpu.THIS).operator
        if operator and operator not in answer.operators:
            raise CapabilityError(
                f"{kind} needs {operator}, which vLLM {vllm_version(vllm)} does not have for this CPU "
                f"({cpu.described()})",
                hint="quantpress plan RECIPE says what serves it",
            )
        if operator == "onednn_scaled_mm" and answer.int8_is_exact is False:
            return by_table or f"{kind} is inexact here: vLLM's INT8 product saturates on this CPU ({cpu.described()})"
    return None if answer.int8_is_exact else by_table


def wrong_operator(vllm: Path) -> str | None:
    """Which operator of vLLM's for this CPU may make it compute a model, quantized or not, otherwise than transformers
    does, and what avoids it; None where none is known, or it cannot be asked."""
    try:
        answer = _operators(vllm)
    except CapabilityError:
        return None
    if answer.rotates_heads is not False:
        return None
    return (
        f"the rotary operator of vLLM {vllm_version(vllm)} turns heads wrongly on this CPU where a model's class hands "
        "them over apart (lfm2, deepseek_v3 ...); --engine enforce_eager=false compiles torch's own instead"
    )


def _operators(vllm: Path) -> Operators:
    return Operators.model_validate(_answer(vllm, _script("operators"), [], "for its operators on this CPU"))


def _answer(vllm: Path, script: Path, words: list[str], what: str) -> Any:
    """The JSON object that a script printed in vLLM's environment, asked once for each vLLM."""
    kept = _kept(vllm, script, words)
    if known := atomic.read_kept(kept):
        return known
    with locks.turn(kept):
        return atomic.read_kept(kept) or _asked(kept, vllm, script, words, what)


def _asked(kept: Path, vllm: Path, script: Path, words: list[str], what: str) -> Any:
    log = kept.with_suffix(".log")
    log.unlink(missing_ok=True)
    command = [str(vllm.parent / "python"), str(script), *words]
    with console.step(f"asking vLLM {vllm_version(vllm)} {what}", log):
        code = process.run(command, log, serving_environment())
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    if code != 0 or not lines or not lines[-1].startswith("{"):
        raise CapabilityError(
            f"{vllm} cannot be asked: {process.last_error(log)}",
            hint="name another vLLM with --vllm; the table in docs/reference/recipes.md answers without one",
        )
    answer = json.loads(lines[-1])
    atomic.write_kept(kept, answer)
    return answer


def require_presets(answer: Schemes, presets: Iterable[str], target: str, vllm: Path) -> None:
    """Raises CapabilityError for the first preset that this vLLM does not take at `target`."""
    for preset in presets:
        said = answer.get(preset, {}).get(target, "")
        if said.startswith("no"):
            able = [name for name, row in answer.items() if not row.get(target, "no").startswith("no")]
            raise CapabilityError(
                f"vLLM {vllm_version(vllm)} does not take {preset} on {target}: {said}",
                hint=f"there it takes {', '.join(able)}",
            )
