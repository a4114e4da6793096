"""layer_errors.json: how far each decoder layer of a checkpoint is from the model's, measured on request."""

from __future__ import annotations

from pathlib import Path

from quantpress.artifact.manifest import Artifact
from quantpress.runtime.environment import Machine
from quantpress.runtime.records import Stored


class LayerErrors(Stored):
    """`errors`: of each decoder layer |quantized(x) - original(x)|^2 / |original(x) - x|^2 over `tokens` tokens."""

    SCHEMA_VERSION = 4

    checkpoint_digest: str
    errors: list[float]
    tokens: int
    machine: Machine
    versions: dict[str, str]


def layer_errors_file(artifact: Artifact) -> Path:
    """Where `report --layer-errors` keeps them."""
    return artifact.folder / "layer_errors.json"


def layer_errors_of(artifact: Artifact, digest: str) -> LayerErrors | None:
    """What was measured of the checkpoint of this digest, or None. Raises StageError for a file that is not ours."""
    path = layer_errors_file(artifact)
    measured = LayerErrors.load(path) if path.is_file() else None
    return measured if measured and measured.checkpoint_digest == digest else None
