"""What the report takes from recertifications: a checkpoint on other engines than the one that it was measured on."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact.manifest import SIGNATURE, Artifact
from quantpress.artifact.recertification import Recertification, recertifications_of
from quantpress.artifact.recertification import Rescored as Recorded
from quantpress.report.facts.data import Figure, OtherEngine, Rescored

_NONE = Figure(value=None, interval=None)


def other_engines(artifact: Artifact) -> list[OtherEngine]:
    """Every recertification of this checkpoint, the newest first. Raises StageError for a damaged one."""
    return [other_engine(folder, made) for folder, made in recertifications_of(artifact)]


def other_engine(folder: Path, made: Recertification) -> OtherEngine:
    pair = made.likelihoods
    return OtherEngine(
        folder=folder.name,
        before=made.before.version if made.before else None,
        after=made.after.version,
        verdict=made.verdict,
        moved=made.moved,
        unknown=made.unknown,
        answers=(made.same_answers, len(made.answers)),
        likelihoods=Figure(value=pair.difference, interval=pair.interval) if pair else _NONE,
        accuracy=[_rescored(suite) for suite in made.accuracy],
        speeds=made.speeds.rows if made.speeds else [],
        gates=made.gates,
        signed=(folder / SIGNATURE).is_file(),
        created=made.created,
    )


def _rescored(suite: Recorded) -> Rescored:
    overall = suite.comparison.overall if suite.comparison else None
    return Rescored(
        suite=suite.suite,
        scored_by="vLLM" if suite.backend == "vllm" else "transformers",
        difference=Figure(value=overall.difference, interval=overall.difference_interval) if overall else _NONE,
        flips=Figure(value=overall.flips, interval=overall.flips_interval) if overall else _NONE,
    )
