"""Calibration data: documents in, sequences of equal length out."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from quantpress.artifact.manifest import Filled
from quantpress.errors import CapabilityError, InputError
from quantpress.language import shipped
from quantpress.quantize import calibration_data
from quantpress.recipe.recipe import Calibration, Source


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
    packed = calibration_data.packed(calibration, Letters()).sequences
    assert [len(sequence) for sequence in packed] == [16, 16, 16]
    whole = [token for sequence in packed for token in sequence]
    (source,) = calibration.sources
    found = calibration_data.documents(source, calibration.seed)
    stream = [token for document in found for token in calibration_data.tokens_of(document, Letters())]
    assert whole == stream[:48]


def test_the_order_is_drawn_with_the_seed(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", *({"text": str(number)} for number in range(50)))
    drawn = [list(calibration_data.documents(calibration.sources[0], seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_less_data_than_asked_for_gives_fewer_sequences(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"text": "x" * 20})
    packed = calibration_data.packed(calibration, Letters())
    assert len(packed.sequences) == 1
    assert packed.sources == [Filled(dataset=str(calibration.dataset), requested_sequences=3, sequences=1)]


def test_data_that_fills_no_sequence_is_refused(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"text": "short"})
    with pytest.raises(InputError, match="6 tokens, fewer than one sequence of 16"):
        calibration_data.packed(calibration, Letters())


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    calibration = write(tmp_path / "d.jsonl", {"messages": [{"role": "user", "content": "hi"}]})
    with pytest.raises(InputError, match="no chat template"):
        calibration_data.packed(calibration, Letters())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "d.jsonl:2: not JSON"),
        ('{"txt": "a"}', "d.jsonl:2: needs .* has txt"),
        ("[1]", "is list"),
        ('{"messages": ["hi"]}', "d.jsonl:2: message 1 is str, not an object"),
    ],
)
def test_a_bad_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(InputError, match=words):
        calibration_data.require_readable(Calibration(dataset=str(path)))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "ultrachat", "a/b/c"])
def test_a_data_set_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"calibration\.dataset"):
        calibration_data.local_file(Source(dataset=name))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no document"):
        calibration_data.require_readable(write(tmp_path / "d.jsonl"))


def test_the_shipped_file_holds_a_few_hundred_chats() -> None:
    path = shipped.folder("recipes") / "calibration" / "chat.jsonl"
    found = list(calibration_data.read_local(path))
    assert len(found) >= 200
    assert all(message["content"].strip() for document in found for message in document["messages"])


def test_the_data_decides_the_identity(tmp_path: Path) -> None:
    one = calibration_data.identity(write(tmp_path / "d.jsonl", {"text": "a"}))
    two = calibration_data.identity(write(tmp_path / "d.jsonl", {"text": "b"}))
    assert one != two


def mixture(tmp_path: Path, samples: int, **weights: float) -> Calibration:
    """Sources a, b, ... of 600 tokens each, in which every token is the source's letter (or the end of a document)."""
    sources = []
    for letter, weight in weights.items():
        write(tmp_path / f"{letter}.jsonl", *({"text": letter * 19} for _ in range(30)))
        sources.append(Source(dataset=str(tmp_path / f"{letter}.jsonl"), weight=weight))
    return Calibration(mixture=sources, samples=samples, max_sequence_length=16)


def letters(calibration: Calibration) -> str:
    """For each sequence the letter it is made of."""
    return "".join(chr(max(sequence)) for sequence in calibration_data.packed(calibration, Letters()).sequences)


def test_a_mixture_gives_every_source_its_share_spread_over_the_whole(tmp_path: Path) -> None:
    assert letters(mixture(tmp_path, 8, a=3, b=1)) == "aabaaaba"
    assert letters(mixture(tmp_path, 3, a=1, b=1, c=1)) == "abc"


@pytest.mark.parametrize(("samples", "weights"), [(64, [1, 1, 1]), (7, [0.5, 0.25, 0.25]), (5, [1e-3, 1, 1])])
def test_shares_add_up_and_are_within_one_of_exact(samples: int, weights: list[float]) -> None:
    counts = calibration_data.shares(samples, weights)
    assert sum(counts) == samples
    exact = [samples * weight / sum(weights) for weight in weights]
    assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))


def test_a_weight_that_gets_no_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weight 0\.01 is less than one of 4 sequences"):
        letters(mixture(tmp_path, 4, a=1, b=0.01))


def test_a_budget_of_tokens_is_a_number_of_sequences() -> None:
    resolved = Calibration(tokens=10_000, max_sequence_length=512).resolved()
    assert (resolved.samples, resolved.tokens) == (19, None)
    assert Calibration.model_validate(resolved.model_dump(exclude_none=True)) == resolved


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"samples": 4, "tokens": 4096}, "either samples"),
        ({"tokens": 100}, "100 tokens do not fill one sequence of 512"),
        ({"dataset": "c4", "mixture": [{"dataset": "c4"}]}, "dataset does not go with mixture"),
        ({"mixture": []}, "mixture"),
        ({"mixture": [{"dataset": "c4", "weight": 0}]}, "greater than 0"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Calibration.model_validate(fields)


def test_parquet_holds_the_same_as_jsonl(tmp_path: Path) -> None:
    rows = [{"text": "one", "other": 1}, {"text": "two", "other": 2}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    write(tmp_path / "d.jsonl", *rows)
    one, two = (list(calibration_data.read_local(tmp_path / name)) for name in ("d.parquet", "d.jsonl"))
    assert one == two == [{"text": "one"}, {"text": "two"}]


def test_chats_in_parquet(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": chat}]), tmp_path / "d.parquet")
    assert list(calibration_data.read_local(tmp_path / "d.parquet")) == [{"messages": chat}]


def test_parquet_that_is_none_or_has_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(calibration_data.read_local(path))
    parquet.write_table(pyarrow.Table.from_pylist([{"prompt": "x"}]), path)
    with pytest.raises(InputError, match="needs a column `text` or `messages`, has prompt"):
        list(calibration_data.read_local(path))


def test_a_hub_data_set_needs_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(calibration_data, "_commit", lambda path, revision: asked.append((path, revision)) or "a" * 40)
    named = Calibration(mixture=[Source(dataset="c4"), Source(dataset="org/name", revision="b" * 40)])
    one, two = calibration_data.pinned(named).sources
    assert (one.revision, two.revision) == ("a" * 40, "b" * 40)
    assert asked == [("allenai/c4", None)]


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CapabilityError, match="allenai/c4 cannot be found"):
        calibration_data.pinned(Calibration(dataset="c4"))
