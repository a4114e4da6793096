"""Keeps each block that llmcompressor has finished, and goes on after those that a killed run kept.

Relies on what llmcompressor 0.14 does in `pipelines/sequential/pipeline.py`: for each modifier that needs data it calls
`trace_subgraphs(model, ...)` once, and then for each block of what that returned, in order, `forward` for the data,
`submodules` once when all of it went through (the modifiers work on what that returns), and `forward` for the data
again, now without hooks. That function is still called, and its blocks are wrapped: a new one to be written to disk
before the second `forward`, a kept one to be read back in place of the first, so that the modifiers find nothing to do.
tests/e2e/test_going_on.py fails where a library of another version does it otherwise.

A kept block computes once more what the next one is calibrated on, as when it was new: same weights, same inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any

from quantpress.artifact import kept_blocks
from quantpress.artifact.kept_blocks import Block, Mark, Origin, Standing
from quantpress.quantize.workers import Keep
from quantpress.runtime import ownership

_SHA256 = "sha256"


class Keeper:
    """The kept blocks of one run. `said` and `counted` are what the run gathers meanwhile, and goes on with as well.

    `origin` is asked for what the blocks come from. `at` is where the run goes on, `seconds_before` what it took to get
    there, and `left_out` says why not at the last kept block, if so.
    """

    def __init__(
        self, folder: Path, origin: Callable[[], Origin], said: list[str], counted: dict[str, dict[str, int]]
    ) -> None:
        self._folder, self._origin = folder, origin
        self._said, self._counted = said, counted
        self._modifiers: dict[str, dict[str, Any]] = {}
        self._epochs = count()
        self._restorable = True
        self._seen: dict[str, tuple[int, int]] = {}
        self.left_out = ""
        self._kept = self._usable()
        self.at = kept_blocks.standing(self._kept)
        self._last = max(self._kept, key=lambda block: (block.epoch, block.block), default=None)
        self._started, self.seconds_before = time.monotonic(), self._last.seconds if self._last else 0.0
        self._changed = {name for block in self._kept for name in _names_in(self._file_of(block))}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Has llmcompressor's sequential pipeline keep its blocks in here, and skip those that are kept."""
        from compressed_tensors.utils import patch_attr
        from llmcompressor.pipelines.sequential import pipeline

        trace = pipeline.trace_subgraphs
        with patch_attr(pipeline, "trace_subgraphs", lambda *args, **named: self._traced(trace, *args, **named)):
            yield

    def _usable(self) -> list[Block]:
        """The kept blocks that a run can go on with; all other files are removed."""
        mark = kept_blocks.mark_of(self._folder)
        if mark is None:
            return []
        if mark.blocks_of != self._origin():
            self.left_out = "what was kept was computed with other threads or instructions"
            ownership.remove(self._folder)
            return []
        found = list(takewhile(lambda block: _is_whole(self._file_of(block)), kept_blocks.read_all(self._folder)))
        kept = found if kept_blocks.standing(found).blocks else []
        used = {kept_blocks.MARK, *(self._file_of(block).name for block in kept)}
        for name in ownership.entries(self._folder):
            if name not in used:
                (self._folder / name).unlink()
                if not name.startswith("."):  # what a killed run was writing is hidden
                    self.left_out = "what was kept was damaged"
        return kept

    def _file_of(self, block: Block) -> Path:
        return kept_blocks.file_of(self._folder, block.block)

    def _traced(self, trace: Any, model: Any, *args: Any, **named: Any) -> list[Any]:
        """What stands in for llmcompressor's `trace_subgraphs`."""
        epoch = next(self._epochs)
        if epoch < self.at.epoch:
            return [_Kept(None, partial(self._put_back, model, epoch, self._kept))]
        blocks = trace(model, *args, **named)
        self._seen = _states(model)
        done = self.at.block if epoch == self.at.epoch else 0
        kept = [
            _Kept(block, partial(self._put_back, model, epoch, [self._kept[number]]))
            for number, block in enumerate(blocks[:done])
        ]
        new = [
            _New(block, partial(self._keep, model, Standing(epoch, number, len(blocks))))
            for number, block in enumerate(blocks[done:], done)
        ]
        return [*kept, *new]

    def _put_back(self, model: Any, epoch: int, blocks: list[Block]) -> None:
        """Gives the model what these blocks hold, and the run what it remembered at the last kept block."""
        from compressed_tensors.offload import update_offload_parameter

        for block in blocks:
            for name, tensor in _tensors_of(self._file_of(block)).items():
                module, _, local = name.rpartition(".")
                update_offload_parameter(model.get_submodule(module), local, tensor)
        assert self._last is not None
        self._said[:] = self._last.said
        for name, numbers in self._last.counted.items():
            self._counted[name].update(numbers)
        self._modifiers = dict(self._last.modifiers)
        for name, value in self._modifiers.get(str(epoch), {}).items():
            setattr(_modifier(), name, value)
        self._seen = _states(model)  # what was put back lies in the kept files already

    def _keep(self, model: Any, at: Standing, modules: set[Any]) -> None:
        """Writes a finished block: what of its tensors was ever changed, and what else was changed since the last one.

        A modifier that adds or removes tensors (REAP) leaves what cannot be put back: from then on nothing is kept.
        """
        now = _states(model)
        self._restorable = self._restorable and now.keys() == self._seen.keys()
        if not self._restorable:
            return
        changed = {name for name, state in now.items() if state != self._seen[name]}
        self._changed |= changed
        self._seen = now
        own = {f"{name}." for name, module in model.named_modules() if module in modules}
        wanted = changed | {name for name in self._changed if name[: name.rfind(".") + 1] in own}
        self._modifiers[str(at.epoch)] = _plain_state(_modifier())
        block = Block(
            epoch=at.epoch,
            block=at.block,
            blocks=at.blocks,
            seconds=self.seconds_before + time.monotonic() - self._started,
            said=list(self._said),
            counted={name: dict(numbers) for name, numbers in self._counted.items()},
            modifiers=self._modifiers,
        )
        if kept_blocks.mark_of(self._folder) is None:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            kept_blocks.begin(self._folder, Mark(blocks_of=self._origin(), since=since))
        held = {name: _value(model, name, tensor) for name, tensor in _tensors(model) if name in wanted}
        _write(self._file_of(block), held, block)


