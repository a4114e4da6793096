"""Dummy weights: what is refused, and whose tokenizer makes the prompts. tests/e2e/test_bench.py serves some."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.throughput import Cell, Saturated
from quantpress.errors import InputError
from quantpress.model.source import Model
from quantpress.recipe.recipe import Recipe
from quantpress_serve.bench import dummy, stage
from quantpress_serve.bench.load import Turn
from quantpress_serve.bench.stage import Run
from quantpress_serve.workload.workload import Workload


@pytest.mark.parametrize("modifier", [{"spinquant": {}}, {"wanda": {"sparsity": 0.5}}])
def test_a_recipe_that_changes_more_than_schemes_is_refused(modifier: dict[str, Any]) -> None:
    modifiers = [modifier, {"rtn": {"scheme": "W8A8"}}]
    recipe = Recipe.model_validate({"name": "r", "description": "d", "modifiers": modifiers})
    with pytest.raises(InputError, match=f"{next(iter(modifier))} changes more of the model"):
        dummy.require_schemes_only(recipe)


def test_the_models_own_tokenizer_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = Model("embedded", tmp_path / "embedded", "embedded", {"vocab_size": 100})
    monkeypatch.setattr(dummy, "find_model", lambda *_: embedded)
    model = Model("m", tmp_path, "m", {"vocab_size": 100})
    assert dummy.tokenizer_for(model) == embedded.path
    with pytest.raises(InputError, match="holds no tokenizer"):
        dummy.tokenizer_for(replace(model, config={"vocab_size": 99}))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert dummy.tokenizer_for(model) == tmp_path


class Speeds:
    """Stands for the load generator: output tokens/s by concurrency, the same on both sides."""

    def __init__(self, speeds: dict[int, float]) -> None:
        self.speeds = speeds
        concurrency = sorted(speeds)
        self.workload = Workload(
            name="w", description="d", input_len=1, output_len=1, concurrency=concurrency, requests_per_stream=1
        ).model_copy(update={"until_saturated": True, "rounds": 2})

    def measure(self, server: Any, turn: Turn, others: Any = ()) -> Cell:
        level = turn.level
        assert level.concurrency
        figures = {"output_throughput": self.speeds[level.concurrency]}
        return Cell(role=turn.role, concurrency=level.concurrency, round=turn.round, figures=figures)


def test_the_concurrency_stops_rising_at_saturation() -> None:
    generator: Any = Speeds({1: 10.0, 2: 19.0, 4: 30.0, 8: 31.0, 16: 60.0})
    run = Run(generator, {"candidate": None, "baseline": None})  # type: ignore[dict-item]
    run.measure()
    assert run.saturated == Saturated(concurrency=8, gained=31 / 30 - 1, left_out=[16])
    measured = [(cell.round, cell.concurrency, cell.role) for cell in run.cells]
    assert [number for number, _, role in measured if role == "candidate"] == [0] * 4 + [1] * 4
    assert {concurrency for _, concurrency, _ in measured} == {1, 2, 4, 8}
    assert measured[0][2] == "candidate"
    assert measured[8][2] == "baseline"  # the side that goes first alternates


def test_a_failure_keeps_what_was_measured_before_it() -> None:
    generator: Any = Speeds({1: 10.0, 2: 20.0})
    seen: list[Turn | None] = []
    measure = generator.measure

    def failing(server: Any, turn: Turn, others: Any = ()) -> Cell:
        seen.append(turn)
        if len(seen) == 3:
            raise stage.StageError("the server of m stopped")
        return measure(server, turn)

    generator.measure = failing
    run = Run(generator, {"candidate": None, "baseline": None})  # type: ignore[dict-item]
    run.measure()
    assert run.lost is not None
    assert len(run.cells) == 2
    seen[:] = [None, None]
    with pytest.raises(stage.StageError):
        Run(generator, {"candidate": None, "baseline": None}).measure()  # type: ignore[dict-item]
