"""What safetensors files hold, read from their headers alone: no weight is touched, torch is not needed."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.runtime import foreign
from quantpress.runtime.inside import inside

_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises InputError if the file is not safetensors or is shorter than its header says.

    Format: 8 bytes little-endian length, a JSON header, the data (https://huggingface.co/docs/safetensors).
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ValueError(f"its header claims {length} bytes")
            header = foreign.parsed(stream.read(length).decode())
        header.pop("__metadata__", None)
        tensors = {name: _tensor(item) for name, item in header.items()}
        end = max((item["data_offsets"][1] for item in header.values()), default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"{path} is not a safetensors file: {error}", hint="fetch the model again") from error
    if path.stat().st_size != 8 + length + end:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes, its header says {8 + length + end}: cut short or damaged",
            hint="fetch the model again",
        )
    return tensors


def _tensor(item: dict[str, Any]) -> Tensor:
    start, end = item["data_offsets"]
    if not all(isinstance(number, int) for number in (start, end, *item["shape"])):
        raise ValueError("a shape or an offset is not a whole number")
    return Tensor(str(item["dtype"]), tuple(item["shape"]), end - start)


def contents(
    folder: Path, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Name, type, shape and bytes of every tensor whose name is wanted, one at a time, in the order of the files."""
    for path in weight_files(folder):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            for name, item in header.items():
                if wanted(name):
                    start, end = item["data_offsets"]
                    stream.seek(8 + length + start)
                    yield name, item["dtype"], item["shape"], stream.read(end - start)


def reader(paths: Iterable[Path]) -> Callable[[str], bytes]:
    """Gives the bytes of a tensor in these files, by its name."""
    places: dict[str, tuple[Path, int, int, int]] = {}
    for path in paths:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        places |= {name: (path, 8 + length, *item["data_offsets"]) for name, item in header.items()}

    def read_one(name: str) -> bytes:
        path, base, start, end = places[name]
        with path.open("rb") as stream:
            stream.seek(base + start)
            return stream.read(end - start)

    return read_one


def write(path: Path, tensors: dict[str, Tensor], read_one: Callable[[str], bytes]) -> None:
    """A safetensors file of these tensors. Each is read when it is written: they may be large.

    Those with wider numbers come first, as the format's own library has it: so each begins at a multiple of its width.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    ordered = sorted(tensors, key=lambda name: -_width(tensors[name]))
    for name in ordered:
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": tensors[name].dtype, "shape": tensors[name].shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            stream.write(read_one(name))


def _width(tensor: Tensor) -> int:
    """Bytes of a number."""
    return tensor.nbytes // (math.prod(tensor.shape) or 1)


def digests(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """sha256 of each wanted tensor's bytes, with its type and shape, by name; wherever in the files it lies."""
    found = {}
    for name, dtype, shape, raw in contents(folder, wanted):
        digest = hashlib.sha256(f"{dtype} {shape} ".encode())
        digest.update(raw)
        found[name] = digest.hexdigest()
    return found


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder. Raises InputError if it holds no safetensors file."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors |= read(path)
    return tensors


def read_if_any(folder: Path) -> dict[str, Tensor]:
    """The same; none for a folder that holds no weights (yet): of many models a config.json is there first."""
    return read_folder(folder) if any(folder.glob("*.safetensors")) else {}


def named_by_index(folder: Path) -> list[str]:
    """The files that the folder's index names; none without an index. Raises InputError for one that is none."""
    index = folder / _INDEX
    if not index.is_file():
        return []
    try:
        names = sorted({str(name) for name in foreign.read_json(index)["weight_map"].values()})
        if not names:
            raise ValueError("it names no file")
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{index} is not a safetensors index: {error}", hint="fetch the model again") from error
    return names


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: those of the index, else model.safetensors, else all there are.

    Some repositories hold the same weights a second time (consolidated.safetensors). Raises InputError for a file that
    the index names and that is not there, for one that lies elsewhere, or if there is none at all.
    """
    index, single = folder / _INDEX, folder / "model.safetensors"
    if names := named_by_index(folder):
        paths = [inside(folder, name) for name in names]
        if missing := [path.name for path in paths if not path.is_file()]:
            raise InputError(f"{index} names {missing[0]}, which is not there", hint="fetch the model again")
        if single.is_file() and single.name not in names:
            raise InputError(
                f"{folder} holds its weights twice: {single.name}, which transformers loads, and the shards that "
                f"{index.name} names, which vLLM does",
                hint="remove one of the two",
            )
        return paths
    files = (
        [inside(folder, single.name)]
        if single.is_file()
        else sorted(
            inside(folder, path.name) for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")
        )
    )
    if not files:
        raise InputError(f"{folder} holds no *.safetensors", hint="quantpress reads safetensors only")
    return files
