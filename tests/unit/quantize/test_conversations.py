"""Conversations as people write them, and chat templates as models bring them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quantpress.errors import InputError
from quantpress.model.source import Model
from quantpress.plan.resolve import Plan
from quantpress.quantize import calibration_data, conversations, stage
from quantpress.quantize.conversations import conversation, rendered
from quantpress.recipe.recipe import Calibration, Recipe

PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
PARTS = "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
PARTS += "{% endfor %}{% endfor %}"
TOOLS = PLAIN + "{% for c in messages[0].tool_calls or [] %}{{ c.function.arguments.items() | list }}{% endfor %}"
JSON = "{% for m in messages %}{{ m.content | tojson }}{% endfor %}"
SILENT = "{{ '<s>' }}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class Templated:
    """A tokenizer with a chat template, rendered as transformers renders it."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: Any, tokenize: bool) -> str:
        assert not tokenize
        return str(environment().from_string(str(self.chat_template)).render(messages=messages))


def environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment()
    made.globals["raise_exception"] = raise_exception
    return made


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 4}'}}]}


@pytest.mark.parametrize(
    ("messages", "texts", "left_out"),
    [
        ([user("hi")], ["hi"], 0),
        ([user(["one", {"type": "text", "text": "two"}])], ["one\ntwo"], 0),
        ([user([{"type": "image"}, {"type": "text", "text": "what is it", "image": None}])], ["what is it"], 1),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}]), user("hi")], ["", "hi"], 1),
        ([user([{"type": "input_text", "text": "one"}, {"type": "output_text", "text": "two"}])], ["one\ntwo"], 0),
        ([CALL], [""], 0),
    ],
    ids=["text", "parts", "image", "image alone", "parts of OpenAI's newer interface", "tool call"],
)
def test_contents_become_texts(messages: Any, texts: list[str], left_out: int) -> None:
    found = conversation(messages, "d.jsonl:1")
    assert [message["content"] for message in found.messages] == texts
    assert found.left_out == left_out


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "d.jsonl:7: the conversation is empty"),
        ("hi", "the conversation is str, not a list"),
        ([user("hi"), 3], "message 2 is int, not an object"),
        ([{"content": "hi"}], "message 1: `role` is None, not a text"),
        ([user(None)], r"message 1 \(user\) has neither `content` nor `tool_calls`"),
        ([{"role": "user"}], r"message 1 \(user\) has neither"),
        ([user(4)], "`content` is 4, neither a text nor parts"),
        ([user([{"type": "text", "text": 4}])], "a part of type text has 4 as `text`"),
        ([user([7])], "a part of `content` is 7, not an object"),
        ([user(" "), user([{"type": "image"}])], "no message of the conversation holds a text"),
    ],
    ids=range(10),
)
def test_what_is_no_conversation_is_named(messages: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        conversation(messages, "d.jsonl:7")


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (PLAIN, [user("hi")], "user: hi\n"),
        (PARTS, [user("hi")], "hi"),
        (TOOLS, [{**CALL, "content": "x"}], "assistant: x\n[('a', 4)]"),
        (PLAIN.replace("m['content']", "m.tool_calls[0].function.arguments"), [CALL], 'assistant: {"a": 4}\n'),
        (JSON, [user("zwei\nZeilen")], '"zwei\\nZeilen"'),
    ],
    ids=["texts", "parts alone", "arguments as objects", "arguments as texts", "otherwise written"],
)
def test_a_template_gets_the_form_that_it_takes(template: str, messages: Any, text: str) -> None:
    read = conversation(messages, "d.jsonl:1").messages
    assert rendered(read, Templated(template), "d.jsonl:1") == text


