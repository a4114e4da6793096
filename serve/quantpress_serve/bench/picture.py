"""One question with an image to servers of an image-text model: does the checkpoint see, as its model does?"""

from __future__ import annotations

import base64
import io
from typing import Any

from quantpress.artifact.served import Served
from quantpress.artifact.throughput import BASELINE, CANDIDATE, Answer, Picture
from quantpress.errors import StageError
from quantpress.model.config import Config
from quantpress.runtime import console
from quantpress_serve.bench import chat
from quantpress_serve.server import client
from quantpress_serve.server.foreign import NO_CHAT
from quantpress_serve.server.server import Server

QUESTION = "Which two colours do you see in this picture? Answer in a few words."
_SIDE = 224  # pixels; every processor scales it to what its tower takes
# What the configs of image-text models name: the tower, or the token that stands for an image.
_NAMED = ("vision_config", "image_token_id", "image_token_index")


def takes_images(config: Config) -> bool:
    """Whether a model's config names a tower for images, or a token for them."""
    return any(config.get(name) is not None for name in _NAMED)


def asked(role: str, server: Server) -> Answer | str:
    """A server's answer, or why it takes no images. Raises StageError if it says nothing."""
    with console.step(f"a question with an image to the {role}"):
        found = _answer_of(server)
    if isinstance(found, Answer):
        console.say(f"  {role}: {found.question} -> {' '.join(found.answer.split())}")
    return found


def judged(found: dict[str, Answer | str], candidate: Server, served: Served) -> Picture:
    """What every side answered. Raises StageError if the candidate takes no image where the baseline does, or talks
    nonsense where that does not (as chat.require_sense has it)."""
    answers = {role: one for role, one in found.items() if isinstance(one, Answer)}
    refusals = {role: one for role, one in found.items() if isinstance(one, str)}
    if BASELINE in answers and CANDIDATE in refusals:
        raise StageError(
            f"{candidate.name} takes no image, which the unquantized model takes: {refusals[CANDIDATE]}",
            hint="compare preprocessor_config.json and processor_config.json of the checkpoint with the model's",
            log=candidate.log,
        )
    if refusals:
        reason = next(iter(refusals.values()))
        console.warn(f"no question with an image was asked: {reason}")
        return Picture(answers=answers, reason=reason)
    chat.require_sense({role: [answer] for role, answer in answers.items()}, candidate, served)
    return Picture(answers=answers, reason=None)


def _answer_of(server: Server) -> Answer | str:
    """Its greedy answer, or why the server takes no image. Raises StageError for a server that does not answer."""
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": picture()}}, {"type": "text", "text": QUESTION}]
    body = {
        **{"max_tokens": chat.MAX_TOKENS, "temperature": 0, "logprobs": True},
        "messages": [{"role": "user", "content": parts}],
    }
    try:
        return chat.answer_of_choice(QUESTION, server.ask("/v1/chat/completions", body)["choices"][0])
    except client.BadStatus as error:
        if error.code in NO_CHAT:
            return f"{server.name} does not take it: {error.whole}"
        raise chat.silent(server, error.whole) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise chat.silent(server, error) from error


def picture() -> str:
    """A picture, red on its left and blue on its right, as a data URL: nothing has to be fetched."""
    from PIL import Image  # 30 ms

    image = Image.new("RGB", (_SIDE, _SIDE), "red")
    image.paste("blue", (_SIDE // 2, 0, _SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
