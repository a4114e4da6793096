"""Kept blocks: where a run goes on with them, and whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpress.artifact import kept_blocks, upkeep
from quantpress.artifact.kept_blocks import Block, Mark, Origin, Standing

MARK = Mark(blocks_of=Origin(digest="d", machine={}, threads=2, instructions="AVX512"), since="2026-11-27T12:00:00Z")


@pytest.mark.parametrize(
    ("epochs", "blocks", "at"),
    [
        ([], 3, Standing()),
        ([0], 3, Standing(0, 1, 3)),
        ([0, 0, 0], 3, Standing(1, 0, 3)),
        ([1, 0, 0], 3, Standing(1, 1, 3)),
        ([1, 1, 1], 3, Standing(2, 0, 3)),
        ([1, 0], 3, Standing()),  # the last block of the first epoch is gone
        ([0, 0, 0, 0], 3, Standing()),
        ([2, 0, 0], 3, Standing()),
        ([0, 1, 1], 3, Standing()),
    ],
)
def test_where_a_run_goes_on(epochs: list[int], blocks: int, at: Standing) -> None:
    found = [Block(epoch=epoch, block=number, blocks=blocks) for number, epoch in enumerate(epochs)]
    assert kept_blocks.standing(found) == at


def test_where_is_said_as_people_count() -> None:
    assert str(Standing(0, 16, 30)) == "block 17 of 30"
    assert str(Standing(1, 0, 30)) == "block 1 of 30 in pass 2 through them"


def test_gc_removes_kept_blocks_that_are_ours(tmp_path: Path) -> None:
    ours, edited, foreign = (kept_blocks.folder_of(tmp_path / "model" / name) for name in ("a", "b", "c"))
    for folder in (ours, edited):
        kept_blocks.begin(folder, MARK)
        kept_blocks.file_of(folder, 0).write_bytes(b"")
        (folder / ".00001.safetensors.123.tmp").write_bytes(b"")
    (edited / "notes.txt").write_text("mine")
    foreign.mkdir()
    kept_blocks.file_of(foreign, 0).write_bytes(b"")
    (tmp_path / "model" / "notes.blocks").mkdir()  # empty, and somebody's
    assert kept_blocks.strangers(edited) == ["notes.txt"]
    assert kept_blocks.strangers(foreign) == ["00000.safetensors"]
    assert upkeep.garbage(tmp_path) == [ours]
    assert upkeep.remove(tmp_path, [ours]) == [ours]
    assert not ours.exists()
