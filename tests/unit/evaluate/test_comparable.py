"""What `compare` refuses, what it leaves out by name, and what no gate passes on."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval_files import choice, choices, generated, told, without, write_run

from quantpress.cli.compare import Options
from quantpress.cli.compare import run as compare
from quantpress.errors import GateError, InputError
from quantpress.runtime import console

Compare = Callable[..., dict[str, Any]]
GATE = "recovery>=0.5"


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    """Compares the folders base and own. Gives what --json prints, with `text`, the table that is printed without it,
    and `error`, the GateError, if there was one."""

    def run(baseline: str = "base", candidate: str = "own", gate: str | None = GATE, **options: Any) -> dict[str, Any]:
        given = {"metric": None, "filter": None, "differing": False, "count_no_signal": True} | options
        made = Options(tmp_path / baseline, tmp_path / candidate, gate=[gate] if gate else [], **given)
        printed, error = {}, None
        for as_json in (True, False):
            console.use(quiet=True, as_json=as_json)
            try:
                compare(made)
            except GateError as raised:
                error = raised
            finally:
                console.use()
                printed[as_json] = capsys.readouterr().out
        return json.loads(printed[True]) | {"text": printed[False], "error": error}

    return run


def decision(result: dict[str, Any]) -> str:
    return str(result["gates"][0]["decision"])


RIGHT = "rrrwrrrwrr"


def test_equal_runs_are_compared(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, "org/model", results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, "org/model-w4", results={})
    result = compared()
    assert (result["differences"], result["left_out"], result["notes"]) == ([], [], [])
    assert decision(result) == "pass"


@pytest.mark.parametrize(
    ("rows", "what", "words"),
    [
        (choices(RIGHT, shots=5), "prompts", "Example: water is wet"),
        (without(choices(RIGHT, shots=5), "prompt_hash"), "prompts", "Example: water is wet"),
        (choices(RIGHT, prompt_hash="other"), "prompts", "hash other"),
        (choices(RIGHT[:-2]), "documents", r"8 \(0 to 7\)"),
        ([choice(n, True, doc_hash=f"e{n}") for n in range(10)], "documents", "document 0 with hash e0"),
        ([choice(n + 100, True) for n in range(10)], "documents", r"10 \(100 to 109\)"),
        (choices(RIGHT, filtered_resps=["yes", "no"]), "answers", "2 answers"),
        (without(choices(RIGHT, target="0"), "target_hash"), "right answers", "0"),
        (choices(RIGHT, target_hash="other"), "right answers", "hash other"),
    ],
)
def test_what_was_asked_otherwise_is_refused(
    rows: list[dict[str, Any]], what: str, words: str, tmp_path: Path, compared: Compare
) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT), "arc": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": rows, "arc": choices(RIGHT)})
    with pytest.raises(InputError, match=f"piqa: {what}.* in the baseline, .*{words}.* in the candidate") as refused:
        compared()
    assert "arc" not in refused.value.message
    assert "--differing" in (refused.value.hint or "")


def test_a_choice_or_an_argument_of_one_document_is_enough(tmp_path: Path, compared: Compare) -> None:
    rows = choices(RIGHT)
    rows[7]["arguments"]["gen_args_1"]["arg_1"] = " another choice"  # which the hash of the first prompt cannot tell
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": rows})
    with pytest.raises(InputError, match=r"prompts \(1 documents\): .* choice 1'.* another choice'"):
        compared()


def test_generation_settings_in_the_samples(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"gsm8k": [generated(n, "7", True) for n in range(9)]})
    write_run(tmp_path / "own", {"gsm8k": [generated(n, "7", True, until="\n\n") for n in range(9)]})
    with pytest.raises(InputError, match="gsm8k: generation settings"):
        compared()


def config(**changes: Any) -> dict[str, Any]:
    configs = told(["piqa"])["configs"]
    return {"configs": {"piqa": configs["piqa"] | changes}}


GENERATES = {"output_type": "generate_until"}


@pytest.mark.parametrize(
    ("base", "own", "what"),
    [
        ({}, {"n-shot": {"piqa": 5}}, "few-shot examples: 0 in the baseline, 5 in the candidate"),
        ({}, {"versions": {"piqa": 2.0}}, "task version: 1 in the baseline, 2 in the candidate"),
        ({}, {"chat_template": "{{ messages }}"}, "chat template: none in the baseline, {{ messages }} in"),
        ({"chat_template": "{{ a }}"}, {"chat_template": "{{ b }}"}, "chat template"),
        ({}, {"system_instruction": "Be brief."}, "system instruction"),
        (
            {"n-shot": {"piqa": 5}},
            {"n-shot": {"piqa": 5}, "fewshot_as_multiturn": True},
            "few-shot examples as turns of a chat: false in the baseline, true in",
        ),
        (
            config(**GENERATES, generation_kwargs={"temperature": 0}),
            config(**GENERATES, generation_kwargs={"temperature": 1}),
            "generation settings",
        ),
        (
            config(**GENERATES) | {"config": {"gen_kwargs": None}},
            config(**GENERATES) | {"config": {"gen_kwargs": {"temperature": 1}}},
            "generation settings asked for",
        ),
        ({}, config(repeats=4), "answers asked for each question: 1 in the baseline, 4 in"),
        ({}, config(metric_list=[{"metric": "acc", "ignore_case": True}]), "definition of metric acc"),
        (
            config(filter_list=[{"name": "none", "filter": [{"function": "regex", "regex_pattern": "a"}]}]),
            config(filter_list=[{"name": "none", "filter": [{"function": "regex", "regex_pattern": "b"}]}]),
            "definition of filter none",
        ),
    ],
    ids=str,
)
def test_what_the_results_file_tells_is_refused(
    base: dict[str, Any], own: dict[str, Any], what: str, tmp_path: Path, compared: Compare
) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, results=base)
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, results=own)
    with pytest.raises(InputError) as refused:
        compared()
    assert f"piqa: {what}" in refused.value.message


@pytest.mark.parametrize(
    "own",
    [
        {"model_name": "org/other", "model_source": "vllm", "config": {"model": "vllm", "batch_size": 1}},
        {"fewshot_as_multiturn": True},  # there are no examples
        {"chat_template": ""},
        config(metric_list=[{"metric": "acc_norm"}]),
        config(doc_to_text="<function f at 0x7f39d057f600>", metadata={"version": 1, "pretrained": "another"}),
    ],
    ids=str,
)
def test_what_changes_nothing_is_compared(own: dict[str, Any], tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, results=own)
    assert compared()["differences"] == []


def test_on_request_the_differences_are_shown_and_no_gate_passes(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT), "arc": choices(RIGHT)}, results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT, shots=5), "arc": choices(RIGHT)}, results={})
    result = compared(differing=True)
    (difference,) = result["differences"]
    assert (difference["task"], difference["what"], difference["documents"]) == ("piqa", "prompts", 10)
    assert "Example" in difference["candidate"]
    assert decision(result) == "inconclusive"
    assert "the two were not scored alike: other prompts" in result["error"].message
    assert result["tasks"]["piqa"]["documents"] == 10
    assert decision(compared(differing=True, gate="arc:recovery>=0.5")) == "pass"
    assert "| own | piqa | prompts | 10 |" in result["text"]


def test_on_request_the_documents_that_both_have_are_compared(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT), "arc": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT[:6]), "arc": [choice(n + 50, True) for n in range(4)]})
    result = compared(differing=True)
    assert result["tasks"]["piqa"]["documents"] == 6
    assert result["left_out"] == [{"task": "arc", "reason": "the two have no document in common"}]


def test_the_same_filter_on_both_sides_whatever_the_order(tmp_path: Path, compared: Compare) -> None:
    strict = [generated(n, "?", n > 2) for n in range(12)]
    loose = [generated(n, "7", True, "flexible-extract") for n in range(12)]
    write_run(tmp_path / "base", {"gsm8k": strict + loose})
    write_run(tmp_path / "own", {"gsm8k": loose + strict})
    row = compared()["tasks"]["gsm8k"]
    assert (row["filter"], row["baseline"], row["candidate"]) == ("strict-match", 0.75, 0.75)
    row = compared(filter="flexible-extract")["tasks"]["gsm8k"]
    assert (row["filter"], row["baseline"], row["candidate"]) == ("flexible-extract", 1.0, 1.0)
    write_run(tmp_path / "one", {"gsm8k": loose})
    assert compared(candidate="one")["tasks"]["gsm8k"]["filter"] == "flexible-extract"


def test_filters_that_do_not_match_are_refused_by_name(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"gsm8k": [generated(n, "7", True) for n in range(9)]})
    write_run(tmp_path / "own", {"gsm8k": [generated(n, "7", True, "custom") for n in range(9)]})
    with pytest.raises(InputError, match=r"gsm8k has no filter on both sides \(baseline: strict-match; candidate: cus"):
        compared()
    with pytest.raises(InputError, match="gsm8k has no filter 'custom' on both sides"):
        compared(filter="custom")
    with pytest.raises(InputError, match="'absent' is a filter of no task"):
        compared(filter="absent")


def test_a_named_filter_is_for_tasks_that_have_several(tmp_path: Path, compared: Compare) -> None:
    tasks = {"gsm8k": [generated(n, "7", True) for n in range(9)], "piqa": choices(RIGHT)}
    write_run(tmp_path / "base", tasks)
    write_run(tmp_path / "own", tasks)
    rows = compared(filter="strict-match")["tasks"]
    assert {task: row["filter"] for task, row in rows.items()} == {"gsm8k": "strict-match", "piqa": None}


def test_the_first_metric_that_both_sides_have(tmp_path: Path, compared: Compare) -> None:
    both = choices(RIGHT, acc_norm=1.0)
    write_run(tmp_path / "base", {"arc": both})
    write_run(tmp_path / "own", {"arc": without(both, "acc")})
    assert compared()["tasks"]["arc"]["metric"] == "acc_norm"
    write_run(tmp_path / "other", {"arc": choices(RIGHT)})
    with pytest.raises(InputError, match=r"arc: no metric is on both sides \(baseline: acc_norm; candidate: acc\)"):
        compared(baseline="own", candidate="other")


def test_missing_tasks_are_named_and_no_gate_on_all_passes(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT), "arc": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT), "boolq": choices(RIGHT)})
    result = compared()
    reasons = {item["task"]: item["reason"] for item in result["left_out"]}
    assert reasons == {"arc": "only the baseline has it", "boolq": "only the candidate has it"}
    assert decision(result) == "inconclusive"
    assert "left out: arc: only the baseline has it" in result["error"].message
    assert "--extend" not in (result["error"].hint or "")  # an option of evaluate, not of compare
    assert decision(compared(gate="piqa:recovery>=0.5")) == "pass"
    assert "left out: arc" in compared(gate="arc:recovery>=0.5")["gates"][0]["reason"]
    assert "| own | arc | only the baseline has it |" in result["text"]
    assert compared(gate=None)["error"] is None


def fraction(number: int, value: float, metric: str = "acc", **changes: Any) -> dict[str, Any]:
    return {**without([choice(number, True)], "acc")[0], metric: value, "metrics": [metric], **changes}


def test_fractions_are_compared_as_what_they_are(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"truthfulqa_mc2": [fraction(n, 0.5 + n / 100) for n in range(20)]})
    write_run(tmp_path / "own", {"truthfulqa_mc2": [fraction(n, 0.4 + n / 100) for n in range(20)]})
    row = compared()["tasks"]["truthfulqa_mc2"]
    assert row["difference"] == pytest.approx(-0.1)
    assert row["difference_interval"] == pytest.approx([-0.1, -0.1], abs=0.02)
    low, high = row["recovery_interval"]
    assert row["recovery"] == pytest.approx(0.495 / 0.595)
    assert low < row["recovery"] < high
    assert (row["p_value"], row["significant"], row["lost"], row["guessing"]) == (None, None, None, None)
    assert not row["no_signal"]


def test_shares_of_a_hundred(tmp_path: Path, compared: Compare) -> None:
    near = pytest.approx
    write_run(tmp_path / "base", {"truthfulqa_gen": [fraction(n, 40.0, "rougeL_max") for n in range(20)]})
    write_run(tmp_path / "own", {"truthfulqa_gen": [fraction(n, 30.0, "rougeL_max") for n in range(20)]})
    row = compared()["tasks"]["truthfulqa_gen"]
    assert (row["metric"], row["out_of"], row["baseline"], row["recovery"]) == (
        "rougeL_max",
        100,
        near(0.4),
        near(0.75),
    )


@pytest.mark.parametrize(
    ("metric", "value", "results", "reason"),
    [
        ("f1", [0, 1], {}, "f1 is no number of each document"),
        ("acc", ["yes", {"idx": 1}], {}, "acc is no number of each document"),
        ("ter", 0.4, None, "less ter is better"),
        ("brier", 0.4, {"higher_is_better": {"odd": {"brier": False}}}, "less brier is better"),
        ("bleu_diff", -3.5, {}, "bleu_diff goes from -3.5 to -3.5"),
        ("length", 612, {}, "length goes from 612 to 612"),
        (
            "mcc",
            1.0,
            {"configs": {"odd": {"metric_list": [{"metric": "mcc", "aggregation": "matthews_corrcoef"}]}}},
            "lm-eval does not average mcc over documents but takes their matthews_corrcoef",
        ),
        (
            "acc_norm",
            1.0,
            {"configs": {"odd": {"metric_list": [{"metric": "acc_norm", "aggregation": "def agg_gpirt(items):"}]}}},
            "lm-eval does not average acc_norm over documents but takes their def agg_gpirt(items):",
        ),
    ],
)
def test_what_cannot_be_compared_by_document_is_left_out_with_its_reason(
    metric: str, value: Any, results: dict[str, Any] | None, reason: str, tmp_path: Path, compared: Compare
) -> None:
    tasks = {"odd": [fraction(n, value, metric) for n in range(9)], "piqa": choices(RIGHT)}
    for side in ("base", "own"):
        write_run(tmp_path / side, tasks, results=results)
    result = compared()
    (left_out,) = result["left_out"]
    assert left_out["task"] == "odd"
    assert reason in left_out["reason"]
    assert decision(result) == "inconclusive"


def test_several_models_are_told_apart_or_refused(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, "org/one", results={})
    write_run(tmp_path / "base", {"arc": choices(RIGHT)}, "org/two", results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)})
    with pytest.raises(InputError, match="holds runs of 2 models") as refused:
        compared()
    assert "org/one: piqa in" in refused.value.message
    assert "org/two: arc in" in refused.value.message
    assert str(tmp_path / "base" / "org__one") in (refused.value.hint or "")
    assert decision(compared(baseline="base/org__one")) == "pass"


def test_models_in_one_folder_are_told_apart_by_the_results(tmp_path: Path, compared: Compare) -> None:
    early, late = "2026-01-01T00-00-00.000001", "2026-01-02T00-00-00.000001"
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, "m", early, results={"model_name": "org/one"})
    write_run(tmp_path / "own", {"piqa": choices("w" * 10)}, "m", late, results={"model_name": "org/two"})
    with pytest.raises(InputError, match="holds runs of 2 models"):
        compared("own", "own")
    row = compared(f"own/m/results_{early}.json", f"own/m/samples_piqa_{late}.jsonl")["tasks"]["piqa"]
    assert (row["baseline"], row["candidate"]) == (0.8, 0.0)


@pytest.mark.parametrize("arguments", ["pretrained=org/m,load_in_4bit=True", {"pretrained": "org/m", "revision": "v2"}])
def test_a_model_that_was_loaded_otherwise_is_another_one(arguments: Any, tmp_path: Path, compared: Compare) -> None:
    early, late = "2026-01-01T00-00-00.000001", "2026-01-02T00-00-00.000001"
    plain = {"model_name": "org/m", "config": {"model_args": "pretrained=org/m,batch_size=4,dtype=bfloat16"}}
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, "m", early, results=plain)
    other = {"model_name": "org/m", "config": {"model_args": arguments}}
    write_run(tmp_path / "own", {"piqa": choices("w" * 10)}, "m", late, results=other)
    with pytest.raises(InputError, match="holds runs of 2 models") as refused:
        compared("own", "own")
    assert "org/m (load_in_4bit=True)" in refused.value.message or "org/m (revision=v2)" in refused.value.message


def test_of_runs_alike_the_newest_counts_and_that_is_said(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, results={})
    write_run(
        tmp_path / "own", {"piqa": choices("w" * 10), "arc": choices(RIGHT)}, time="2026-01-01T00-00-00.1", results={}
    )
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, time="2026-02-01T00-00-00.1", results={})
    result = compared()
    assert result["tasks"]["piqa"]["candidate"] == 0.8
    assert "piqa: the newest of 2 runs alike, 2026-02-01T00-00-00.1" in result["notes"][0]


@pytest.mark.parametrize("results", [{"n-shot": {"piqa": 5}}, {}])
def test_runs_of_one_model_that_differ_are_refused(results: dict[str, Any], tmp_path: Path, compared: Compare) -> None:
    shots = 0 if results else 5
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, time="2026-01-01T00-00-00.1", results={})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT, shots=shots)}, time="2026-02-01T00-00-00.1", results=results)
    with pytest.raises(InputError, match="holds 2 runs of piqa, which differ") as refused:
        compared()
    newest = tmp_path / "own" / "some__model" / "results_2026-02-01T00-00-00.1.json"
    assert str(newest) in (refused.value.hint or "")


def test_a_task_in_two_folders_is_refused(tmp_path: Path, compared: Compare) -> None:
    for side in ("base", "own/a", "own/b"):
        write_run(tmp_path / side, {"piqa": choices(RIGHT)})
    with pytest.raises(InputError, match="holds 2 runs of piqa, and nothing tells which one counts"):
        compared()


def test_what_a_killed_run_left_is_no_run(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)})
    write_run(tmp_path / "own" / ".smoke.staging-1", {"piqa": choices(RIGHT)}, "another")
    assert decision(compared()) == "pass"


def test_what_is_not_known_is_said(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT)}, results={"n-shot": {"piqa": 5}})
    (note,) = compared()["notes"]
    assert f"no results_<time>.json beside the samples of {tmp_path / 'base'} tells" in note


def own_file(folder: Path) -> Path:
    (path,) = folder.rglob("samples_*")
    return path


def perplexity(likelihood: Any, count: Any) -> dict[str, Any]:
    row = without([choice(0, True)], "acc")[0]
    return row | {
        "filtered_resps": ["-9.0"],
        "arguments": {"a": {"arg_0": "text"}},
        "word_perplexity": [likelihood, count],
    }


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([choice(0, True, doc_id=[1])], "line 1 does not hold .*doc_id"),
        ([choice(0, True, doc_id={"a": 1})], "line 1 does not hold .*doc_id"),
        ([choice(0, True, doc_id=None)], "line 1 does not hold .*doc_id"),
        ([choice(0, True), choice(0, False)], "line 2: document 0 is there twice, first in line 1"),
        ([perplexity(-9.0, 0)], "line 1: document 0 .* over 0 words"),
        ([perplexity(-9.0, "many")], "line 1: document 0 has no answers that can be compared"),
        ([perplexity(10**400, 3)], "line 1: document 0 has no answers that can be compared"),
        ([perplexity(-1e300, 3)], "line 1: document 0 .* log-likelihood"),
        ([perplexity(-9.0, 3) | {"word_perplexity": 7}], "line 1: document 0 .* word_perplexity is 7"),
        ([choice(0, True, acc=10**400), choice(1, True)], "document 0 .* acc is 1000"),
        ([choice(0, True, filtered_resps=[["-1e400", "False"], ["-1", "False"]])], "log-likelihood is not finite"),
        ([choice(0, True, filtered_resps=[])], r"filtered_resps is \[\]"),
        ([choice(0, True, filtered_resps=7)], "filtered_resps is 7"),
        ([choice(0, True, arguments=[1, 2])], "line 1 does not hold .*arguments"),
        ([without([choice(0, True)], "prompt_hash", "arguments")[0]], "neither prompt_hash nor arguments"),
        ([without([choice(0, True)], "filtered_resps")[0]], "'filtered_resps' is missing"),
        ([7], "line 1 does not hold .*7 is no object"),
    ],
    ids=str,
)
def test_strange_rows_are_wrong_input_with_their_place(
    rows: list[Any], words: str, tmp_path: Path, compared: Compare
) -> None:
    for side in ("base", "own"):
        write_run(tmp_path / side, {"piqa": rows})
    with pytest.raises(InputError, match=words):
        compared()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"doc_id": 0', "line 1 does not hold"),
        (b"\xff\xfe\n", "line 1 does not hold"),
        (b'{"doc_id": ' + b"9" * 5000 + b"}", "line 1 does not hold"),
        (b"[" * 100_000, "line 1 does not hold"),
    ],
    ids=["cut", "not UTF-8", "a long number", "deep"],
)
def test_strange_lines_are_wrong_input(content: bytes, words: str, tmp_path: Path, compared: Compare) -> None:
    for side in ("base", "own"):
        own_file(write_run(tmp_path / side, {"piqa": choices(RIGHT)})).write_bytes(content)
    with pytest.raises(InputError, match=words):
        compared()


@pytest.mark.parametrize("depth", [60, 940, 990])
@pytest.mark.parametrize("place", ['["\\n"]', '"strict-match"', '"7"', '"d0"', "1.0"])
def test_deep_values_are_wrong_input(place: str, depth: int, tmp_path: Path, compared: Compare) -> None:
    line = json.dumps(generated(0, "7", True))
    assert place in line
    for side in ("base", "own"):
        path = own_file(write_run(tmp_path / side, {"gsm8k": []}))
        path.write_text(line.replace(place, "[" * depth + "]" * depth))
    with pytest.raises(InputError, match="line 1 does not hold"):
        compared()


def test_a_line_has_an_end(tmp_path: Path, compared: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantpress_evaluate.comparison.logged._LONGEST", 2000)
    path = own_file(write_run(tmp_path / "base", {"piqa": [choice(0, True), choice(1, True, doc_hash="x" * 3000)]}))
    with pytest.raises(InputError, match="line 2 has more than"):
        compared(candidate="base")
    packed = path.with_name("samples_piqa.jsonl.gz")
    packed.write_bytes(gzip.compress(b"x" * 10**6))
    path.unlink()
    with pytest.raises(InputError, match="line 1 has more than"):
        compared(candidate="base")


def test_a_fifo_or_a_device_does_not_hang(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)})
    (tmp_path / "own").mkdir()
    os.mkfifo(tmp_path / "own" / "samples_piqa.jsonl")
    with pytest.raises(InputError, match=r"samples_piqa\.jsonl is not a regular file"):
        compared()
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "samples_piqa.jsonl").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"samples_piqa\.jsonl is not a regular file"):
        compared(candidate="zero")
    with pytest.raises(InputError, match="not a folder"):
        compared(candidate="own/samples_piqa.jsonl")


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, "\x00"])
def test_a_results_file_that_is_none_is_wrong_input(content: str, tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT)}, results={})
    (results,) = tmp_path.rglob("results_*")
    results.write_text(content)
    with pytest.raises(InputError, match=r"results_.*\.json does not hold lm-eval's results"):
        compared(candidate="base")
    results.unlink()
    os.mkfifo(results)
    with pytest.raises(InputError, match="is not a regular file"):
        compared(candidate="base")


@pytest.mark.parametrize(
    "results",
    [
        {"configs": 7, "versions": [], "n-shot": None, "higher_is_better": {"piqa": 3}, "config": "x"},
        {"configs": {"piqa": {"metric_list": "acc", "filter_list": [1], "metadata": 3}}, "model_name": ["a"]},
        {"versions": {"piqa": {"a": [1, float("nan")]}}, "n-shot": {"piqa": "many"}, "chat_template": 5},
    ],
)
def test_a_strange_results_file_tells_what_it_can(results: dict[str, Any], tmp_path: Path, compared: Compare) -> None:
    for side in ("base", "own"):
        write_run(tmp_path / side, {"piqa": choices(RIGHT)}, results=results)
    assert decision(compared()) == "pass"


def test_words_counted_otherwise_are_no_ratio(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"wiki": [perplexity(-9.0, 3)]})
    write_run(tmp_path / "own", {"wiki": [perplexity(-9.0, 4)]})
    with pytest.raises(InputError, match="wiki: word_perplexity counts other numbers of words"):
        compared()


def test_an_empty_file_is_left_out(tmp_path: Path, compared: Compare) -> None:
    write_run(tmp_path / "base", {"piqa": choices(RIGHT), "arc": choices(RIGHT)})
    write_run(tmp_path / "own", {"piqa": choices(RIGHT), "arc": []})
    assert compared()["left_out"] == [{"task": "arc", "reason": "the candidate's file holds no samples"}]
