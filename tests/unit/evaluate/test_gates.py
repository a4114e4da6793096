"""Gates are decided against intervals."""

from collections.abc import Callable
from typing import Any

import pytest

from quantpress.artifact.accuracy import Comparison, Mean, Overall, TaskRow
from quantpress.errors import GateError, InputError
from quantpress_evaluate import stage
from quantpress_evaluate.comparison.gates import decide, is_below_the_noise, parse, require_tasks

TASKS = ["arc_easy", "boolq"]


def result(recovery: float, low: float, high: float) -> Comparison:
    figures: dict[str, Any] = {"recovery": recovery, "recovery_interval": (low, high)}
    figures |= {"kl": 0.01, "kl_interval": (0.005, 0.02)}
    row = TaskRow(metric="acc", documents=10, baseline=0.0, candidate=0.5)
    tasks = {"arc_easy": row, "boolq": row.model_copy(update=figures)}
    return Comparison(tasks=tasks, mean=Mean(tasks=2, baseline=0.0, candidate=0.5), overall=Overall(**figures))


@pytest.mark.parametrize(
    ("gate", "decision"),
    [
        ("recovery>=0.95", "pass"),
        ("recovery >= 97%", "inconclusive"),
        ("recovery>=0.995", "fail"),
        ("boolq:recovery>=0.96", "pass"),
        ("arc_easy:recovery>=0.5", "inconclusive"),
        ("kl<=0.02", "pass"),
        ("kl<=0.01", "inconclusive"),
        ("kl<=0.004", "fail"),
    ],
)
def test_the_whole_interval_decides(gate: str, decision: str) -> None:
    assert decide(parse(gate), result(0.975, 0.96, 0.99)).decision == decision


def test_no_task_with_a_signal_decides_nothing() -> None:
    nothing = Comparison(tasks={}, mean=Mean(tasks=0, baseline=0.0, candidate=0.0), overall=None)
    assert decide(parse("recovery>=0.5"), nothing).decision == "inconclusive"


def test_a_task_on_which_the_model_only_guesses_decides_nothing() -> None:
    known = result(0.975, 0.96, 0.99)
    rows = {**known.tasks, "boolq": known.tasks["boolq"].model_copy(update={"no_signal": True})}
    for counts, decision in ((False, "inconclusive"), (True, "pass")):
        asked = known.model_copy(update={"tasks": rows, "counts_no_signal": counts})
        decided = decide(parse("boolq:recovery>=0.9"), asked)
        assert decided.decision == decision
        assert counts or "only guesses on boolq" in str(decided.reason)
    assert decide(parse("boolq:kl<=0.02"), known.model_copy(update={"tasks": rows})).decision == "pass"


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("recovery", "is not METRIC"),
        ("recovery<=0.9", "takes >=, not <="),
        ("kl>=0.1", "takes <=, not >="),
        ("accuracy>=0.9", "'accuracy' is not one of recovery, kl, flips, perplexity_ratio"),
        ("recovery>=-1", "is not METRIC"),
        ("recovery>=nan", "is not METRIC"),
    ],
)
def test_what_is_wrong_with_a_gate(gate: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(gate)


def test_a_gate_of_no_task_is_refused() -> None:
    require_tasks([parse("recovery>=0.9"), parse("boolq:kl<=1")], TASKS)
    with pytest.raises(InputError, match="'piqa' is not a task of the suite"):
        require_tasks([parse("piqa:recovery>=0.9")], TASKS)


def test_a_gate_below_the_noise() -> None:
    floor = Overall(kl=0.002, flips=0.01, recovery=1.0)
    asked = {text: is_below_the_noise(parse(text), floor) for text in ("kl<=0.001", "kl<=0.01", "flips<=0%")}
    assert asked == {"kl<=0.001": True, "kl<=0.01": False, "flips<=0%": True}
    assert not is_below_the_noise(parse("recovery>=1"), floor)
    assert not is_below_the_noise(parse("kl<=0"), None)


def test_a_wrong_gate_is_found_before_anything_runs(quantpress: Callable[..., Any]) -> None:
    done = quantpress("evaluate", "rtn-w4a16", "--suite", "smoke", "--gate", "recovery>0.9")
    assert done.returncode == 2
    assert "takes >=, not >" in done.stderr


def test_gates_that_were_not_passed_are_exit_code_3() -> None:
    decided = [decide(parse(text), result(0.975, 0.96, 0.99)) for text in ("recovery>=0.995", "kl<=0.02")]
    with pytest.raises(GateError, match=r"r4: recovery>=0\.995 failed: 0\.975, 95% interval 0\.96 to 0\.99") as error:
        stage.require_gates({"r4": decided})
    assert error.value.exit_code == 3
    assert "kl" not in error.value.message
    stage.require_gates({"r4": decided[1:]})
