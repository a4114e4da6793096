"""Calibration data as a value: where documents come from, and how they are packed into sequences of equal length."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from quantpress.artifact.manifest import Data, DataSource, Filled
from quantpress.errors import CapabilityError, InputError, first_line
from quantpress.language import lines, shipped
from quantpress.quantize import images, own_chats
from quantpress.quantize.conversations import conversation, image_paths, rendered, texts_alone
from quantpress.recipe.recipe import OWN_DATASET, SHIPPED_DATASET, Calibration, Source
from quantpress.runtime import digests, environment
from quantpress.runtime.cache import digest_cache

Document = dict[str, Any]


class HubDataset(NamedTuple):
    path: str
    subset: str | None
    split: str


# llmcompressor's names for hub datasets that hold `messages` or `text`.
REGISTERED = {
    "ultrachat_200k": HubDataset("HuggingFaceH4/ultrachat_200k", None, "train_sft"),
    "wikitext": HubDataset("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
    "c4": HubDataset("allenai/c4", "en", "train"),
}
LOCAL = (".jsonl", ".parquet")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_HINT = "a dataset is a .jsonl or .parquet file with `text` or `messages`, a hub id (org/name), or " + ", ".join(
    (SHIPPED_DATASET, OWN_DATASET, *REGISTERED)
)


def local_file(source: Source) -> Path | None:
    """The file that holds the documents; None for a dataset on the hub, and for chats that the model has not written
    yet. Raises InputError if it is not there."""
    if source.dataset == SHIPPED_DATASET:
        return shipped.folder("recipes") / "calibration" / "chat.jsonl"
    if source.dataset == OWN_DATASET:
        return own_chats.file_of(source.revision) if source.revision else None
    path = Path(source.dataset)
    if path.is_dir() and source.dataset not in REGISTERED:
        raise InputError(
            f"calibration.dataset {source.dataset!r} is a folder",
            hint="name a .jsonl or .parquet file; datasets' load_from_disk(FOLDER).to_parquet(FILE) makes one",
        )
    if path.suffix in LOCAL or (path.exists() and not path.is_dir()):
        if not path.is_file():
            raise InputError(f"calibration.dataset {source.dataset!r}: no such file", hint=_HINT)
        if not os.access(path, os.R_OK):
            raise InputError(f"calibration.dataset {source.dataset!r} may not be read", hint="change its permissions")
        return path
    if source.dataset not in REGISTERED and source.dataset.count("/") != 1:
        raise InputError(f"calibration.dataset {source.dataset!r} is neither a file nor a data set", hint=_HINT)
    return None


def pinned(calibration: Calibration) -> Calibration:
    """The same with every hub dataset at a commit, so that the digest names what is read.

    Raises InputError for a missing file, CapabilityError if the hub must be asked and cannot be reached.
    """
    return calibration.with_sources([_pinned(source) for source in calibration.sources])


def _pinned(source: Source) -> Source:
    if local_file(source) or _COMMIT.match(source.revision or ""):
        return source
    if source.dataset == OWN_DATASET:
        raise InputError(
            f"calibration.dataset {OWN_DATASET}: the model has written no chats yet",
            hint="`quantpress quantize` has them written first",
        )
    return source.model_copy(update={"revision": _commit(_on_the_hub(source).path, source.revision)})


def _commit(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi  # 0.3 s: only where a hub dataset is named without its commit

    try:
        return str(HfApi().dataset_info(repository, revision=revision, timeout=20).sha)
    except Exception as error:  # the hub client raises a dozen unrelated classes; all of them mean "not known"
        raise CapabilityError(
            f"the data set {repository} cannot be found on the Hugging Face hub: {first_line(error)}",
            hint="check name, revision and network; or give its commit as calibration.revision, or name a local "
            ".jsonl or .parquet in calibration.dataset",
        ) from error


def identity(calibration: Calibration) -> Data:
    """What decides the samples, for the digest: with the tokenizer's files and its version, these give the tokens.

    Expects a pinned calibration. Raises InputError if a local file is missing.
    """
    described = calibration.model_dump(exclude={"dataset", "subset", "split", "revision", "mixture"})
    return Data(**described, sources=[_identity(source) for source in calibration.sources])


def _identity(source: Source) -> DataSource:
    path = local_file(source)
    described = DataSource(**source.model_dump())
    if path:
        digest = digests.cached_sha256([path], digest_cache())[path]
        if source.dataset == OWN_DATASET and source.revision:
            return described.model_copy(update={"sha256": digest, "written": own_chats.about(source.revision)})
        return described.model_copy(update={"dataset": path.name, "sha256": digest, **_of_images(path)})
    # The order of a hub data set is drawn by the datasets library.
    return described.model_copy(update=environment.versions(("datasets",)))


def _of_images(path: Path) -> dict[str, Any]:
    """What decides the pixels of the images that a local file names, in their order; nothing where it names none."""
    named = images_of(path)
    if not named:
        return {}
    found = digests.cached_sha256(list(dict.fromkeys(named)), digest_cache())
    digest = digests.sha256_json([found[image] for image in named])
    imaging = ("pillow", "torchvision") if find_spec("torchvision") else ("pillow",)
    return {"images": digest, "imaging": environment.versions(imaging)}


def first_image(calibration: Calibration) -> str | None:
    """Where (file:line) the first image of the calibration data is named; None where no source names images."""
    for path in filter(None, map(local_file, calibration.sources)):
        if images.may_name_images(path):
            for placed in read_places(path):
                if image_paths(placed.document.get("messages", [])):
                    return placed.where
    return None


def images_of(path: Path) -> list[Path]:
    """The files of all images that a local file names, in their order."""
    if not images.may_name_images(path):
        return []
    return [image for document in read_local(path) for image in image_paths(document.get("messages", []))]


def tokens_by_source(calibration: Calibration) -> list[int]:
    """How many calibration tokens each source is to fill."""
    counts = shares(calibration.samples, [source.weight for source in calibration.sources])
    return [count * calibration.max_sequence_length for count in counts]


def check_sources(calibration: Calibration) -> None:
    """Raises InputError for a local file that is not there, or a weight that gets no sequence; reads nothing."""
    counts = shares(calibration.samples, [source.weight for source in calibration.sources])
    for source, count in zip(calibration.sources, counts, strict=True):
        local_file(source)
        if count == 0:
            raise InputError(
                f"{source.dataset}: weight {source.weight:g} is less than one of {calibration.samples} sequences",
                hint="raise its weight or calibration.samples, or leave it out",
            )


class Readable(NamedTuple):
    """What was found in local files: those that hold conversations, those of them that name images, and what people
    must know of their contents."""

    chats: list[Path]
    with_images: list[Path]
    notes: list[str]


def require_readable(calibration: Calibration) -> Readable:
    """Reads local data to its end. Raises InputError with file and line of a document that cannot be used.

    What is on the hub is not fetched for this.
    """
    chats, with_images, notes = [], [], []
    for path in filter(None, map(local_file, calibration.sources)):
        kinds: set[str] = set()
        left_out = pictures = 0
        for placed in read_places(path):
            kinds |= placed.document.keys()
            left_out += placed.left_out
            for image in image_paths(placed.document.get("messages", [])):
                images.require_image(image, placed.where)
                pictures += 1
        if "messages" in kinds:
            chats.append(path)
        if left_out:
            notes.append(f"{path}: {left_out} parts of messages are neither texts nor image files, and are left out")
        if pictures:
            with_images.append(path)
    return Readable(chats, with_images, notes)


class Placed(NamedTuple):
    """A document, where it stands (file:line, or file:row), and how many parts of its messages are left out."""

    where: str
    document: Document
    left_out: int


def read_places(path: Path) -> Iterator[Placed]:
    """Documents of a local file. Raises InputError with the place of one that has neither `text` nor `messages`."""
    empty = without_text = True
    folder = path.parent if images.may_name_images(path) else None
    for number, value in _parquet(path) if path.suffix == ".parquet" else lines.json_lines(path, _HINT):
        placed = _placed(value, f"{path}:{number}", folder)
        yield placed
        empty, without_text = False, without_text and not placed.document.get("text", "chat").strip()
    if empty or without_text:
        raise InputError(f"{path} holds no document" if empty else f"{path}: every text is empty", hint=_HINT)


def read_local(path: Path) -> Iterator[Document]:
    """The same without their places."""
    return (placed.document for placed in read_places(path))


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers from 1; only the two columns that count are read."""
    from pyarrow import ArrowException, parquet  # 0.1 s: only where such a file is named

    number = 0
    try:
        table = parquet.ParquetFile(path)
        columns = [name for name in ("text", "messages") if name in table.schema_arrow.names]
        if not columns:
            names = ", ".join(table.schema_arrow.names)
            raise InputError(f"{path}: needs a column `text` or `messages`, has {names}", hint=_HINT)
        for batch in table.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a text after row {number} is not UTF-8: {error}", hint=_HINT) from error
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {first_line(error)}", hint=_HINT) from error