def test_fields_that_are_null_are_not_there() -> None:
    """As Arrow fills them in, and OpenAI's model_dump: templates ask whether they are defined."""
    function = {"name": "f", "arguments": {"city": "Rome", "days": None}}
    messages = [
        {**user("Why?"), "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [{"id": None, "function": function}], "refusal": None},
    ]
    read = conversation(messages, "f:1").messages
    assert read == [
        user("Why?"),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"city": "Rome"}}}],
        },
    ]
    defined = "{% for m in messages if m.tool_calls is defined %}{{ m.tool_calls | length }}{% endfor %}Why?"
    assert rendered(read, Templated(defined), "f:1") == "1Why?"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SYSTEM, r"d\.jsonl:3: the model's chat template does not take it: no system role \(roles: system, user\)"),
        (SILENT, r"d\.jsonl:3: the model's chat template leaves out every text"),
        ("{{ messages[9].content + 1 }}", r"d\.jsonl:3: the model's chat template does not take it: .*no element 9"),
        (None, r"d\.jsonl:3: .* no chat template"),
    ],
    ids=["role", "silent", "broken", "none"],
)
def test_what_a_template_refuses_is_named(template: str | None, words: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("hi")]
    with pytest.raises(InputError, match=words):
        rendered(messages, Templated(template), "d.jsonl:3")


def test_a_template_without_an_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "TEMPLATE_S", 0.2)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"d\.jsonl:1: the chat template does not end within 0\.2 s"):
        rendered([user("hi")], Templated(ENDLESS), "d.jsonl:1")
    assert time.monotonic() - started < 5


def test_reading_says_which_files_hold_conversations_and_what_is_left_out(tmp_path: Path) -> None:
    chats, texts = tmp_path / "c.jsonl", tmp_path / "t.jsonl"
    chats.write_text(json.dumps({"messages": [user([{"type": "image"}, {"type": "text", "text": "a"}])]}) + "\n")
    texts.write_text('{"text": "a", "messages": null}\n')
    found = calibration_data.require_readable(Calibration(mixture=[{"dataset": str(p)} for p in (chats, texts)]))
    assert found.chats == [chats]
    assert found.notes == [f"{chats}: 1 parts of messages are neither texts nor image files, and are left out"]


def test_a_file_of_empty_texts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": " "}\n{"text": ""}\n')
    with pytest.raises(InputError, match="every text is empty"):
        calibration_data.require_readable(Calibration(dataset=str(path)))


def test_the_models_own_template_is_tried_on_every_line_before_anything_is_made(
    tmp_path: Path, make_tokenizer: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    model = Model("m", tmp_path / "m", "m", {})
    make_tokenizer(model.path, NO_SYSTEM)
    path = tmp_path / "c.jsonl"
    good, bad = [user("hi")], [{"role": "system", "content": "Be brief."}, user("hi")]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in (good, good, bad)))
    data = {"name": "r", "description": "d", "modifiers": [{"gptq": {"scheme": "W4A16"}}]}
    recipe = Recipe.model_validate({**data, "calibration": {"dataset": str(path)}})
    plan = Plan(recipe, (), None, "channel", 64, 100)
    with pytest.raises(InputError, match=r"c\.jsonl:3: .*no system role") as caught:
        stage.check_data(plan, model)
    assert "log:" not in caught.value.render()
    assert not list((tmp_path / "cache" / "chats").glob("*.log"))

    path.write_text(json.dumps({"messages": good}) + "\n")
    stage.check_data(plan, model)
    started = time.monotonic()
    stage.check_data(plan, model)  # kept
    assert time.monotonic() - started < 0.5


@pytest.fixture
def make_tokenizer() -> Callable[[Path, str], None]:
    """Writes what a tokenizer of whole words needs, with a chat template."""

    def made(folder: Path, template: str) -> None:
        folder.mkdir()
        model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "hi": 1}, "unk_token": "[UNK]"}
        whole = {"version": "1.0", "added_tokens": [], "model": model, "pre_tokenizer": {"type": "Whitespace"}}
        whole |= {"normalizer": None, "post_processor": None, "decoder": None, "truncation": None, "padding": None}
        (folder / "tokenizer.json").write_text(json.dumps(whole))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "eos_token": "[UNK]"}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(b"")

    return made
