"""Several calibrations of one recipe in the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantpress.artifact import calibrations
from quantpress.artifact.calibrations import Calibrated
from quantpress.artifact.manifest import Artifact
from quantpress.report.facts.collect import collect


def test_the_report_chooses_among_recipes_and_shows_how_far_calibrations_are_apart(
    artifacts: Callable[..., Path],
) -> None:
    folder = artifacts(3, fresh=True)
    first, second, third = (recipe.name for recipe in collect(folder, None).recipes)
    draws = [
        Calibrated(seed=seed, artifact=name, checkpoint_digest="d", figures={"recovery": recovery})
        for seed, name, recovery in ((42, first, 0.9), (43, third, 0.94))
    ]
    calibrations.keep(Artifact(folder / first), "smoke", draws)
    report = collect(folder, None)
    assert {recipe.name for recipe in report.recipes} == {first, second}
    notes = {recipe.name: recipe.accuracy.notes for recipe in report.recipes if recipe.accuracy}
    (note,) = notes[first]
    assert "2 calibrations (seeds 42, 43)" in note
    assert "from 0.9000 to 0.9400" in note
    assert notes[second] == []


def test_another_calibration_is_no_recipe_though_the_recipes_own_was_made_anew(artifacts: Callable[..., Path]) -> None:
    folder = artifacts(3, fresh=True)
    first, second, third = (recipe.name for recipe in collect(folder, None).recipes)
    calibrations.mark_as_other(Artifact(folder / third), first)  # and no calibrations.json names it
    assert {recipe.name for recipe in collect(folder, None).recipes} == {first, second}
