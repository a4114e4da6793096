"""What a checkpoint's own files say of it, and whether it was made from the model that it is to be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from quantpress.artifact.manifest import made_by
from quantpress.errors import InputError, shown
from quantpress.model.config import Config, dtype_of, text_config
from quantpress.model.gguf import Gguf
from quantpress.model.soundness import quantization
from quantpress.model.source import Model
from quantpress.model.stored import StoredLayer, stored_layers

# What a checkpoint has in common with the model that it was made from, whoever made it.
_SAME = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_LONGEST = 60  # characters of a name or a version


@dataclass(frozen=True)
class Description:
    """`format` in the words of its config, the `layers` that are stored in fewer bits, and the versions of the programs
    that say they made it (`makers`). Where the weights were dequantized first, `dequantized` is the type that they were
    made, and `stored_bytes` what they took before."""

    format: str
    layers: dict[str, StoredLayer]
    makers: dict[str, str]
    dequantized: str | None = None
    stored_bytes: int | None = None

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
        now = f", dequantized to {self.dequantized}" if self.dequantized else ""
        return f"{self.format}{now}{stored}; {made_by(self.makers)}"


def of_folder(source: Model, candidate: Model, base: Model) -> Description:
    """What config and tensors of a model's folder say. `candidate` is the source itself, or what was made of it by
    dequantizing. Raises InputError where it was made from another model than `base`."""
    require_same_model(candidate.config, base)
    tensors = source.headers()
    found = quantization(source.path, source.config, tensors)
    made = Description(
        format=found.said if found else f"not quantized, {dtype_of(source.config)}",
        layers=stored_layers(candidate.headers(), base.headers()),
        makers=dict(_makers(found.details if found else {}, source.config)),
    )
    if candidate.dequantized is None:
        return made
    size = sum(tensor.nbytes for tensor in tensors.values())
    return replace(made, dequantized=candidate.dequantized.dtype, stored_bytes=size)


def of_gguf(source: Gguf, candidate: Model, base: Model) -> Description:
    """The same of a GGUF file, of which the candidate was made by dequantizing."""
    require_same_model(candidate.config, base)
    return Description(
        format=source.format,
        layers={},
        makers=dict(_named(source.said.get("quantized_by"), "")),
        dequantized=dtype_of(candidate.config),
        stored_bytes=source.bytes,
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


def _makers(said: dict[str, Any], config: Config) -> Iterator[tuple[str, str]]:
    """Programs with their versions, wherever their makers write them: each looks for its own keys alone."""
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
    if isinstance(name, str) and isinstance(version, str) and name:
        yield name[:_LONGEST], version[:_LONGEST]
