"""What a checkpoint's own files say of it, and whether it was made from the model that it is to be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quantpress.errors import InputError, shown
from quantpress.model.config import Config, dtype_of, text_config
from quantpress.model.soundness import Quantization, quantization
from quantpress.model.source import Model
from quantpress.model.stored import StoredLayer, stored_layers

# What a checkpoint has in common with the model that it was made from, whoever made it.
_SAME = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_LONGEST = 60  # characters of a name or a version


@dataclass(frozen=True)
class Description:
    """`format` in the words of its config, the `layers` that are stored in fewer bits, and the versions of the programs
    that say they made it (`makers`)."""

    format: str
    layers: dict[str, StoredLayer]
    makers: dict[str, str]

    @property
    def bits(self) -> list[int]:
        return sorted({layer.bits for layer in self.layers.values()})

    @property
    def scales(self) -> str:
        return ", ".join(sorted({layer.scale for layer in self.layers.values()})) or "none"

    @property
    def group_size(self) -> int | None:
        return min((layer.group_size for layer in self.layers.values() if layer.group_size), default=None)

    @property
    def words(self) -> str:
        """In a line, for people."""
        bits = " and ".join(map(str, self.bits))
        stored = f"; {bits} bits in {len(self.layers)} layers, one scale per {self.scales}" if bits else ""
        return f"{self.format}{stored}; {self.made_by}"

    @property
    def made_by(self) -> str:
        """Who made it, as far as its files say."""
        if not self.makers:
            return "its files do not say who made it"
        return "made by " + ", ".join(f"{name} {version}" for name, version in self.makers.items())


def described(candidate: Model, base: Model) -> Description:
    """What the candidate's config and tensors say. Raises InputError where it was made from another model."""
    require_same_model(candidate.config, base)
    tensors = candidate.headers()
    found = quantization(candidate.path, candidate.config, tensors)
    layers = stored_layers(tensors, base.headers())
    return Description(
        format=found.said if found else f"not quantized, {dtype_of(candidate.config)}",
        layers=layers,
        makers=dict(_makers(found, candidate.config)),
    )


def require_same_model(config: Config, base: Model) -> None:
    """Raises InputError for a config that is plainly that of another model than `base`."""
    own, its = _facts(config), _facts(base.config)
    for name in own.keys() & its.keys():
        if own[name] != its[name]:
            raise InputError(
                f"it was not made from {base.name}: its config has {name} {shown(own[name])}, and {base.name} has "
                f"{shown(its[name])}",
                hint="name the model that it was made from with --model",
            )


def _facts(config: Config) -> dict[str, Any]:
    """What a config says of what both have in common; other names in others' configs are not known here."""
    text = text_config(config)
    found = {"architectures": config.get("architectures"), **{name: text.get(name) for name in _SAME}}
    return {name: value for name, value in found.items() if value}


def _makers(found: Quantization | None, config: Config) -> Iterator[tuple[str, str]]:
    """Programs with their versions, wherever their makers write them: each looks for its own keys alone."""
    said = found.details if found else {}
    if said.get("quant_method") == "compressed-tensors":
        yield from _named("compressed-tensors", said.get("version"))
    meta = said.get("meta")
    quantizers = meta.get("quantizer") if isinstance(meta, dict) else None
    for one in quantizers if isinstance(quantizers, list) else [quantizers]:  # GPTQModel: ["gptqmodel:5.0.0"]
        name, _, version = str(one or "").partition(":")
        yield from _named(name, version)
    producer = said.get("producer")
    if isinstance(producer, dict):  # ModelOpt
        yield from _named(producer.get("name"), producer.get("version"))
    yield from _named("auto-round", said.get("autoround_version"))
    yield from _named("transformers", config.get("transformers_version"))


def _named(name: Any, version: Any) -> Iterator[tuple[str, str]]:
    if isinstance(name, str) and isinstance(version, str) and name and version:
        yield name[:_LONGEST], version[:_LONGEST]
