"""The report is made from the stages' JSON alone; here that JSON is made by hand, with stages missing and failed."""

import itertools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from quantpress import report
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.throughput import Throughput
from quantpress.errors import InputError
from quantpress.report.facts import changes, collect
from quantpress.report.facts.data import Figure, Paired, Ratio, Report
from quantpress.report.views import markdown, page, plots, tables, to_mlflow
from quantpress.runtime import atomic
from quantpress.runtime.identity import Identity

MACHINE = {
    "processor": "EPYC",
    "cores": 2,
    "memory_gb": 23.5,
    "gpus": [],
    "system": "Linux x86_64",
    "python": "3.11.7",
}
MODEL: dict[str, Any] = {
    "name": "tiny",
    "source": "embedded",
    "digest": "ab" * 32,
    "notes": ["Its weights lie on a 4-bit grid."],
}
MANIFEST: dict[str, Any] = {
    "schema_version": 4,
    "digest": "d1",
    "recipe": {"modifiers": []},
    "files": {},
    "machine": MACHINE,
    "modifiers": [],
    "threads": 2,
    "bytes": {"model": 200_000_000, "checkpoint": 50_000_000},
    "calibration": None,
    "group_size": 64,
    "quantized_layers": 14,
    "seconds": 9.0,
    "scales": "group of 64",
    "warnings": [],
    "model": MODEL,
    "created": "2026-01-01T00:00:00Z",
    "inputs": {"stage": 1, "recipe": {}, "calibration": None, "model": {}, "versions": {"llmcompressor": "0.14"}},
}
ROW = {
    "metric": "acc",
    "documents": 48,
    "baseline": 0.5,
    "candidate": 0.25,
    "difference": -0.25,
    "p_value": 0.001,
    "significant": True,
    "flips": 0.3,
    "recovery": 0.5,
    "recovery_interval": [0.4, 0.6],
    "kl": 0.1,
    "no_signal": False,
}
LOOK = {"confidence": 0.95, "documents": 48}
ACCURACY = {
    "schema_version": 4,
    "checkpoint_digest": "d1",
    "tasks": {"boolq": ROW, "piqa": {**ROW, "significant": False, "no_signal": True, "p_value": 0.5}},
    "mean": {"tasks": 1, "baseline": 0.5, "candidate": 0.25},
    "overall": {"recovery": 0.5, "recovery_interval": [0.4, 0.6], "flips": 0.3, "kl": 0.1},
    "gates": [{"gate": "recovery>=0.99", "figure": 0.5, "interval": [0.4, 0.6], "decision": "fail"} | LOOK],
    "rules": 3,
    "key": "k",
    "model_digest": "ab" * 32,
    "suite": "smoke",
    "settings": {
        "suite": "smoke",
        "tasks": [],
        "batch_size": 16,
        "stage": 3,
        "backend": "hf",
        "device": "cpu",
        "versions": {},
    },
    "runs": {"candidate": {"folder": "smoke-0", "command": "lm_eval run --tasks boolq"}},
    "machine": {"processor": "CPU", "cores": 2, "memory_gb": 8.0, "gpus": [], "system": "Linux", "python": "3.11"},
}
MACHINE = {"processor": "CPU", "gpus": [], "cores": 2, "memory_gb": 8.0, "system": "Linux x86_64", "python": "3.11"}
FIGURES = {"output_throughput": 10.0, "median_ttft_ms": 5.0, "median_tpot_ms": 2.0}


def cells_of(ratios: list[float], **more: Any) -> list[dict[str, Any]]:
    """Pairs in which the checkpoint is so many times as fast as the model, in one start of the servers."""
    cells = []
    for number, ratio in enumerate(ratios):
        for role, pace in (("baseline", 1.0), ("candidate", ratio)):
            figures = {"output_throughput": 10 * pace, "median_ttft_ms": 5 / pace, "median_tpot_ms": 2 / pace}
            about = {"role": role, "concurrency": 1, "round": number, "figures": figures, "command": "vllm bench serve"}
            cells.append(about | more)
    return cells


THROUGHPUT = {
    "schema_version": 4,
    "checkpoint_digest": "d1",
    "machine": MACHINE,
    "inputs": {},
    "environment": {},
    "workload": {"name": "smoke"},
    "vllm": {"executable": "vllm", "version": "0.32"},
    "servers": {"candidate": {"command": "vllm serve x", "startup_s": 9.0}},
    "cells": [
        *cells_of([1.05, 1.0, 1 / 1.05]),
        {"role": "candidate", "concurrency": 8, "figures": FIGURES | {"failed": 3}},
    ],
    "answers": {"candidate": {"question": "q?", "answer": "a|b\nc"}, "baseline": {"question": "q?", "answer": "ok"}},
    "summary": [{"concurrency": 1, "verdict": "faster, said an older version"}],
}


