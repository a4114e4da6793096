"""`evaluate --seeds`: what a run leaves behind that was ended while it scored the second calibration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress import report
from quantpress.artifact import calibrations
from quantpress.artifact.manifest import Artifact
from quantpress.cli import adopted, evaluate, prepare, scoring
from quantpress.quantize import stage as quantizing
from quantpress_evaluate import stage as evaluating


class KilledError(Exception):
    pass


def test_another_calibration_is_marked_before_it_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(_: Any, recipe: Any, *__: Any, **___: Any) -> Any:
        return SimpleNamespace(plan=recipe)

    def quantize(recipe: Any, *_: Any) -> Any:
        (tmp_path / recipe.name).mkdir()
        return SimpleNamespace(artifact=Artifact(tmp_path / recipe.name))

    def score(artifact: Artifact, *_: Any) -> Any:
        if artifact.name != "gptq-w4a16":
            raise KilledError
        return SimpleNamespace(
            overall=None, checkpoint_digest="d", settings=None, suite="smoke", as_saved=dict, gates=[]
        )

    request: Any = SimpleNamespace(as_scored=lambda _: None)
    request.for_model = lambda _: SimpleNamespace(for_plans=lambda *_: request)
    monkeypatch.setattr(adopted, "is_adopted", lambda *_: False)
    monkeypatch.setattr(scoring, "checked_request", lambda *_: request)
    monkeypatch.setattr(prepare, "loaded_model", lambda *_: None)
    monkeypatch.setattr(prepare, "planned", planned)
    monkeypatch.setattr(quantizing, "quantize", quantize)
    monkeypatch.setattr(evaluating, "evaluate", score)
    monkeypatch.setattr(report, "accuracy_table", lambda *_: "")
    work: Any = SimpleNamespace(out=tmp_path, set=[], compute_dtype="auto", offload="auto")
    asked: Any = SimpleNamespace(gate=[])
    options = evaluate.Options("gptq-w4a16", work, asked, 2, False, None, None, [], [])
    with pytest.raises(KilledError):
        evaluate.run(options)
    marked = [path.name for path in sorted(tmp_path.iterdir()) if calibrations.is_marked(Artifact(path))]
    assert marked == ["gptq-w4a16-seed-43"]
