"""A load that failed is no measurement: every request, some of them, and with what reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import StandIn

from quantpress.artifact import speed
from quantpress.artifact.throughput import Cell, ServerFacts, Throughput
from quantpress.errors import StageError
from quantpress.language import shipped
from quantpress.report import throughput_table
from quantpress.runtime import console
from quantpress_serve.bench import load
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.outcome import Outcome, example
from quantpress_serve.bench.starter import Starter
from quantpress_serve.server.server import Server, ServerLost
from quantpress_serve.workload.workload import Prompts, Workload, load_workload

RESULTS = Path(__file__).parents[1] / "results"
TRACEBACK = "Traceback (most recent call last):\n  File\naiohttp.ClientOSError: [Errno 104] Connection reset by peer\n"
LOAD = Workload(name="w", description="d", input_len=8, output_len=4, concurrency=[2], requests=6, rounds=1)


def generator(written: dict[str, Any], tmp_path: Path) -> Generator:
    """One whose load generator only writes this as its result."""
    code = "import json, sys; args = sys.argv; value = lambda name: args[args.index(name) + 1]\n"
    code += f"json.dump({written!r}, open(value('--result-dir') + '/' + value('--result-filename'), 'w'))"
    vllm = tmp_path / "vllm"
    vllm.write_text(f"#!{sys.executable}\n{code}\n")
    vllm.chmod(0o755)
    return Generator(Starter(vllm, tmp_path / "bench.log", tmp_path), LOAD, tmp_path)


def measured(written: dict[str, Any], tmp_path: Path, stand_in: StandIn) -> Cell:
    with stand_in.up() as url:
        one = Server(url=url, name="m", path=Path("/m"), facts=ServerFacts(command=""))
        return generator(written, tmp_path).measure(one, Turn("candidate", LOAD.levels[0], 0))


def written(completed: int, failed: int, errors: list[str]) -> dict[str, Any]:
    return {
        **{"output_throughput": 8.0 * completed, "completed": completed, "failed": failed, "num_prompts": 6},
        **{"total_output_tokens": 4 * completed, "errors": errors},
    }


def test_a_cell_without_an_answer_fails_with_the_servers_own_reason(tmp_path: Path) -> None:
    """The load generator keeps the status; what the server says to the same request is asked."""
    said = "This model's maximum context length is 8 tokens"
    stand_in = StandIn(failing=lambda number, body: body["max_tokens"] > 1, said=said)
    with pytest.raises(StageError, match=rf"answered at concurrency 2 \(6 of 6 failed\): .*500.*: {said}") as caught:
        measured(written(0, 6, ["Internal Server Error"] * 6), tmp_path, stand_in)
    assert caught.value.exit_code == 1
    assert stand_in.seen[-1][2]["prompt"] == [1] * 8
    assert "raise its engine.max_model_len" in caught.value.render()


def test_some_that_failed_have_the_servers_own_reason_too(tmp_path: Path) -> None:
    errors = ["", "", "Internal Server Error", "Internal Server Error", TRACEBACK, ""]
    cell = measured(written(3, 3, errors), tmp_path, StandIn(failing=lambda number, body: True, said="too long"))
    assert cell.errors == {
        "HTTP Error 500: Internal Server Error: too long": 2,
        "aiohttp.ClientOSError: [Errno 104] Connection reset by peer": 1,
    }
    assert measured(written(3, 3, errors), tmp_path, StandIn()).errors["Internal Server Error"] == 2


def test_a_reason_that_passes_is_that_of_the_load_generator(tmp_path: Path) -> None:
    errors = [TRACEBACK] * 4 + ["Too Many Requests"] * 2
    words = r"aiohttp.ClientOSError: \[Errno 104\] Connection reset by peer; Too Many Requests"
    with pytest.raises(StageError, match=words):
        measured(written(0, 6, errors), tmp_path, StandIn())
    with pytest.raises(StageError, match=r"\(6 of 6 failed\): no reason was given"):
        measured(written(0, 6, []), tmp_path, StandIn())


def test_answers_without_a_token_are_none_and_answers_cut_short_are_not_trusted(tmp_path: Path) -> None:
    """As of a gateway that takes no ignore_eos, or allows fewer tokens."""
    with pytest.raises(StageError, match=r"no request to the candidate was answered .*: the answers hold no token"):
        measured({**written(6, 0, []), "total_output_tokens": 0}, tmp_path, StandIn())
    cell = measured({**written(6, 0, []), "total_output_tokens": 12}, tmp_path, StandIn())
    assert "answers had 2 tokens on average, and at least 4 were asked for" in cell.untrustworthy
    assert not Outcome.of(written(6, 0, [])).cut_short(LOAD)


def test_a_result_that_does_not_say_how_many_completed_is_not_called_cut_short() -> None:
    assert not Outcome.of({"total_output_tokens": 1, "output_throughput": 1.0}).cut_short(LOAD)


def test_a_server_that_stops_answering_ends_the_load_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a load generator that waits for answers which never come."""
    monkeypatch.setattr(load, "longest_time", lambda workload, level: 0.3)
    vllm = tmp_path / "vllm"
    vllm.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    vllm.chmod(0o755)
    one = Server(url="http://gateway:8000", name="m", path=Path("/m"), facts=ServerFacts(command=""))
    with pytest.raises(ServerLost, match="m at http://gateway:8000 did not answer a load within") as caught:
        Generator(Starter(vllm, tmp_path / "bench.log", tmp_path), LOAD, tmp_path).measure(
            one, Turn("candidate", LOAD.levels[0], 0)
        )
    assert caught.value.exit_code == 1


