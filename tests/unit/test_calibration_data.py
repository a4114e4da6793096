"""Calibration data: documents in, sequences of equal length out."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantpress import calibration_data, shipped
from quantpress.errors import InputError
from quantpress.recipe import Calibration


class Letters:
    """A tokenizer in which each character is a token and 0 ends a document."""

    chat_template = None
    eos_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


def write(path: Path, *documents: Any) -> Calibration:
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return Calibration(dataset=str(path), samples=3, max_sequence_length=16)


def test_packing_keeps_every_token_in_order(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", *({"text": letter * 9} for letter in "abcde"))
    packed = calibration_data.pack(calibration_data.documents(calibration), Letters(), calibration)
    assert [len(sequence) for sequence in packed] == [16, 16, 16]
    whole = [token for sequence in packed for token in sequence]
    stream = [t for d in calibration_data.documents(calibration) for t in calibration_data.tokens_of(d, Letters())]
    assert whole == stream[:48]


def test_the_order_is_drawn_with_the_seed(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", *({"text": str(number)} for number in range(50)))
    drawn = [list(calibration_data.documents(calibration.model_copy(update={"seed": seed}))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_less_data_than_asked_for_gives_fewer_sequences(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"text": "x" * 20})
    assert len(calibration_data.pack(calibration_data.documents(calibration), Letters(), calibration)) == 1


def test_data_that_fills_no_sequence_is_refused(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"text": "short"})
    with pytest.raises(InputError, match="6 tokens, fewer than one sequence of 16"):
        calibration_data.pack(calibration_data.documents(calibration), Letters(), calibration)


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"messages": [{"role": "user", "content": "hi"}]})
    with pytest.raises(InputError, match="no chat template"):
        calibration_data.pack(calibration_data.documents(calibration), Letters(), calibration)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "d.jsonl:2: not JSON"),
        ('{"txt": "a"}', "d.jsonl:2: needs `text` or `messages`, has txt"),
        ("[1]", "is list"),
    ],
)
def test_a_bad_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=words):
        list(calibration_data.documents(Calibration(dataset=str(path))))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "ultrachat", "a/b/c"])
def test_a_data_set_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"calibration\.dataset"):
        calibration_data.local_file(Calibration(dataset=name))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no document"):
        list(calibration_data.documents(write(tmp_path / "d.jsonl")))


def test_the_shipped_file_holds_a_few_hundred_chats() -> None:
    path = shipped.folder("recipes") / "calibration" / "chat.jsonl"
    found = list(calibration_data.read_jsonl(path))
    assert len(found) >= 200
    assert all(message["content"].strip() for document in found for message in document["messages"])


def test_the_data_decides_the_identity(tmp_path: Path) -> None:
    one = calibration_data.identity(write(tmp_path / "d.jsonl", {"text": "a"}))
    two = calibration_data.identity(write(tmp_path / "d.jsonl", {"text": "b"}))
    assert one != two