Data = dict[str, Any]


def collected(folder: Path, **results: Any) -> Report:
    for name, value in {"manifest": MANIFEST, **results}.items():
        atomic.write_json(folder / "r4" / f"{name}.json", value)
    return collect.collect(folder, Identity.model_validate(MODEL))


def scored(**changes: Any) -> Accuracy:
    """ACCURACY with changes, as the commands have it in memory."""
    return Accuracy.model_validate(
        {key: value for key, value in (ACCURACY | changes).items() if key != "schema_version"}
    )


def rendered(folder: Path, **results: Any) -> str:
    return markdown.render(collected(folder, **results))


def test_a_full_report_says_everything(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT)
    assert "4-bit grid" in text
    assert "| r4 | 50 MB | 25% | unknown | 14 | group of 64 | none needed | 9 s |" in text
    assert (
        "| r4 | boolq | 48 | acc | 0.500 | 0.250 | -0.250 | 0.001 | 0.500 (0.400 to 0.600) | 30.0% | 0.1000 |" in text
    )
    assert "piqa (no signal)" in text
    assert "-0.250, not shown |" in text
    # Decided by today's rules, whatever the summary in the file says.
    assert "1.00 (0.90 to 1.11, 3 pairs) | no difference shown" in text
    assert "each server was started once" in text
    assert "not measured | no baseline; not to be trusted: 3 requests to the candidate failed" in text
    assert r"a\|b c" in text
    assert "`lm_eval run --tasks boolq`" in text


def test_bits_per_weight_come_from_the_type_in_the_config(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "r4" / "checkpoint" / "config.json", '{"dtype": "bfloat16"}')
    assert collected(tmp_path).recipes[0].size.bits_per_weight == 4.0  # 50 MB for 100 million weights


def test_missing_stages_are_named(tmp_path: Path) -> None:
    data = collected(tmp_path)
    assert data.recipes[0].missing == dict.fromkeys(("accuracy", "throughput", "layers"), "not measured")
    text = markdown.render(data)
    assert text.count("Not measured: quantpress") == 3
    assert "| r4 | accuracy | not measured | quantpress evaluate r4 |" in text
    assert "Not measured: quantpress bench" in page.render(data)


def test_a_result_of_another_checkpoint_is_named_and_not_shown(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy={**ACCURACY, "checkpoint_digest": "old"})
    assert "boolq" not in text
    assert "| r4 | accuracy | measured on an older checkpoint" in text


def test_a_damaged_result_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy={**ACCURACY, "tasks": ["?"]}, throughput=THROUGHPUT)
    assert "accuracy.json is damaged: tasks: Input should be a valid dictionary" in text
    assert "no difference shown" in text


def test_stages_that_did_not_finish_are_named(tmp_path: Path) -> None:
    for name in ("r4.bench", "r4.quantize", "gone.quantize"):
        atomic.write_text(tmp_path / "logs" / f"{name}.log", "")
    text = rendered(tmp_path)
    assert "| r4 | throughput | bench was started and has not finished | quantpress bench r4 |" in text
    assert (
        "| gone | everything | quantize did not finish; see logs/gone.quantize.log | quantpress quantize gone |" in text
    )


def test_an_artifact_of_another_model_is_left_out(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "mine" / "manifest.json", MANIFEST)
    atomic.write_json(tmp_path / ".r4.staging-1" / "manifest.json", MANIFEST)
    data = collected(tmp_path, manifest={**MANIFEST, "model": {**MODEL, "digest": "another"}})
    assert [recipe.name for recipe in data.recipes] == ["mine"]
    (left_out,) = data.left_out
    assert left_out.dump() == {"recipe": "r4", "reason": "it was made from another model of this name"}


def test_servers_of_someone_else_are_not_called_this_machine(tmp_path: Path) -> None:
    servers = {"candidate": {"command": "(served at http://x)", "startup_s": None}}
    text = rendered(tmp_path, throughput={**THROUGHPUT, "servers": servers})
    assert "whose hardware and settings are not known" in text
    assert "on EPYC CPU, 2 cores" not in text


def test_warnings_are_repeated(tmp_path: Path) -> None:
    assert "- **r4**: too little data" in rendered(tmp_path, manifest={**MANIFEST, "warnings": ["too little data"]})


def test_every_table_row_has_as_many_cells_as_its_header(tmp_path: Path) -> None:
    lines = rendered(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT).splitlines()
    width = 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            cells = line.replace(r"\|", "").count("|")
            width = cells if not before.startswith("|") else width
            assert cells == width


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no artifact"):
        collect.collect(tmp_path, Identity.model_validate(MODEL))