class _New:
    """A block that is calibrated; `done` is called with its modules when the modifiers have worked on it."""

    def __init__(self, block: Any, done: Callable[[set[Any]], None]) -> None:
        self.input_names, self.consumed_names = block.input_names, block.consumed_names
        self._block, self._done = block, done
        self._modules: set[Any] | None = None

    def forward(self, *args: Any, **named: Any) -> Any:
        if self._modules is not None:
            self._done(self._modules)
            self._modules = None
        return self._block.forward(*args, **named)

    def submodules(self, model: Any) -> Any:
        modules = self._block.submodules(model)
        self._modules = set(modules)
        return modules


class _Kept:
    """A kept block, which `put_back` gives to the model; or all of them in one, of an epoch that is over (None)."""

    def __init__(self, block: Any | None, put_back: Callable[[], None]) -> None:
        self.input_names = block.input_names if block else set()
        self.consumed_names = block.consumed_names if block else set()
        self._block, self._put_back = block, put_back
        self._is_back = False

    def forward(self, *args: Any, **named: Any) -> Any:
        return self._block.forward(*args, **named) if self._block and self._is_back else {}

    def submodules(self, model: Any) -> list[Any]:
        self._put_back()
        self._is_back = True
        return []


def _modifier() -> Any:
    """The one whose epoch it is."""
    from llmcompressor.core import active_session

    return active_session().lifecycle.recipe.modifiers[0]


def _plain_state(modifier: Any) -> dict[str, Any]:
    """What a modifier remembers beside modules and tensors: counts and names, which it sums up at its end."""
    return {name: value for name, value in (modifier.__pydantic_private__ or {}).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _tensors(model: Any) -> list[tuple[str, Any]]:
    """Every parameter and buffer where it lies when it is not computed with."""
    from compressed_tensors.offload import disable_onloading

    with disable_onloading():
        return list(chain(model.named_parameters(), model.named_buffers()))


def _states(model: Any) -> dict[str, tuple[int, int]]:
    """What tells that a tensor was not written to."""
    return {name: _state(tensor) for name, tensor in _tensors(model)}


def _state(tensor: Any) -> tuple[int, int]:
    """Where a tensor lies, and torch's count of writes in place; of one on the disk, its file and its last change."""
    from compressed_tensors.offload.cache import DiskCache

    if tensor in DiskCache.index:
        about = Path(DiskCache.index[tensor]["safetensors_file"]).stat()
        return about.st_ino, about.st_mtime_ns
    return tensor.data_ptr(), tensor._version


def _value(model: Any, name: str, tensor: Any) -> Any:
    """A tensor's numbers, for the disk's sake read there."""
    module, _, local = name.rpartition(".")
    return getattr(model.get_submodule(module), local) if tensor.is_meta else tensor


def _write(path: Path, tensors: dict[str, Any], block: Block) -> None:
    """The file is there whole or not at all, and is on the disk when this returns."""
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = kept_blocks.metadata(block)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file(held, temporary, metadata | {_SHA256: _digest(metadata, held)})
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _tensors_of(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _names_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _is_whole(path: Path) -> bool:
    """Whether a block's file still holds what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata())
        return bool(metadata.pop(_SHA256, None) == _digest(metadata, _tensors_of(path)))
    except SafetensorError:
        return False


def _digest(metadata: dict[str, str], tensors: dict[str, Any]) -> str:
    """The sha256 of all that a block's file holds."""
    import torch

    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def origin_of(keep: Keep, model: Path, hashed: Future[dict[Path, str]]) -> Origin:
    """What this run's blocks come from; `hashed` are the digests of the files in the folder `model`."""
    import torch

    by_name = {path.relative_to(model).as_posix(): digest for path, digest in hashed.result().items()}
    return Origin(
        digest=keep.inputs.model_copy(update={"model": by_name}).digest,
        machine=kept_blocks.machine(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
    )
