"""The question with an image: as a server gets it, and what follows from each side's answer."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import StandIn

from quantpress.artifact.throughput import Picture, ServerFacts
from quantpress.errors import StageError
from quantpress_serve.bench import likelihoods, picture
from quantpress_serve.server.server import Server

UNKNOWN = likelihoods.unknown("nobody asked")
TAKES_NONE = "At most 0 image(s) may be provided in one prompt."


def server_at(url: str, name: str = "m") -> Server:
    return Server(url=url, name=name, path=Path("/m"), facts=ServerFacts(command=""))


def judged(servers: dict[str, Server]) -> Picture:
    found = {role: picture.asked(role, server) for role, server in servers.items()}
    return picture.judged(found, servers["candidate"], UNKNOWN)


def test_the_picture_goes_in_the_request_beside_the_question() -> None:
    stand_in = StandIn()
    with stand_in.up() as url:
        seen = judged({"candidate": server_at(url)})
    assert seen.reason is None
    assert seen.answers["candidate"].question == picture.QUESTION
    assert seen.answers["candidate"].answer == "Paris, of course."
    ((path, _, body),) = stand_in.seen
    assert path == "/v1/chat/completions"
    (message,) = body["messages"]
    image, text = message["content"]
    assert text == {"type": "text", "text": picture.QUESTION}
    kind, _, content = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    opened = Image.open(io.BytesIO(base64.b64decode(content)))
    left, right = opened.getpixel((0, 0)), opened.getpixel((223, 223))
    assert (left, right) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize("status", [400, 404, 501])
def test_a_server_that_takes_no_image_is_a_reason(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with StandIn(refuses={"/v1/chat/completions": status}, said=TAKES_NONE).up() as url:
        seen = judged({"baseline": server_at(url), "candidate": server_at(url)})
    assert seen.answers == {}
    assert seen.reason
    assert TAKES_NONE in seen.reason
    assert f"no question with an image was asked: m does not take it: HTTP Error {status}" in capsys.readouterr().err


def test_a_checkpoint_that_sees_nothing_where_its_model_sees_fails() -> None:
    blind = StandIn(refuses={"/v1/chat/completions": 400}, said="no processor", models=("mine",))
    with StandIn().up() as model, blind.up() as checkpoint:
        servers = {"baseline": server_at(model), "candidate": server_at(checkpoint, "mine")}
        with pytest.raises(StageError, match=r"mine takes no image, which the unquantized model takes: .*no processor"):
            judged(servers)


def test_nonsense_about_an_image_is_nonsense() -> None:
    said = {"choices": [{"message": {"content": "red " * 12}}]}
    broken = StandIn(pages={"/v1/chat/completions": json.dumps(said).encode()}, models=("mine",))
    with StandIn().up() as model, broken.up() as checkpoint:
        servers = {"baseline": server_at(model), "candidate": server_at(checkpoint, "mine")}
        with pytest.raises(StageError, match=r"mine answers 'Which two colours.*it repeats one or two words"):
            judged(servers)


@pytest.mark.parametrize(
    ("config", "takes"),
    [
        ({"model_type": "llama"}, False),
        ({"vision_config": {"depth": 2}}, True),
        ({"image_token_id": 4}, True),
        ({"image_token_index": 0}, True),
        ({"vision_config": None}, False),
    ],
)
def test_the_config_says_whether_a_model_takes_images(config: dict[str, Any], takes: bool) -> None:
    assert picture.takes_images(config) is takes
