"""The evaluate stage on a two-layer model, and both backends on the embedded one."""

from __future__ import annotations

import json
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import StandIn

from quantpress.model.source import find_model
from quantpress.runtime import environment
from quantpress_evaluate import request, scoring, suite
from quantpress_evaluate.comparison import samples
from quantpress_evaluate.request import Request
from quantpress_evaluate.scoring import Subject
from quantpress_evaluate.suite import load_suite

pytestmark = pytest.mark.e2e
Run = Callable[..., Any]

RECIPE = ("rtn-w4a16", "--set", "modifiers.0.rtn.group_size=32")
TEXTS = ["The sea was calm that morning, and the boats lay still.", "She read the letter twice.", "Rain fell."]


@pytest.fixture(scope="module")
def random_model(make_llama: Callable[..., Path]) -> Path:
    return make_llama("random", 64, 128)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scored")


def accuracy(out: Path) -> Any:
    return json.loads((out / "random" / "rtn-w4a16" / "accuracy.json").read_text())


def answered(scores: Path) -> int:
    """Requests that a killed run has left answered on disk."""
    for path in scores.glob(".requests-*.db"):
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("select count(*) from sqlite_master where type = 'table'").fetchone()[0]
            return int(database.execute("select count(*) from unnamed").fetchone()[0]) if found else 0
    return 0


def test_a_killed_run_goes_on_where_it_was(random_model: Path, out: Path, real: Run, start: Callable[..., Any]) -> None:
    arguments = ("evaluate", *RECIPE, "--model", str(random_model), "--suite", "smoke", "--out", str(out))
    scores = out / "random" / "baseline" / "scores"
    running = start(*arguments)
    deadline = time.monotonic() + 300
    while answered(scores) < 40 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.poll() is None
    for process in psutil.Process(running.pid).children(recursive=True):
        process.kill()
    running.kill()
    running.wait()
    kept = answered(scores)
    assert not list(scores.glob("[!.]*"))
    assert kept >= 40
    real(*arguments)
    assert accuracy(out)["runs"]["baseline"]["answered_before"] >= kept
    assert accuracy(out)["runs"]["candidate"]["answered_before"] == 0
    result = accuracy(out)
    assert sum(row["documents"] for row in result["tasks"].values()) == 192


def test_more_documents_until_the_gate_is_decided(random_model: Path, out: Path, real: Run) -> None:
    arguments = ("evaluate", *RECIPE, "--model", str(random_model), "--suite", "smoke", "--out", str(out))
    common = (*arguments, "--count-no-signal", "--limit", "12", "--extend")
    done = real(*common, "--gate", "kl<=5")
    assert "undecided" not in done.stderr
    (gate,) = accuracy(out)["gates"]
    assert (gate["decision"], gate["documents"], gate["look"]) == ("pass", 48, 1)
    assert gate["confidence"] == pytest.approx(1 - 0.05 / 3)  # 12, 24 and 48 documents of each task
    close = accuracy(out)["overall"]["kl"]
    real(*arguments, "--count-no-signal")
    whole = accuracy(out)["overall"]["kl"]
    done = real(*common, "--gate", f"kl<={whole:.9f}", expect=3)
    assert "undecided on 48 documents" in done.stderr
    (gate,) = accuracy(out)["gates"]
    assert (gate["decision"], gate["documents"], gate["look"]) == ("inconclusive", 192, 3)
    assert close != whole


def test_a_document_is_asked_the_same_in_every_sample(tmp_path: Path) -> None:
    """By lm-eval, which draws the examples from the documents themselves; a made-up model answers."""
    from types import SimpleNamespace

    from lm_eval.models.dummy import DummyLM

    from quantpress_evaluate import score_worker, tasks_worker
    from quantpress_evaluate.workers import TasksJob

    rows = [{"question": f"is it {n}", "passage": f"It is {n}.", "idx": n, "label": n % 2} for n in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        "name: own\ndescription: d\nseed: 3\ntasks: [{task: own, like: boolq, data: rows.jsonl, num_fewshot: 2}]\n"
    )
    loaded, path = load_suite(str(tmp_path / "own.yaml"))
    job = TasksJob(tasks=suite.resolve_tasks(loaded, path, None), output=tmp_path, cache=tmp_path / "cache")
    (task,) = tasks_worker.checked_tasks(job).tasks
    manager = tasks_worker.task_manager([task], tmp_path / "again")

    def asked(size: int) -> dict[int, str]:
        alike: Any = SimpleNamespace(requests=tmp_path / f"requests-{size}", chat_template=False)
        results = score_worker._task_results(DummyLM(), task.limited(size, 3), manager, alike)
        return {row["doc_id"]: row["prompt_hash"] for row in results["samples"]["own"]}

    whole, half, few = asked(30), asked(15), asked(4)
    assert (len(few), len(half), len(whole)) == (4, 15, 30)
    assert few.items() < half.items() < whole.items()


