"""An adopted checkpoint as far as an engine has to be fitted to it: what a plan says of our own."""

from __future__ import annotations

from dataclasses import dataclass

from quantpress.artifact.manifest import Artifact
from quantpress.model import headers
from quantpress.model.headers import Tensor
from quantpress.model.layers import Layers
from quantpress.model.source import Model
from quantpress.model.stored import StoredLayer, stored_layers
from quantpress.recipe.presets import Scheme


@dataclass(frozen=True)
class Loaded:
    """Bytes of the model's weights and of the checkpoint's, and how its layers are stored, by the names of a plan."""

    weight_bytes: int
    checkpoint_bytes: int
    schemes: dict[str, Scheme]
    structure: Layers


def loaded(tensors: dict[str, Tensor], base: dict[str, Tensor]) -> Loaded:
    """A checkpoint with these tensors, that was made from a model with the tensors `base`."""
    layers = stored_layers(tensors, base)
    return Loaded(
        weight_bytes=sum(tensor.nbytes for tensor in base.values()),
        checkpoint_bytes=sum(tensor.nbytes for tensor in tensors.values()),
        schemes={name: _scheme(layer) for name, layer in layers.items()},
        structure=Layers({name: layer.shape for name, layer in layers.items()}),
    )


def loaded_of(artifact: Artifact, model: Model) -> Loaded:
    """The checkpoint of an artifact that was adopted to be compared with this model."""
    return loaded(headers.read_folder(artifact.checkpoint), model.headers())


def _scheme(layer: StoredLayer) -> Scheme:
    return Scheme(
        weight_bits=layer.bits,
        group_size=layer.group_size,
        symmetric=True,
        kind="int",
        activations="none",
        strategy="group" if layer.group_size else "channel",
    )
