"""calibrations.json: one recipe made several times, each on another draw of its calibration data, and what each scores.

Figures of a checkpoint have intervals over documents. How far another draw of the texts that it was calibrated on
would move it is no part of them; this is. other-calibration.json marks each artifact that was made for this alone.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from pydantic import Field

from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact
from quantpress.runtime.records import Record, Stored

# Figures of an evaluation, as people call them.
FIGURES = {"recovery": "recovery", "flips": "flips", "kl": "KL", "perplexity_ratio": "perplexity ratio"}


class Calibrated(Record):
    """One calibration: its seed, the artifact that has it, and its figures over the suite (those that there are)."""

    seed: int
    artifact: str
    checkpoint_digest: str
    figures: dict[str, float]


class Calibrations(Stored):
    """By suite, the calibrations that were scored on the same documents; the recipe's own first."""

    SCHEMA_VERSION = 1

    suites: dict[str, list[Calibrated]] = Field(default_factory=dict)

    def others(self, own: str) -> set[str]:
        """The artifacts that were made to see the spread, which are no recipes to choose from."""
        return {one.artifact for scored in self.suites.values() for one in scored} - {own}


class OtherCalibration(Stored):
    """The mark in an artifact that was made only to see how far calibrations `of` a recipe are apart."""

    SCHEMA_VERSION = 1

    of: str


def mark_as_other(artifact: Artifact, recipe: str) -> None:
    """Marks an artifact as another calibration of a recipe, whatever becomes of the recipe's own and of the scoring."""
    OtherCalibration(of=recipe).save(_mark(artifact))


def is_marked(artifact: Artifact) -> bool:
    """Whether it was made to see the spread, and is no recipe to choose from."""
    return _mark(artifact).is_file()


def _mark(artifact: Artifact) -> Path:
    return artifact.folder / "other-calibration.json"


def calibrated(seed: int, artifact: Artifact, scored: Accuracy) -> Calibrated:
    """One calibration as it was scored."""
    overall = scored.overall
    figures = {name: value for name in FIGURES if overall and (value := overall.value(name)) is not None}
    return Calibrated(seed=seed, artifact=artifact.name, checkpoint_digest=scored.checkpoint_digest, figures=figures)


def spread(scored: list[Calibrated]) -> str:
    """How far the calibrations are apart, in words: mean, least and greatest, standard deviation."""
    parts = []
    for name, words in FIGURES.items():
        values = [one.figures[name] for one in scored if name in one.figures]
        if len(values) == len(scored) > 1:
            low, high, deviation = min(values), max(values), statistics.stdev(values)
            parts.append(
                f"{words} {statistics.fmean(values):.4f} on average, from {low:.4f} to {high:.4f}, "
                f"standard deviation {deviation:.4f}"
            )
    seeds = ", ".join(str(one.seed) for one in scored)
    return f"{len(scored)} calibrations (seeds {seeds}), on the same documents: {'; '.join(parts) or 'no figures'}"


def calibrations_file(artifact: Artifact) -> Path:
    """Beside the checkpoint of the recipe's own seed, and gone with it."""
    return artifact.folder / "calibrations.json"


def calibrations_of(artifact: Artifact) -> Calibrations:
    """What was scored so far. Raises StageError for a file that is not ours."""
    path = calibrations_file(artifact)
    return Calibrations.load(path) if path.is_file() else Calibrations()


def keep(artifact: Artifact, suite: str, scored: list[Calibrated]) -> None:
    """Remembers the calibrations of a recipe under one suite."""
    known: dict[str, Any] = calibrations_of(artifact).suites
    Calibrations(suites={**known, suite: scored}).save(calibrations_file(artifact))
