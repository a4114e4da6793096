"""What a model is made of, as a plan needs it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from quantpress.model.structure import Asked, Rescalings, Structure

EXPERT = re.compile(r"^(?P<layer>.*)\.experts\.(?P<number>\d+)\.(?P<projection>\w+)$")

Shape = tuple[int, int]


@dataclass(frozen=True)
class Layers:
    """`linears`: shape (output features, input features) of each Linear layer, by module name.

    `others` are the modules with weights that are not Linear: embeddings, norms, most routers. `tied` is the name of
    the embedding that lm_head shares its weight with; that lm_head is among the linears and has no tensor of its own.
    `stored` are the names in the files of those layers that have others there; `left_alone` the patterns that `ignore`
    has where a recipe leaves it out, each with its reason. `routers` and `fused_experts` are tensors of the files: what
    decides among experts, and what holds several of them. `rescalings` is what mappings resolve to.
    """

    linears: dict[str, Shape]
    others: tuple[str, ...] = field(default=())
    tied: str | None = None
    stored: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    routers: frozenset[str] = frozenset()
    fused_experts: frozenset[str] = frozenset()
    rescalings: tuple[Rescalings, ...] = ()

    def stored_name(self, name: str) -> str:
        """What a layer is called in the files."""
        return self.stored.get(name, name)

    def rescaling(self, asked: Asked) -> Rescalings:
        """The answer to a question that was asked with the structure, or to llmcompressor's own mappings."""
        return next(one for one in self.rescalings if one.asked == asked)

    @property
    def names(self) -> list[str]:
        return [*self.linears, *self.others]


def asked(structure: Structure) -> Layers:
    """The layers as the libraries that load the model see them."""
    return Layers(
        linears={name: (linear.outputs, linear.inputs) for name, linear in structure.linears.items()},
        others=tuple(structure.others),
        tied=structure.tied,
        stored={name: linear.stored for name, linear in structure.linears.items() if linear.stored != name},
        left_alone=structure.left_alone,
        routers=frozenset(structure.routers),
        fused_experts=frozenset(structure.fused_experts),
        rescalings=tuple(structure.rescalings),
    )


def without_experts(structure: Layers, left: int) -> Layers:
    """The layers of a model with `left` experts in each layer."""
    kept = {name: shape for name, shape in structure.linears.items() if expert_number(f"{name}.weight") < left}
    return replace(structure, linears=kept)


def expert_number(tensor: str) -> int:
    """The number of the expert that a tensor belongs to; -1 for what belongs to none."""
    match = EXPERT.match(tensor.rpartition(".")[0])
    return int(match["number"]) if match else -1
