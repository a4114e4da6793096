"""What this machine is good for, in facts and in sentences: what `quantpress doctor` says."""

from __future__ import annotations

from quantpress.plan import hardware
from quantpress.quantize.stage import DECISIVE
from quantpress.runtime import cpu, environment
from quantpress.runtime.records import Record
from quantpress_serve.vllm import serving_environment


class Vllm(Record):
    """The vLLM that would serve."""

    executable: str
    version: str


class Kernel(Record):
    """How a kind of layer is served, and by which kernel."""

    support: hardware.Support
    kernel: str


class Facts(Record):
    """This machine as `quantpress doctor --json` prints it; `serves` has a row for each kind of layer."""

    machine: environment.Machine
    instruction_sets: str
    target: str
    serves: dict[str, Kernel]
    vllm: Vllm | None
    versions: dict[str, str]
    serving_environment: dict[str, str]


def facts_with(vllm: Vllm | None) -> Facts:
    """What is known of this machine and this installation."""
    target = hardware.this_machine()
    kinds = [kind for kind in hardware.TABLE if kind != hardware.UNSERVED]
    cells = {kind: hardware.cell(kind, target) for kind in kinds}
    return Facts(
        machine=environment.machine(),
        instruction_sets=cpu.described(),
        target=target,
        serves={kind: Kernel(support=cell.support, kernel=cell.kernel) for kind, cell in cells.items()},
        vllm=vllm,
        versions=environment.versions(DECISIVE),
        serving_environment=serving_environment(),
    )


def text(found: Facts) -> str:
    """The facts as sentences."""
    machine, vllm = found.machine, found.vllm
    gpus = f"GPUs: {', '.join(machine.gpus)}." if machine.gpus else "It has no GPU that vLLM could use."
    lines = [
        f"This machine: {machine.processor}, {machine.cores} cores with {found.instruction_sets}, "
        f"{machine.memory_gb} GB of memory. {gpus}",
        f"vLLM {vllm.version} serves: {vllm.executable}."
        if vllm
        else "vLLM was not found: make setup installs it, VLLM=/path/to/vllm names yours.",
        _served(found, "full", "As the recipe says"),
        _served(found, "fallback", "Slowly, or as something else"),
        _served(found, "inexact", "Inexactly"),
        _served(found, "no", "Not at all"),
        _arithmetic(machine),
        "Installed: " + ", ".join(f"{name} {version}" for name, version in found.versions.items()) + ".",
    ]
    return "\n".join(line for line in lines if line)


def _served(found: Facts, support: str, words: str) -> str:
    rows = {kind: row.kernel for kind, row in found.serves.items() if row.support == support}
    if not rows:
        return ""
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