def test_conversations_that_vllm_passes_over_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that dies as vLLM 0.32's load generator does of a file in which every conversation is too long."""
    vllm = tmp_path / "vllm"
    vllm.write_text(f"#!{sys.executable}\nimport random; random.choice([])\n")
    vllm.chmod(0o755)
    monkeypatch.setattr(Server, "require_healthy", lambda self: None)
    one = Server(url="http://gateway:8000", name="m", path=Path("/m"), facts=ServerFacts(command=""))
    talks = LOAD.model_copy(update={"prompts": Prompts(format="sharegpt", path="/talks.json")})
    with pytest.raises(StageError, match="Cannot choose from an empty sequence") as caught:
        Generator(Starter(vllm, tmp_path / "bench.log", tmp_path), talks, tmp_path).measure(
            one, Turn("candidate", LOAD.levels[0], 0)
        )
    assert "passed over every conversation of /talks.json: it takes prompts of 4 to 1024" in str(caught.value.hint)


def test_a_load_is_given_the_time_of_a_server_that_is_slower_than_any() -> None:
    """Six requests, two at a time, and one turn to warm up: four turns of 8 / 20 + 4 seconds."""
    assert load.longest_time(LOAD, LOAD.levels[0]) == 900 + 4 * (8 / 20 + 4)
    for name in shipped.names("workloads"):
        one = load_workload(name)
        assert all(900 < load.longest_time(one, level) < 6 * 3600 for level in one.levels), name


def test_requests_that_failed_are_in_the_steps_line_the_table_and_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.use()
    cell = measured(written(4, 2, ["", TRACEBACK, "", "", "Bad Request", ""]), tmp_path, StandIn())
    line = "32.0 output tokens/s; 2 of 6 requests failed (aiohttp.ClientOSError: [Errno 104] Connection reset by peer; "
    assert f"{line}Bad Request)" in capsys.readouterr().err
    assert cell.errors == {"aiohttp.ClientOSError: [Errno 104] Connection reset by peer": 1, "Bad Request": 1}

    # Both sides over three rounds, of which one had failures.
    real = Throughput.load(RESULTS / "throughput.json")
    one = real.cells[0].model_copy(update={"untrustworthy": [], "errors": {}})
    failed = one.model_copy(update={"figures": {**one.figures, "failed": 2}, "errors": {"Bad Request": 2}})
    cells = [
        (failed if (role, number) == ("candidate", 1) else one).model_copy(update={"role": role, "round": number})
        for role in ("candidate", "baseline")
        for number in range(3)
    ]
    (row,) = speed.summarize(cells)
    reason = "2 requests to the candidate failed (Bad Request)"
    assert row.verdict == f"untrustworthy: {reason}"
    table = throughput_table("r", real.model_copy(update={"cells": cells, "summary": [row]}))
    assert reason in table
    assert "; 2 requests failed" not in table  # once is enough


def test_failures_that_are_not_counted_are_those_that_did_not_complete() -> None:
    """As the load generators of other versions have it."""
    found = Outcome.of({"completed": 4, "num_prompts": 6, "output_throughput": 1.0})
    assert (found.failed, found.sent, found.answered) == (2, 6, True)
    assert not Outcome.of({"completed": 0, "num_prompts": 6}).answered


@pytest.mark.parametrize("form", ["jsonl", "sharegpt"])
def test_the_example_is_the_longest_prompt_of_a_file(form: str, tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "output_tokens": 5}, {"prompt": "Why, then?", "output_tokens": 7}]
    talks = [
        {"conversations": [{"from": "human", "value": row["prompt"]}, {"from": "gpt", "value": "."}]} for row in rows
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / f"asked.{form}").write_text(lines if form == "jsonl" else json.dumps(talks))
    more = "" if form == "jsonl" else "output_len: 7\n"
    workload = f"name: w\ndescription: d\n{more}prompts: {{format: {form}, path: asked.{form}}}\n"
    (tmp_path / "w.yaml").write_text(f"{workload}engine: {{max_model_len: 64}}\nconcurrency: [1]\nrequests: 2\n")
    assert example(load_workload(str(tmp_path / "w.yaml"))) == ("Why, then?", 7)
