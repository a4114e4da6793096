"""Conversations of calibration data: what people write becomes roles and texts, of which a template makes one text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quantpress.errors import InputError, first_line, shown
from quantpress.quantize import images
from quantpress.runtime.time_limit import time_limit

Message = dict[str, Any]
_TEXTS = ("text", "input_text", "output_text")  # types of parts: OpenAI's two interfaces call them otherwise
TEMPLATE_S = 10.0  # seconds that a chat template gets for one conversation; they take milliseconds
_HINT = "a conversation is a list of messages with `role` and `content`, which is a text or parts of type text"


class Conversation(NamedTuple):
    """The messages, and how many parts (images, sounds) are left out of them.

    `content` is a text, or parts of type text and image where the message names images: these have a `path`.
    """

    messages: list[Message]
    left_out: int


def conversation(messages: Any, where: str, folder: Path | None = None) -> Conversation:
    """Messages as people write them; the paths of images count from `folder`, and without one images are left out.

    Raises InputError, naming `where` they stand, for what no template can take.
    """
    if not isinstance(messages, list) or not messages:
        what = "is empty" if messages == [] else f"is {type(messages).__name__}, not a list"
        raise InputError(f"{where}: the conversation {what}", hint=_HINT)
    read = [_message(message, f"{where}: message {number}", folder) for number, message in enumerate(messages, 1)]
    found = Conversation([message for message, _ in read], sum(left_out for _, left_out in read))
    said = any(text_of(message).strip() or message.get("tool_calls") for message in found.messages)
    if not said and not image_paths(found.messages):
        raise InputError(f"{where}: no message of the conversation holds a text", hint=_HINT)
    return found


def text_of(message: Message) -> str:
    """The text of a message that was read, its parts a line each."""
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content if "text" in part)


def image_parts(messages: list[Message]) -> list[Message]:
    """The parts of a conversation that are images, in their order."""
    contents = (message["content"] for message in messages if not isinstance(message["content"], str))
    return [part for parts in contents for part in parts if part["type"] == "image"]


def image_paths(messages: list[Message]) -> list[Path]:
    """The files of a conversation's images, in their order."""
    return [Path(part["path"]) for part in image_parts(messages)]


def texts_alone(messages: list[Message]) -> list[Message]:
    """The same without the images."""
    return [{**message, "content": text_of(message)} for message in messages]


def _message(message: Any, where: str, folder: Path | None) -> tuple[Message, int]:
    if not isinstance(message, dict):
        raise InputError(f"{where} is {type(message).__name__}, not an object", hint=_HINT)
    if not isinstance(message.get("role"), str):
        raise InputError(f"{where}: `role` is {shown(message.get('role'))}, not a text", hint=_HINT)
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise InputError(f"{where} ({message['role']}) has neither `content` nor `tool_calls`", hint=_HINT)
    read, left_out = _content(content, f"{where} ({message['role']})", folder)
    return {**_without_nulls(message), "content": read}, left_out


def _without_nulls(value: Any) -> Any:
    """What a message and its tool calls hold, less the fields that are null: Arrow fills in those that other messages
    have, and templates ask whether a field is there (`tool_calls is defined`)."""
    if isinstance(value, dict):
        return {key: _without_nulls(held) for key, held in value.items() if held is not None}
    return [_without_nulls(held) for held in value] if isinstance(value, list) else value


def _content(content: Any, where: str, folder: Path | None) -> tuple[str | list[Message], int]:
    """The text of a content, its parts a line each, or parts where there are images; and how many are left out."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list):
        raise InputError(f"{where}: `content` is {shown(content)}, neither a text nor parts", hint=_HINT)
    parts = [_part(part, where, folder) for part in content]
    kept = [part for part in parts if part is not None]
    if all("text" in part for part in kept):
        return "\n".join(part["text"] for part in kept), parts.count(None)
    return kept, parts.count(None)


def _part(part: Any, where: str, folder: Path | None) -> Message | None:
    """A part of type text or image; None where it is an image that names no file, a sound, or something else."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise InputError(f"{where}: a part of `content` is {shown(part)}, not an object", hint=_HINT)
    kind = part.get("type", "text")
    if kind not in _TEXTS:
        path = images.named(part, folder, where) if folder else None
        return {"type": "image", "path": str(path)} if path else None
    if not isinstance(part.get("text"), str):
        raise InputError(f"{where}: a part of type {kind} has {shown(part.get('text'))} as `text`", hint=_HINT)
    return {"type": "text", "text": part["text"]}


