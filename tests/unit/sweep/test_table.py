"""A sweep as people see it."""

from __future__ import annotations

from pathlib import Path

from quantpress.sweep import table
from quantpress.sweep.stages import Needs, Stage, Verb, ended

NOTHING = Needs()


def stage(key: str, verb: Verb, recipe: str | None, of: str | None = None, needs: Needs = NOTHING) -> Stage:
    return Stage(
        key=key, verb=verb, model="m", recipe=recipe, of=of, arguments=[], results=[], writes=Path("m"), needs=needs
    )


STAGES = [
    stage("1", "quantize", "rtn", needs=Needs(memory=1_500_000_000, gpus=2)),
    stage("2", "baseline", None, "smoke"),
    stage("3", "evaluate", "rtn", "smoke"),
    stage("4", "bench", "rtn", "smoke", Needs(alone=True)),
]


def test_a_plan_says_what_is_there_and_what_each_stage_needs() -> None:
    lines = table.plan(STAGES, {"2", "3"}).splitlines()
    assert lines[0].split() == ["model", "recipe", "checkpoint", "smoke", "smoke"]  # a suite and a workload
    assert "1.5 GB, 2 GPUs  was there  alone" in lines[1]
    assert "(the model itself)" in lines[2] and "was there" in lines[2]
    assert lines[-1] == "2 of 4 stages are to be done"


def test_a_model_that_two_backends_score_has_both_in_its_cell(tmp_path: Path) -> None:
    both = [stage("2", "baseline", None, "smoke"), stage("3", "baseline", None, "smoke")]
    assert both[0].file_name != both[1].file_name
    progress = table.Progress(both, tmp_path)
    progress.done = {"2": ended(both[0], "there"), "3": ended(both[1], "failed")}
    assert progress.text().splitlines()[1].endswith("✓ was there / ✗ failed")


def test_progress_shows_what_is_done_under_way_and_to_come(tmp_path: Path) -> None:
    progress = table.Progress(STAGES, tmp_path)
    made = ended(STAGES[0], "made", started=10.0, ended=22.5, host="h", attempts=2, log="x")
    failed = ended(STAGES[1], "failed", error="no space\nmore", exit_code=4)
    progress.done = {"1": made, "2": failed}
    (tmp_path / f"{STAGES[2].file_name}.1.log").write_text("quantpress evaluate\nhost node 0\n")
    text = progress.text()
    assert "✓ made 12 s" in text and "✗ failed" in text and "… " in text
    assert progress.under_way() == "2 of 4 done; evaluate m with rtn, smoke under way"
    assert progress.line(made) == "✓ quantize m with rtn: made in 12.5 s on h, attempt 2  (2 of 4)"
    assert progress.line(failed) == "✗ baseline m, smoke: failed: no space  (2 of 4)"
    assert progress.table().row_count == 2
