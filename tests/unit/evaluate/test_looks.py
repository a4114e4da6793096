"""Looks at a gate, however they come about."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from quantpress_evaluate import looks
from quantpress_evaluate.comparison import gates
from quantpress_evaluate.looks import Looks
from quantpress_evaluate.request import Request
from quantpress_evaluate.suite import ResolvedTask, Suite


def request(limit: int, *texts: str) -> Request:
    suite = Suite.model_validate({"name": "own", "description": "d", "tasks": [{"task": "t"}]})
    task = ResolvedTask(task="t", like="t", metric="acc", filter=None, weight=1.0, data=None, available=10_000)
    asked = tuple(gates.parse(text) for text in texts)
    return Request(suite, [task.limited(limit, 0)], gates=asked, backend="hf")


def confidences(folder: Path, limits: list[int], *texts: str) -> list[float]:
    found = looks.planned(folder, [request(limit, *texts) for limit in limits])
    return [look.confidence for look in next(iter(found.values()))]


def test_looks_that_were_planned_share_the_five_percent(tmp_path: Path) -> None:
    assert confidences(tmp_path, [100, 200, 400, 800], "kl<=1") == pytest.approx([0.9875] * 4)


def test_looks_by_hand_are_remembered(tmp_path: Path) -> None:
    by_hand = [confidences(tmp_path, [limit], "recovery>=0.99")[0] for limit in (100, 200, 400)]
    assert by_hand == pytest.approx([0.95, 0.995, 1 - 0.01 / 6])
    again = looks.planned(tmp_path, [request(200, "recovery >= 99%")])
    ((look,),) = again.values()
    assert (look.number, look.confidence) == (2, pytest.approx(0.995)), "the same documents are no other look"
    assert confidences(tmp_path, [100], "recovery>=0.98") == [0.95], "another gate"


def test_a_run_that_goes_on_looks_as_it_planned(tmp_path: Path) -> None:
    first = confidences(tmp_path, [100, 200, 400], "kl<=1")
    assert confidences(tmp_path, [100, 200, 400], "kl<=1") == first
    assert confidences(tmp_path, [150, 200], "kl<=1") == pytest.approx([0.995, first[1]])


def test_however_often_one_looks_three_percent_at_most_pass_wrongly() -> None:
    """A checkpoint exactly at the limit; its figure on n documents is normal, and the documents are nested."""
    import numpy
    from scipy.stats import norm

    record, confidence = Looks(), []
    sizes = [100, 200, 300, 400, 600, 800, 1200, 1600, 2400, 5000]
    for size in sizes:
        record, (look,) = record.planned("gate", [str(size)])
        confidence.append(look.confidence)
    steps = numpy.diff([0, *sizes])
    sums = numpy.random.default_rng(0).normal(size=(20_000, len(sizes))) * numpy.sqrt(steps)
    estimates = sums.cumsum(1) / numpy.sqrt(sizes)
    edges = norm.ppf((1 + numpy.array(confidence)) / 2)
    assert float((estimates > edges).any(1).mean()) <= 0.03
    unremembered = float((estimates > norm.ppf(0.975)).any(1).mean())
    assert unremembered > 0.06, "what is at stake"
    assert math.fsum(1 - one for one in confidence) < 0.06
