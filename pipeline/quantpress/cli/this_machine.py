"""What this machine is good for, in facts and in sentences: what `quantpress doctor` says."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from quantpress.cli import installation
from quantpress.cli.installation import Problem
from quantpress.errors import CapabilityError
from quantpress.plan import hardware
from quantpress.runtime import cpu, disk, environment, free_memory
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.records import Record
from quantpress_serve.probes import asking
from quantpress_serve.server import memory
from quantpress_serve.vllm import (
    find_vllm,
    our_environment,
    python_of,
    serving_environment,
    versions_beside,
    vllm_version,
)

# What the main job on the embedded model needs: two servers side by side on a CPU, and two checkpoints on the disk.
_MEMORY_GIB = 2 * (memory.PER_SERVER / memory.GIB + 1) + 0.6
_DISK_GB = 2.0


class Vllm(Record):
    """The vLLM that would serve, and what lies beside it that decides what it takes."""

    executable: str
    version: str
    packages: dict[str, str]


class Kernel(Record):
    """How a kind of layer is served, and by which kernel."""

    support: hardware.Support
    kernel: str


class Place(Record):
    """A folder that is written to, and what is free on its disk."""

    folder: str
    free_gb: float


class Facts(Record):
    """This machine as `quantpress doctor --json` prints it.

    `serves` has a row for each kind of layer, and is empty where the GPU is not known; `compute_capabilities` has one
    for each GPU. `problems` is what is missing for the main job, `optional` what nobody needs for it.
    """

    machine: environment.Machine
    instruction_sets: str
    available_memory_gb: float
    compute_capabilities: list[str]
    places: list[Place]
    target: str
    serves: dict[str, Kernel]
    vllm: Vllm | None
    versions: dict[str, str]
    serving_environment: dict[str, str]
    problems: list[Problem]
    optional: list[Problem]


def facts(named_vllm: str | None) -> Facts:
    """What is known of this machine and this installation; takes seconds the first time, for vLLM is asked too."""
    versions, problems = installation.packages()
    vllm = _vllm(named_vllm, problems)
    target, serves = _served_here(vllm, problems)
    places = [_place(folder, problems) for folder in (Path.cwd(), cache_folder().absolute())]
    available = free_memory.available()
    if not environment.gpus() and available < _MEMORY_GIB * memory.GIB:
        what = f"{available / 1e9:.1f} GB of memory are free; two servers side by side need {_MEMORY_GIB:.1f} GiB"
        problems.append(Problem(what=what, command="end other programs, or take a larger machine", blocks=True))
    if environment.gpus() and "+cpu" in versions.get("torch", ""):
        what = f"torch {versions['torch']} is built for CPUs, and cannot use this GPU for scoring"
        problems.append(Problem(what=what, command="rm -r .venv && make setup", blocks=True))
    return Facts(
        machine=environment.machine(),
        instruction_sets=cpu.described(),
        available_memory_gb=round(available / 2**30, 1),
        compute_capabilities=environment.compute_capabilities(),
        places=places,
        target=target,
        serves=serves,
        vllm=vllm,
        versions=versions,
        serving_environment=serving_environment(),
        problems=problems,
        optional=installation.extras(),
    )


def _served_here(vllm: Vllm | None, problems: list[Problem]) -> tuple[str, dict[str, Kernel]]:
    try:
        target = hardware.this_machine(asking.platform(Path(vllm.executable)) if vllm else None)
    except CapabilityError as error:
        command = f"take a GPU that it knows; {error.hint}; --target any goes on all the same"
        problems.append(Problem(what=error.message, command=command, blocks=True))
        return "unknown", {}
    cells = {kind: hardware.cell(kind, target) for kind in hardware.TABLE if kind != hardware.UNSERVED}
    layers = [cell for kind, cell in cells.items() if kind not in (hardware.KV_CACHE, hardware.ROTATIONS)]
    if not any(cell.support in ("full", "fallback") for cell in layers):
        what = f"{target} ({cpu.described()}) serves no scheme as recipes say"
        problems.append(
            Problem(what=what, command="take a CPU with AVX2 at least, or a GPU from sm_75 on", blocks=True)
        )
    return target, {kind: Kernel(support=cell.support, kernel=cell.kernel) for kind, cell in cells.items()}


def _vllm(named: str | None, problems: list[Problem]) -> Vllm | None:
    """The vLLM that would serve, asked whether it can be loaded at all."""
    try:
        executable = find_vllm(named)
    except CapabilityError as error:
        command = "make setup, or name yours with VLLM=/path/to/vllm"
        problems.append(Problem(what=error.message, command=command, blocks=True))
        return None
    version = vllm_version(executable)
    if problem := _not_asked(executable):
        problems.append(problem)
    if version != "unknown" and ("cpu" in version) is bool(environment.gpus()):
        built, here = ("CPUs", "has a GPU") if environment.gpus() else ("GPUs", "shows none")
        build = "cuda" if environment.gpus() else "cpu"
        what = f"vLLM {version} is built for {built}, and this machine {here}"
        command = f"make setup VLLM_BUILD={build}"
        problems.append(Problem(what=what, command=command, blocks=not environment.gpus()))
    packages = versions_beside(executable, ("torch", "transformers", "compressed-tensors"))
    return Vllm(executable=str(executable), version=version, packages=packages)


def _not_asked(executable: Path) -> Problem | None:
    """Why this vLLM cannot be asked. A wrapper that stands elsewhere may serve all the same."""
    if python_of(executable) is None:
        what = f"there is no Python beside {executable}, so it cannot be asked: the tables answer for it"
        command = "name the vllm of an environment with VLLM=/path/to/venv/bin/vllm"
        return Problem(what=what, command=command, blocks=False)
    try:
        asking.schemes(executable)
    except CapabilityError as error:
        ours = executable.is_relative_to(our_environment())
        command = "rm -r .venv-vllm && make setup" if ours else "mend its environment, or name another with VLLM="
        return Problem(what=error.message, command=command, blocks=True)
    return None


def _place(folder: Path, problems: list[Problem]) -> Place:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    try:
        disk.require_writable(folder)
    except CapabilityError as error:
        problems.append(
            Problem(what=error.message, command="work in another folder, or set QUANTPRESS_CACHE", blocks=True)
        )
    if free < _DISK_GB:
        what = f"{free:.1f} GB are free at {existing}; the main job on the embedded model needs {_DISK_GB:g}"
        problems.append(
            Problem(what=what, command="free some space; quantpress gc removes what killed runs left", blocks=True)
        )
    return Place(folder=str(folder), free_gb=round(free, 1))


def text(found: Facts) -> str:
    """The facts as sentences."""
    machine = found.machine
    places = ", ".join(f"{place.free_gb:g} GB in {place.folder}" for place in found.places)
    lines = [
        f"This machine: {machine.processor}, {machine.cores} cores with {found.instruction_sets}.",
        f"It has {machine.memory_gb} GB of memory, of which {found.available_memory_gb} are free. "
        f"Free on disk: {places}.",
        _gpus(found),
        _vllm_in_words(found.vllm),
        "",
        _served(found, "full", "As the recipe says"),
        _served(found, "fallback", "Slowly, or as something else"),
        _served(found, "inexact", "Inexactly, so that scores by transformers do not hold in vLLM"),
        _served(found, "no", "Not at all"),
        _arithmetic(machine),
        "",
        f"Installed in {sys.prefix}, with Python {machine.python}: "
        + (", ".join(f"{name} {version}" for name, version in found.versions.items()) or "quantpress itself is not")
        + ".",
        *_in_words("Optional, and not needed for the main job:", found.optional),
        *_in_words("To be mended:", found.problems),
        _verdict(found),
    ]
    return "\n".join(line for line in lines if line is not None)


def _gpus(found: Facts) -> str:
    if not found.machine.gpus:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        return "It shows no GPU that vLLM could use" + (": CUDA_VISIBLE_DEVICES hides them." if hidden else ".")
    capabilities = [*found.compute_capabilities, *["unknown"] * len(found.machine.gpus)]
    gpus = [
        f"{name} (compute capability {capability})"
        for name, capability in zip(found.machine.gpus, capabilities, strict=False)
    ]
    return f"GPUs: {', '.join(gpus)}; vLLM's kernels are those of {found.target}."


def _vllm_in_words(vllm: Vllm | None) -> str | None:
    if vllm is None:
        return None
    beside = ", ".join(f"{name} {version}" for name, version in vllm.packages.items())
    return f"vLLM {vllm.version} serves ({vllm.executable})" + (f", with {beside}." if beside else ".")


def _served(found: Facts, support: str, words: str) -> str | None:
    rows = {kind: row.kernel for kind, row in found.serves.items() if row.support == support}
    if not rows:
        return None
    if support == "full":
        return f"{words} it serves {', '.join(rows)}."
    return f"{words}:\n" + "\n".join(f"  {kind}: {kernel}" for kind, kernel in rows.items())


def _arithmetic(machine: environment.Machine) -> str:
    if machine.gpus:
        return "Calibration and scoring run in the model's own type."
    if cpu.FAST_PRODUCTS["bfloat16"] & cpu.features():
        return "Calibration and scoring of bf16 models run in bf16, for which this CPU has instructions."
    return (
        "This CPU has no instructions for bf16: calibration and scoring of bf16 models run in float32 if it is faster."
    )


def _in_words(title: str, problems: list[Problem]) -> list[str]:
    return [title, *(f"  {problem.what}\n    {problem.command}" for problem in problems)] if problems else []


def _verdict(found: Facts) -> str:
    if any(problem.blocks for problem in found.problems):
        return "The main job (quantize, evaluate, bench, report) cannot run here as it is."
    return "The main job (quantize, evaluate, bench, report) can run here: make demo tries it in minutes."
