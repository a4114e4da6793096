"""A scheme's speed on a model's shapes: vLLM's dummy loader, so neither side's weights are needed and none are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.artifact.throughput import BASELINE, CANDIDATE, Throughput
from quantpress.errors import InputError
from quantpress.model import source as models
from quantpress.model.source import Model, find_model
from quantpress.plan.resolve import Plan
from quantpress.quantize.stage import DECISIVE
from quantpress.quantize.workers import SHAPES, recipe_job
from quantpress.recipe.modifiers import Prunes, Quip, Reap, SpinQuant
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import atomic, console, digests, disk, environment, locks, ownership
from quantpress.runtime.records import Record
from quantpress_serve.bench import stage
from quantpress_serve.bench.stage import Beforehand
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.workload.workload import Workload

_MARK = "shapes.json"  # in the folder of the config: its digest and what it depends on, and the files beside it


class Shapes(Record):
    """What the shapes of a checkpoint depend on; its digest stands for a checkpoint's."""

    recipe: dict[str, Any]  # resolved, without what decides no shape; in the words of its file
    model: str  # digest of its config.json
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        return digests.sha256_json(self.dump())


def bench(
    plan: Plan,
    model: Model,
    load: Workload,
    sides: Sides,
    out: Path,
    fresh: bool,
    known: Beforehand,
) -> Throughput:
    """Measures the recipe's scheme on the model's shapes and writes OUT/<model>/dummy/<recipe>/throughput.json.

    Raises InputError for a recipe that does more than store layers in another scheme, else what stage.measure raises.
    """
    disk.require_writable(out)
    require_schemes_only(plan.recipe)
    folder = out / model.name / "dummy" / plan.recipe.name
    checkpoint = folder / "checkpoint"
    shapes = Shapes(
        recipe=plan.recipe.model_dump(exclude_none=True, exclude={"description", "targets", "calibration"}),
        model=digests.sha256_json(model.config),
        versions=environment.versions(DECISIVE),
    )
    if not _is_made(checkpoint, shapes.digest):
        ownership.require_ours(checkpoint, _strangers, f"move it out of {checkpoint}, or write elsewhere with --out")
        folder.mkdir(parents=True, exist_ok=True)
        with locks.lock(folder), atomic.staging(checkpoint) as staged:
            _make_config(plan, model, staged, folder / "logs" / "shapes.log")
            files: dict[str, Any] = {name: {} for name in ownership.entries(staged)}
            atomic.write_json(staged / _MARK, {"digest": shapes.digest, "inputs": shapes.dump(), "files": files})
            atomic.publish(staged, checkpoint, _strangers)
    subject = Subject(
        name=plan.recipe.name,
        folder=folder,
        digest=shapes.digest,
        candidate=checkpoint.resolve(),
        model=model,
        model_digest=shapes.model,
        weight_bytes={CANDIDATE: plan.checkpoint_bytes, BASELINE: plan.weight_bytes},
        weights="dummy",
        tokenizer=tokenizer_for(model),
        weight_bits=stage.weight_bits(checkpoint),
        kernels=known.kernels,
        require_kernels=known.require_kernels,
    )
    return stage.measure(subject, load, sides, fresh)


def _is_made(checkpoint: Path, digest: str) -> bool:
    return ownership.mark_in(checkpoint / _MARK).get("digest") == digest


def _strangers(checkpoint: Path) -> list[str]:
    """What there is not ours; before the mark lay in the folder, it lay beside it, and listed nothing."""
    found = ownership.strangers_beside(checkpoint, _MARK)
    if found and ownership.mark_in(checkpoint.with_name(_MARK)):
        return [name for name in found if name not in ("config.json", "generation_config.json")]
    return found


def require_schemes_only(recipe: Recipe) -> None:
    """Raises InputError for rotations and pruning: they change more than a config made without weights can say."""
    for modifier in recipe.modifiers:
        if isinstance(modifier.body, Prunes | Quip | Reap | SpinQuant):
            raise InputError(
                f"--weights dummy: {modifier.name} changes more of the model than how its layers are stored",
                hint="measure it with --weights real, or a recipe of the same scheme without it",
            )


def _make_config(plan: Plan, model: Model, staged: Path, log: Path) -> None:
    log.unlink(missing_ok=True)
    title = f"the config that {plan.recipe.name} makes of {model.name}"
    SHAPES.run(recipe_job(plan, model, staged), staged, title, log)


def tokenizer_for(model: Model) -> Path:
    """The folder of the model's tokenizer, or of the embedded model's where it brings none: prompts are random anyway.

    Raises InputError if the embedded model's has more tokens than this model.
    """
    if any((model.path / name).is_file() for name in models.TOKENIZERS):
        return model.path
    embedded = find_model(models.EMBEDDED)
    ours, its = embedded.config["vocab_size"], model.config.get("vocab_size", 0)
    if its < ours:
        raise InputError(
            f"{model.path} holds no tokenizer, and the embedded model's has {ours} tokens, this model only {its}",
            hint="put the model's tokenizer.json beside its config.json",
        )
    console.say(f"  {model.name} has no tokenizer here; random prompts are made with the embedded model's")
    return embedded.path
