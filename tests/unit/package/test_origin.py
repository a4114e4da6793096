"""Text of a model that would take hours, or all memory, to read: it is not stated then, and that is said."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpress.model.source import Model
from quantpress.package import origin
from quantpress.runtime import foreign

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
CARDS = {
    "aliases": f"{LAUGHS}license: *a8\n",
    "aliases beside": f"license: *a8\n{LAUGHS}",
    "brackets": f"license: {'[' * 100_000}\n",
    "nested": "".join(f"{' ' * n}a{n}:\n" for n in range(400)),
    "date": "license: 2024-13-01\n",
    "number": f"license: {'9' * 100_000}\n",
    "sixties": f"license: 1{':59' * 20_000}\n",
    "blank lines": "\n" * 40_000 + "license: [\n",
    "long": f"license: {'x' * 100_000}\n",
    "two lines": 'license: "mit\\n\\n<script>"\n',
    "object": "license: !!python/object/apply:os.system [touch hit]\n",
    "languages": f"language: [{', '.join(['{a: b}', 'x' * 300] * 200)}]\n",
}


@pytest.fixture(autouse=True)
def bounds() -> Iterator[None]:
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("card", CARDS)
def test_a_card_that_cannot_be_read_states_nothing(
    card: str, origin_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    (origin_model.path / "README.md").write_text(f"---\n{CARDS[card]}---\n# Model\n")
    found = origin.origin_of(origin_model)
    assert (found.license, found.source, found.language) == (None, "nobody", [])
    if card in ("brackets", "blank lines", "nested"):
        assert "counts as not stated" in capsys.readouterr().err


def test_a_card_without_end_states_nothing(origin_model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    (origin_model.path / "README.md").write_text("---\nlicense: mit\n" + "\n" * 400_000)
    assert origin.origin_of(origin_model).license is None
    assert "does not end within" in capsys.readouterr().err


def test_what_cannot_be_read_takes_nothing_else_along(origin_model: Model) -> None:
    text = f"---\nlicense: mit\ndate: 2024-13-01\n{LAUGHS}language: [de, en]\n---\n"
    (origin_model.path / "README.md").write_text(text)
    found = origin.origin_of(origin_model)
    assert (found.license, found.language) == ("mit", ["de", "en"])


def test_a_gguf_file_of_nothing_states_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 100)
    assert origin.origin_of(Model("m", tmp_path, str(path), {})).license is None
    assert "counts as not stated" in capsys.readouterr().err


def test_a_card_that_is_a_pipe_is_none(origin_model: Model) -> None:
    os.mkfifo(origin_model.path / "README.md")
    assert origin.origin_of(origin_model).license is None


def test_json_of_others_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    for text in ("[" * 100_000, "[" * 101 + "]" * 101, '{"a":' * 200 + "1" + "}" * 200, "9" * 10_000, "", "\ud800"):
        path.write_text(text, errors="surrogatepass")
        with pytest.raises(ValueError, match=r".+"):
            foreign.read_json(path)
    path.write_text(json.dumps([[[1]]] * 1000))
    assert len(foreign.read_json(path)) == 1000
    monkeypatch.setattr(foreign, "LARGEST", 100)
    with pytest.raises(ValueError, match="more than 0 MiB"):
        foreign.read_json(path)
