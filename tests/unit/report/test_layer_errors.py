"""layer_errors.json as the report reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.layer_errors import LayerErrors, layer_errors_file, layer_errors_of
from quantpress.artifact.manifest import Artifact, Manifest
from quantpress.report.facts.data import Layers
from quantpress.report.facts.layer_errors import ROTATED, known
from quantpress.runtime import atomic, environment

MEASURED = LayerErrors(
    checkpoint_digest="d", errors=[0.01, 0.02], tokens=2048, machine=environment.machine(), versions={"torch": "2"}
)


@pytest.fixture
def manifest(results: Callable[[str], Any]) -> Callable[..., Manifest]:
    """The manifest of a real artifact, with this digest and these modifiers in its recipe."""

    def made(*modifiers: dict[str, Any], digest: str = "d") -> Manifest:
        real = Manifest.read(results("manifest"), Path("manifest.json"))
        return real.model_copy(update={"digest": digest, "recipe": {"modifiers": list(modifiers)}})

    return made


def test_what_was_measured_is_saved_and_read_alike(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    artifact = Artifact(tmp_path)
    assert known(artifact, manifest()) == (None, "not measured")
    MEASURED.save(layer_errors_file(artifact))
    assert layer_errors_of(artifact, "d") == MEASURED
    assert known(artifact, manifest()) == (Layers(errors=[0.01, 0.02], tokens=2048), None)
    assert known(artifact, manifest(digest="another")) == (None, "not measured")


def test_a_damaged_file_is_the_reason_why_there_is_nothing(tmp_path: Path, manifest: Callable[..., Manifest]) -> None:
    artifact = Artifact(tmp_path)
    atomic.write_json(layer_errors_file(artifact), MEASURED.as_saved() | {"errors": ["far"]})
    nothing, reason = known(artifact, manifest())
    assert nothing is None
    assert reason and reason.startswith(f"{layer_errors_file(artifact)} is damaged: errors.0: ")


@pytest.mark.parametrize("modifier", [{"spinquant": {"rotations": ["R1", "R2"]}}, {"quip": {"rotations": ["v"]}}])
def test_rotated_layers_hand_on_something_else_wherever_the_rotation_is(
    modifier: dict[str, Any], tmp_path: Path, manifest: Callable[..., Manifest]
) -> None:
    assert known(Artifact(tmp_path), manifest(modifier)) == (None, ROTATED)
