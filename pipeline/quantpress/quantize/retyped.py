"""Tensors that a checkpoint has in another type than its model: what nothing in the recipe changed is put back.

transformers loads nearly all tensors in the type that the config names, and saves them so: a router's correction in 32
bits comes out with 16.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from quantpress.model import headers

Numbers = Any  # an array of numpy's, which is imported only where a model has such tensors


def told_apart(source: Path, checkpoint: Path, names: dict[str, str]) -> tuple[list[str], list[str]]:
    """Those of the model's tensors that the checkpoint has rounded to its type, or widened, and no more; the others.

    `names` are those in the checkpoint, by those in the model.
    """
    if not names:
        return [], []
    import numpy

    before, after = headers.read_folder(source), headers.read_folder(checkpoint)
    read_before = headers.reader(headers.weight_files(source))
    read_after = headers.reader(headers.weight_files(checkpoint))
    same = []
    for name, saved in names.items():
        old, new = before[name].dtype, after[saved].dtype
        if old in _FLOATS and new in _FLOATS:
            rounded = _rounded(_numbers(read_before(name), old), new)
            if numpy.array_equal(rounded, _numbers(read_after(saved), new), equal_nan=True):
                same.append(name)
    return same, [name for name in names if name not in set(same)]


def restore(source: Path, checkpoint: Path, names: dict[str, str]) -> None:
    """Writes these tensors of the checkpoint, with their names in the model, as the model has them."""
    model, read_model = headers.read_folder(source), headers.reader(headers.weight_files(source))
    for path in headers.weight_files(checkpoint):
        tensors, read_made = headers.read(path), headers.reader([path])
        back = {saved: model[names[saved]] for saved in tensors if saved in names}
        if back:
            from_model = {saved: partial(read_model, names[saved]) for saved in back}
            reads = {saved: partial(read_made, saved) for saved in tensors} | from_model
            new = path.with_name(f"{path.name}.new")
            headers.write(new, tensors | back, partial(_called, reads))
            new.replace(path)


def _called(reads: dict[str, partial[bytes]], name: str) -> bytes:
    return reads[name]()


_FLOATS = ("F32", "BF16", "F16")


def _numbers(raw: bytes, dtype: str) -> Numbers:
    """In 32 bits, which hold all numbers of the narrower types."""
    import numpy

    if dtype == "BF16":
        return (numpy.frombuffer(raw, "<u2").astype("u4") << 16).view("f4")
    return numpy.frombuffer(raw, "<f4" if dtype == "F32" else "<f2").astype("f4")


def _rounded(numbers: Numbers, dtype: str) -> Numbers:
    """To the nearest number of the type, of two equally near ones the even one (IEEE 754), as torch rounds."""
    import numpy

    if dtype == "F32":
        return numbers
    if dtype == "F16":
        with numpy.errstate(over="ignore"):
            return numbers.astype("f2").astype("f4")
    bits = numbers.view("u4")
    even = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view("f4")
    return numpy.where(numpy.isnan(numbers), numbers, even)
