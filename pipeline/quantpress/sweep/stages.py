"""What a sweep does: stages with what they need and what must come before, and what became of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from quantpress.runtime.records import Record, Stored

Verb = Literal["quantize", "baseline", "evaluate", "bench"]
# `there`: nothing to do. `gate`: the results are there, and a gate is not met. `lost`: it did not begin, or its worker
# went away each time.
State = Literal["made", "there", "gate", "failed", "skipped", "lost"]
HAS_RESULTS: tuple[State, ...] = ("made", "there", "gate")


def _title(verb: str, model: str, recipe: str | None, of: str | None) -> str:
    whose = f"{model} with {recipe}" if recipe else model
    return f"{verb} {whose}{f', {of}' if of else ''}"


class Needs(Record):
    """What a stage asks of its node: GPUs, bytes of memory, and whether it has the node to itself."""

    gpus: int = 0
    memory: int = 0
    alone: bool = False


class Stage(Record):
    """One call of quantpress. `key` is the digest of its inputs; `of` is the suite or workload, None for quantize.

    `recipe` is None where the model itself is scored, which all its recipes share. `arguments` stand behind
    `quantpress`. `writes` is the folder that it writes, and `results` are patterns of files in it, of which one is new
    if the stage made anything. It begins when all stages in `after` (keys) have ended, and only if those in `requires`
    have results.
    """

    key: str
    verb: Verb
    model: str
    recipe: str | None = None
    of: str | None = None
    arguments: list[str]
    results: list[str]
    writes: Path
    needs: Needs
    after: list[str] = Field(default_factory=list)
    requires: list[str] = Field(default_factory=list)

    @property
    def title(self) -> str:
        return _title(self.verb, self.model, self.recipe, self.of)

    @property
    def file_name(self) -> str:
        """Of its logs. One model may be scored twice on a suite, by two backends."""
        alone = self.key[:8] if self.verb == "baseline" else None
        return "-".join(part for part in (self.model, self.recipe, self.verb, self.of, alone) if part)


class Outcome(Record):
    """What became of a stage. Times are seconds since 1970, UTC, of the attempt that counts; `attempts` counts those
    that were begun. `command` is what to run by hand."""

    key: str
    verb: Verb
    model: str
    recipe: str | None = None
    of: str | None = None
    state: State
    exit_code: int | None = None
    error: str | None = None
    node: str | None = None
    host: str | None = None
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    log: str | None = None
    command: str | None = None

    @property
    def title(self) -> str:
        return _title(self.verb, self.model, self.recipe, self.of)

    @property
    def has_results(self) -> bool:
        return self.state in HAS_RESULTS

    @property
    def seconds(self) -> float | None:
        return self.ended - self.started if self.started is not None and self.ended is not None else None


class SweepRecord(Stored):
    """sweep.json: what a sweep did, stage by stage in the order in which they ended; written anew after each."""

    SCHEMA_VERSION = 1

    name: str
    stages: int
    started: float
    ended: float | None = None
    outcomes: list[Outcome] = Field(default_factory=list)


def ended(stage: Stage, state: State, **about: object) -> Outcome:
    """The outcome of a stage."""
    same = {name: getattr(stage, name) for name in ("key", "verb", "model", "recipe", "of")}
    return Outcome.model_validate({**same, "state": state, **about})


def why_skipped(stage: Stage, before: dict[str, Outcome]) -> str | None:
    """Why a stage cannot begin, given what became of all those before it; None where it can."""
    missing = [before[key] for key in stage.requires if not before[key].has_results]
    if not missing:
        return None
    first = missing[0]
    return f"{first.verb}{f' on {first.of}' if first.of else ''} came to nothing"
