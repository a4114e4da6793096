"""What a model is made of, as a plan needs it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from quantpress.model import patterns
from quantpress.model.structure import Asked, Rescalings, Structure

EXPERT = re.compile(r"^(?P<layer>.*)\.experts\.(?P<number>\d+)\.(?P<projection>\w+)$")

Shape = tuple[int, int]


@dataclass(frozen=True)
class Layers:
    """`linears`: shape (output features, input features) of each Linear layer, by module name.

    `embeddings` likewise: (tokens, features). `others` are the modules with weights that are neither: norms, most
    routers; `containers` those without weights of their own. `classes` has the class of every module but plain Linear
    layers and embeddings, `bases` what each class is derived from. `tied` is the name of
    the embedding that lm_head shares its weight with; that lm_head is among the linears and has no tensor of its own.
    `stored` are the names in the files of those layers that have others there; `left_alone` the patterns that `ignore`
    has where a recipe leaves it out, each with its reason. `routers` and `fused_experts` are tensors of the files: what
    decides among experts, and what holds several of them. `rescalings` is what mappings resolve to;
    `not_loaded` are modules of the files that transformers never loads.
    """

    linears: dict[str, Shape]
    others: tuple[str, ...] = field(default=())
    embeddings: dict[str, Shape] = field(default_factory=dict)
    containers: tuple[str, ...] = field(default=())
    classes: dict[str, str] = field(default_factory=dict)
    bases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tied: str | None = None
    stored: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    routers: frozenset[str] = frozenset()
    fused_experts: frozenset[str] = frozenset()
    rescalings: tuple[Rescalings, ...] = ()
    not_loaded: tuple[str, ...] = ()

    def stored_name(self, name: str) -> str:
        """What a layer is called in the files."""
        return self.stored.get(name, name)

    def rescaling(self, asked: Asked) -> Rescalings:
        """The answer to a question that was asked with the structure, or to llmcompressor's own mappings."""
        return next(one for one in self.rescalings if one.asked == asked)

    @cached_property
    def names(self) -> list[str]:
        """Every module with weights."""
        return [*self.linears, *self.embeddings, *self.others]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """What llmcompressor can quantize: Linear layers and embeddings."""
        return self.linears | self.embeddings

    def class_of(self, name: str) -> str:
        plain = "Linear" if name in self.linears else "Embedding" if name in self.embeddings else ""
        return self.classes.get(name, plain)

    def matching(self, pattern: str, names: Iterable[str]) -> list[str]:
        """Those of `names` that a target or ignore matches, as compressed-tensors matches: one by its name,
        re:PATTERN, or a class, which matches what is derived from it too."""
        named = patterns.matching(pattern, names)
        if pattern.startswith("re:"):
            return named
        kinds = {kind for kind, bases in self.bases.items() if pattern in bases} | {pattern}
        return named or [name for name in names if self.class_of(name) in kinds]

    def selected(self, names: Sequence[str], targets: Sequence[str], ignore: Sequence[str] = ()) -> list[str]:
        """The names that a target matches and no ignore does, in their order."""
        wanted = {name for pattern in targets for name in self.matching(pattern, names)}
        unwanted = {name for pattern in ignore for name in self.matching(pattern, names)}
        return [name for name in names if name in wanted and name not in unwanted]

    def within(self, containers: Iterable[str]) -> list[str]:
        """The Linear layers inside of modules without weights of their own."""
        wanted = set(containers)
        return [name for name in self.linears if not wanted.isdisjoint(parents(name))] if wanted else []


def asked(structure: Structure) -> Layers:
    """The layers as the libraries that load the model see them."""
    known = structure.linears | structure.embeddings
    return Layers(
        linears={name: (linear.outputs, linear.inputs) for name, linear in structure.linears.items()},
        others=tuple(structure.others),
        embeddings={name: (found.outputs, found.inputs) for name, found in structure.embeddings.items()},
        containers=tuple(structure.containers),
        classes=structure.others | structure.containers | structure.special,
        bases=structure.bases,
        tied=structure.tied,
        stored={name: one.stored for name, one in known.items() if one.stored != name},
        left_alone=structure.left_alone,
        routers=frozenset(structure.routers),
        fused_experts=frozenset(structure.fused_experts),
        rescalings=tuple(structure.rescalings),
        not_loaded=tuple(dict.fromkeys(name.rpartition(".")[0] for name in structure.not_loaded)),
    )


def parents(name: str) -> Iterator[str]:
    """The modules that a module lies in, from the inside outwards."""
    while name := name.rpartition(".")[0]:
        yield name


def without_experts(structure: Layers, left: int) -> Layers:
    """The layers of a model with `left` experts in each layer."""
    kept = {name: shape for name, shape in structure.linears.items() if expert_number(f"{name}.weight") < left}
    return replace(structure, linears=kept)


def expert_number(tensor: str) -> int:
    """The number of the expert that a tensor belongs to; -1 for what belongs to none."""
    match = EXPERT.match(tensor.rpartition(".")[0])
    return int(match["number"]) if match else -1
