"""What a run does with the blocks that it finds kept; tests/e2e/test_going_on.py has llmcompressor keep them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, PrivateAttr

from quantpress.artifact import kept_blocks
from quantpress.artifact.kept_blocks import Block, Mark, Origin, Standing
from quantpress.artifact.manifest import Artifact, Inputs
from quantpress.errors import InputError
from quantpress.plan.resolve import Plan
from quantpress.quantize import going_on_worker, keeping
from quantpress.quantize.going_on_worker import Keeper
from quantpress.recipe.recipe import Calibration, Recipe
from quantpress.runtime import console, disk

HERE = Origin(digest="d", machine=kept_blocks.machine(), threads=2, instructions="AVX512")
INPUTS = Inputs(stage=1, recipe={}, calibration=None, model={}, versions={})


@pytest.fixture(autouse=True)
def shown() -> None:
    console.use()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Two blocks of three, of inputs whose digest is "d"."""
    import torch

    folder = kept_blocks.folder_of(tmp_path / "recipe")
    kept_blocks.begin(folder, Mark(blocks_of=HERE, since="2026-11-27T12:00:00Z"))
    for number in range(2):
        tensors = {f"{number}.weight": torch.full((2, 3), number, dtype=torch.bfloat16), "scale": torch.tensor(1.0)}
        block = Block(epoch=0, block=number, blocks=3, seconds=30.0 * (number + 1), said=["a warning"])
        going_on_worker._write(kept_blocks.file_of(folder, number), tensors, block)
    return folder


def keeper(folder: Path, origin: Origin = HERE) -> Keeper:
    return Keeper(folder, lambda: origin, [], {})


def test_whole_blocks_are_used(kept: Path) -> None:
    unfinished = kept / ".00002.safetensors.123.tmp"
    unfinished.write_bytes(b"")
    found = keeper(kept)
    assert (found.at, found.left_out) == (Standing(0, 2, 3), "")
    assert not unfinished.exists()


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-1], lambda raw: raw[:40], lambda raw: b"", lambda raw: raw[:-1] + b"\xff"]
)
def test_a_damaged_block_is_made_anew(block: int, damage: Callable[[bytes], bytes], kept: Path) -> None:
    path = kept_blocks.file_of(kept, block)
    path.write_bytes(damage(path.read_bytes()))
    found = keeper(kept)
    assert found.at == (Standing(0, block, 3) if block else Standing())
    assert found.left_out == "what was kept was damaged"
    assert [path.name for path in kept.glob("*.safetensors")] == ["00000.safetensors"] * block


def test_blocks_of_other_threads_are_not_used(kept: Path) -> None:
    found = keeper(kept, HERE.model_copy(update={"threads": 1}))
    assert found.at == Standing()
    assert "other threads" in found.left_out
    assert not kept.exists()


def test_a_block_s_file_holds_what_is_new_in_it_alone(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the first block after a run went on: what was put back lies in the kept files already."""
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(3, 2, bias=False, dtype=torch.bfloat16) for _ in range(3)))
    model.register_buffer("scale", torch.tensor(0.0))
    monkeypatch.setattr(going_on_worker, "_modifier", Remembering)
    found = keeper(kept)
    traced = [SimpleNamespace(input_names=[], consumed_names=[]) for _ in range(3)]
    blocks = found._traced(lambda *_: traced, model)
    for block in blocks[:2]:
        block.submodules(model)
    with torch.no_grad():
        model[2].weight.add_(1)
    found._keep(model, Standing(0, 2, 3), {model[2]})
    assert going_on_worker._names_in(kept_blocks.file_of(kept, 2)) == ["2.weight"]
    assert found.seconds_before == 60


class Remembering(BaseModel):
    """A modifier as llmcompressor makes them."""

    _names: list[str] = PrivateAttr(default_factory=lambda: ["a"])
    _metrics: list[dict[str, float | str]] = PrivateAttr(default_factory=lambda: [{"layer": "a", "error": 0.5}])
    _done: int = PrivateAttr(default=2)
    _sums: dict[object, int] = PrivateAttr(default_factory=lambda: {object(): 1})
    _hooks: set[int] = PrivateAttr(default_factory=set)
    _shape: list[object] = PrivateAttr(default_factory=lambda: [(1, 2)])


def test_of_a_modifier_names_and_counts_are_kept() -> None:
    found = going_on_worker._plain_state(Remembering())
    assert found == {"_names": ["a"], "_metrics": [{"layer": "a", "error": 0.5}], "_done": 2}


@pytest.fixture
def plan() -> Plan:
    data = {"name": "r", "description": "d", "modifiers": [{"gptq": {"scheme": "W8A8"}}], "calibration": {}}
    return Plan(Recipe.model_validate(data), ("a",), None, "channel", 64, 100)


def test_it_is_said_where_a_run_goes_on(kept: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    found = keeping.keep_for(Artifact(kept.parent / "recipe"), plan, INPUTS, lambda: "d", 150)
    assert found is not None
    assert found.folder == kept
    assert "goes on at block 3 of 3: what is finished is kept since 2026-11-27T12:00:00Z" in capsys.readouterr().err


@pytest.mark.parametrize("needs_data", [True, False])
def test_blocks_of_other_inputs_are_removed(
    needs_data: bool, kept: Path, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = plan.recipe if needs_data else plan.recipe.model_copy(update={"calibration": None})
    digest = "another" if needs_data else "d"
    other = replace(plan, recipe=recipe)
    found = keeping.keep_for(Artifact(kept.parent / "recipe"), other, INPUTS, lambda: digest, 150)
    assert not kept.exists()
    assert (found is not None) is needs_data
    assert "are removed" in capsys.readouterr().err


def test_nothing_is_kept_where_there_is_no_room(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "free_space", lambda _: 200)
    whole = replace(plan, weight_bytes=100)
    assert keeping.keep_for(Artifact(tmp_path / "recipe"), whole, INPUTS, lambda: "d", 150) is None
    assert "the next one begins anew" in " ".join(capsys.readouterr().err.split())


def test_several_processes_keep_nothing(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = Calibration(processes=2)
    several = replace(plan, recipe=plan.recipe.model_copy(update={"calibration": shared}))
    assert keeping.keep_for(Artifact(tmp_path / "recipe"), several, INPUTS, lambda: "d", 150) is None
    assert "several processes keep no finished blocks" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_somebody_else_is_refused(plan: Plan, tmp_path: Path) -> None:
    folder = kept_blocks.folder_of(tmp_path / "recipe")
    folder.mkdir()
    (folder / "00000.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="holds what quantpress did not write"):
        keeping.keep_for(Artifact(tmp_path / "recipe"), plan, INPUTS, lambda: "d", 150)