def _placed(value: Any, where: str, folder: Path | None = None) -> Placed:
    if not isinstance(value, dict):
        raise InputError(f"{where}: is {type(value).__name__}, not an object with `text` or `messages`", hint=_HINT)
    if isinstance(value.get("text"), str):
        return Placed(where, {"text": value["text"]}, 0)
    if value.get("messages") is None:
        has = ", ".join(f"{key} ({type(value[key]).__name__})" for key in value)
        raise InputError(f"{where}: needs `text` (a text) or `messages` (role and content), has {has}", hint=_HINT)
    messages, left_out = conversation(value["messages"], where, folder)
    return Placed(where, {"messages": messages}, left_out)


def documents(source: Source, seed: int) -> Iterable[Document]:
    """All documents in the order drawn with the seed. Raises CapabilityError if the hub cannot be reached."""
    path = local_file(source)
    if path is None:
        return _from_hub(source, seed)
    return [placed.document for placed in drawn(path, seed)]


def drawn(path: Path, seed: int) -> list[Placed]:
    """The documents of a local file in the order drawn with the seed."""
    found = list(read_places(path))
    random.Random(seed).shuffle(found)
    return found


def _on_the_hub(source: Source) -> HubDataset:
    known = REGISTERED.get(source.dataset, HubDataset(source.dataset, None, "train"))
    return HubDataset(known.path, source.subset or known.subset, source.split or known.split)


