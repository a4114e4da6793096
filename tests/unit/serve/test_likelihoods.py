"""Whether an engine computes what was scored: the verdict on likelihoods whose truth is known."""

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import answering

from quantpress.artifact import served as served_verdicts
from quantpress.artifact import truth
from quantpress.artifact.accuracy import Accuracy, Decision, Gate
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.artifact.served import Served
from quantpress.artifact.throughput import ServerFacts, Throughput
from quantpress.errors import GateError
from quantpress.report.facts import collect, decide, gates
from quantpress.report.facts.accuracy import score_of
from quantpress_evaluate import stage
from quantpress_serve.bench import likelihoods, looks
from quantpress_serve.bench.workers import Likelihoods, Row
from quantpress_serve.server.server import Server

TOKENS = 1885  # of the shipped text, with SmolLM2's tokenizer
NOISE = 0.3  # nats; how far single tokens of W8A8 are from each other in two exact computations


def _sides(shift: float, seed: int, base_shift: float = 0.0) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Both sides as scored and as served: the engine is off by `shift` a token, beside noise of mean 0."""
    draw = random.Random(seed)
    scored: list[float | None] = [-abs(draw.gauss(3.5, 2)) for _ in range(TOKENS)]
    served = [one + shift + draw.gauss(0, NOISE) for one in scored if one is not None]
    base = [one + base_shift + draw.gauss(0, 0.04) for one in scored if one is not None]
    windows = [slice(start, start + 255) for start in range(0, TOKENS, 255)]
    cut = {"candidate": [scored[w] for w in windows], "baseline": [scored[w] for w in windows]}
    return cut, {"candidate": [served[w] for w in windows], "baseline": [base[w] for w in windows]}


def _verdicts(shift: float, base_shift: float = 0.0) -> list[str | None]:
    return [likelihoods.compared(*_sides(shift, seed, base_shift), "why").verdict for seed in range(200)]


def test_an_engine_that_only_rounds_otherwise_computes_the_same() -> None:
    assert _verdicts(0.0).count(served_verdicts.DIFFERS) == 0


def test_an_engine_that_loses_as_much_as_int8_without_vnni_does_not() -> None:
    assert _verdicts(-0.036).count(served_verdicts.DIFFERS) >= 180


def test_what_the_unquantized_model_differs_too_is_not_held_against_the_checkpoint() -> None:
    assert _verdicts(-0.015, base_shift=-0.015).count(served_verdicts.DIFFERS) <= 2


def test_an_engine_that_computes_the_unquantized_model_otherwise_is_named_for_that() -> None:
    found = likelihoods.compared(*_sides(-0.1, 1, base_shift=-0.1), "INT8 saturates")
    assert found.verdict == served_verdicts.DIFFERS
    assert found.cause
    assert "unquantized model" in found.cause


def test_an_engine_that_is_wrong_both_ways_alike_is_found() -> None:
    scored, served = _sides(0, 1)
    served["baseline"] = [[one + (0.2 if at % 2 else -0.2) for at, one in enumerate(row)] for row in scored["baseline"]]
    found = likelihoods.compared(scored, served, None)
    assert found.verdict == served_verdicts.DIFFERS
    assert "0.200 nats apart in the mean" in likelihoods.sentence(found)
    # The same checkpoint on two engines: its own rounding may be as large.
    again = likelihoods.compared(scored, served, None, likelihoods.ENGINE_ON_RECORD, math.inf)
    assert again.verdict == served_verdicts.SAME


@pytest.mark.parametrize(("ours", "eager"), [(True, True), (False, True), (True, False)])
def test_a_wrong_operator_of_our_own_server_is_named(ours: bool, eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks.asking, "wrong_operator", lambda _: "its rotary operator")
    scored, served = _sides(0, 1, base_shift=-0.1)
    running: Any = object() if ours else None
    facts = ServerFacts(command="", argv=["vllm", *(["--enforce-eager"] if eager else [])])
    server = Server(url="", name="m", path=Path("/m"), facts=facts, running=running)
    seen = {
        role: looks.Look(server=server, facts=server.facts, rows=rows, answers=[], seen=None)
        for role, rows in served.items()
    }
    expected = {role: Likelihoods(windows=[], likelihoods=rows) for role, rows in scored.items()}
    subject: Any = SimpleNamespace(inexact=None, on_two_engines=False)
    found = looks.judged(seen, subject, expected, Path("vllm")).served
    assert found.verdict == served_verdicts.DIFFERS
    assert found.cause
    assert found.cause.endswith("; its rotary operator") is (ours and eager)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(400):
        interval = likelihoods.compared(*_sides(-0.02, seed), None).sides["candidate"].interval
        assert interval
        low, high = interval
        held += low <= -0.02 <= high
    assert 370 <= held <= 394  # 95%


def test_likelihoods_that_are_not_finite_are_not_the_same() -> None:
    scored, served = _sides(0.0, 1)
    served["candidate"][0][0] = None
    found = likelihoods.compared(scored, served, "why")
    assert (found.verdict, found.sides["candidate"].difference) == (served_verdicts.DIFFERS, None)
    assert "not finite" in likelihoods.sentence(found)
    json.dumps(found.dump(), allow_nan=False)


def test_a_sentence_says_both_means_and_the_cause() -> None:
    found = likelihoods.compared(*_sides(-0.05, 1), "INT8 saturates")
    text = likelihoods.sentence(found)
    assert text.startswith("the engine does not compute what was scored: mean log-likelihood of 1885 tokens -")
    assert text.endswith("likely cause: INT8 saturates")
    assert likelihoods.sentence(likelihoods.compared(*_sides(0, 1), None)).startswith("the engine computes what is")


def test_a_server_that_gives_no_likelihoods_is_not_a_failure() -> None:
    body = json.dumps({"choices": [{"logprobs": None}]}).encode()
    with answering(200, body) as url:
        server = Server(url=url, name="m", path=Path("/m"), facts=ServerFacts(command=""))
        given = Likelihoods(windows=[[1, 2, 3]], likelihoods=[[-1.0, -1.0]])
        rows = likelihoods.by_server("candidate", server, given)
    look = looks.Look(server=server, facts=server.facts, rows=rows, answers=[], seen=None)
    subject: Any = SimpleNamespace(inexact=None)
    found = looks.judged({"candidate": look}, subject, {"candidate": given}, Path("vllm")).served
    assert found.verdict is None
    assert found.reason
    assert "the candidate's server gave no likelihoods" in found.reason
    assert likelihoods.to_blame(found) is None


def test_the_windows_end_where_the_model_does(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 128}')
    one = likelihoods.Scored(tmp_path, "d", tmp_path, trust_remote_code=False)
    assert one.window == 127
    (tmp_path / "config.json").write_text("{}")
    assert one.window == likelihoods.WINDOW


DIFFERS = Served(verdict=served_verdicts.DIFFERS, cause="x", reason=None)
SAME = Served(verdict=served_verdicts.SAME, cause=None, reason=None)


@pytest.mark.parametrize(
    ("decision", "backend", "served", "expected"),
    [
        ("pass", "hf", DIFFERS, truth.TRANSFORMERS_ONLY),
        ("fail", "hf", DIFFERS, "fail"),
        ("inconclusive", "hf", DIFFERS, "inconclusive"),
        ("pass", "vllm", DIFFERS, "pass"),
        ("pass", "hf", SAME, "pass"),
        ("pass", "hf", None, "pass"),
        (truth.TRANSFORMERS_ONLY, "hf", SAME, "pass"),  # measured anew, on another machine
    ],
)
def test_a_gate_that_transformers_passed_holds_for_the_engine_only_if_that_computes_the_same(
    decision: Decision, backend: str, served: Served | None, expected: str, made: Artifact
) -> None:
    score = results_of(made, Accuracy).newest()
    assert score
    settings = score.settings.model_copy(update={"backend": backend})
    gate = Gate(gate="recovery>=0.9", decision=decision, interval=(0.95, 1.0), figure=0.98)
    marked = truth.mark(score.model_copy(update={"settings": settings, "gates": [gate]}), served)
    assert marked.served == served
    assert [gate.decision for gate in marked.gates] == [expected]


def test_a_bench_marks_the_scores_and_the_exit_code_is_that_of_a_gate(made: Artifact) -> None:
    results = results_of(made, Accuracy)
    score = results.newest()
    assert score
    gate = Gate(gate="kl<=9", decision="pass", interval=(0, 1), figure=0.1)
    results.put(score.model_copy(update={"gates": [gate]}))
    truth.mark_scores(made, DIFFERS)
    marked = results.newest()
    assert marked
    assert marked.served == DIFFERS
    with pytest.raises(GateError, match="passed for transformers only"):
        stage.require_gates({"r": marked.gates})
    assert gates.on_its_own([score_of(marked)]) == "passed for transformers only"


def test_the_report_names_the_engine_first(made: Artifact) -> None:
    """As a caveat of the first screen, in the table, in the notes beside the speed, and in the model card."""
    from quantpress import report
    from quantpress.report.views import tables

    scored, served = _sides(-0.05, 1)
    found = likelihoods.compared(scored, served, "INT8 saturates")
    result = Throughput.load(made.folder / "throughput.json").model_copy(update={"served": found})
    result.save(made.folder / "throughput.json")
    collected = collect.collect(made.folder.parent, None)
    assert collected.decision.caveats[0].startswith(f"The engine does not compute what was scored of {made.name} (-0.0")
    (row,) = tables.served(tables.compared_speeds(collected)).rows
    assert row[:4] == [made.name, "not as scored", "INT8 saturates", "1885"]
    section = report.throughput_section({"r": result})
    assert "the engine does not compute what was scored" in section
    assert "INT8 saturates" in section


def test_scores_by_the_vllm_that_serves_are_not_called_those_of_transformers(made: Artifact) -> None:
    scored, served = _sides(-0.05, 1)
    found = likelihoods.compared(scored, served, "INT8 saturates")
    result = Throughput.load(made.folder / "throughput.json").model_copy(update={"served": found})
    result.save(made.folder / "throughput.json")
    (recipe,) = collect.collect(made.folder.parent, None).recipes
    assert recipe.accuracy
    by_vllm = recipe.model_copy(update={"accuracy": recipe.accuracy.model_copy(update={"backend": "vllm"})})
    (said,) = decide._engine_caveats([by_vllm])
    assert said.startswith(f"Transformers computes {made.name} otherwise than the vLLM that serves it (-0.0")
    assert "its scores here are by that vLLM" in said
    assert "of transformers, not of the server" not in said


def test_the_text_is_long_enough_for_any_vocabulary() -> None:
    assert len(likelihoods.TEXT.read_text(encoding="utf-8").split()) > 1400
    assert math.isclose(likelihoods.BLOCK * 4, likelihoods.WINDOW)
