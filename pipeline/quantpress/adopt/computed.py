"""Whether transformers computes of a checkpoint what vLLM will: of ours its recipe tells, of others transformers is
asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.artifact.manifest import Artifact
from quantpress.model import headers, soundness
from quantpress.model.source import read_config
from quantpress.recipe.truthful import untruthful
from quantpress.runtime import digests, environment
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.worker import Job, Result, Worker

_ASKED = ("transformers", "compressed-tensors", "torch")


class LoadsJob(Job):
    """What a checkpoint's config says of its quantization."""

    quantization: dict[str, Any]


class LoadsResult(Result):
    """Why transformers cannot load it in this environment; None where it can."""

    reason: str | None


LOADS = Worker("quantpress.adopt.loads_worker", LoadsJob, LoadsResult)


def untruthful_of(artifact: Artifact) -> str | None:
    """Why transformers does not compute what vLLM will of an artifact's checkpoint, or None where it does.

    Raises StageError where no run has finished.
    """
    made = artifact.finished()
    return untruthful(made.recipe) if made.adopted is None else why_not(artifact.checkpoint)


def why_not(checkpoint: Path) -> str | None:
    """The same of a checkpoint that was made elsewhere. transformers is asked once for each config."""
    config = read_config(checkpoint)
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        found = soundness.quantization(checkpoint, config, headers.read_if_any(checkpoint))
        return f"transformers does not read what says how it is quantized ({found.said})" if found else None
    if (said.get("transform_config") or {}).get("config_groups"):
        return "transformers leaves out rotations that are applied while serving"
    if _has_small_floats(said):
        return "transformers only imitates 4-bit floats"
    key = digests.sha256_json([said, environment.versions(_ASKED), environment.gpus()])
    kept = cache_folder() / "loads" / f"{key[:16]}.json"
    return LOADS.answer(kept, LoadsJob(quantization=said), "asking transformers whether it can load this format").reason


def _has_small_floats(said: dict[str, Any]) -> bool:
    groups = (said.get("config_groups") or {}).values()
    weights = [group.get("weights") or {} for group in groups if isinstance(group, dict)]
    return any(one.get("type") == "float" and one.get("num_bits") == 4 for one in weights)
