"""How long each stage will take on this machine: as it took before, or counted from its work and a measured rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact, Manifest, artifacts_of
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import Throughput
from quantpress.errors import StageError
from quantpress.plan.needs import Work
from quantpress.plan.resolve import Plan
from quantpress.runtime import environment
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Record

# Seconds until a stage's libraries are imported and a small model is loaded.
START_S = 8.0
# Of the fastest products in the model's type and in float32, what a calibration comes to (softmax, norms, copies).
_OF_PRODUCTS, _OF_FLOAT32 = 0.45, 0.8
_COLUMN_S = 1e-4  # of GPTQ, for each column beside its products
_WEIGHT_S = 1.2e-8  # to read, round and write a number
# A run that was measured lay within this factor of what is counted; one like an earlier run within the second.
_COUNTED, _AS_BEFORE = 1.7, 1.25


T = TypeVar("T", Accuracy, Throughput)


class Time(Record):
    """Seconds that a stage takes, from `least` to `most`, and where that is from."""

    least: float
    most: float
    source: str

    @property
    def words(self) -> str:
        return f"{_span(self.least, self.most)} ({self.source})"


def counted(work: Work, speeds: dict[str, float], dtype: str, times: int = 1) -> Time:
    """From the stage's work, done so many times, and GFLOP/s of products by type (arithmetic.product_speeds)."""
    products = work.products / (_OF_PRODUCTS * max(speeds.get(dtype, 0.0), speeds["float32"]) * 1e9)
    float32 = work.float32 / (_OF_FLOAT32 * speeds["float32"] * 1e9)
    seconds = times * (START_S + products + float32 + work.columns * _COLUMN_S + work.weights * _WEIGHT_S)
    return Time(least=seconds / _COUNTED, most=seconds * _COUNTED, source="counted")


def of_quantizing(plan: Plan, model_name: str, out: Path) -> Time | None:
    """As the same modifiers took on this machine, by the parameters and tokens; None where they were not run yet.

    What is below `out` of this model counts, else what is of others.
    """
    here = [artifact for artifact in artifacts_of(out / model_name) if _manifest(artifact)]
    others = [artifact for folder in sorted(out.glob("*/")) for artifact in artifacts_of(folder)]
    for artifacts in (here, others):
        found = [(artifact, seconds) for artifact in artifacts if (seconds := _scaled(_manifest(artifact), plan))]
        if found:
            return _as_before([seconds for _, seconds in found], f"as {found[-1][0].name} took")
    return None


def of_scoring(model_name: str, out: Path) -> Time | None:
    """As both sides of a suite took on this machine, of this model; None where none was scored."""
    return _like_the_last([(found.name, _scored(found)) for found in _newest(out / model_name, Accuracy)])


def of_measuring(model_name: str, out: Path) -> Time | None:
    """As benches of this model took on this machine, the starts of their servers included; None without one."""
    return _like_the_last([(found.name, _measured(found)) for found in _newest(out / model_name, Throughput)])


def _like_the_last(found: list[tuple[str, float]]) -> Time | None:
    """Of results by their suite or workload: as those of the last one's took."""
    seconds = [took for name, took in found if took and name == found[-1][0]]
    return _as_before(seconds, f"as {found[-1][0]} took") if seconds else None


def _as_before(seconds: Sequence[float], source: str) -> Time:
    return Time(least=min(seconds) / _AS_BEFORE, most=max(seconds) * _AS_BEFORE, source=source)


def _manifest(artifact: Artifact) -> Manifest | None:
    """None for one that cannot be read: a forecast does without it."""
    try:
        return artifact.manifest()
    except StageError:
        return None


def _scaled(known: Manifest | None, plan: Plan) -> float | None:
    """The seconds of a run with the same modifiers on this machine, for this plan's parameters and tokens; both
    with data, or both without."""
    if known is None or known.seconds is None or not _is_here(known.machine):
        return None
    if _kinds(known.recipe) != _kinds(plan.recipe.dump()):
        return None
    calibration = plan.recipe.calibration
    if (calibration is None) is not (known.calibration is None):
        return None
    size = plan.weight_bytes / known.bytes.model
    if calibration and known.calibration:
        size *= calibration.samples * calibration.max_sequence_length / known.calibration.tokens
    return START_S + max(0.0, known.seconds - START_S) * size


def _kinds(recipe: dict[str, object]) -> list[str]:
    modifiers = recipe.get("modifiers")
    return [next(iter(one)) for one in modifiers] if isinstance(modifiers, list) else []


def _newest(folder: Path, kind: type[T]) -> Iterator[T]:
    """Of each artifact of a model the newest result that this machine made; those that cannot be read are left out."""
    for artifact in artifacts_of(folder):
        with suppress(StageError):
            found = results_of(artifact, kind).newest()
            if found and found.is_complete and _is_here(found.machine):
                yield found


def _is_here(machine: Machine) -> bool:
    here = environment.machine()
    return (machine.processor, machine.cores, machine.gpus) == (here.processor, here.cores, here.gpus)


def _scored(result: Accuracy) -> float:
    return _total(result.runs[side].seconds for side in ("candidate", "baseline") if side in result.runs)


def _measured(result: Throughput) -> float:
    starts = 1 + max((cell.start for cell in result.cells), default=0)
    started = _total(server.startup_s for server in result.servers.values())
    return starts * started + _total(cell.figures.get("duration") for cell in result.cells)


def _total(seconds: Iterable[float | None]) -> float:
    return sum(one for one in seconds if one is not None)


def _span(least: float, most: float) -> str:
    """In words, "2 to 5 min": in the unit of the greater one, with no digit that nobody knows."""
    for unit, seconds in (("h", 3600), ("min", 60), ("s", 1)):
        if most >= 2 * seconds or unit == "s":
            low, high = _rounded(least / seconds), _rounded(most / seconds)
            return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
    raise AssertionError(most)


def _rounded(number: float) -> str:
    if number < 1:
        return f"{number:.1f}"
    return f"{number:.0f}" if number < 10 else f"{float(f'{number:.2g}'):,.0f}"