def test_recovery_and_gates_are_shown(tmp_path: Path) -> None:
    text = rendered(tmp_path, accuracy=ACCURACY)
    assert "| r4 | recovery>=0.99 | 0.5 | 0.4 to 0.6 at 0.95 | 48 | fail |" in text
    assert "### Gates" not in rendered(tmp_path, accuracy={**ACCURACY, "gates": []})


def test_what_older_rules_decided_is_marked(tmp_path: Path) -> None:
    assert "rules" not in rendered(tmp_path, accuracy=ACCURACY)
    older = {name: value for name, value in ACCURACY.items() if name != "rules"}
    text = rendered(tmp_path, accuracy=older)
    assert "| fail (by older rules) |" in text
    assert "Intervals and gates of r4 are by older rules" in text


def test_what_few_documents_could_show_stands_beside_what_is_not_shown(tmp_path: Path) -> None:
    row = {**ROW, "significant": False, "p_value": 0.5, "smallest_loss": 0.1561, "counting": 0.5}
    row |= {"above_chance": 0.4, "above_chance_interval": [0.1, 0.7]}
    overall = {**ACCURACY["overall"], "difference": -0.02, "p_value": 0.4, "smallest_loss": 0.08}
    text = rendered(tmp_path, accuracy={**ACCURACY, "tasks": {"boolq": row}, "overall": overall})
    assert "| boolq (50% counts) | 48 |" in text
    assert (
        "-0.250, not shown: a loss of 0.156 would be | 0.5 | 0.500 (0.400 to 0.600) | 0.400 (0.100 to 0.700) |" in text
    )
    assert "-0.020, not shown: a loss of 0.080 would be | 0.4 |" in text


def test_what_was_not_asked_alike_and_what_is_left_out_are_in_every_view(tmp_path: Path) -> None:
    unlike = {"task": "piqa", "what": "prompts", "baseline": "'a'", "candidate": "'b'", "documents": 7}
    out = {"task": "rouge", "reason": "only the baseline has it"}
    gate = {"gate": "recovery>=0.9", "decision": "inconclusive", "reason": "left out: rouge"}
    accuracy = {**ACCURACY, "differences": [unlike], "left_out": [out], "gates": [gate], "notes": ["of 2 runs"]}
    data = collected(tmp_path, accuracy=accuracy)
    text, html = markdown.render(data), page.render(data)
    assert "| r4 | piqa | prompts | 7 | 'a' | 'b' |" in text
    assert "| r4 | rouge | only the baseline has it |" in text
    assert "inconclusive: left out: rouge" in text
    assert "- **r4**: of 2 runs" in text
    assert all(words in html for words in ("prompts", "only the baseline has it", "inconclusive: left out: rouge"))
    report.write(tmp_path, data)
    assert Report.load(tmp_path / "report.json") == data


def test_metrics_are_shown_with_filter_and_unit() -> None:
    row = {**ROW, "metric": "rougeL_max", "filter": "strict-match", "out_of": 100}
    assert "| rougeL_max (strict-match) / 100 |" in report.accuracy_table("r4", scored(tasks={"t": row}))


def test_the_noise_floor_is_a_row() -> None:
    floor = {"recovery": 1.0, "recovery_interval": [1.0, 1.0], "flips": 0.01, "kl": 0.0023}
    text = report.accuracy_table("r4", scored(noise_floor=floor))
    assert "noise floor: the model against itself, in other batches |" in text
    assert "|  |  |  |  |  |  | 1.000 (1.000 to 1.000) | 1.0% | 0.0023 |" in text


def test_figures_that_are_none(tmp_path: Path) -> None:
    row = {**ROW, "recovery": None, "recovery_interval": None, "kl": None}
    gate = {"gate": "recovery>=0.99", "figure": None, "interval": None, "decision": "inconclusive"} | LOOK
    data = collected(tmp_path, accuracy={**ACCURACY, "tasks": {"gsm8k": row}, "overall": None, "gates": [gate]})
    text = markdown.render(data)
    assert "| none | 30.0% | none |" in text
    assert "| none | none | 48 | inconclusive |" in text
    assert "No task has a recovery to draw" in page.render(data)


def test_what_later_versions_write_is_read() -> None:
    row = {**ROW, "flips": 0.4, "flips_interval": [0.3, 0.5], "difference_interval": [-0.4, -0.1]}
    row |= {"perplexity_ratio": 1.02, "perplexity_ratio_interval": [1.01, 1.03]}
    text = report.accuracy_table("r4", scored(tasks={"wikitext": row}))
    assert "| -0.250 (-0.400 to -0.100) |" in text
    assert "| 40.0% (30.0% to 50.0%) |" in text
    assert "1.020 (1.010 to 1.030)" in text


def test_json_is_what_the_views_were_made_of(tmp_path: Path) -> None:
    data = collected(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT)
    report.write(tmp_path, data)
    read = Report.load(tmp_path / "report.json")
    assert read == data
    assert (tmp_path / "report.md").read_text() == markdown.render(read)
    assert (tmp_path / "report.html").read_text() == page.render(read)


