"""What `run` tries before its first stage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.cli import beforehand, installation
from quantpress.errors import CapabilityError, InputError
from quantpress.model.source import Model
from quantpress.plan.resolve import Plan
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import disk, environment
from quantpress_evaluate import request, suite
from quantpress_serve.server import fit
from quantpress_serve.workload.workload import Workload

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LOAD = Workload(
    name="w", description="d", input_len=100, output_len=20, concurrency=[1], requests_per_stream=2, rounds=1
)


def fits_anywhere(load: Workload, *_: object) -> fit.Fitted:
    """In place of fit.for_load, which is asked in tests/unit/serve/test_fit.py."""
    return fit.Fitted(load.engine, None)


def plan(name: str, weight_bytes: int = 100, checkpoint_bytes: int = 50) -> Plan:
    recipe = Recipe.model_validate({"name": name, "description": "d", "modifiers": [{"rtn": {"scheme": "W8A8"}}]})
    return Plan(recipe, (), None, "channel", 64, weight_bytes, checkpoint_bytes=checkpoint_bytes)


def model(tmp_path: Path, **config: object) -> Model:
    return Model("m", tmp_path, "m", dict(config))


def test_a_missing_library_is_found_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beforehand.require_place(tmp_path)
    real = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: None if name == "vl-convert-python" else real(name))
    with pytest.raises(CapabilityError, match="vl-convert-python is not installed"):
        beforehand.require_place(tmp_path)


def test_all_checkpoints_have_to_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(disk, "require_space", lambda folder, needed: asked.append(needed))
    beforehand.require_room(tmp_path, model(tmp_path), [plan("a"), plan("b"), plan("c"), plan("d")])
    beforehand.require_room(tmp_path, model(tmp_path), [plan("a")])
    assert asked == [200, 150]


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"max_position_embeddings": 128}, False),
        ({"max_position_embeddings": 256}, True),
        ({}, True),
        ({"max_position_embeddings": 128, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, True),
        ({"max_position_embeddings": 128, "rope_parameters": {"rope_type": "default"}}, False),
        ({"text_config": {"max_position_embeddings": 128}}, False),
    ],
    ids=["short", "long", "unknown", "scaled", "rotary", "nested"],
)
def test_a_load_longer_than_the_models_context_is_wrong_input(
    config: dict[str, object], fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: ["one"])
    gpu = environment.Gpu(device="0", kind="one", memory=2**36, free=2**36)
    monkeypatch.setattr(environment, "visible_gpus", lambda: [gpu])
    monkeypatch.setattr(fit, "for_load", fits_anywhere)
    arguments = tmp_path / "vllm", LOAD, tmp_path, model(tmp_path, **config), [plan("a")]
    if fits:
        beforehand.require_servers_here(*arguments)
        return
    with pytest.raises(InputError, match="needs a context of 184 tokens, and m has 128 positions"):
        beforehand.require_servers_here(*arguments)


def test_a_vllm_that_cannot_be_loaded_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "python").symlink_to(sys.executable)  # in which there is no vLLM
    with pytest.raises(CapabilityError, match="cannot be asked: ModuleNotFoundError"):
        beforehand.require_servers_here(tmp_path / "vllm", LOAD, tmp_path, model(tmp_path), [plan("a")])


def test_memory_for_two_servers_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "gpus", list)
    monkeypatch.setattr(fit, "for_load", fits_anywhere)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    arguments = tmp_path / "vllm", LOAD, tmp_path, model(tmp_path), [plan("a", 2**50)]
    with pytest.raises(CapabilityError, match="for the KV cache of each of 2 servers"):
        beforehand.require_servers_here(*arguments, "together")
    with pytest.raises(CapabilityError, match=r"for the KV cache with 1048576\.0 GiB of weights"):
        beforehand.require_servers_here(*arguments)


def test_questions_as_a_chat_need_a_chat_template_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    tried = []
    monkeypatch.setattr(request, "try_template", lambda files, of: tried.append(files[0].read_text()))
    loaded, path = suite.load_suite("smoke")
    chat = loaded.model_copy(update={"chat_template": True})
    asked = request.Request(chat, suite.resolve_tasks(chat, path, None), compute_dtype="stored")
    with pytest.raises(InputError, match="m has no chat template"):
        asked.for_model(model(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    asked.for_model(model(tmp_path))
    (conversation,) = tried
    assert [turn["role"] for turn in json.loads(conversation)["messages"]] == ["user", "assistant", "user"]


def test_an_unwritable_place_is_found_before_anything_is_asked(tmp_path: Path, quantpress: Run) -> None:
    (tmp_path / "file").write_text("")
    done = quantpress("run", "rtn-w4a16", "--suite", "smoke", "--out", str(tmp_path / "file" / "out"))
    assert done.returncode == 4
    assert "is not a writable folder" in done.stderr
    assert "checking the tasks" not in done.stderr


def test_a_chat_template_that_takes_no_questions_is_told_in_the_words_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))

    def refuse(files: list[Path], of: object) -> None:
        raise InputError(f"{files[0].resolve()}:1: it does not take it", hint="change the conversation")

    monkeypatch.setattr(request, "try_template", refuse)
    loaded, path = suite.load_suite("smoke")
    chat = loaded.model_copy(update={"chat_template": True})
    asked = request.Request(chat, suite.resolve_tasks(chat, path, None), compute_dtype="stored")
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": None}))
    with pytest.raises(InputError, match="m has no chat template"):
        asked.for_model(model(tmp_path))
    config.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with pytest.raises(InputError, match=r"^the suite smoke puts questions as a chat: it does not take it$") as caught:
        asked.for_model(model(tmp_path))
    assert "--suite" in str(caught.value.hint)
