"""`calibration.dataset: self`: the model writes its own chats, once, with a vLLM that is a stand-in here."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.artifact.manifest import artifact_of
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.language import shipped
from quantpress.model.source import Model, find_model
from quantpress.plan.resolve import plan_of
from quantpress.plan.summary import summary_of
from quantpress.quantize import calibration_data, own_chats
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.recipe import Calibration, Recipe, Source
from quantpress_serve.writing import own_chats as writing
from quantpress_serve.writing.repetition import circles

GOOD = "Tides are the rise and the fall of the sea. The moon pulls at the water, and so does the sun."
# Of each batch of conversations, what is answered to the first four, and why the answer ends.
ANSWERS = {"empty": ("  ", "stop"), "repeating": ("no " * 40, "stop"), "cut": (GOOD, "length"), "good": (GOOD, "stop")}
STAND_IN = """
import json, pathlib
class SamplingParams:
    def __init__(self, **options): self.__dict__.update(options)
class Output:
    def __init__(self, text, reason):
        self.prompt_token_ids = [1] * 10
        answer = type("Answer", (), {"text": text, "finish_reason": reason, "token_ids": [1] * 40})
        self.outputs = [answer]
class LLM:
    def __init__(self, **options):
        with open(%(log)r, "a") as stream: stream.write(json.dumps(options) + "\\n")
        if %(fails)r: raise RuntimeError("the engine is out of order")
    def chat(self, asked, params, chat_template_kwargs):
        known = %(answers)r
        return [Output(*(known[(one.seed - 1) %% len(known)])) for one in params]
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """An environment whose `vllm` gives these answers in turn; it notes each time that its engine is started."""
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))

    def make(*answers: str, fails: bool = False) -> Path:
        library, programs = tmp_path / "env" / "lib", tmp_path / "env" / "bin"
        shutil.rmtree(tmp_path / "env", ignore_errors=True)
        library.mkdir(parents=True)
        programs.mkdir()
        values = {"log": str(tmp_path / "started"), "fails": fails, "answers": [ANSWERS[name] for name in answers]}
        (library / "vllm.py").write_text(STAND_IN % values)
        (programs / "python").write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} -S "$@"\n')
        (programs / "vllm").write_text("#!/bin/sh\n")
        for program in programs.iterdir():
            program.chmod(0o755)
        return programs / "vllm"

    return make


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Model:
    folder = make_model()
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return find_model(str(folder))


def written(model: Model, vllm: Path, **calibration: int) -> Source:
    asked = Calibration(dataset="self", **{"samples": 4, "max_sequence_length": 64, **calibration})
    return writing.with_own_chats(asked, model, 1000, str(vllm)).sources[0]


def started(tmp_path: Path) -> int:
    return len((tmp_path / "started").read_text().splitlines())


def test_chats_are_written_once_and_named_with_what_decides_them(
    model: Model, vllm: Callable[..., Path], tmp_path: Path
) -> None:
    named = vllm("good")
    source = written(model, named)
    assert written(model, named) == source
    assert started(tmp_path) == 1
    found = list(calibration_data.documents(source, 42))
    turns = [message["role"] for message in found[0]["messages"]]
    assert turns == ["user", "assistant"] * 2
    (known,) = calibration_data.identity(Calibration(dataset="self", revision=source.revision)).sources
    assert known.dataset == "self"
    assert known.sha256
    assert known.written
    assert (known.written.vllm, known.written.model) == ("unknown", model.identity().digest)
    assert known.written.seeds == (1, known.written.asked)
    assert known.written.tokens >= 4 * 64
    # More tokens, and another model: other chats.
    assert written(model, named, samples=8) != source
    assert started(tmp_path) == 2


