"""Suites and workloads are data: every shipped one is valid, and what is wrong is found before anything is loaded."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress_evaluate import suite
from quantpress_evaluate.suite import load_suite
from quantpress_serve.workload import prompts, workload
from quantpress_serve.workload.workload import load_workload

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted((ROOT / "evaluate" / "suites").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_in_the_tree_is_valid(path: Path) -> None:
    loaded, _ = load_suite(str(path))
    assert loaded.name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "serve" / "workloads").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_workload_in_the_tree_is_valid(path: Path) -> None:
    assert load_workload(str(path)).name == path.stem


def test_the_smoke_suite_ships_its_documents_under_names_of_its_own() -> None:
    loaded, path = load_suite("smoke")
    tasks = suite.resolve_tasks(loaded, path, None)
    assert len(tasks) == 4
    for task in tasks:
        assert task.task.startswith("quantpress_smoke_")
        assert task.data
        documents = [json.loads(line) for line in Path(task.data).read_text().splitlines()]
        assert len(documents) >= 40
        labels = Counter(str(document.get("label", document.get("answerKey"))) for document in documents)
        assert max(labels.values()) <= 1.2 * min(labels.values())


def test_the_data_folder_must_hold_every_task(tmp_path: Path) -> None:
    loaded, path = load_suite("commonsense")
    (tmp_path / "boolq.jsonl").write_text('{"label": 0}\n')
    with pytest.raises(InputError, match=r"holds no piqa\.jsonl"):
        suite.resolve_tasks(loaded, path, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        suite.resolve_tasks(loaded, path, tmp_path / "nowhere")


def test_a_suite_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndescription: d\ntasks: [{task: t, like: boolq, data: gone.jsonl}]\n")
    loaded, source = load_suite(str(path))
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        suite.resolve_tasks(loaded, source, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: []", "at least 1 item"),
        ("tasks: [{task: boolq, metric: accuracy}]", "'acc'"),
        ("tasks: [{task: boolq}]\nlimt: 3", "did you mean 'limit'"),
    ],
)
def test_a_bad_suite_is_told_why(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\ndescription: d\n{text}\n")
    with pytest.raises(InputError, match=words):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurrency: []", "give either concurrency or request_rates"),
        ("concurrency: [1]\nrequest_rates: [1]", "give either concurrency or request_rates"),
        ("request_rates: [1]", "request_rates go with requests"),
        ("concurrency: [1]\nrequests: 4", "give either requests_per_stream or requests"),
        ("concurrency: [1]\nuntil_saturated: true", "goes with a concurrency that rises"),
        ("concurrency: [1]\nprompts: {format: jsonl, path: p.jsonl}", "input_len does not go with prompts"),
        ("concurrency: [1]\ngoodput: {ttfft: 3}", "did you mean 'ttft'"),
        ("concurrency: [1]\nengine: {extra_args: {port: 80}}", "quantpress sets this argument itself"),
        ("concurrency: [0]", "greater than or equal to 1"),
        ("concurrency: [1]\nengine: {tensor_paralel_size: 2}", "did you mean 'tensor_parallel_size'"),
    ],
)
def test_a_bad_workload_is_told_why(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"name: w\ndescription: d\ninput_len: 8\noutput_len: 8\nrequests_per_stream: 1\n{text}\n")
    with pytest.raises(InputError, match=words):
        load_workload(str(path))


@pytest.mark.parametrize(
    ("length", "words"),
    [
        ("{min: 8, max: 4}", "min 8 and max 4: min comes first"),
        ("{min: 8, max: 11}", "their mean must be a whole number"),
        ("{min: 8}", "give min and max, or mean and range_ratio"),
        ("{mean: 8, range_ratio: 1.0}", "less than 1"),
        ("0", "greater than or equal to 1"),
    ],
)
def test_a_bad_length_is_told_why(length: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    text = "output_len: 8\nrequests_per_stream: 1\nconcurrency: [1]"
    path.write_text(f"name: w\ndescription: d\ninput_len: {length}\n{text}\n")
    with pytest.raises(InputError, match=words):
        load_workload(str(path))


def test_lengths_from_min_to_max_are_what_vllm_draws() -> None:
    """vLLM draws from floor(mean * (1 - ratio)) to ceil(mean * (1 + ratio)) (benchmarks/datasets/utils.py)."""
    for low in range(1, 60):
        for high in range(low, 200, 2):
            length = workload.Range(min=low, max=high)
            drawn = math.floor(length.middle * (1 - length.ratio)), math.ceil(length.middle * (1 + length.ratio))
            assert drawn == (low, high)
            assert 0 <= length.ratio < 1
    assert workload.Range(mean=100, range_ratio=0.25).longest == 125


@pytest.mark.parametrize(
    ("form", "name", "text", "words"),
    [
        ("jsonl", "p.jsonl", '{"prompt": "a"}\n', "p.jsonl:1: `output_tokens` is None"),
        ("jsonl", "p.jsonl", '{"prompt": "a", "output_tokens": 3}\n{"text": "b"}\n', "p.jsonl:2: `prompt` is missing"),
        ("jsonl", "p.jsonl", "{\n", "p.jsonl:1: not JSON"),
        ("jsonl", "p.txt", '{"prompt": "a"}\n', "does not end in .jsonl"),
        ("jsonl", "p.jsonl", "\n", "holds no prompt that can be used"),
        ("sharegpt", "p.json", "{}", "holds no list"),
        ("sharegpt", "p.json", "[{", "p.json: not JSON"),
        ("sharegpt", "p.json", "[\n{\n", "p.json:3: not JSON"),
        ("jsonl", "p.jsonl", '{"prompt": "1", "output_tokens": 2}\n', "every prompt is a number"),
        (
            "sharegpt",
            "p.json",
            '[{"conversations": [{"from": "human"}, {"value": "a"}]}]',
            "entry 1 has a turn without",
        ),
        ("sharegpt", "p.json", '[{"conversations": [{"value": "a"}]}]', "holds no prompt that can be used"),
        ("sharegpt", "gone.json", None, "no such file"),
    ],
)
def test_a_bad_file_of_prompts_is_told_why(form: str, name: str, text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    rest = "concurrency: [1]\nrequests: 2\nengine: {max_model_len: 64}"
    path.write_text(f"name: w\ndescription: d\nprompts: {{format: {form}, path: {name}}}\n{rest}\n")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        load_workload(str(path))


def test_answers_longer_than_vllm_takes_of_conversations_are_refused(tmp_path: Path) -> None:
    """vLLM 0.32 would pass over every conversation of the file, and die of it."""
    (tmp_path / "p.json").write_text('[{"conversations": [{"value": "a"}, {"value": "b"}]}]')
    path = tmp_path / "w.yaml"
    rest = "concurrency: [1]\nrequests: 2\nengine: {max_model_len: 8192}"
    path.write_text(f"name: w\ndescription: d\noutput_len: 4096\nprompts: {{format: sharegpt, path: p.json}}\n{rest}\n")
    with pytest.raises(InputError, match="output_len 4096 with ShareGPT prompts: at most 2044"):
        load_workload(str(path))


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_only_a_line_feed_ends_a_prompt(end: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "a{end}b"}}\n' * 2, encoding="utf-8")
    assert prompts.usable("jsonl", path, has_output_len=True) == 2
    assert prompts.as_vllm_reads_it(path) == path


@pytest.mark.parametrize(("form", "text"), [("jsonl", '{"prompt": "a"}\n'), ("sharegpt", "[]")])
def test_vllm_gets_no_byte_order_mark(form: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "p.jsonl"
    path.write_text(text, encoding="utf-8-sig")
    assert prompts.as_vllm_reads_it(path).read_bytes() == text.encode()


def test_a_file_of_prompts_is_part_of_the_inputs(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    rest = "concurrency: [1]\nrequests: 2\nengine: {max_model_len: 64}\noutput_len: 8"
    path.write_text(f"name: w\ndescription: d\nprompts: {{format: jsonl, path: p.jsonl}}\n{rest}\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    before = workload.record(load_workload(str(path))).dump()
    (tmp_path / "p.jsonl").write_text('{"prompt": "b"}\n')
    after = workload.record(load_workload(str(path))).dump()
    assert before["prompts"]["path"] == after["prompts"]["path"] == str(tmp_path / "p.jsonl")
    assert before["prompts"]["sha256"] != after["prompts"]["sha256"]