def twelve(build: Any) -> Report:
    return collect.collect(build(12), None)


def test_a_winner_passed_its_gate_and_every_pair_is_ahead(artifacts: Any) -> None:
    data = twelve(artifacts)
    passed = {name for name, state in data.decision.gate_states.items() if state == "passed"}
    assert 0 < len(passed) < 12
    latency, throughput, memory = data.decision.goals
    for goal in (latency, throughput, memory):
        assert goal.winner in passed
        assert passed >= set(goal.tied)
    for goal in (latency, throughput):
        assert goal.figures
        assert goal.figures.ratio
        assert goal.figures.ratio.interval[0] > 1.03
    sizes = {recipe.name: recipe.size.checkpoint_bytes for recipe in data.recipes}
    assert sizes[str(memory.winner)] <= min(sizes[name] for name in passed) * 1.02


def test_nothing_wins_where_no_gate_was_passed(tmp_path: Path) -> None:
    decision = collected(tmp_path, accuracy=ACCURACY, throughput=THROUGHPUT).decision
    assert decision.headline == "Deploy none of these yet: no recipe passed its accuracy gate."
    assert {goal.winner for goal in decision.goals} == {None}


def test_without_a_gate_the_headline_says_so(tmp_path: Path) -> None:
    decision = collected(tmp_path, accuracy={**ACCURACY, "gates": []}).decision
    assert decision.headline.startswith("Deploy r4 for memory, if its recovery is enough for you")


def _speed(ratios: list[float], **more: Any) -> Data:
    return {**THROUGHPUT, "cells": cells_of(ratios, **more)}


@pytest.mark.parametrize(
    ("throughput", "why"),
    [
        (_speed([1.1, 1.2, 1.05]), "its interval is not wholly above 1.03"),
        (_speed([1.044, 1.148, 1.051]), "its interval is not wholly above 1.03"),
        (_speed([1.3, 1.2]), "that is too little to judge by (2 pairs, 3 needed)"),
        (_speed([1.5, 1.2, 1.25]), "that is not to be trusted: the candidate's output tokens/s spread by 24%"),
        (_speed([1.3, 1.3, 1.3], untrustworthy=["another job ran"]), "in 6 of 6 cells another job ran"),
        (_speed([1.3, 1.2, 1.25]), None),
    ],
)
def test_how_sure_a_speed_up_is(tmp_path: Path, throughput: Data, why: str | None) -> None:
    goal = collected(tmp_path, throughput=throughput).decision.goals[1]
    assert goal.state == ("not shown" if why else "shown")
    assert goal.winner == (None if why else "r4")
    assert (why or "Ahead of the unquantized model") in goal.reason


@pytest.mark.parametrize(
    ("decision", "word"), [("pass", "no candidate"), ("fail", "none passed"), (None, "no candidate")]
)
def test_that_none_passed_is_said_only_where_there_were_gates_to_pass(
    decision: str | None, word: str, tmp_path: Path
) -> None:
    """No recipe makes the weights smaller."""
    whole = MANIFEST | {"bytes": {"model": 200_000_000, "checkpoint": 200_000_000}}
    gates = [ACCURACY["gates"][0] | {"decision": decision}] if decision else []
    data = collected(tmp_path, manifest=whole, accuracy=ACCURACY | {"gates": gates})
    assert f'<span class="chip no-candidate">{word}</span>' in page.render(data)


def test_other_workloads_are_not_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        atomic.write_json(tmp_path / name / "manifest.json", MANIFEST)
        atomic.write_json(tmp_path / name / "throughput.json", _speed([1.3, 1.2, 1.25]))
    other = {**_speed([9.0, 9.1, 9.2]), "workload": {"name": "other"}}
    decision = collected(tmp_path, throughput=other).decision
    assert decision.goals[1].winner in ("a", "b")
    assert any("not compared: r4" in caveat for caveat in decision.caveats)
    (row,) = [row for row in tables.scoreboard(collected(tmp_path, throughput=other)).rows if row[1] == "r4"]
    assert row[-2:] == ["other workload"] * 2


def test_other_suites_are_not_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        atomic.write_json(tmp_path / name / "manifest.json", MANIFEST)
        atomic.write_json(tmp_path / name / "throughput.json", _speed([1.3, 1.2, 1.25]))
        atomic.write_json(tmp_path / name / "accuracy.json", ACCURACY)
    easy = ACCURACY | {"suite": "easy", "overall": ACCURACY["overall"] | {"recovery": 1.1}}
    data = collected(tmp_path, throughput=_speed([1.3, 1.2, 1.25]), accuracy=easy)
    assert data.decision.front == ["a", "b"]
    assert "Scored on another suite than smoke, so not compared in accuracy: r4." in data.decision.caveats
    assert {row[1]: row[4] for row in tables.scoreboard(data).rows} == {
        "a": "0.500 (0.400–0.600) ↓",
        "b": "0.500 (0.400–0.600) ↓",
        "r4": "other suite",
    }
    pareto = plots.pareto(data)
    assert pareto
    assert "r4" not in pareto.text
    assert all("r4" not in plot.text for plot in plots.distances(data))