def rendered(messages: list[Message], tokenizer: Any, where: str) -> str:
    """The text that the tokenizer's chat template makes of a conversation.

    Templates differ in what they take: arguments of tool calls as objects or as JSON, contents as texts or as parts.
    The first form counts in which it does not fail and says something of the texts. Raises InputError, naming `where`
    the conversation stands, if there is none, or if it takes longer than TEMPLATE_S.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{where}: the data set holds `messages`, but the tokenizer has no chat template",
            hint="name data with `text`, or a model with a chat template",
        )
    refusals = []
    for form in _forms(messages):
        try:
            with time_limit(TEMPLATE_S):
                text = _applied(form, tokenizer)
                if _says_something(messages, form, text, tokenizer):
                    _require_images_shown(form, text, tokenizer, where)
                    return text
        except InputError:
            raise
        except TimeoutError as error:
            raise InputError(
                f"{where}: the chat template does not end within {TEMPLATE_S:g} s",
                hint="correct the model's chat_template (tokenizer_config.json or chat_template.jinja)",
            ) from error
        except Exception as error:  # templates raise what they like
            refusals.append(error)
    raise _refusal(refusals, messages, where)


def _forms(messages: list[Message]) -> Iterator[list[Message]]:
    as_parts = [{**message, "content": _parts(message["content"])} for message in messages]
    if image_paths(messages):  # which only parts can say
        yield [_with_arguments_as_objects(message) for message in as_parts]
        return
    yield [_with_arguments_as_objects(message) for message in messages]
    if any(message.get("tool_calls") for message in messages):
        yield messages
    yield as_parts


def _parts(content: str | list[Message]) -> list[Message]:
    """Parts as templates expect them: of an image they need to know no more than that it is one."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [{"type": "image"} if part["type"] == "image" else part for part in content]


def _require_images_shown(form: list[Message], text: str, tokenizer: Any, where: str) -> None:
    """Raises InputError for an image without which the template says the same."""
    for number, message in enumerate(form):
        for place, part in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            if part["type"] != "image":
                continue
            rest = [*message["content"][:place], *message["content"][place + 1 :]]
            without = [*form[:number], {**message, "content": rest}, *form[number + 1 :]]
            if _applied(without, tokenizer) == text:
                raise InputError(
                    f"{where}: message {number + 1} ({message['role']}): the chat template leaves out its image",
                    hint="put images where the template shows them (most do in messages of `user`), or leave them out",
                )


def _with_arguments_as_objects(message: Message) -> Message:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_call(call) for call in calls]} if isinstance(calls, list) else message


def _call(call: Any) -> Any:
    """OpenAI's way is arguments in JSON, in which templates would see nothing but a text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _applied(messages: list[Message], tokenizer: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def _says_something(messages: list[Message], form: list[Message], text: str, tokenizer: Any) -> bool:
    """Whether the texts are in what the template made: one that expects parts makes nothing of a text, silently."""
    texts = [stripped for message in messages if (stripped := text_of(message).strip())]
    if not texts or any(one in text for one in texts):
        return True
    # It may write them otherwise (as JSON, say): then a plain word in their place is found.
    return "quantpress" in _applied([_saying("quantpress", message) for message in form], tokenizer)


def _saying(word: str, message: Message) -> Message:
    if isinstance(message["content"], str):
        return {**message, "content": word}
    kept = [part for part in message["content"] if part["type"] == "image"]
    return {**message, "content": [*kept, {"type": "text", "text": word}]}


def _refusal(refusals: list[Exception], messages: list[Message], where: str) -> InputError:
    if not refusals:
        return InputError(
            f"{where}: the model's chat template leaves out every text of the conversation",
            hint="name data with `text`, or a model whose chat template shows what it is given",
        )
    roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
    return InputError(
        f"{where}: the model's chat template does not take it: {first_line(refusals[0])[:300]} (roles: {roles})",
        hint="change the conversation so that the template takes it (a text of `system` can begin the first text of "
        "`user`), or leave it out",
    )
