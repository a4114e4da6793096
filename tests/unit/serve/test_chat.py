"""Which answers count as nonsense, and whose fault it is."""

import json
from pathlib import Path

import pytest
from support import answering

from quantpress.artifact.served import Served, Side
from quantpress.artifact.throughput import Answer, ServerFacts
from quantpress.errors import StageError
from quantpress_serve.bench import chat, likelihoods
from quantpress_serve.server.server import Server

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "chat.json").read_text())


def server_at(url: str) -> Server:
    return Server(url=url, name="mine", path=Path("/m"), facts=ServerFacts(command=""))


SERVER = server_at("http://127.0.0.1:1")
UNKNOWN = likelihoods.unknown("nobody asked")
GOOD = Answer(question="q", answer="Paris.", tokens=3, mean_logprob=-0.1, problem=None)
BAD = Answer(question="q", answer="the the the", tokens=8, mean_logprob=-0.1, problem="it repeats")


@pytest.mark.parametrize(
    "text",
    ["", "   ", "!!!!!!!!!!", "the the the the the the the the", "\n\n\n", "a", "yes no " * 8, "and so it goes " * 6],
)
def test_nonsense_is_degenerate(text: str) -> None:
    assert chat.degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "The capital of France is Paris.",
        "42 is",
        "1. Whales\n2. Dolphins\n3. Sea turtles",
        "def add(a, b):\n    return a + b\n\nprint(add(1, 2))",
    ],
)
def test_sense_is_not(text: str) -> None:
    assert chat.degenerate(text) is None


def test_an_answer_of_vllms_is_read() -> None:
    """Recorded from vLLM 0.32.0."""
    choice = RECORDED["choices"][0]
    steps = [(step["token"], step["logprob"]) for step in choice["logprobs"]["content"]]
    answer = chat.answered("q", choice["message"]["content"], steps)
    assert answer.answer == "The capital of France is Paris."
    assert answer.problem is None
    assert answer.tokens == 8
    assert answer.mean_logprob is not None
    assert -1 < answer.mean_logprob < 0


@pytest.mark.parametrize("wrong", [float("nan"), None, -9999.0, float("-inf")])
def test_logprobs_that_are_not_finite_are_a_problem(wrong: float | None) -> None:
    answer = chat.answered("q", "Paris, of course.", [("Paris", -0.1), (",", wrong), (" of", -0.2)])
    assert answer.problem == "its log-probabilities are not finite"
    assert answer.mean_logprob is None


def test_tokens_that_loop_are_a_problem_where_words_do_not_show_it() -> None:
    answer = chat.answered("q", "nanananananananananana!", [(token, -0.1) for token in ["na"] * 11 + ["!"]])
    assert answer.problem == "it repeats the same 1 token 11 times"


def test_a_candidate_that_talks_nonsense_fails_beside_a_baseline_that_does_not() -> None:
    with pytest.raises(StageError, match=r"mine answers 'q' with 'the the the'.*the unquantized model says 'Paris"):
        chat.require_sense({"candidate": [GOOD, BAD], "baseline": [GOOD, GOOD]}, SERVER, UNKNOWN)
    with pytest.raises(StageError, match="talks nonsense"):
        chat.require_sense({"candidate": [BAD]}, SERVER, UNKNOWN)


def _likelihoods(scored: float, served: float) -> Served:
    """A comparison beside a model that is at -3.5 in both."""
    lost = served - scored
    own = Side(tokens=1885, scored=scored, served=served, difference=lost, per_token=None, interval=(lost, lost))
    base = Side(tokens=1885, scored=-3.5, served=-3.5, difference=0, per_token=0, interval=(0, 0))
    sides = {"candidate": own, "baseline": base}
    return Served(verdict="not as scored", bound=0.01, cause="INT8 saturates", reason=None, sides=sides)


def test_one_answer_in_a_loop_is_a_warning_where_the_likelihoods_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"candidate": [BAD], "baseline": [GOOD]}
    chat.require_sense(answers, SERVER, _likelihoods(-3.55, -3.59))
    said = capsys.readouterr().err
    assert "not called broken" in said
    assert "INT8 saturates" in said


@pytest.mark.parametrize(
    ("scored", "served", "words"),
    [(-3.6, -9.0, "the engine is to blame"), (-8.0, -8.1, "the checkpoint is to blame")],
)
def test_who_is_to_blame_for_nonsense_is_said(scored: float, served: float, words: str) -> None:
    with pytest.raises(StageError, match=words):
        chat.require_sense({"candidate": [BAD], "baseline": [GOOD]}, SERVER, _likelihoods(scored, served))


def test_a_baseline_that_talks_nonsense_itself_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    chat.require_sense({"candidate": [BAD, GOOD], "baseline": [BAD, GOOD]}, SERVER, UNKNOWN)
    assert "the unquantized model itself answers" in capsys.readouterr().err


def test_a_server_that_cannot_say_its_logprobs_has_none_that_are_finite() -> None:
    """As vLLM 0.32.0 does where a log-probability is NaN: starlette refuses it, vLLM makes a 400 of that."""
    said = {"message": "Out of range float values are not JSON compliant: nan", "type": "BadRequestError"}
    body = json.dumps({"error": said | {"param": None, "code": 400}}).encode()
    with answering(400, body) as url:
        given = {"candidate": chat.answers_of("candidate", server_at(url))}
    with pytest.raises(StageError, match="log-probabilities are not finite"):
        chat.require_sense(given, SERVER, UNKNOWN)
