"""Speeds that `bench` measured of a model's recipes on a kind of machine: what lies below --out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import Results, results_of
from quantpress.artifact.speed import summarize
from quantpress.artifact.throughput import SERVER, Summary, Throughput
from quantpress.errors import StageError
from quantpress.plan import hardware
from quantpress.runtime import console, cpu, environment
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Record

# What a bench says where it has enough pairs and trusts them.
_VERDICTS = ("faster", "slower", "no difference shown")
# What nvidia-smi calls the GPUs of other machines; this machine's own are asked for their compute capability.
_NAMES = {
    "sm_75": {"T4"},
    "sm_80": {"A100", "A30"},
    "sm_86": {"A10", "A10G", "A40", "3080", "3090"},
    "sm_89": {"L4", "L40", "L40S"},
    "sm_90": {"H100", "H200", "H800", "H20", "GH200"},
    "sm_100": {"B200", "GB200"},
    "sm_120": {"5080", "5090", "GB10"},
}


class Speed(Record):
    """A recipe's output tokens/s over the unquantized model's, with its 95% interval, under one level of load."""

    recipe: str
    workload: str
    pairing: str
    weights: str
    concurrency: int
    speedup: float
    interval: tuple[float, float]
    verdict: str
    machine: str
    file: str

    @property
    def load(self) -> tuple[int, str, str]:
        """What two measurements must have in common to be compared."""
        return self.concurrency, self.workload, self.pairing

    @property
    def slower(self) -> bool:
        """Whether the bench called it slower than the unquantized model."""
        return self.verdict == "slower"

    @property
    def claim(self) -> str:
        least, greatest = self.interval
        shapes = ", dummy weights" if self.weights == "dummy" else ""
        return (
            f"measured: {self.speedup:.2f} ({least:.2f} to {greatest:.2f}) of the unquantized model's output tokens/s, "
            f"{self.verdict}; {self.workload}, {self.concurrency} at once{shapes}, on {self.machine}"
        )


def speeds(model_folder: Path, target: str, under_load: bool) -> dict[str, Speed]:
    """By recipe, what was measured on `target` with one request at a time, or with several (`under_load`).

    All of one workload, pairing and concurrency, because others do not compare: of those that most recipes were
    measured under, the greatest concurrency. Benches that cannot be read are named on the screen.
    """
    found = [one for result, file in _results(model_folder) for one in _usable(result, file, target, under_load)]
    if not found:
        return {}
    recipes = Counter(one.load for one in found)
    chosen = max(recipes, key=lambda load: (recipes[load], load))
    # Real weights come last, so that they replace dummy ones.
    ordered = sorted(found, key=lambda one: one.weights == "real")
    return {one.recipe: one for one in ordered if one.load == chosen}


def _results(model_folder: Path) -> Iterator[tuple[Throughput, Path]]:
    for path in sorted([*model_folder.glob("[!.]*/throughput.json"), *model_folder.glob("dummy/*/throughput.json")]):
        try:
            for result in _of(path).all():
                yield result, path
        except StageError as error:
            console.warn(f"a bench is left out: {error.message}")


def _of(path: Path) -> Results[Throughput]:
    if path.parent.parent.name == "dummy":
        return Results(path.parent, Throughput, Throughput.load(path).checkpoint_digest)
    return results_of(Artifact(path.parent), Throughput)


def _usable(result: Throughput, file: Path, target: str, under_load: bool) -> Iterator[Speed]:
    if not _is_of(result.machine, target):
        return
    for row in summarize(result.cells):
        if row.concurrency and (row.concurrency > 1) is under_load and row.speedup and row.interval and _sound(row):
            yield Speed(
                recipe=file.parent.name,
                workload=result.workload.name,
                pairing=result.paired,
                weights=result.weights,
                concurrency=row.concurrency,
                speedup=row.speedup,
                interval=row.interval,
                verdict=row.verdict or "",
                machine=result.machine.gpus[0] if result.machine.gpus else result.machine.processor,
                file=str(file),
            )


def _sound(row: Summary) -> bool:
    return row.verdict in _VERDICTS and not row.failed_requests and row.speed in (None, SERVER)


def _is_of(measured: Machine, target: str) -> bool:
    """Whether `target` is the kind of the machine that was measured on."""
    if not measured.gpus:
        here = environment.machine()
        return target == cpu.THIS and (measured.processor, measured.cores) == (here.processor, here.cores)
    if measured.gpus == environment.gpus():
        return target == hardware.this_machine()
    return any(_NAMES.get(target, set()) & set(re.split(r"[\s,-]+", name)) for name in measured.gpus)