def test_another_number_of_gpus_is_no_reason_to_write_other_chats(
    model: Model, vllm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = vllm("good")
    source = written(model, named)
    monkeypatch.setattr("quantpress.runtime.environment.gpus", lambda: ["NVIDIA H200"] * 2)
    monkeypatch.setattr("quantpress.runtime.environment.visible_gpus", lambda: ["0", "1"])
    assert written(model, named) == source
    assert started(tmp_path) == 1
    written(model, named, samples=8)
    first, second = [json.loads(line) for line in (tmp_path / "started").read_text().splitlines()]
    assert (first["tensor_parallel_size"], first["enforce_eager"]) == (1, True)
    assert (second["tensor_parallel_size"], second["enforce_eager"]) == (2, False)


def test_the_hosts_memory_has_to_hold_the_model_only_where_there_is_no_gpu(
    model: Model, vllm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = vllm("good")
    monkeypatch.setattr("quantpress.runtime.free_memory.available", lambda: 1000)
    with pytest.raises(CapabilityError, match="held in memory while it writes chats for its calibration: "):
        written(model, named)
    monkeypatch.setattr("quantpress.runtime.environment.gpus", lambda: ["NVIDIA H200"])
    monkeypatch.setattr("quantpress.runtime.environment.visible_gpus", lambda: ["0"])
    assert written(model, named).revision


def test_answers_that_are_empty_repeat_or_are_cut_are_left_out_and_counted(
    model: Model, vllm: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(model, vllm("empty", "repeating", "cut", "good"))
    assert source.revision
    about = own_chats.about(source.revision)
    assert about.dropped == {name: about.asked // 4 for name in ("cut", "empty", "repeating")}
    assert about.conversations == about.asked // 4
    said = [message["content"] for one in calibration_data.documents(source, 1) for message in one["messages"]]
    assert set(said[1::2]) == {GOOD}


def test_what_fails_leaves_nothing_half(model: Model, vllm: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(StageError, match="tiny wrote its chats: RuntimeError: the engine is out of order") as caught:
        written(model, vllm("good", fails=True))
    assert caught.value.log
    with pytest.raises(StageError, match="no chat that can be used: of 480 answers 480 cut"):
        written(model, vllm("cut"))
    kept = tmp_path / "cache" / "own-chats"
    assert [path.name for path in kept.iterdir() if path.is_dir()] == []
    written(model, vllm("good"))  # and it can be tried again


def test_a_model_that_cannot_chat_and_a_machine_without_vllm_are_told_beforehand(
    model: Model, make_model: Callable[..., Path], vllm: Callable[..., Path]
) -> None:
    asked = Calibration(dataset="self")
    with pytest.raises(CapabilityError, match="/no/vllm is not an executable"):
        writing.require_writable(asked, model, "/no/vllm")
    (vllm("good").parent / "python").unlink()
    with pytest.raises(CapabilityError, match="no Python beside"):
        writing.require_writable(asked, model, str(model.path.parent / "env" / "bin" / "vllm"))
    base = find_model(str(make_model("base")))
    with pytest.raises(InputError, match="base has no chat template"):
        writing.require_chatting(asked, base)
    short = Model("short", model.path, "short", {"max_position_embeddings": 128})
    with pytest.raises(InputError, match="short has 128 positions, and a conversation needs 512"):
        writing.require_chatting(asked, short)


def test_an_artifact_keeps_its_chats_and_gives_them_back(
    model: Model, vllm: Callable[..., Path], tmp_path: Path
) -> None:
    source = written(model, vllm("good"))
    recipe = load_recipe("gptq-w4a16", ["calibration.dataset=self"])
    assert recipe.calibration
    named = recipe.model_copy(update={"calibration": recipe.calibration.with_sources([source])})
    artifact = artifact_of(tmp_path / "out", "tiny", "gptq-w4a16").folder
    own_chats.keep(named, artifact)
    before = calibration_data.local_file(source)
    assert before
    text = before.read_bytes()
    shutil.rmtree(tmp_path / "cache" / "own-chats")
    with pytest.raises(InputError, match="these chats are not in"):
        calibration_data.local_file(source)
    own_chats.restore(artifact)
    again = calibration_data.local_file(source)
    assert again
    assert again.read_bytes() == text


def test_who_asks_for_chats_that_nobody_wrote_is_told_so() -> None:
    with pytest.raises(InputError, match="the model has written no chats yet"):
        calibration_data.pinned(Calibration(dataset="self"))


def test_the_questions_have_seeds_of_their_own_and_two_turns() -> None:
    path = shipped.folder("recipes") / "calibration" / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["seed"] for row in rows}) == len({row["turns"][0] for row in rows}) == len(rows) >= 400
    assert all(len(row["turns"]) == 2 for row in rows)


def test_a_text_that_goes_in_circles() -> None:
    whole = (shipped.folder("recipes").parent / "README.md").read_text(encoding="utf-8")
    assert not circles(whole)
    assert circles(" ".join(f"{GOOD} {number}" for number in range(6)))
    assert not circles("Yes. " * 5)  # short: not this rule's


@pytest.mark.parametrize(("layers", "poor"), [(2, False), (24, True)])
def test_a_plan_says_when_the_shipped_chats_are_too_poor(layers: int, poor: bool, tmp_path: Path) -> None:
    """Of shapes of 0.2B and 1.3B parameters; with its own chats there is nothing to say but that they come first."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 32}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, **sizes}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    shapes = Model("m", tmp_path, "m", json.loads((tmp_path / "config.json").read_text()))

    def notes(recipe: Recipe) -> str:
        return "\n".join(summary_of(plan_of(recipe, shapes), shapes.config, 128, 1).notes)

    shipped_chats = notes(load_recipe("gptq-w4a16"))
    assert (
        "quantpress-chat was written by a model of 135M parameters and is poor for one of 1." in shipped_chats
    ) is poor
    own = notes(load_recipe("gptq-w4a16", ["calibration.dataset=self"]))
    assert "poor" not in own
    assert "the model writes its chats with vLLM before it is quantized" in own
    assert "poor" not in notes(load_recipe("rtn-w4a16"))
