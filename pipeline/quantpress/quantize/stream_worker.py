"""The stage's heavy half where nothing but rounding is asked for: from file to file, piece by piece, without the model.

llmcompressor's model_free quantizes the tensors of a file; its own driver, model_free_ptq, works through the files one
by one on a CPU, and holds a whole one. Here a piece is as large as we say, and several processes share the pieces.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import StageError
from quantpress.model import headers
from quantpress.quantize.account import INDEX
from quantpress.quantize.oneshot_worker import do_without_scikit_learn, said_of_broken
from quantpress.quantize.shapes_worker import attached_model
from quantpress.quantize.streaming import PIECE
from quantpress.quantize.workers import STREAM, OneshotResult, StreamJob
from quantpress.runtime import atomic, digests
from quantpress.runtime.worker import report_progress


@dataclass(frozen=True)
class Unit:
    """Tensors that are read and written together, each with its file: one, or the weights that share a scale.

    `scheme` is compressed-tensors' own; None for what stays as it is.
    """

    files: dict[str, Path]
    scheme: Any = None


@dataclass(frozen=True)
class Written:
    """The bytes of each tensor of a piece, and those tensors of the model that hold NaN or infinity."""

    sizes: dict[str, int]
    broken: list[str]


def stream(job: StreamJob) -> OneshotResult:
    """Writes the weights, their index and config.json; all other files are for the caller to copy.

    Raises InputError for a model that needs code of its own and may not run it, and for layers that hold NaN or
    infinity; StageError if a process was killed.
    """
    do_without_scikit_learn()
    import torch

    model, modifiers = attached_model(job.common, as_loaded=True)
    modules = dict(model.named_modules())
    schemes = {f"{job.stored.get(name, name)}.weight": modules[name].quantization_scheme for name in job.layers}
    pieces = pieces_of(headers.weight_files(job.common.model), schemes, job.left_out)
    targets = [job.common.output / name for name in _names(len(pieces))]

    # Forked, so that all share the libraries' memory; no process may have computed anything before that.
    count = min(job.processes, len(pieces), torch.get_num_threads())
    threads = torch.get_num_threads() // count
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(count, fork, torch.set_num_threads, (threads,)) as pool, ThreadPoolExecutor(1) as hashing:
        running = {pool.submit(write_piece, *one): one[1] for one in zip(pieces, targets, strict=True)}
        if job.digest_cache:
            hashing.submit(digests.cached_sha256, job.deciding_files, job.digest_cache)
        written = {path: one for path, one in _finished(running)}
    broken = [name for path in targets for name in written[path].broken]
    if len(targets) > 1:
        _write_index(job.common.output, {path.name: written[path].sizes for path in targets})
    return OneshotResult(
        modifiers=[type(modifier).__name__ for modifier in modifiers],
        calibration=None,
        warnings=said_of_broken(broken, {name.removesuffix(".weight") for name in schemes}),
        threads=threads,
        note=f"{f'{len(pieces)} pieces, {count} at a time; ' if count > 1 else ''}no calibration data needed",
    )


def pieces_of(paths: Sequence[Path], schemes: dict[str, Any], left_out: Collection[str]) -> list[list[Unit]]:
    """What is read and written at a time, in the order of the files, of which no piece takes in two but for partners.

    `schemes` are those of the weights to quantize, by their names in the files.
    """
    places = {name: (path, tensor.nbytes) for path in paths for name, tensor in headers.read(path).items()}
    partners = {name: found for name, scheme in schemes.items() if (found := _partners(name, scheme) & schemes.keys())}
    skipped = {*left_out, *(partner for found in partners.values() for partner in found)}
    pieces: list[list[Unit]] = []
    room, current = 0, None
    for name, (path, _) in places.items():
        if name in skipped:
            continue
        names = [name, *sorted(partners.get(name, ()))]
        size = sum(places[each][1] for each in names)
        if path != current or size > room:
            pieces.append([])
            room, current = PIECE, path
        pieces[-1].append(Unit({each: places[each][0] for each in names}, schemes.get(name)))
        room -= size
    return pieces


def _partners(name: str, scheme: Any) -> set[str]:
    """The weights that share a scale with this one, by llmcompressor's own rule: only NVFP4 has such a scale."""
    from llmcompressor.entrypoints.model_free.microscale import is_microscale_scheme

    return set(_converter(scheme, [name]).get_dependencies(name)) if is_microscale_scheme(scheme) else set()


def _names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def write_piece(units: Sequence[Unit], target: Path) -> Written:
    """Reads, quantizes and writes one piece, unit by unit, so that only what comes of it is held. Runs in a process of
    its own."""
    from compressed_tensors.utils.safetensors_load import load_tensors_from_inverse_weight_map
    from safetensors.torch import save_file

    made: dict[str, Any] = {}
    broken: list[str] = []
    for unit in units:
        by_file: dict[str, list[str]] = {}
        for name, path in unit.files.items():
            by_file.setdefault(str(path), []).append(name)
        tensors = load_tensors_from_inverse_weight_map(by_file)
        broken += [name for name, tensor in tensors.items() if not _is_finite(tensor)]
        if unit.scheme is not None:
            tensors = _converter(unit.scheme, list(unit.files)).process(tensors)
        made |= {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(made, target, metadata={"format": "pt"})
    return Written({name: tensor.nbytes for name, tensor in made.items()}, broken)


def _converter(scheme: Any, weights: Sequence[str]) -> Any:
    """llmcompressor's, for exactly these weights.

    Without the checks of model_free_ptq: 0.14 puts an observer `static_mse` in place of `mse` there, which is no more.
    """
    from compressed_tensors.quantization import QuantizationConfig
    from llmcompressor.entrypoints.model_free.converter import ModelFreePtqConverter

    layers = [name.removesuffix(".weight") for name in weights]
    own = scheme.model_copy(deep=True, update={"targets": layers})
    return ModelFreePtqConverter(QuantizationConfig(config_groups={"layers": own}))


def _is_finite(tensor: Any) -> bool:
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def _finished(running: dict[Future[Written], Path]) -> Iterator[tuple[Path, Written]]:
    """The pieces as they come; with the first that fails the others are given up. Raises StageError if a process was
    killed."""
    try:
        for number, future in enumerate(as_completed(running), 1):
            yield running[future], future.result()
            report_progress(f"{number} of {len(running)} pieces")
    except BrokenProcessPool as error:
        raise StageError(
            "a process that quantizes was killed, most likely for lack of memory",
            hint="end other programs, or take a machine with more memory",
        ) from error
    finally:
        for future in running:
            future.cancel()


def _write_index(folder: Path, files: dict[str, dict[str, int]]) -> None:
    total = sum(size for sizes in files.values() for size in sizes.values())
    places = {name: file for file, sizes in files.items() for name in sizes}
    atomic.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


if __name__ == "__main__":
    raise SystemExit(STREAM.main(stream))
