"""How a checkpoint stores its layers, counted from its tensors beside those of the model that it was made from.

Formats name their tensors differently and say their bits in different places, but each keeps a layer's numbers in a few
tensors below the layer's name. So bits and scales are counted, and no format has to be known.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from quantpress.model.headers import Tensor
from quantpress.model.layers import Shape, parents

_WIDE = ("F64", "F32", "F16", "BF16")
_WEIGHT = ".weight"
_SCALES = ("scales", "weight_scale", "weight_scale_inv", "absmax", "SCB")


@dataclass(frozen=True)
class StoredLayer:
    """A layer of this shape (output features, input features) whose weight is stored in `bits` a number; `scales` is
    the number of its scales, None where no tensor is called so."""

    shape: Shape
    bits: int
    scales: int | None

    @property
    def group_size(self) -> int | None:
        """How many numbers of a row share a scale, where these are fewer than the row has."""
        if not self.scales:
            return None
        size = prod(self.shape) // self.scales
        return size if size < self.shape[1] else None

    @property
    def scale(self) -> str:
        """How far one scale reaches, in the words of a plan."""
        if self.group_size:
            return f"group of {self.group_size}"
        if self.scales in (None, self.shape[0]):
            return "channel" if self.scales else "unknown"
        return "tensor" if self.scales == 1 else "block"


def stored_layers(tensors: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, StoredLayer]:
    """The layers of the model `base` that a checkpoint with these tensors stores in fewer bits, by name."""
    shapes = {
        name.removesuffix(_WEIGHT): (tensor.shape[0], tensor.shape[1])
        for name, tensor in base.items()
        if name.endswith(_WEIGHT) and len(tensor.shape) == 2
    }
    parts = _parts(tensors, shapes)
    found = {}
    for name, shape in shapes.items():
        own = parts.get(name, {})
        largest = max(own.values(), key=lambda tensor: tensor.nbytes, default=None)
        if largest is not None and largest.dtype not in _WIDE:
            found[name] = StoredLayer(shape, round(8 * largest.nbytes / prod(shape)), _scales(own))
    return found


def _parts(tensors: dict[str, Tensor], layers: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The tensors below each layer's name, by what follows it."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer = next((parent for parent in parents(name) if parent in layers), None)
        if layer is not None:
            found.setdefault(layer, {})[name.removeprefix(f"{layer}.")] = tensor
    return found


def _scales(parts: dict[str, Tensor]) -> int | None:
    named = [prod(tensor.shape) for name, tensor in parts.items() if name.rpartition(".")[2] in _SCALES]
    return max(named, default=None)
