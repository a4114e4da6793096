"""JSON lines that people bring: what is valid is read, and what is not is named with its line."""

import json
from pathlib import Path

import pytest

from quantpress.errors import InputError
from quantpress.language.lines import json_lines
from quantpress.runtime import atomic


def rows(path: Path) -> list[tuple[int, object]]:
    return list(json_lines(path, "write JSON"))


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0c", "\U0001f600"], ids=ascii)
def test_only_a_line_feed_ends_a_line(inside: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    line = json.dumps({"a": f"x{inside}y"}, ensure_ascii=inside == "\x0c")
    path.write_text(f"{line}\r\n\n{line}", encoding="utf-8", newline="")
    assert rows(path) == [(1, {"a": f"x{inside}y"}), (3, {"a": f"x{inside}y"})]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": "\ufeff"}\n', encoding="utf-8-sig")
    assert rows(path) == [(1, {"a": "\ufeff"})]
    assert atomic.read_input(path).startswith("{")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('{"a": "é"}'.encode("latin-1"), r"d\.jsonl:2: not UTF-8: .* 0xe9 at byte 8 of the line"),
        ('{"a": 1}'.encode("utf-16"), r"d\.jsonl:2: not UTF-8"),
        (b"\x1f\x8b\x08\x00", r"d\.jsonl:2: not UTF-8"),
        (b'{"a": ', r"d\.jsonl:2: not JSON: Expecting value"),
        (b'{"a": NaN}', r"d\.jsonl:2: not JSON: NaN is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"d\.jsonl:2: not JSON: Exceeds the limit"),
        (b"[" * 100_000, r"d\.jsonl:2: not JSON"),
        (b'{"a": "\\ud83d!"}', r"d\.jsonl:2: \\ud83d is half of a character"),
    ],
    ids=["latin-1", "utf-16", "gzip", "cut short", "NaN", "digits", "depth", "surrogate"],
)
def test_what_is_wrong_is_named_with_its_line(raw: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"a": "\\ud83d\\ude00"}\n' + raw + b"\n")
    with pytest.raises(InputError, match=words):
        rows(path)


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("name: a\ndescription: é\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"r\.yaml:2: not UTF-8"):
        atomic.read_input(path)


@pytest.mark.parametrize("depth", [101, 400, 100_000])
def test_what_is_nested_too_deeply_is_no_document(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"a": ' + "[" * depth + "]" * depth + "}\n")
    with pytest.raises(InputError, match=r"d\.jsonl:1: not JSON: .*(nested|recursion)"):
        list(json_lines(path, "hint"))
