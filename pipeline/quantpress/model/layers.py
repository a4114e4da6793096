"""What a model is made of, from its tensors' names and shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from quantpress.model.headers import Tensor
from quantpress.model.structure import Structure

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embed_in|wte|wpe|word_embeddings|position_embeddings|embed_positions)$")
# Routers hold a plain weight in transformers 5, not a Linear layer: llmcompressor leaves them alone.
_ROUTER = re.compile(r"\.(mlp|block_sparse_moe|feed_forward|moe)\.(gate|router)$")
_EXPERT = re.compile(r"^(?P<layer>.*)\.experts\.(?P<number>\d+)\.(?P<projection>\w+)$")

Shape = tuple[int, int]


@dataclass(frozen=True)
class Layers:
    """`linears`: shape (output features, input features) of each Linear layer, by module name.

    `others` are the modules with weights that are not Linear: embeddings, norms, routers. `tied` is the name of the
    embedding that lm_head shares its weight with; that lm_head is among the linears and has no tensor of its own.
    `stored` are the names in the files of those layers that have others there; `left_alone` the patterns that `ignore`
    has where a recipe leaves it out, each with its reason.
    """

    linears: dict[str, Shape]
    others: tuple[str, ...] = field(default=())
    tied: str | None = None
    stored: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)

    def stored_name(self, name: str) -> str:
        """What a layer is called in the files."""
        return self.stored.get(name, name)

    @property
    def names(self) -> list[str]:
        return [*self.linears, *self.others]


def of(tensors: dict[str, Tensor], tied: bool) -> Layers:
    weights = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items() if name.endswith(".weight")}
    linears: dict[str, Shape] = {}
    others = []
    for name, tensor in weights.items():
        if len(tensor.shape) == 2 and not _EMBEDDING.search(name) and not _ROUTER.search(name):
            linears[name] = (tensor.shape[0], tensor.shape[1])
        else:
            others.append(name)
    embedding = next((name for name in others if _EMBEDDING.search(name)), None)
    shares = embedding if tied and embedding and "lm_head" not in linears else None
    if shares:
        shape = weights[shares].shape
        linears["lm_head"] = (shape[0], shape[1])
    return Layers(linears, tuple(others), shares)


def asked(structure: Structure) -> Layers:
    """The layers as the libraries that load the model see them."""
    return Layers(
        linears={name: (linear.outputs, linear.inputs) for name, linear in structure.linears.items()},
        others=tuple(structure.others),
        tied=structure.tied,
        stored={name: linear.stored for name, linear in structure.linears.items() if linear.stored != name},
        left_alone=structure.left_alone,
    )


def is_router(tensor: str) -> bool:
    """Whether a tensor's name is that of a router's weight."""
    return _ROUTER.search(tensor.removesuffix(".weight")) is not None


def expert_number(tensor: str) -> int:
    """The number of the expert that a tensor belongs to; -1 for what belongs to none."""
    match = _EXPERT.match(tensor.rpartition(".")[0])
    return int(match["number"]) if match else -1
