"""Images in calibration data: files that messages name, looked at before anything is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from quantpress.errors import InputError
from quantpress.package import bundle
from quantpress.quantize import calibration_data, conversations, images
from quantpress.quantize.conversations import conversation, image_paths, rendered, text_of, texts_alone
from quantpress.recipe.recipe import Calibration

SHOWING = "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% else %}{% for part in "
SHOWING += "m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}\n{% endfor %}"
USER_ALONE = SHOWING.replace("if part.type == 'image'", "if part.type == 'image' and m.role == 'user'").replace(
    "else part.text", "else part.text or ''"
)


class Templated:
    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: Any, tokenize: bool) -> str:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        assert not tokenize
        return str(ImmutableSandboxedEnvironment().from_string(self.chat_template).render(messages=messages))


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def picture(path: Path, width: int = 8, height: int = 8, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def lines(path: Path, *conversations_: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations_))
    return path


WHAT = {"type": "text", "text": "what is it"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "path": "a/b.png"},
        {"type": "image", "image": "a/b.png"},
        {"type": "image", "url": "a/b.png"},
        {"type": "image_url", "image_url": {"url": "a/b.png"}},
        {"type": "image_url", "image_url": "a/b.png"},
        {"type": "image_url", "image_url": {"url": "file:///d/a/b.png"}},
        {"type": "image", "path": "/d/a/b.png"},
    ],
    ids=range(7),
)
def test_every_way_to_name_a_file_is_its_path(part: dict[str, Any]) -> None:
    read = conversation([user(part, WHAT), {"role": "assistant", "content": "a cat"}], "d.jsonl:1", Path("/d"))
    assert read.messages[0]["content"] == [{"type": "image", "path": "/d/a/b.png"}, WHAT]
    assert (read.messages[1]["content"], read.left_out) == ("a cat", 0)
    assert image_paths(read.messages) == [Path("/d/a/b.png")]
    assert [text_of(message) for message in read.messages] == ["what is it", "a cat"]


@pytest.mark.parametrize(
    "part", [{"type": "image"}, {"type": "image", "image": {"bytes": "xx"}}, {"type": "audio", "path": "a.wav"}]
)
def test_what_names_no_image_file_is_left_out_and_counted(part: dict[str, Any]) -> None:
    read = conversation([user(part, WHAT)], "d.jsonl:1", Path("/d"))
    assert (read.messages[0]["content"], read.left_out) == ("what is it", 1)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            {"type": "image", "url": "https://a.b/c.png"},
            r"d\.jsonl:7: message 1 \(user\): .* is a https URL: nothing is",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, "is a data URL: nothing is fetched"),
        ({"type": "image", "path": 3}, "an image is 3, not the path of a file"),
        ({"type": "image", "path": "a\0b"}, "not the path of a file"),
    ],
    ids=range(4),
)
def test_what_would_have_to_be_fetched_or_decoded_is_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        conversation([user(part, WHAT)], "d.jsonl:7", Path("/d"))


def test_an_image_may_be_all_that_a_conversation_says() -> None:
    messages = [user({"type": "image", "path": "a.png"})]
    assert image_paths(conversation(messages, "d.jsonl:1", Path("/d")).messages) == [Path("/d/a.png")]
    with pytest.raises(InputError, match="no message of the conversation holds a text"):
        conversation([user({"type": "image"})], "d.jsonl:1", Path("/d"))


def test_images_are_looked_at_line_by_line(tmp_path: Path) -> None:
    good = picture(tmp_path / "img" / "good.png")
    (tmp_path / "text.png").write_text("no pixels")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    data = tmp_path / "d.jsonl"
    for name, words in {
        "img/gone.png": r"d\.jsonl:2: the image .*gone\.png does not exist",
        "img": r"d\.jsonl:2: the image .*img does not exist",
        "text.png": r"d\.jsonl:2: the image .*text\.png cannot be read: cannot identify image file",
        "page.eps": r"d\.jsonl:2: the image .*page\.eps cannot be read",
    }.items():
        lines(data, [user({"type": "image", "path": str(good)}, WHAT)], [user({"type": "image", "path": name}, WHAT)])
        with pytest.raises(InputError, match=words):
            calibration_data.require_readable(Calibration(dataset=str(data)))
    lines(data, [user({"type": "image", "path": "img/good.png"}, WHAT)])
    found = calibration_data.require_readable(Calibration(dataset=str(data)))
    assert (found.with_images, found.notes) == ([data], [])
    assert calibration_data.first_image(Calibration(dataset=str(data))) == f"{data}:1"


def test_an_image_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png", 20, 10)
    images.require_image(path, "d.jsonl:1")
    monkeypatch.setattr(images, "LARGEST", 199)
    with pytest.raises(InputError, match=r"d\.jsonl:1: the image .*a\.png has 20 x 10 pixels, more than 199 pixels"):
        images.require_image(path, "d.jsonl:1")
    monkeypatch.setattr(images, "LARGEST", 10)
    with pytest.raises(InputError, match=r"a\.png has 0 MiB, more than"):
        images.require_image(path, "d.jsonl:1")


def test_an_image_that_is_cut_short_is_found_where_its_pixels_are(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", 300, 300)
    assert images.opened(path, "d.jsonl:1").size == (300, 300)
    path.write_bytes(path.read_bytes()[:-400])
    images.require_image(path, "d.jsonl:1")
    with pytest.raises(InputError, match=r"d\.jsonl:1: the image .*a\.jpg cannot be read: image file is truncated"):
        images.opened(path, "d.jsonl:1")


def test_an_image_is_upright_and_of_three_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held on its side
    Image.new("L", (30, 20)).save(path, exif=turned)
    opened = images.opened(path, "d.jsonl:1")
    assert (opened.size, opened.mode) == ((20, 30), "RGB")


def test_the_images_decide_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    picture(tmp_path / "a" / "x.png")
    picture(tmp_path / "b" / "x.png", colour="blue")
    parts = [{"type": "image", "path": name} for name in ("a/x.png", "b/x.png")]
    data = lines(tmp_path / "d.jsonl", [user(*parts, WHAT)])
    calibration = Calibration(dataset=str(data))

    def digest() -> str | None:
        return calibration_data.identity(calibration).sources[0].images

    first = digest()
    assert first
    assert "pillow" in (calibration_data.identity(calibration).sources[0].imaging or {})
    picture(tmp_path / "b" / "x.png", colour="green")
    assert digest() not in (first, None)
    text = lines(tmp_path / "t.jsonl", [{"role": "user", "content": 'an "image" and a {"type": "image"}'}])
    of_text = calibration_data.identity(Calibration(dataset=str(text))).sources[0]
    assert (of_text.images, of_text.imaging) == (None, None)


def test_templates_get_images_as_parts_and_must_show_each() -> None:
    image = {"type": "image", "path": "a.png"}
    messages = conversation([user(image, WHAT), {"role": "assistant", "content": "a cat"}], "d:1", Path("/d")).messages
    assert rendered(messages, Templated(SHOWING), "d:1") == "user: <image>what is it\nassistant: a cat\n"
    assert rendered(texts_alone(messages), Templated(SHOWING), "d:1") == "user: what is it\nassistant: a cat\n"
    also = conversation([user(WHAT), {"role": "assistant", "content": [image, WHAT]}], "d:1", Path("/d")).messages
    with pytest.raises(InputError, match=r"d:3: message 2 \(assistant\): the chat template leaves out its image"):
        rendered(also, Templated(USER_ALONE), "d:3")


def test_a_bundle_holds_the_images_and_the_data_name_them_there(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    picture(tmp_path / "b" / "x.png", colour="blue")
    parts = [{"type": "image", "path": "x.png"}, {"type": "image_url", "image_url": {"url": str(tmp_path / "b/x.png")}}]
    data = lines(tmp_path / "d.jsonl", [user(*parts, WHAT)], [{"role": "user", "content": "no image"}])
    target = tmp_path / "bundle" / "data" / "d.jsonl"
    bundle._copy_with_images(data, target)
    before, after = calibration_data.images_of(data), calibration_data.images_of(target)
    assert [path.read_bytes() for path in after] == [path.read_bytes() for path in before]
    assert all(path.parent == target.with_name("d.jsonl.images") for path in after)
    read = [document["messages"] for document in calibration_data.read_local(target)]
    assert [[conversations.text_of(message) for message in one] for one in read] == [["what is it"], ["no image"]]
