"""How a checkpoint stores its layers is counted, whatever its format calls the tensors."""

from __future__ import annotations

import pytest

from quantpress.model.headers import Tensor
from quantpress.model.stored import StoredLayer, stored_layers

ROWS, COLUMNS = 64, 128
LAYER = "model.layers.0.mlp.up_proj"
_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1, "I8": 1, "F8_E4M3": 1}
NORM = "model.norm.weight"


def tensor(dtype: str, *shape: int) -> Tensor:
    size = _BYTES[dtype]
    for dimension in shape:
        size *= dimension
    return Tensor(dtype, shape, size)


BASE = {f"{LAYER}.weight": tensor("BF16", ROWS, COLUMNS), NORM: tensor("BF16", ROWS)}
FORMATS = {
    "GPTQ": (
        {
            "qweight": tensor("I32", COLUMNS // 8, ROWS),
            "qzeros": tensor("I32", COLUMNS // 32, ROWS // 8),
            "scales": tensor("F16", COLUMNS // 32, ROWS),
            "g_idx": tensor("I32", COLUMNS),
        },
        (4, "group of 32"),
    ),
    "GPTQ, 3 bits": (
        {"qweight": tensor("I32", COLUMNS * 3 // 32, ROWS), "scales": tensor("F16", 1, ROWS)},
        (3, "channel"),
    ),
    "AWQ": (
        {"qweight": tensor("I32", COLUMNS, ROWS // 8), "scales": tensor("F16", COLUMNS // 64, ROWS)},
        (4, "group of 64"),
    ),
    "compressed-tensors": (
        {"weight_packed": tensor("I32", ROWS, COLUMNS // 8), "weight_scale": tensor("BF16", ROWS, COLUMNS // 64)},
        (4, "group of 64"),
    ),
    "FP8 by channel": (
        {"weight": tensor("F8_E4M3", ROWS, COLUMNS), "weight_scale": tensor("F32", ROWS, 1)},
        (8, "channel"),
    ),
    "FP8 by tensor": (
        {"weight": tensor("F8_E4M3", ROWS, COLUMNS), "weight_scale": tensor("F32", 1), "input_scale": tensor("F32", 1)},
        (8, "tensor"),
    ),
    "FP8 in blocks": (
        {"weight": tensor("F8_E4M3", ROWS, COLUMNS), "weight_scale_inv": tensor("F32", 2, 4)},
        (8, "block"),
    ),
    "bitsandbytes": (
        {"weight": tensor("U8", ROWS * COLUMNS // 2, 1), "weight.absmax": tensor("F32", ROWS * COLUMNS // 64)},
        (4, "group of 64"),
    ),
    "no scale that is known": ({"weight": tensor("I8", ROWS, COLUMNS)}, (8, "unknown")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_bits_and_scales_are_counted(name: str) -> None:
    parts, (bits, scale) = FORMATS[name]
    found = stored_layers({f"{LAYER}.{part}": one for part, one in parts.items()} | {NORM: BASE[NORM]}, BASE)
    assert list(found) == [LAYER]
    assert (found[LAYER].shape, found[LAYER].bits, found[LAYER].scale) == ((ROWS, COLUMNS), bits, scale)


def test_a_layer_in_full_precision_and_one_of_another_name_are_none_of_them() -> None:
    other = {"model.layers.0.mlp.gate_up_proj.qweight": tensor("I32", COLUMNS // 8, 2 * ROWS)}
    for tensors in ({f"{LAYER}.weight": tensor("F32", ROWS, COLUMNS)}, other, {}):
        assert stored_layers(tensors, BASE) == {}


def test_a_row_with_a_scale_of_its_own_has_no_groups() -> None:
    assert StoredLayer((ROWS, COLUMNS), 4, ROWS).group_size is None
    assert StoredLayer((ROWS, COLUMNS), 4, 4 * ROWS).group_size == COLUMNS // 4