def test_the_front_holds_what_nothing_beats(artifacts: Any) -> None:
    data = twelve(artifacts)
    assert data.decision.load
    points: dict[str, tuple[float, float]] = {"the model": (1.0, 1.0)}
    for recipe in data.recipes:
        ratio = recipe.ratio(data.decision.load.most, "output_tokens_s")
        assert ratio
        assert recipe.overall
        points[recipe.name] = (ratio.value, recipe.overall.recovery.value or 0.0)
    beaten = {one for one, (x, y) in points.items() for a, b in points.values() if a > x and b > y}
    assert data.decision.front
    assert set(data.decision.front) == points.keys() - beaten - {"the model"}


def test_text_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>|[x](javascript:y)"
    answers = {"candidate": {"question": evil, "answer": evil}, "baseline": {"question": evil, "answer": evil}}
    model = {**MODEL, "name": evil, "notes": [evil]}
    atomic.write_json(tmp_path / "r4" / "manifest.json", {**MANIFEST, "warnings": [evil]})
    atomic.write_json(tmp_path / "r4" / "throughput.json", {**THROUGHPUT, "answers": answers})
    atomic.write_json(tmp_path / "r4" / "accuracy.json", {**ACCURACY, "tasks": {evil: ROW}})
    atomic.write_text(tmp_path / "r4" / "recipe.resolved.yaml", "```\n" + evil)
    data = collect.collect(tmp_path, Identity.model_validate(model))
    html, text = page.render(data), markdown.render(data)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "<script" not in text.partition("````yaml")[0]
    assert "[x](java" not in text.partition("````yaml")[0].replace(r"\[", "")
    assert "script-src" not in html
    assert "default-src 'none'" in html


def test_the_page_names_nothing_outside_itself(artifacts: Any) -> None:
    html = page.render(twelve(artifacts))
    for word in ("src=", "url(", "@import", "<link", "<script", "<iframe", 'style="'):
        assert word not in html
    assert "https://" not in html.replace("http://www.w3.org/", "")
    assert html.count("<svg ") == html.count('<svg role="img" aria-label="') == 11


def test_twelve_recipes_render_in_under_three_seconds(artifacts: Any) -> None:
    started = time.process_time()
    report.write(artifacts(12), twelve(artifacts))
    assert time.process_time() - started < 3


def test_what_moved_beyond_noise(artifacts: Any) -> None:
    old = twelve(artifacts)
    quiet = changes.moved_since(old, old, "old")
    assert {row.verdict for row in quiet.rows} == {"unchanged"}
    data = old.dump()
    recipe = data["recipes"][0]
    recipe["size"]["checkpoint_bytes"] += 1
    recipe["accuracy"]["overall"]["kl"] = {"value": 9.0, "interval": [8.0, 10.0]}
    recipe["accuracy"]["overall"]["recovery"]["value"] += 1e-4
    recipe["throughput"]["points"][0]["ratios"]["output_tokens_s"] |= {"value": 9.0, "interval": [8.9, 9.1]}
    moved = changes.moved_since(old, Report.model_validate(data), "old")
    rows = {row.figure: row for row in moved.rows if row.recipe == recipe["name"]}
    assert rows["size"].verdict == "larger"
    assert rows["overall: kl"].verdict == "worse"
    assert rows["overall: recovery"].verdict == "within noise"
    assert rows["throughput at 1"].verdict == "better"
    assert len(tables.moved(moved).rows) == 4  # three that moved, and the number of those that did not


def test_another_definition_of_a_figure_is_neither_better_nor_worse(artifacts: Any) -> None:
    data = twelve(artifacts).dump()
    score = data["recipes"][0]["accuracy"]
    score["rules"] = 3
    old = Report.model_validate(data)
    score["rules"] = 2
    score["overall"]["kl"] = {"value": 0.001, "interval": [0.0005, 0.002]}
    score["tasks"][0]["recovery"] = {"value": 2.0, "interval": [1.9, 2.1]}

    def verdicts() -> dict[str, str]:
        moved = changes.moved_since(old, Report.model_validate(data), "old")
        return {row.figure: row.verdict for row in moved.rows if row.recipe == data["recipes"][0]["name"]}

    # Rules 3 changed what is taken for a guess, and so which tasks are in the figures of the suite.
    of_task = f"{score['tasks'][0]['task']}: recovery"
    assert verdicts()["overall: kl"] == "not compared: made by older rules"
    assert verdicts()["overall: recovery"] == "unchanged"
    assert verdicts()[of_task] == "better"
    score["rules"] = 1
    assert verdicts()[of_task] == "not compared: made by older rules"


