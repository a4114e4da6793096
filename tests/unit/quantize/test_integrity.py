"""Checkpoints that cannot be sound, made by hand."""

import json
import struct
from pathlib import Path

import numpy
import pytest

from quantpress.errors import StageError
from quantpress.quantize import integrity


def checkpoint(folder: Path, dtype: str, raw: bytes, name: str = "model.layers.0.mlp.up_proj.weight_scale") -> Path:
    header = {name: {"dtype": dtype, "shape": [len(raw)], "data_offsets": [0, len(raw)]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + raw)
    return folder


def bf16(*values: float) -> bytes:
    return (numpy.array(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("BF16", bf16(0.01, 3.0, -2.0, 1e-30)),
        ("F16", numpy.array([0.01, 60000.0], "<f2").tobytes()),
        ("F32", numpy.array([0.01, 1e30], "<f4").tobytes()),
        ("F8_E4M3", bytes([0x01, 0x7E, 0x38])),
    ],
)
def test_ordinary_scales_pass(dtype: str, raw: bytes, tmp_path: Path) -> None:
    assert integrity.check_scales(checkpoint(tmp_path, dtype, raw)) == []


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("BF16", bytes([0x7F, 0x7F])),
        ("F16", numpy.array([1, 65504], "<f2").tobytes()),
        ("F32", numpy.array([numpy.finfo("<f4").max], "<f4").tobytes()),
        ("U8", bytes([127, 254])),
    ],
)
def test_scales_at_the_limit_are_a_warning(dtype: str, raw: bytes, tmp_path: Path) -> None:
    [warning] = integrity.check_scales(checkpoint(tmp_path, dtype, raw))
    assert warning.startswith("1 scales are at the limit of their type (model.layers.0.mlp.up_proj.weight_scale)")


@pytest.mark.parametrize(
    ("dtype", "raw", "words"),
    [
        ("BF16", bf16(0.01, float("nan")), "not finite"),
        ("BF16", bf16(float("inf")), "not finite"),
        ("BF16", bf16(0.01, 0.0), "zero"),
        ("BF16", bf16(-0.0), "zero"),
        ("F16", numpy.array([1, float("nan")], "<f2").tobytes(), "not finite"),
        ("F32", numpy.array([1, float("-inf")], "<f4").tobytes(), "not finite"),
        ("F32", numpy.array([1, 0], "<f4").tobytes(), "zero"),
        ("F8_E4M3", bytes([0x38, 0xFF]), "not finite"),
        ("F8_E4M3", bytes([0x80]), "zero"),
        ("U8", bytes([127, 255]), "not finite"),
    ],
)
def test_scales_that_cannot_be(dtype: str, raw: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=rf"up_proj\.weight_scale \({words}\)"):
        integrity.check_scales(checkpoint(tmp_path, dtype, raw))


def test_other_tensors_may_be_zero(tmp_path: Path) -> None:
    integrity.check_scales(checkpoint(tmp_path, "BF16", bf16(0.0), "model.norm.weight"))


def test_a_checkpoint_as_large_as_the_model() -> None:
    integrity.check_size(99, 100)
    with pytest.raises(StageError, match="nothing was compressed"):
        integrity.check_size(100, 100)
