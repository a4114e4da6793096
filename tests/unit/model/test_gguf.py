"""What a GGUF file says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants

from quantpress.errors import InputError
from quantpress.model.gguf import gguf_of


def test_its_format_is_that_of_most_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.quantized_by", "somebody")
    for name, rows, kind in (("blk", 64, GGMLQuantizationType.Q4_0), ("head", 32, GGMLQuantizationType.Q8_0)):
        numbers = numpy.ones((rows, 32), dtype=numpy.float32)
        writer.add_tensor(f"{name}.weight", quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_of(path)
    # A block of 32 numbers takes 18 bytes in Q4_0 and 34 in Q8_0.
    assert (found.types, found.bytes) == (["Q4_0", "Q8_0"], 64 * 18 + 32 * 34)
    assert found.format == "GGUF Q4_0 (5.8 bits a weight)"
    assert found.said["quantized_by"] == "somebody"


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(InputError, match="cannot be read as GGUF"):
        gguf_of(path)