def _from_hub(source: Source, seed: int) -> Iterator[Document]:
    from datasets import load_dataset  # 2 s: only where a hub dataset is named

    path, subset, split = _on_the_hub(source)
    try:
        stream = load_dataset(path, subset, split=split, revision=source.revision, streaming=True)
        for document in stream.shuffle(seed=seed, buffer_size=10_000):
            yield _placed(document, f"{path}[{split}]").document
    except InputError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated classes; all of them mean "not fetched"
        raise CapabilityError(
            f"the data set {path} (split {split}) cannot be read from the hub: {first_line(error)}",
            hint="check name, split and network, or name a local .jsonl or .parquet in calibration.dataset",
        ) from error


def tokens_of(document: Document, tokenizer: Any) -> list[int]:
    """Token ids of one document, ended by the end-of-sequence token; `messages` go through the chat template, without
    their images."""
    if "messages" in document:
        text = rendered(texts_alone(document["messages"]), tokenizer, "a conversation")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(document["text"])["input_ids"]
    end = tokenizer.eos_token_id
    return [*ids, end] if end is not None and ids[-1:] != [end] else list(ids)


def shares(samples: int, weights: list[float]) -> list[int]:
    """How many of `samples` sequences each weight gets: largest remainders, so that they add up."""
    exact = [samples * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: samples - sum(counts)]:
        counts[index] += 1
    return counts


class Packed(NamedTuple):
    """The sequences in their order, and for each source how many it was to fill and how many it did."""

    sequences: list[list[int]]
    sources: list[Filled]


def packed(calibration: Calibration, tokenizer: Any) -> Packed:
    """The calibration data as tokens; the sequences of a mixture are spread evenly over the whole.

    Raises InputError if a source does not fill a single sequence.
    """
    check_sources(calibration)
    counts = shares(calibration.samples, [source.weight for source in calibration.sources])
    found: list[tuple[float, list[int]]] = []
    about = []
    for source, count in zip(calibration.sources, counts, strict=True):
        sequences = sequences_of(source, tokenizer, calibration, count)
        found += [((number + 0.5) / len(sequences), sequence) for number, sequence in enumerate(sequences)]
        about.append(Filled(dataset=source.dataset, requested_sequences=count, sequences=len(sequences)))
    return Packed([sequence for _, sequence in sorted(found, key=lambda item: item[0])], about)


def sequences_of(source: Source, tokenizer: Any, calibration: Calibration, count: int) -> list[list[int]]:
    """At most `count` sequences of exactly `max_sequence_length` tokens: documents joined end to end, then cut.

    Nothing is padded or thrown away but the rest that fills no sequence. Raises InputError if not even one fills up.
    """
    length = calibration.max_sequence_length
    sequences: list[list[int]] = []
    rest: list[int] = []
    for document in documents(source, calibration.seed):
        rest += tokens_of(document, tokenizer)
        while len(rest) >= length and len(sequences) < count:
            sequences.append(rest[:length])
            rest = rest[length:]
        if len(sequences) == count:
            break
    if not sequences:
        raise InputError(
            f"{source.dataset} holds {len(rest)} tokens, fewer than one sequence of {length}",
            hint="name more data, or lower calibration.max_sequence_length",
        )
    return sequences
