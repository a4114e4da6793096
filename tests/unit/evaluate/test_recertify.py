"""A checkpoint on another engine: what is said of it, by a server whose likelihoods are known to the last digit."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import StandIn

from quantpress.artifact import manifest, own, upkeep
from quantpress.artifact.accuracy import Accuracy, Gate
from quantpress.artifact.manifest import Artifact, Manifest, artifact_of
from quantpress.artifact.recertification import Engine, Recertification, recertifications_of
from quantpress.artifact.served import SAME
from quantpress.artifact.throughput import CANDIDATE, Answer, Cell, Executable, Throughput
from quantpress.cli.main import main
from quantpress.model.source import find_model
from quantpress.report.facts import collect
from quantpress.report.views import engines
from quantpress_evaluate import what_moved
from quantpress_evaluate.comparison import compare
from quantpress_evaluate.recertify import Order
from quantpress_serve.bench import likelihoods, other_engine
from quantpress_serve.bench.likelihoods import Scored
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.stage import Beforehand
from quantpress_serve.bench.subject import Sides
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.server.server import Server
from quantpress_serve.workload import workload
from quantpress_serve.workload.workload import Workload

RESULTS = Path(__file__).parents[1] / "results"
NAME = "rtn-w4a16"
QUESTION = "What is the capital of France?"
LOAD = Workload.model_validate(
    {"name": "w", "description": "d", "input_len": 8, "output_len": 8, "concurrency": [1], "requests": 2, "rounds": 2}
)


def likelihood(token: int) -> float:
    return -1 - token % 7


WINDOWS = [list(range(start, start + 200)) for start in range(0, 2000, 200)]
AS_SCORED = Likelihoods(windows=WINDOWS, likelihoods=[[likelihood(token) for token in row[1:]] for row in WINDOWS])


def measured(self: Generator, server: Server, turn: Turn, others: Sequence[Server] = ()) -> Cell:
    """Stands for the load generator: every request is answered, at the same speed."""
    figures = {"output_throughput": 50.0, "completed": 2, "failed": 0}
    return Cell(role=turn.role, concurrency=turn.level.concurrency, round=turn.round, start=turn.start, figures=figures)


@pytest.fixture
def recorded(make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """An artifact with scores by transformers, a gate that they passed, and a bench on an engine that is gone."""
    monkeypatch.setattr(Generator, "measure", measured)
    monkeypatch.setenv("VLLM", sys.executable)  # which is asked for nothing
    model = find_model(str(make_model()))
    artifact = artifact_of(tmp_path / "artifacts", model.name, NAME)
    shutil.copytree(model.path, artifact.checkpoint)
    made = Manifest.load(RESULTS / "manifest.json")
    update = {"files": manifest.file_table(artifact.checkpoint), "model": model.identity()}
    made.model_copy(update=update).save(artifact.manifest_file)
    baseline = artifact.folder.parent / "baseline"
    for digest, keeps in ((made.digest, artifact.folder), (model.identity().digest, baseline)):
        Scored(model.path, digest, keeps, trust_remote_code=False).keep("stored", AS_SCORED)

    score = Accuracy.load(RESULTS / "accuracy.json")
    gate = Gate(gate="recovery>=0.5", figure=0.98, interval=(0.95, 1.0), decision="pass", confidence=0.95)
    score.model_copy(update={"gates": [gate], "checkpoint_digest": made.digest}).save(artifact.folder / "accuracy.json")
    speed = Throughput.load(RESULTS / "throughput.json")
    rows = {role: AS_SCORED.likelihoods for role in ("candidate", "baseline")}
    said = Answer(question=QUESTION, answer="Paris, of course.", tokens=4, mean_logprob=None, problem=None)
    update = {
        "checkpoint_digest": made.digest,
        "workload": workload.record(LOAD),
        "vllm": Executable(executable=str(tmp_path / "gone" / "vllm"), version="0.1"),
        "chat": {CANDIDATE: [said]},
        "served": likelihoods.compared(rows, rows, None),
    }
    speed.model_copy(update=update).save(artifact.folder / "throughput.json")
    return artifact


def recertified(artifact: Artifact, *more: str, shift: float = 0.0, expect: int = 0) -> Recertification:
    """The recertification on a server that is off by `shift` nats a token."""
    with StandIn(likelihood=lambda token: likelihood(token) + shift).up() as url:
        assert main(["recertify", str(artifact.folder), "--vllm", url, *more]) == expect
    ((_, made),) = recertifications_of(artifact)
    return made


def test_on_an_engine_that_computes_the_same_nothing_moved(
    recorded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in recorded.folder.rglob("*") if path.is_file()}
    made = recertified(recorded)
    assert (made.verdict, made.moved) == ("holds", [])
    assert [pair.same for pair in made.answers] == [True]
    assert made.served
    assert made.served.verdict == SAME
    assert [(gate.after.decision, gate.lost) for gate in made.gates] == [("pass", False)]
    # The record holds means alone, its engine is gone, and a server of somebody else's is not asked for scores.
    assert made.likelihoods
    assert (made.likelihoods.difference, made.likelihoods.interval) == (0, None)
    said = " ".join(made.unknown)
    for words in ("token by token", "speed in pairs: the new engine is somebody else's server", "accuracy on smoke"):
        assert words in said
    assert "holds" in capsys.readouterr().out
    # What was on record is there as it was, and all that came is known as ours.
    assert {path: path.read_bytes() for path in before} == before
    assert own.strangers(recorded.folder) == []
    assert upkeep.garbage(recorded.folder.parents[1]) == []


def test_an_engine_that_computes_something_else_loses_the_gate(
    recorded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    """The forced fault: each token is 0.1 nats less likely."""
    made = recertified(recorded, shift=-0.1, expect=3)
    assert made.verdict == "moved"
    assert [gate.after.decision for gate in made.gates if gate.lost] == ["transformers only"]
    assert "computes the checkpoint not as scored, and on record it was as scored" in made.moved[0]
    assert made.moved[-1] == "gate recovery>=0.5 on smoke: passed on record, transformers only now"
    assert "recovery>=0.5 was passed on record" in capsys.readouterr().err
    # The record still says what it said: it is that of the old engine.
    score = Accuracy.load(recorded.folder / "accuracy.json")
    assert [gate.decision for gate in score.gates] == ["pass"]


def test_likelihoods_that_a_bench_kept_are_compared_token_by_token(recorded: Artifact) -> None:
    digest = recorded.finished().digest
    own_scores = Scored(recorded.checkpoint, digest, recorded.folder, trust_remote_code=False)
    own_scores.keep_served("0.1", AS_SCORED)
    pair = recertified(recorded, shift=-0.1, expect=3).likelihoods
    assert pair
    assert pair.moved
    assert pair.difference == pytest.approx(-0.1)
    assert pair.per_token == pytest.approx(0.1)
    assert pair.interval
    assert pair.interval[1] < -0.09


@pytest.mark.parametrize(("kept", "decision", "code"), [(True, "pass", 0), (False, "inconclusive", 3)])
def test_a_gate_that_the_old_engine_passed_needs_its_likelihoods(
    recorded: Artifact, kept: bool, decision: str, code: int
) -> None:
    score = Accuracy.load(recorded.folder / "accuracy.json")
    settings = score.settings.model_copy(update={"backend": "vllm"})
    score.model_copy(update={"settings": settings}).save(recorded.folder / "accuracy.json")
    if kept:
        digest = recorded.finished().digest
        Scored(recorded.checkpoint, digest, recorded.folder, trust_remote_code=False).keep_served("0.1", AS_SCORED)
    made = recertified(recorded, expect=code)
    assert [gate.after.decision for gate in made.gates] == [decision]


def test_what_was_done_is_not_done_again_and_is_signed_later(recorded: Artifact, tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    with StandIn(likelihood=likelihood).up() as url:
        command = ["recertify", str(recorded.folder), "--vllm", url]
        assert main(command) == 0
        ((folder, first),) = recertifications_of(recorded)
        assert main([*command, "--sign-key", str(private)]) == 0
        assert recertifications_of(recorded) == [(folder, first)]
    assert main(["verify", str(folder), "--public-key", str(public)]) == 0
    with contextlib.chdir(folder.parent):
        assert main(["verify", folder.name]) == 0
    # Neither the record nor what it was made of may change.
    (folder / "throughput.json").write_text("{}")
    assert main(["verify", str(folder), "--public-key", str(public)]) == 1
    assert main(["verify", str(folder)]) == 1


def test_a_server_of_somebody_elses_is_asked_each_time(recorded: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    """It may compute otherwise by now, or serve another model."""
    server = StandIn(likelihood=likelihood)
    with server.up() as url:
        command = ["recertify", str(recorded.folder), "--vllm", url]
        assert main(command) == 0
        server.likelihood = lambda token: likelihood(token) - 0.1
        assert main(command) == 3
        capsys.readouterr()
        assert main([*command, "--vllm-model", "no-such-model"]) == 2
        assert "no-such-model" in capsys.readouterr().err
        assert main([*command, "--engine", "kv_cache_dtype=fp8"]) == 2
        assert "--engine is for servers that quantpress starts" in capsys.readouterr().err


def test_it_is_done_again_with_other_engine_settings(recorded: Artifact) -> None:
    def key(*items: str) -> str:
        load = workload.recorded(workload.record(LOAD), items)
        return Order(
            artifact=recorded,
            model=find_model(recorded.finished().model.source),
            engine=Engine(served_by="vllm", version="1"),
            folder=recorded.folder,
            suites=[],
            throughput=Throughput.load(recorded.folder / "throughput.json"),
            load=load,
            sides=Sides(),
            about=Beforehand(),
        ).key

    assert workload.recorded(workload.record(LOAD), ["kv_cache_dtype=fp8"]).engine.kv_cache_dtype == "fp8"
    assert len({key(), key("kv_cache_dtype=fp8"), key("max_num_seqs=8")}) == 3
    assert key() == key()


def test_prompts_that_are_not_those_on_record_are_found_before_anything_is_started(
    recorded: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(json.dumps({"prompt": "a", "output_tokens": 1}) + "\n")
    about = {"name": "p", "description": "d", "concurrency": [1], "requests": 1, "engine": {"max_model_len": 64}}
    asked = Workload.model_validate({**about, "prompts": {"format": "jsonl", "path": str(prompts)}})
    speed = Throughput.load(recorded.folder / "throughput.json")
    speed.model_copy(update={"workload": workload.record(asked)}).save(recorded.folder / "throughput.json")
    prompts.unlink()
    assert main(["recertify", str(recorded.folder), "--vllm", "http://127.0.0.1:9"]) == 2
    assert "the prompts of the workload p, are not those on record" in capsys.readouterr().err


def test_a_signed_package_asks_for_a_signed_recertification(
    recorded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    (recorded.folder / "package").mkdir()
    (recorded.folder / "package" / "model.sig").write_text("{}")
    command = ["recertify", str(recorded.folder), "--vllm", "http://127.0.0.1:9"]
    assert main(command) == 2
    assert "its recertification is to be signed too\n  next: --sign-key KEY.pem" in capsys.readouterr().err


def test_nothing_on_record_is_said_before_anything_is_started(
    recorded: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["recertify", str(recorded.folder), "--vllm", "http://127.0.0.1:9"]
    assert main([*command, "--workload", "chat"]) == 2
    assert "--workload chat: not on record\n  next: on record: w" in capsys.readouterr().err
    for name in ("accuracy", "throughput"):
        (recorded.folder / f"{name}.json").unlink()
    assert main(command) == 2
    assert "has no results on record" in capsys.readouterr().err
    (recorded.checkpoint / "config.json").write_text("{}")
    assert main(command) == 1
    assert "is not what was made: config.json" in capsys.readouterr().err


def test_the_report_shows_it(recorded: Artifact) -> None:
    recertified(recorded, shift=-0.1, expect=3)
    collected = collect.collect(recorded.folder.parent, None)
    found = engines.found_in(collected)
    (row,) = engines.table(found).rows
    assert row[:6] == [NAME, "0.1 → unknown", "moved", "no longer: recovery>=0.5 transformers only", "no", "1 of 1"]
    assert row[-1] == "output tokens/s, 1 at once: 10 → 50: not compared: measured on different days"
    assert any("moved on vLLM unknown: gate recovery>=0.5" in note for _, note in engines.notes(found))


@pytest.mark.parametrize(("wrong", "moved"), [(0, False), (3, False), (20, True)])
def test_a_task_moved_if_chance_would_hardly_do_it(wrong: int, moved: bool) -> None:
    """Of 100 documents that were all right, so many are wrong now."""

    def answers(right: int) -> list[dict[str, Any]]:
        both = [[[-1.0, "False"], [-2.0, "False"]], [[-2.0, "False"], [-1.0, "False"]]]
        return [
            {
                **{"doc_id": n, "doc_hash": str(n), "target": "0", "arguments": [["a", "b"], ["a", "c"]]},
                **{"filter": "none", "acc": float(n < right), "filtered_resps": both[n >= right]},
            }
            for n in range(100)
        ]

    tasks = {"t": compare.Scored("acc", answers(100), answers(100 - wrong))}
    assert (what_moved.tasks(compare.compare_suite(tasks)) == ["t"]) is moved


def test_the_engine_on_record_is_only_started_if_it_still_is_that_engine(tmp_path: Path) -> None:
    known = Throughput.load(RESULTS / "throughput.json")
    old = tmp_path / "bin" / "vllm"

    def found(version: str) -> Path | str:
        executable = Executable(executable=str(old), version=version)
        return other_engine.engine_on_record(known.model_copy(update={"vllm": executable}))

    assert found("0.1") == f"the engine on record, {old} (0.1), is gone"
    (tmp_path / "lib" / "python3.11" / "site-packages" / "vllm-0.2.dist-info").mkdir(parents=True)
    old.parent.mkdir()
    old.write_text("")
    assert found("0.1") == f"the engine on record was 0.1, and {old} is 0.2 now"
    assert found("0.2") == old


def test_a_workload_on_record_is_the_workload_that_was_measured(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(json.dumps({"prompt": "a", "output_tokens": 1}) + "\n")
    about = {"name": "p", "description": "d", "concurrency": [1], "requests": 1, "engine": {"max_model_len": 64}}
    asked = Workload.model_validate({**about, "prompts": {"format": "jsonl", "path": str(prompts)}})
    for load in (LOAD, asked, workload.load_workload("chat")):
        assert workload.recorded(workload.record(load)) == load
    kept = workload.record(asked)
    prompts.write_text("")
    with pytest.raises(Exception, match="are not those on record"):
        workload.recorded(kept)
