"""What the report says of how documents were chosen, and of both noise floors."""

from __future__ import annotations

import json
from pathlib import Path

from quantpress.artifact.accuracy import Accuracy
from quantpress.report.facts.accuracy import score_of
from quantpress.report.views import tables

RESULT = Path(__file__).parent / "data" / "accuracy.json"


def scored() -> Accuracy:
    return Accuracy.read(json.loads(RESULT.read_text()), RESULT)


def test_both_noise_floors_have_a_row() -> None:
    floors = {"noise_floor": scored().overall, "backend_floor": scored().overall}
    rows = tables.accuracy([("own", score_of(scored().model_copy(update=floors)))]).rows
    labels = [row[1] for row in rows if "noise floor" in row[1]]
    assert [label.rpartition(", ")[2] for label in labels] == ["in other batches", "transformers against vLLM"]


def test_first_documents_are_no_sample_and_a_sample_names_its_seed() -> None:
    def noted(**fields: int) -> list[str]:
        result = scored()
        tasks = [task.model_copy(update=fields) for task in result.settings.tasks]
        changed = result.settings.model_copy(update={"tasks": tasks, "limit": None})
        return score_of(result.model_copy(update={"settings": changed})).notes

    assert noted() == []
    assert noted(limit=8)[0].startswith("the first documents, no sample: ")
    assert noted(limit=8, seed=3)[0].startswith("a random sample, seed 3: ")