def test_what_moved_is_kept_as_numbers_and_shown_as_text(artifacts: Any, tmp_path: Path) -> None:
    old, new = twelve(artifacts), collect.collect(artifacts(12, seed=8), None)
    moved = changes.moved_since(old, new, "old")
    report.write(tmp_path, new.model_copy(update={"moved": moved}))
    assert Report.load(tmp_path / "report.json").moved == moved
    ratio = next(row for row in moved.rows if row.figure == "throughput at 1" and row.verdict == "worse")
    assert isinstance(ratio.old, Ratio)
    texts = {(row[0], row[1]): row[2] for row in tables.moved(moved).rows}
    low, high = ratio.old.interval
    assert texts[ratio.recipe, ratio.figure] == f"{ratio.old.value:.2f} ({low:.2f} to {high:.2f})"
    size = next(row for row in moved.rows if row.kind == "bytes" and row.verdict == "smaller")
    assert isinstance(size.old, int)
    assert texts[size.recipe, size.figure] == f"{size.old / 1e6:.0f} MB"


def test_what_cannot_be_compared_is_not(artifacts: Any) -> None:
    old = twelve(artifacts)
    data = old.dump()
    data["recipes"][0]["accuracy"]["suite"] = "another"
    data["recipes"][0]["throughput"]["workload"] = {"name": "another"}
    gone = data["recipes"].pop()["name"]
    moved = changes.moved_since(old, Report.model_validate(data), "old")
    verdicts = [row.verdict for row in moved.rows if row.recipe == data["recipes"][0]["name"]]
    assert verdicts.count("not compared: scored otherwise") == verdicts.count("not compared: measured otherwise") == 1
    assert moved.removed == [gone]
    data["model"]["digest"] = "other"
    assert not changes.moved_since(old, Report.model_validate(data), "old").rows


