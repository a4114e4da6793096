"""What is to be adopted: a model's folder, a repository of the hub, or a GGUF file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from quantpress.adopt import description
from quantpress.adopt.description import Description
from quantpress.errors import InputError
from quantpress.model import headers
from quantpress.model.card import metadata_of
from quantpress.model.gguf import Gguf, gguf_of
from quantpress.model.source import Model, find_model, located
from quantpress.runtime.inside import inside

_HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class Source:
    """What the user named (`as_is`), and the model's folder that is adopted: itself, or what was made of it by
    dequantizing."""

    name: str
    as_is: Model | Gguf
    candidate: Model

    def described(self, base: Model) -> Description:
        """What its files say. Raises InputError where it was made from another model than `base`."""
        if isinstance(self.as_is, Gguf):
            return description.of_gguf(self.as_is, self.candidate, base)
        return description.of_folder(self.as_is, self.candidate, base)

    def base(self) -> str:
        """The one model that its files name as the one it was made from. Raises InputError where there is none."""
        named = self._named()
        one = named[0] if isinstance(named, list) and len(named) == 1 else named
        if not isinstance(one, str) or not one:
            raise InputError(
                f"{self.name} does not say which model it was made from", hint="name it: --model /models/theirs"
            )
        return one.removeprefix(_HUB)

    def _named(self) -> object:
        if isinstance(self.as_is, Gguf):
            return self.as_is.said.get("base_model.0.repo_url")
        return metadata_of(inside(self.as_is.path, "README.md")).get("base_model")


def find(name: str, trust_remote_code: bool, dequantize: bool) -> Source:
    """The source of this name, fetched where that is needed; of a GGUF file only what is dequantized can be adopted.

    Raises InputError for what names nothing usable, CapabilityError for what cannot be fetched.
    """
    if is_gguf(name):
        return Source(name, gguf_of(Path(name)), located(name))
    as_is = replace(located(name, trust_remote_code), trust_remote_code=trust_remote_code)
    headers.read_folder(as_is.path)  # what holds no safetensors is refused before the weights of its base are fetched
    return Source(name, as_is, find_model(name, trust_remote_code, dequantize=True) if dequantize else as_is)


def is_gguf(name: str) -> bool:
    return name.endswith(".gguf") and Path(name).is_file()
