"""Models on the Hugging Face hub: everything but the weights first, then the weights."""

from __future__ import annotations

import re
from pathlib import Path

from quantpress.errors import CapabilityError, InputError, first_line
from quantpress.model import headers
from quantpress.model.headers import Tensor
from quantpress.model.side_files import parts
from quantpress.runtime import console

_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")
_WEIGHTS = ["model*.safetensors"]
_SMALL = ["*.json", "tokenizer*", "*.model", "*.jinja", "merges.txt", "vocab.txt"]
_SMALL += ["README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"]  # what a package says and hands on


def is_on_the_hub(source: str) -> bool:
    """Whether a model is named by its id, so that its weights would have to be fetched."""
    return bool(_ID.match(source)) and not source.startswith((".", "/", "~"))


def without_weights(source: str, trust_remote_code: bool) -> Path:
    """The folder, named after its commit, of all files but the weights: seconds. Raises CapabilityError."""
    return _snapshot(source, _patterns(trust_remote_code), f"looking at {source} on the Hugging Face hub")


def whole(source: str, trust_remote_code: bool) -> Path:
    """The same folder with the weights. Raises CapabilityError if they cannot be fetched, InputError for a repository
    that holds none as safetensors."""
    patterns, title = _patterns(trust_remote_code), f"fetching {source} from the Hugging Face hub"
    folder = _snapshot(source, [*_WEIGHTS, *patterns], title)
    # An index may name files otherwise. All that there are would often be the same weights twice.
    if further := [*_not_there(folder), *(f"{part}/*.safetensors" for part in parts(folder))]:
        folder = _snapshot(source, [*further, *patterns], title)
    _require_weights(source, folder)
    return folder


def _not_there(folder: Path) -> list[str]:
    return [name for name in headers.named_by_index(folder) if not (folder / name).is_file()]


def _require_weights(source: str, folder: Path) -> None:
    """The hub's client takes a cached folder as it is where it cannot reach the hub. Raises InputError for a repository
    that does not hold them."""
    lacking = _not_there(folder)
    if not lacking:
        if any(folder.glob("*.safetensors")):
            return
        headers_of(source, folder)  # raises where the repository holds none
    elif (names := _files_of(source)) is not None and lacking[0] not in names:
        raise InputError(
            f"{source}: its index names {lacking[0]}, which the repository does not hold",
            hint="name another revision, or fetch the model and mend its index",
        )
    raise CapabilityError(
        f"{source}: its weights{f' ({lacking[0]} of {len(lacking)})' if lacking else ''} cannot be fetched from the "
        f"Hugging Face hub, and are not in {folder}",
        hint="check the network (and that HF_HUB_OFFLINE is not set), or name a local folder",
    )


def _files_of(source: str) -> list[str] | None:
    """Names of the repository's files; None where the hub does not say."""
    from huggingface_hub import HfApi

    repo, _, revision = source.partition("@")
    try:
        return [file.rfilename for file in HfApi().repo_info(repo, revision=revision or None).siblings or []]
    except Exception:  # as in _snapshot
        return None


def _patterns(trust_remote_code: bool) -> list[str]:
    return [*_SMALL, *(["*.py"] if trust_remote_code else [])]


def _snapshot(source: str, patterns: list[str], title: str) -> Path:
    repo, _, revision = source.partition("@")
    from huggingface_hub import snapshot_download  # 0.3 s: only for models that come from the hub

    try:
        with console.step(title):
            return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen unrelated classes; all of them mean "not fetched"
        raise CapabilityError(
            f"{source} cannot be fetched from the Hugging Face hub: {first_line(error)}",
            hint="check the id, the network and (for gated models) HF_TOKEN, or name a local folder",
        ) from error


def headers_of(source: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of the weights, whether they were fetched or not: of those on the hub the headers alone are read.

    None where the hub does not give parts of files: then the config must do. Raises InputError for a repository that
    holds no safetensors as transformers looks for them.
    """
    if fetched(folder):
        return headers.read_folder(folder)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        with console.step(f"reading the headers of {source} on the Hugging Face hub"):
            found = HfApi().get_safetensors_metadata(source.partition("@")[0], revision=folder.name)
    except NotASafetensorsRepoError as error:
        raise InputError(
            f"{source} holds neither model.safetensors nor model.safetensors.index.json",
            hint="quantpress reads safetensors only; of an adapter, merge it into its base model and save that; of one "
            "file with another name, fetch the repository and rename it model.safetensors",
        ) from error
    except Exception:  # as above; what follows does without
        return {}
    return {
        name: Tensor(str(one.dtype), tuple(one.shape), one.data_offsets[1] - one.data_offsets[0])
        for file in found.files_metadata.values()
        for name, one in file.tensors.items()
    }


def fetched(folder: Path) -> bool:
    """Whether all of the weights are in the folder, and not only some: a fetch may have been interrupted."""
    try:
        return bool(headers.weight_files(folder))
    except InputError:
        return False


def cache() -> Path:
    """Where the hub's client keeps what it fetches."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