def test_against_needs_a_report(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "report.json", {"schema_version": 99})
    with pytest.raises(InputError, match="has schema_version 99; this version of quantpress reads 1, 2"):
        changes.older_report(tmp_path)
    atomic.write_json(tmp_path / "report.json", {"schema_version": 2, "recipes": []})
    with pytest.raises(InputError, match="is damaged: quantpress: Field required"):
        changes.older_report(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        changes.older_report(tmp_path / "nowhere.json")
    for text in ("", "[" * 100_000, "{}", "null"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(InputError) as caught:
            changes.older_report(tmp_path)
        assert caught.value.hint == "name a report.json that quantpress report wrote"


def test_a_report_of_version_1_can_be_the_older_one(artifacts: Any) -> None:
    """It was written by that version, of one real result, against itself: what moved was text then."""
    path = Path(__file__).parent / "recorded" / "report-version-1.json"
    assert isinstance(json.loads(path.read_text())["moved"]["rows"][0]["old"], str)
    old = changes.older_report(path)
    assert old.moved is None
    moved = changes.moved_since(old, collect.collect(artifacts(1), None), str(path))
    assert len(moved.rows) > 10
    verdicts = {row.figure: row.verdict for row in moved.rows}
    # The cells are the same, but their ratios had other intervals then: the ranges of the pairs.
    older = "not compared: the older report was decided by an older rule"
    assert {verdicts.pop(name) for name in list(verdicts) if " at " in name} <= {older, "not compared: too few pairs"}
    assert set(verdicts.values()) == {"unchanged"}


def test_the_ends_of_lines_lie_apart() -> None:
    chance = random.Random(1)
    places = [end["at"] for end in plots.apart([{"value": chance.random()} for _ in range(12)], 0.1)]
    assert all(after - before >= 0.0999 for before, after in itertools.pairwise(places))


def test_numbers_of_the_tables_are_those_of_the_data(artifacts: Any) -> None:
    data = twelve(artifacts)
    board = {row[1]: row for row in tables.scoreboard(data).rows}
    for recipe in data.recipes:
        assert recipe.overall
        assert board[recipe.name][4].startswith(f"{recipe.overall.recovery.value:.3f} (")
    assert markdown.markdown_table(tables.scoreboard(data)) in markdown.render(data)


UNKNOWN = Figure(value=None, interval=None)


@pytest.mark.parametrize(
    ("overall", "lost"),
    [
        ({"recovery": Figure(value=0.97, interval=(0.95, 0.99))}, True),
        ({"recovery": Figure(value=0.97, interval=(0.94, 1.0))}, False),
        (
            {
                "recovery": Figure(value=0.97, interval=None),
                "perplexity_ratio": Figure(value=2, interval=(2, 3)),
            },
            False,
        ),
        ({"perplexity_ratio": Figure(value=1.2, interval=(1.1, 1.3))}, True),
        ({"perplexity_ratio": Figure(value=1.2, interval=(0.9, 1.3))}, False),
        ({}, False),
    ],
)
def test_a_loss_that_is_shown_is_marked(overall: dict[str, Figure], lost: bool) -> None:
    paired = Paired(**{name: overall.get(name, UNKNOWN) for name in Paired.model_fields})
    assert tables.shows_loss(paired) is lost


def test_what_a_throughput_says_beside_its_figures(tmp_path: Path) -> None:
    saturated = {"concurrency": 16, "gained": 0.021, "left_out": [32, 64]}
    more = {"complete": False, "ended": "the server of r4 stopped", "saturated": saturated, "weight_bits": [4]}
    data = collected(tmp_path, throughput={**THROUGHPUT, **more})
    for text in (markdown.render(data), page.render(data)):
        assert "incomplete: the server of r4 stopped" in text
        assert "saturated at concurrency 16 (+2.1% output tokens/s over the step before); left out: 32, 64" in text
        assert "no speed-up: on a CPU, vLLM unpacks weights" in text
    assert "unpacks" not in rendered(tmp_path, throughput={**THROUGHPUT, "weight_bits": [8]})


def test_dummy_weights_have_a_section_of_their_own_and_decide_nothing(tmp_path: Path) -> None:
    made_up = {**_speed([1.3, 1.2, 1.25]), "weights": "dummy"}
    atomic.write_json(tmp_path / "dummy" / "w8a8" / "throughput.json", made_up)
    longer = {**made_up, "workload": {"name": "longer"}}
    atomic.write_json(tmp_path / "dummy" / "w8a8" / "throughput" / "longer.json", longer)
    of_other_shapes = {**longer, "workload": {"name": "older"}, "checkpoint_digest": "another"}
    atomic.write_json(tmp_path / "dummy" / "w8a8" / "throughput" / "older.json", of_other_shapes)
    data = collected(tmp_path)
    assert data.decision.goals[0].state == "not measured"
    text = markdown.render(data)
    assert "### With dummy weights" in text
    assert "| w8a8 | smoke | 1 at once |" in text
    assert "| w8a8 | longer | 1 at once |" in text
    assert "| w8a8 | older |" not in text
    assert "With dummy weights" in page.render(data)


def test_loads_by_request_rate_are_shown_and_not_drawn(tmp_path: Path) -> None:
    made = _speed([1.3, 1.2, 1.25], concurrency=None, request_rate=2.5)
    for cell in made["cells"]:  # requests are answered twice as fast
        taken = 500.0 if cell["role"] == "candidate" else 1000.0
        cell["figures"] |= {"mean_e2el_ms": taken, "completed": 4, "total_output_tokens": 64}
    data = collected(tmp_path, throughput=made)
    text = markdown.render(data)
    assert "| r4 | smoke | 2.5 requests/s |" in text
    assert "2.00 (1.84 to 2.17, 3 pairs) | faster" in text
    assert "the speed-up compares the output tokens/s of a request" in text
    assert "waiting included" in report.throughput_table("r4", Throughput.read(made, tmp_path))
    (point,) = data.recipes[0].speeds[0].points
    ratio = point.ratio("output_tokens_s")
    assert ratio
    assert ratio.value == pytest.approx(1.25, abs=0.01)
    assert data.decision.load is None
    assert "No recipe was measured at a concurrency, only at request rates" in text
    page.render(data)
    names = [name for step, found in to_mlflow.metrics(data.recipes[0]) for name in found if step == 0]
    assert "request_tokens_s.times_better.at_2.5_per_s" in names


def test_the_workload_that_most_recipes_share_is_compared_and_the_others_are_shown(tmp_path: Path) -> None:
    """r5 was measured under another workload last; the one that both have leads all the same."""
    shared = _speed([1.3, 1.2, 1.25])
    other = {**_speed([0.5, 0.5, 0.5]), "workload": {**shared["workload"], "name": "long"}}
    atomic.write_json(tmp_path / "r5" / "manifest.json", MANIFEST)
    atomic.write_json(tmp_path / "r5" / "throughput.json", other)
    atomic.write_json(tmp_path / "r5" / "throughput" / "smoke.json", shared)
    data = collected(tmp_path, throughput=shared)
    assert data.decision.load
    assert data.decision.load.recipes == ["r4", "r5"]
    assert data.decision.load.workload == "smoke"
    assert "Also measured, shown under Speed and not compared here: long." in data.decision.caveats
    text = markdown.render(data)
    assert text.index("| r5 | smoke | 1 at once |") < text.index("| r5 | long | 1 at once |")
    assert "quantpress bench r5 --workload long" in text
    assert "long" in page.render(data)
    assert {row.verdict for row in changes.moved_since(data, data, "old").rows} == {"unchanged"}


def test_the_suite_that_most_recipes_share_is_compared_and_the_gates_of_all_count(tmp_path: Path) -> None:
    passed = {**ACCURACY, "suite": "short", "gates": [{**ACCURACY["gates"][0], "decision": "pass"}]}
    other = {**ACCURACY, "suite": "long"}
    for name, front, aside in (("r4", passed, None), ("r5", other, passed)):
        atomic.write_json(tmp_path / name / "manifest.json", MANIFEST)
        atomic.write_json(tmp_path / name / "accuracy.json", front)
        if aside:
            atomic.write_json(tmp_path / name / "accuracy" / f"{aside['suite']}.json", aside)
    data = collected(tmp_path)
    assert {recipe.scores[0].suite for recipe in data.recipes} == {passed["suite"]}
    assert data.decision.gate_states == {"r4": "passed", "r5": "failed"}
    assert "Also scored, shown under Accuracy and not compared here: long." in data.decision.caveats
    atomic.write_json(tmp_path / "r5" / "accuracy.json", other | {"gates": [other["gates"][0] | {"gate": "kl<=0.2"}]})
    caveats = collected(tmp_path).decision.caveats
    assert any(one.startswith("Accuracy gate recovery>=0.99, kl<=0.2 (of 1 of 2 recipes). ") for one in caveats)
    text = markdown.render(data)
    assert "| r5 (long) | recovery>=0.99 |" in text
    assert "quantpress evaluate r5 --suite long" in text
    assert "r5 (long)" in page.render(data)


def test_the_command_of_an_evaluation_scores_the_same_again(tmp_path: Path) -> None:
    """A sample of one task, and all of another that has no more, by vLLM on two GPUs."""
    tasks: list[Data] = [
        {"task": "boolq", "like": "boolq", "limit": 48, "seed": 0},
        {"task": "piqa", "like": "piqa"},
    ]
    engine = {"tensor-parallel-size": 2, "enable-chunked-prefill": False, "enforce-eager": False, "max-num-seqs": 1}
    settings = ACCURACY["settings"] | {"tasks": tasks, "backend": "vllm", "engine": engine}
    found = collected(tmp_path, accuracy=ACCURACY | {"settings": settings, "counts_no_signal": True})
    assert tables.commands(found).rows[1][2] == (
        "quantpress evaluate r4 --suite smoke --limit 48 --backend vllm --count-no-signal --gate 'recovery>=0.99' "
        "--engine tensor_parallel_size=2 --engine enforce_eager=false --engine max_num_seqs=1 "
        "--engine 'extra_args={\"enable-chunked-prefill\": false}' --model embedded"
    )


@pytest.mark.parametrize(
    ("boolq", "piqa", "limit"),
    [
        ({}, {}, None),
        ({"limit": 48}, {"limit": 48}, 48),
        ({"limit": 12}, {}, None),
        ({"limit": 12}, {"limit": 8}, None),
        ({"limit": 12}, {"documents": [1]}, 12),
    ],
)
def test_a_limit_is_named_where_it_takes_the_documents_that_were_scored(
    boolq: Data, piqa: Data, limit: int | None, tmp_path: Path
) -> None:
    named = {"boolq": boolq, "piqa": piqa}
    tasks = [{"task": name, "like": name, "seed": 0} | more for name, more in named.items()]
    found = collected(tmp_path, accuracy=ACCURACY | {"settings": ACCURACY["settings"] | {"tasks": tasks}})
    assert found.recipes[0].accuracy
    assert found.recipes[0].accuracy.limit == limit


def test_every_setting_of_an_engine_that_may_change_a_score_has_its_own_name_in_commands() -> None:
    from quantpress_serve.workload.engine import Engine

    silent = {"max_model_len", "gpu_memory_utilization", "extra_args"}
    assert set(tables.ENGINE_FIELDS) == Engine.model_fields.keys() - silent


def test_what_servers_and_chats_told(tmp_path: Path) -> None:
    about = {"tokens": 1, "mean_logprob": -0.1, "problem": None}
    asked = [{"question": f"q{number}", "answer": f"a{number}"} | about for number in range(3)]
    server = {"command": "vllm", "startup_s": 9.0, "kv_cache_tokens": 12_345, "load_s": 1.0}
    more = {"chat": {"candidate": asked, "baseline": asked[:2]}, "servers": {"candidate": server, "baseline": server}}
    text = rendered(tmp_path, throughput={**THROUGHPUT, **more})
    assert "| r4 | q2 | not asked | a2 |" in text
    assert "| 12,345 tokens | 12,345 tokens |" in text
    assert "KV capacity" not in text
