"""Several calibrations of one recipe: how far they are apart, and that the report chooses among recipes alone."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact import calibrations
from quantpress.artifact.calibrations import Calibrated
from quantpress.artifact.manifest import Artifact


def scored(seed: int, recovery: float, **more: float) -> Calibrated:
    figures = {"recovery": recovery, **more}
    return Calibrated(seed=seed, artifact=f"own-seed-{seed}", checkpoint_digest="d", figures=figures)


def test_the_spread_is_that_of_the_calibrations() -> None:
    text = calibrations.spread([scored(42, 0.96, kl=0.1), scored(43, 0.98), scored(44, 1.0)])
    assert "3 calibrations (seeds 42, 43, 44)" in text
    assert "recovery 0.9800 on average, from 0.9600 to 1.0000, standard deviation 0.0200" in text
    assert "KL" not in text, "one of them has it"


def test_they_are_kept_by_suite(tmp_path: Path) -> None:
    own = Artifact(tmp_path / "own-seed-42")
    own.folder.mkdir()
    calibrations.keep(own, "smoke", [scored(42, 0.9)])
    calibrations.keep(own, "commonsense", [scored(42, 0.9), scored(43, 0.8)])
    assert calibrations.calibrations_of(own).suites.keys() == {"smoke", "commonsense"}
    assert calibrations.calibrations_of(own).others(own.name) == {"own-seed-43"}