def test_extending_without_a_gate_is_refused(real: Run, out: Path, random_model: Path) -> None:
    done = real(
        "evaluate", *RECIPE, "--model", str(random_model), "--suite", "smoke", "--out", str(out), "--extend", expect=2
    )
    assert "--extend decides gates" in done.stderr


def test_texts_and_written_answers(random_model: Path, tmp_path: Path, out: Path, real: Run) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    sums = [{"question": f"What is {n} and {n}?", "answer": f"It is #### {2 * n}"} for n in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    (tmp_path / "mixed.yaml").write_text(
        "name: mixed\ndescription: d\ntasks:\n"
        "  - {task: texts, like: plain_text, data: texts.jsonl, metric: word_perplexity}\n"
        "  - {task: sums, like: gsm8k, data: sums.jsonl, metric: exact_match, filter: flexible-extract, num_fewshot: 1,"
        " documents: [0, 2]}\n"
    )
    arguments = ("--model", str(random_model), "--suite", str(tmp_path / "mixed.yaml"), "--out", str(out))
    done = real("evaluate", *RECIPE, *arguments, "--gate", "perplexity_ratio<=2")
    texts, sums_row = (accuracy(out)["tasks"][name] for name in ("texts", "sums"))
    assert texts["documents"] == 3
    assert texts["perplexity_ratio"] == pytest.approx(texts["candidate"] / texts["baseline"])
    assert (sums_row["documents"], sums_row["no_signal"], sums_row["kl"]) == (2, True, None)
    assert "perplexity ratio" in done.stdout
    (tmp_path / "texts.yaml").write_text(
        "name: texts\ndescription: d\ntasks:\n"
        "  - {task: texts, like: plain_text, data: texts.jsonl, metric: word_perplexity}\n"
    )
    real("evaluate", *RECIPE, *arguments, "--suite", str(tmp_path / "texts.yaml"))
    assert accuracy(out)["suite"] == "texts"
    real("evaluate", *RECIPE, *arguments, "--gate", "perplexity_ratio<=2")
    assert accuracy(out)["suite"] == "mixed"
    (row,) = json.loads(real("status", "--json", "--out", str(out)).stdout)
    assert {"mixed", "texts"} <= set(row["accuracy"].split(", "))


@pytest.mark.parametrize("adds_bos", [True, False])
def test_both_backends_make_the_same_tokens(
    adds_bos: bool, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For tokenizers that put a BOS first and those that do not, plain text, empty contexts and chats."""
    from lm_eval.models.huggingface import HFLM
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from quantpress_evaluate.served_model import ServedLM

    folder = shutil.copytree(random_model, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if adds_bos:
        bos = tokenizer.bos_token
        special = [(bos, tokenizer.bos_token_id)]
        single, pair = f"{bos} $A", f"{bos} $A {bos} $B"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single, pair=pair, special_tokens=special
        )
        tokenizer.save_pretrained(folder)
    hf = HFLM(pretrained=str(folder), device="cpu", max_length=64)
    monkeypatch.setenv("OPENAI_API_KEY", "of another server")
    served = ServedLM("http://nowhere", "m", str(folder), 64, 4, False)
    assert served.header == {"Authorization": "Bearer "}
    assert (hf.tok_encode("A sea.")[0] == tokenizer.bos_token_id) is adds_bos
    chat = [{"role": "user", "content": "Hello"}]
    assert hf.apply_chat_template(chat) == served.apply_chat_template(chat)
    # A template that knows no system message, as Gemma 2's.
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    hf.tokenizer.chat_template = served.tokenizer.chat_template = refusing
    with_system = [{"role": "system", "content": "Be good."}, *chat]
    assert hf.apply_chat_template(with_system) == served.apply_chat_template(with_system) == "Hello"
    hf.tokenizer.chat_template = served.tokenizer.chat_template = tokenizer.chat_template
    for text in ("A sea.", tokenizer.bos_token + "A sea.", hf.apply_chat_template(chat)):
        assert hf.tok_encode(text) == served.tok_encode(text)
        assert hf._encode_pair(text, " It is") == served._encode_pair(text, " It is")
        assert hf.tok_encode(text, add_special_tokens=False) == served.tok_encode(text, add_special_tokens=False)
        assert served.tok_encode((text,), add_special_tokens=False) == [hf.tok_encode(text)]
    assert hf.prefix_token_id == served.prefix_token_id
    assert hf.max_length == served.max_length - 1  # a request is cut to one token less, see the next test


def test_a_server_gives_likelihoods_of_whole_texts_while_answers_are_kept(random_model: Path, tmp_path: Path) -> None:
    """As perplexity is scored; windows of a text have no place in lm-eval's cache of answers."""
    from lm_eval.api import model
    from lm_eval.api.instance import Instance

    from quantpress_evaluate.score_worker import remember_as_json
    from quantpress_evaluate.served_model import ServedLM

    with StandIn(likelihood=lambda token: -1.0).up() as url:
        served = ServedLM(url, "m", str(random_model), 32, 4, False)
        remember_as_json(tmp_path / "answers")
        caching = model.CachingLM(served, str(tmp_path / "answers.db"))
        texts = ["A sea of words. " * 20, "Short."]
        asked = [Instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
        found = caching.loglikelihood_rolling(asked)
        assert found == [-float(len(served.tok_encode(text))) for text in texts]
        pair = [Instance("loglikelihood", {}, ("A sea", " of words"), 0)]
        assert caching.loglikelihood(pair)[0][0] == -float(len(served.tok_encode(" of words")))


@pytest.mark.skipif(bool(environment.gpus()), reason="bounds seen on a CPU in bfloat16")
def test_both_backends_see_the_same_tokens_and_nearly_the_same_likelihoods(
    embedded_model: Path, tmp_path: Path
) -> None:
    """Median absolute difference per token: 0.02 nats seen by hand (bf16 on both sides)."""
    loaded, path = load_suite("smoke")
    asked = request.checked(Request(loaded, suite.resolve_tasks(loaded, path, None, limit=6)))
    subject = Subject("baseline", embedded_model, find_model("embedded").identity().digest, tmp_path, False)
    found = {}
    for backend in ("hf", "vllm"):
        one = Request(loaded, asked.tasks, backend=backend)
        scoring.score(subject, one)
        found[backend] = subject.scores_folder(one)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model)
    per_token = []
    for task in asked.tasks:
        both = [samples.read_samples(found[backend], task.task) for backend in ("hf", "vllm")]
        for one, other in samples.pairs(task.task, *both):
            for index, (mine, theirs) in enumerate(zip(*map(samples.likelihoods, (one, other)), strict=True)):
                tokens = len(tokenizer(one["arguments"][index][1]).input_ids)
                per_token.append(abs(mine - theirs) / tokens)
    print(f"median absolute difference per token: {statistics.median(per_token):.4f} nats, most {max(per_token):.3f}")
    assert statistics.median(per_token) < 0.05
    assert max(per_token) < 0.6


def test_several_calibrations_show_how_far_they_are_apart(two_layers: Path, tmp_path: Path, real: Run) -> None:
    data = ("--set", "calibration.samples=2", "--set", "calibration.max_sequence_length=32")
    arguments = ("--model", str(two_layers), "--suite", "smoke", "--limit", "4", "--out", str(tmp_path))
    done = real("evaluate", "smoothquant-w8a8-static", *data, *arguments, "--seeds", "2", "--json")
    own, other = json.loads(done.stdout)["calibrations"]
    assert (own["seed"], other["seed"]) == (42, 43)
    assert own["checkpoint_digest"] != other["checkpoint_digest"]
    assert own["figures"].keys() == other["figures"].keys()
    real("report", "--model", str(two_layers), "--out", str(tmp_path))
    found = json.loads((tmp_path / two_layers.name / "report.json").read_text())
    assert [recipe["name"] for recipe in found["recipes"]] == ["smoothquant-w8a8-static"]
    assert any("2 calibrations (seeds 42, 43)" in note for note in found["recipes"][0]["accuracy"]["notes"])
    refused = real("evaluate", *RECIPE, *arguments, "--seeds", "2", expect=2)
    assert "calibrates on no data" in refused.stderr
