"""Whether a run keeps its finished blocks, and whether it goes on with those of a killed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantpress.artifact import kept_blocks
from quantpress.artifact.manifest import Artifact, Inputs
from quantpress.plan.resolve import Plan
from quantpress.quantize.workers import Keep
from quantpress.runtime import console, disk, ownership


def keep_for(
    artifact: Artifact, plan: Plan, beside_the_model: Inputs, digest: Callable[[], str], needed: int
) -> Keep | None:
    """Where a run keeps its finished blocks; None where it calibrates nothing, or in several processes, or where the
    disk has no room for them beside the `needed` bytes that it takes anyway.

    Says where the run goes on. What is kept of other inputs is removed; `digest`, that of this run's, is asked for only
    where something is kept. Raises InputError for a folder in its place that is not ours.
    """
    folder = kept_blocks.folder_of(artifact.folder)
    ownership.require_ours(folder, kept_blocks.strangers, f"move {folder} away, or write elsewhere with --out")
    mark = kept_blocks.mark_of(folder)
    if mark:
        origin = mark.blocks_of
        if plan.recipe.calibration is None or origin.digest != digest() or origin.machine != kept_blocks.machine():
            console.say(f"  blocks kept since {mark.since} are removed: they come from other inputs or another machine")
            ownership.remove(folder)
            mark = None
        else:
            at = kept_blocks.standing(kept_blocks.read_all(folder))
            console.say(f"  goes on at {at}: what is finished is kept since {mark.since}")
    if plan.recipe.calibration is None:
        return None
    if plan.recipe.calibration.processes:
        console.say("  several processes keep no finished blocks: if this run is killed, the next one begins anew")
        return None
    if mark is None and not _has_room(folder, needed + int(plan.weight_bytes * 1.1)):
        return None
    return Keep(folder=folder.resolve(), inputs=beside_the_model)


def forget(artifact: Artifact) -> None:
    """Removes what was kept of an artifact whose checkpoint is there, unless somebody put a file beside it."""
    folder = kept_blocks.folder_of(artifact.folder)
    if folder.is_dir() and not kept_blocks.strangers(folder):
        ownership.remove(folder)


def _has_room(folder: Path, needed: int) -> bool:
    """Whether so many bytes are free; says so where they are not."""
    free = disk.free_space(folder)
    if free < needed:
        console.warn(
            f"{free / 1e9:.2f} GB are free at {folder.parent}, and to keep finished blocks too {needed / 1e9:.2f} GB "
            "would be needed: if this run is killed, the next one begins anew"
        )
    return free >= needed
