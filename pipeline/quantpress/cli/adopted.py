"""What was adopted, found by its name where other commands take a recipe's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.adopt.computed import untruthful_of
from quantpress.adopt.loaded import Loaded, loaded_of
from quantpress.artifact import upkeep
from quantpress.artifact.manifest import Artifact, artifact_of
from quantpress.cli.options import Work
from quantpress.errors import InputError, StageError
from quantpress.model.source import Model, find_model

if TYPE_CHECKING:
    from quantpress.artifact.manifest import Manifest


@dataclass(frozen=True)
class Candidate:
    """An adopted checkpoint and the model that it is compared with. `untruthful` says why transformers does not compute
    it as vLLM does."""

    artifact: Artifact
    model: Model
    loaded: Loaded
    untruthful: str | None


def is_adopted(name: str, out: Path) -> bool:
    """Whether something was adopted below `out` under this name."""
    return any(_named(name, out))


def _named(name: str, out: Path) -> list[Manifest]:
    """The manifests of what was adopted under this name, for whichever model."""
    found = []
    for artifact in upkeep.artifacts(out) if out.is_dir() else []:
        if artifact.name == name:
            made = _readable(artifact)
            found += [made] if made and made.adopted else []
    return found


def _readable(artifact: Artifact) -> Manifest | None:
    try:
        return artifact.manifest()
    except StageError:  # one damaged artifact must not hide the others
        return None


def told_apart(names: Sequence[str], work: Work, require_kernels: bool) -> tuple[list[str], list[Candidate]]:
    """Of these names those of recipes, and what was adopted under the others. --set is for the recipes, if there are
    any.

    Raises what `candidate` raises, and InputError where kernels are required: of what was adopted none are planned.
    """
    recipes = [name for name in names if not is_adopted(name, work.out)]
    without_set = replace(work, set=[]) if recipes else work
    theirs = [candidate(name, without_set) for name in names if name not in recipes]
    for one in theirs[:1]:
        require_none(one.artifact.name, {"--require-kernels": require_kernels})
    return recipes, theirs


def require_none(name: str, of_recipes: Mapping[str, object]) -> None:
    """Raises InputError if any of these options, by its name, was given for what was adopted under this name."""
    if given := [option for option, value in of_recipes.items() if value]:
        raise InputError(f"{given[0]} goes with recipes, and {name} was adopted", hint=f"leave {given[0]} out")


def candidate(name: str, work: Work) -> Candidate:
    """What was adopted under this name to be compared with the model of `work`.

    Raises InputError where it was adopted for another model, or these options make no sense without a recipe.
    """
    if work.set:
        raise InputError(f"--set changes a recipe, and {name} was adopted: it has none", hint="leave out --set")
    model = find_model(work.model, work.trust_remote_code, work.dequantize)
    artifact = artifact_of(work.out, model.name, name)
    made = artifact.manifest()
    if made is None or made.adopted is None or made.model.digest != model.identity().digest:
        others = sorted({one.model.source for one in _named(name, work.out)})
        raise InputError(
            f"{name} was adopted to be compared with {', '.join(others)}, not with {model.source}",
            hint=f"--model {others[0]}, or adopt it again for this model",
        )
    return Candidate(
        artifact=artifact,
        model=model,
        loaded=loaded_of(artifact, model),
        untruthful=untruthful_of(artifact),
    )
