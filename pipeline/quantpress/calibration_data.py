"""Calibration data as a value: where documents come from, and how they are packed into sequences of equal length."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from quantpress import environment, files, shipped
from quantpress.errors import CapabilityError, InputError, first_line
from quantpress.recipe import SHIPPED_DATASET, Calibration

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
_HINT = "calibration.dataset takes a .jsonl file with `text` or `messages`, a hub id (org/name), or " + ", ".join(
    (SHIPPED_DATASET, *REGISTERED)
)


def local_file(calibration: Calibration) -> Path | None:
    """The file that holds the documents; None for a dataset on the hub. Raises InputError if it is not there."""
    if calibration.dataset == SHIPPED_DATASET:
        return shipped.folder("recipes") / "calibration" / "chat.jsonl"
    path = Path(calibration.dataset)
    if path.suffix == ".jsonl" or path.exists():
        if not path.is_file():
            raise InputError(f"calibration.dataset {calibration.dataset!r}: no such file", hint=_HINT)
        return path
    if calibration.dataset not in REGISTERED and calibration.dataset.count("/") != 1:
        raise InputError(f"calibration.dataset {calibration.dataset!r} is neither a file nor a data set", hint=_HINT)
    return None


def identity(calibration: Calibration) -> dict[str, Any]:
    """What decides the samples, for the digest. Raises InputError if a local file is missing or malformed."""
    path = local_file(calibration)
    described = calibration.model_dump(exclude_none=True)
    if path:
        for _ in read_jsonl(path):
            break
        return described | {"dataset": path.name, "sha256": files.sha256_file(path)}
    # The order of a hub data set is drawn by the datasets library.
    return described | environment.versions(("datasets",))


def read_jsonl(path: Path) -> Iterator[Document]:
    """Documents of a JSONL file. Raises InputError with the line that is not an object with `text` or `messages`."""
    empty = True
    for number, line in enumerate(files.read_input(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not JSON: {error}", hint=_HINT) from error
        yield _checked(document, f"{path}:{number}")
        empty = False
    if empty:
        raise InputError(f"{path} holds no document", hint=_HINT)


def _checked(document: Any, where: str) -> Document:
    if isinstance(document, dict):
        if isinstance(document.get("text"), str):
            return {"text": document["text"]}
        if isinstance(document.get("messages"), list):
            return {"messages": document["messages"]}
        raise InputError(f"{where}: needs `text` or `messages`, has {', '.join(map(str, document))}", hint=_HINT)
    raise InputError(f"{where}: is {type(document).__name__}, not an object with `text` or `messages`", hint=_HINT)


def documents(calibration: Calibration) -> Iterable[Document]:
    """All documents in the order drawn with the seed. Raises CapabilityError if the hub cannot be reached."""
    path = local_file(calibration)
    if path is None:
        return _from_hub(calibration)
    found = list(read_jsonl(path))
    random.Random(calibration.seed).shuffle(found)
    return found


def _from_hub(calibration: Calibration) -> Iterator[Document]:
    from datasets import load_dataset  # 2 s: only where a hub dataset is named

    known = REGISTERED.get(calibration.dataset, HubDataset(calibration.dataset, None, "train"))
    subset, split = calibration.subset or known.subset, calibration.split or known.split
    try:
        stream = load_dataset(known.path, subset, split=split, revision=calibration.revision, streaming=True)
        for document in stream.shuffle(seed=calibration.seed, buffer_size=10_000):
            yield _checked(document, f"{known.path}[{split}]")
    except InputError:
        raise
    except Exception as error:  # the hub client raises a dozen unrelated classes; all of them mean "not fetched"
        raise CapabilityError(
            f"the data set {known.path} (split {split}) cannot be read from the hub: {first_line(error)}",
            hint="check name, split and network, or name a local .jsonl in calibration.dataset",
        ) from error


def tokens_of(document: Document, tokenizer: Any) -> list[int]:
    """Token ids of one document, ended by the end-of-sequence token; `messages` go through the chat template."""
    if "messages" in document:
        if not tokenizer.chat_template:
            raise InputError("the data set holds `messages`, but the tokenizer has no chat template", hint=_HINT)
        text = tokenizer.apply_chat_template(document["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(document["text"])["input_ids"]
    end = tokenizer.eos_token_id
    return [*ids, end] if end is not None and ids[-1:] != [end] else list(ids)


def pack(documents: Iterable[Document], tokenizer: Any, calibration: Calibration) -> list[list[int]]:
    """At most `samples` sequences of exactly `max_sequence_length` tokens: documents joined end to end, then cut.

    Nothing is padded or thrown away but the rest that fills no sequence. Raises InputError if not even one fills up.
    """
    length = calibration.max_sequence_length
    sequences: list[list[int]] = []
    rest: list[int] = []
    for document in documents:
        rest += tokens_of(document, tokenizer)
        while len(rest) >= length and len(sequences) < calibration.samples:
            sequences.append(rest[:length])
            rest = rest[length:]
        if len(sequences) == calibration.samples:
            break
    if not sequences:
        raise InputError(
            f"{calibration.dataset} holds {len(rest)} tokens, fewer than one sequence of {length}",
            hint="name more data, or lower calibration.max_sequence_length",
        )
    return sequences
