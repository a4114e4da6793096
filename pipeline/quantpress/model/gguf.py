"""What a GGUF file says of itself: its metadata and how its tensors are stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpress.errors import InputError, first_line
from quantpress.runtime.time_limit import time_limit

_SECONDS = 120.0  # for reading the metadata, with all tokens of the vocabulary


@dataclass(frozen=True)
class Gguf:
    """`said` is its metadata under general.*, `bits` those of a weight on average, scales included; `types` are the
    names of its tensors' types, that of the most weights first; `bytes` those of all tensors."""

    said: dict[str, Any]
    types: list[str]
    bits: float
    bytes: int

    @property
    def format(self) -> str:
        return f"GGUF {self.types[0]} ({self.bits:.1f} bits a weight)"


def gguf_of(path: Path) -> Gguf:
    """Raises InputError for a file that cannot be read."""
    from gguf import GGUFReader  # 0.2 s: only for models that come from such a file

    try:
        with time_limit(_SECONDS):
            reader = GGUFReader(path)
            said = {
                name.removeprefix("general."): field.contents()
                for name, field in reader.fields.items()
                if name.startswith("general.")
            }
    except Exception as error:  # numpy and the reader raise a dozen unrelated classes
        raise InputError(f"{path} cannot be read as GGUF: {first_line(error)}", hint="fetch the file again") from error
    numbers: Counter[str] = Counter()
    for tensor in reader.tensors:
        numbers[tensor.tensor_type.name] += int(tensor.n_elements)
    size = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    return Gguf(
        said=said,
        types=[name for name, _ in numbers.most_common()],
        bits=8 * size / numbers.total(),
        bytes=size,
    )
