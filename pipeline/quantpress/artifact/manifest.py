"""manifest.json: what went in, what came out, and the digest that names it. Written last: its presence means done."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantpress.errors import StageError, enumerated, listed
from quantpress.runtime import digests, foreign, ownership
from quantpress.runtime.environment import Machine
from quantpress.runtime.identity import Identity
from quantpress.runtime.records import Record, Stored

SCHEMA_VERSION = 4
SIGNATURE = "model.sig"  # beside a manifest, or a recertification, that is signed


class File(Record):
    """A file as it was made: its size in bytes and its sha256 in hexadecimal digits."""

    bytes: int
    sha256: str


class Filled(Record):
    """How many sequences a source of calibration data was to fill, and how many it did."""

    dataset: str
    requested_sequences: int
    sequences: int


class ExpertTokens(Record):
    """The calibration tokens of a mixture's `experts`: the `fewest` that one computed with, and the `fewest_routed`
    that a router sent to one (None where that was not seen).

    With `all_experts` each computes with all tokens. `few` names the experts with too few: of their own where all
    compute with all, otherwise at all (quantpress.quantize.remarks states the number); `without` of them had none.
    """

    experts: int
    all_experts: bool
    fewest: int
    fewest_routed: int | None
    few: list[str]
    without: int


class CalibrationImages(Record):
    """What of calibration data are images: `images` in `conversations`, which are not cut, and their `tokens`.

    `too_long` conversations were passed over, because they are longer than the recipe's sequences.
    """

    conversations: int
    images: int
    tokens: int
    too_long: int


class Calibrated(Record):
    """The calibration data as it went in: `sequences` of `sequence_length` tokens, `tokens` in all.

    `fingerprint` is the sha256 of all token ids in their order, and of the images' pixels; `experts` says what each
    expert saw of them. With `images`, `sequence_length` is that of the longest.
    """

    sources: list[Filled]
    sequences: int
    distinct_sequences: int
    sequence_length: int
    tokens: int
    fingerprint: str
    experts: ExpertTokens | None = None
    images: CalibrationImages | None = None


class Written(Record):
    """Chats that the model itself wrote with vLLM, to be calibrated on.

    `model` is its digest, `prompts` the sha256 of the shipped questions with their seeds, `seeds` the least and the
    greatest that were drawn with; answers were sampled at `temperature` and cut at `max_answer_tokens`. Of the `asked`
    conversations `conversations` were kept, with `tokens` tokens. `dropped` counts answers that were not, with what
    was asked after them, by reason (empty, repeating, cut).
    """

    model: str
    vllm: str
    prompts: str
    seeds: tuple[int, int]
    temperature: float
    max_answer_tokens: int
    asked: int
    conversations: int
    tokens: int
    dropped: dict[str, int]


class DataSource(Record):
    """What decides the documents of one source: a local file by its sha256, a hub data set by its commit.

    `datasets` is the version of the library of that name, which draws the order of a hub data set. `images` is the
    sha256 of the digests of all images that the file names, `imaging` the versions of what reads them. `written` is
    how the model wrote its own chats, which their sha256 and `revision` name.
    """

    dataset: str
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    # As the recipe has it: 1 is not 1.0 in the digest of what went in.
    weight: int | float
    sha256: str | None = None
    datasets: str | None = None
    images: str | None = None
    imaging: dict[str, str] | None = None
    written: Written | None = None


class Data(Record):
    """What decides the calibration data's tokens, together with the tokenizer."""

    samples: int
    tokens: int | None = None
    max_sequence_length: int
    seed: int
    batch_size: int
    all_experts: bool | None = None
    processes: int | None = None
    sources: list[DataSource]


class Adopted(Record):
    """A checkpoint that was made elsewhere, as far as its own files say.

    `source` is what the user named (a folder or file by its whole path), `revision` a hub repository's commit. `format`
    is in the words of its config, `bits` are those of a weight in the layers that are quantized, counted from the
    tensors (none where no layer is quantized), `makers` the versions of the programs that say they made it. `vllm` is
    the version that served it when it was adopted; None where none was asked. Where its weights were dequantized first,
    because no vLLM here takes the format, `dequantized` is the type that they were made, and `stored_bytes` what they
    took before: speed and size are those of the former then.
    """

    source: str
    revision: str | None = None
    format: str
    bits: list[int]
    makers: dict[str, str]
    vllm: str | None
    dequantized: str | None = None
    stored_bytes: int | None = None

    @property
    def made_by(self) -> str:
        """Who made it, as far as its files say."""
        return made_by(self.makers)


def made_by(makers: Mapping[str, str]) -> str:
    """What the files of a checkpoint say of its makers, in words. Whoever wrote the config is not always who
    quantized."""
    named = [f"{name} {version}".strip() for name, version in makers.items()]
    return f"its files name {enumerated(named)}" if named else "its files do not say who made it"


class Inputs(Record):
    """Everything that decides the checkpoint's bytes.

    `stage` is the number of our own code's behaviour, `recipe` the resolved one without what is only for people,
    `model` the sha256 of its files by name, `versions` those of the libraries. `trust_remote_code` and `compute_dtype`
    are None where they are as usual: False, and the type that the weights are stored in. Of a checkpoint that was
    adopted, `files` are the sha256 of its own files by name, and `recipe` is empty.
    """

    stage: int
    recipe: dict[str, Any]
    calibration: Data | None
    model: dict[str, str]
    versions: dict[str, str]
    trust_remote_code: bool | None = None
    compute_dtype: str | None = None
    files: dict[str, str] | None = None

    @property
    def digest(self) -> str:
        """The sha256 that names the artifact. What is not set is left out, so that new fields rename no artifact."""
        return digests.sha256_json({"calibration": None, **self.model_dump(mode="json", exclude_none=True)})


class Sizes(Record):
    """Bytes of all weights, before and after."""

    model: int
    checkpoint: int


class Account(Record):
    """Where the tensors of the model's files went, by number.

    `kept` are in the checkpoint bit for bit, `not_loaded` too, in a file of their own (transformers does not know
    them); `quantized` as planned; `changed` by the modifiers that rescale, rotate or prune; `retyped` were stored in
    another type, as older manifests say (now such tensors are kept too); `taken_apart` are experts that were in one
    tensor; `dropped` are experts that the recipe takes out, and an output head that is stored once, as the embedding.
    """

    kept: int = 0
    quantized: int = 0
    changed: int = 0
    retyped: int = 0
    not_loaded: int = 0
    taken_apart: int = 0
    dropped: int = 0


class Manifest(Stored):
    """What is known of a finished checkpoint.

    `recipe` is the resolved recipe (quantpress.recipe.recipe.Recipe validates it); `scales` says how far one scale
    reaches ("group of 64", "channel"); `modifiers` are llmcompressor's classes in their order; `threads` those that
    torch ran with, in each of its processes; `path` the part of llmcompressor that made it: `oneshot`, with the model
    in memory, or `model_free`, from file to file (None in older ones, when there was the first alone); `note` what was
    shown beside the finished step; `files` the checkpoint's, by relative name; `seconds` how long it took; `created`
    the time in UTC; `digest` that of `inputs`; `account` where every tensor of the model went, which older manifests do
    not say. Of a checkpoint that was made elsewhere `adopted` says where it came from, `recipe` has no modifiers, and
    `threads` and `seconds` are None.
    """

    SCHEMA_VERSION = SCHEMA_VERSION

    recipe: dict[str, Any]
    quantized_layers: int
    group_size: int | None
    scales: str
    compute_dtype: str | None = None
    modifiers: list[str]
    calibration: Calibrated | None
    warnings: list[str]
    threads: int | None
    path: Literal["oneshot", "model_free"] | None = None
    note: str | None = None
    bytes: Sizes
    files: dict[str, File]
    machine: Machine
    seconds: float | None
    created: str
    digest: str
    inputs: Inputs
    model: Identity
    account: Account | None = None
    adopted: Adopted | None = None

    @property
    def recipe_name(self) -> str:
        """The recipe's name, or the one that a checkpoint was adopted under."""
        return str(self.recipe["name"])


@dataclass(frozen=True)
class Artifact:
    """The folder of one recipe on one model, `OUT/<model>/<recipe>/`."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def manifest_file(self) -> Path:
        return self.folder / "manifest.json"

    def manifest(self) -> Manifest | None:
        """The manifest, or None where no run has finished. Raises StageError for a file that is none of ours."""
        return Manifest.load(self.manifest_file) if self.manifest_file.is_file() else None

    def finished(self) -> Manifest:
        """The manifest. Raises StageError where no run has finished."""
        manifest = self.manifest()
        if manifest is None:
            raise StageError(
                f"{self.folder} holds no finished checkpoint", hint=f"quantpress quantize {self.name} first"
            )
        return manifest


def artifact_of(out: Path, model_name: str, recipe_name: str) -> Artifact:
    """Where the artifact of this recipe on this model is, or will be."""
    return Artifact(out / model_name / recipe_name)


def artifacts_of(model_folder: Path) -> list[Artifact]:
    """Every finished artifact of one model; what a killed run left behind is hidden and is none, and a package has a
    manifest of its own kind."""
    found = sorted(model_folder.glob("[!.]*/manifest.json"))
    return [Artifact(path.parent) for path in found if not is_package(path)]


def is_package(manifest: Path) -> bool:
    """Whether a manifest says of itself that it is a package's, be it a sound one or not."""
    try:
        found = foreign.read_json(manifest)
    except (OSError, ValueError):
        return False  # a damaged one, which whoever reads it will say
    return isinstance(found, dict) and found.get("kind") == "package"


def files_below(folder: Path) -> list[Path]:
    """Every file below the folder, in the order of its path.

    Raises StageError for a link, a pipe or a device: what is behind it is none of the folder's.
    """
    paths = sorted(folder / name for name in ownership.entries(folder))
    if odd := [str(path) for path in paths if not ownership.is_regular(path)]:
        raise StageError(f"{listed(odd)}: a link or no file", hint="put the file itself in its place")
    return paths


def file_table(folder: Path) -> dict[str, File]:
    """Size and sha256 of every file below `folder`, by relative name."""
    paths = files_below(folder)
    known = digests.sha256_files(paths)
    return {str(path.relative_to(folder)): File(bytes=path.stat().st_size, sha256=known[path]) for path in paths}


def file_problems(
    folder: Path, expected: Mapping[str, File], present: Set[str], how: str, *, by_size: bool
) -> list[str]:
    """What differs between the files `present` in the folder and a table of them, a line for each file.

    `how` says what the table is of: they were "made" or "packaged" so. With `by_size`, a file of another length is
    named by its lengths, not by its digests. Every byte of every expected file is read; no link is followed.
    """
    there = sorted(expected.keys() & present)
    names = [name for name in there if ownership.is_regular(folder / name)]
    problems = [] if expected else ["manifest.json: lists no files, so it proves nothing"]
    problems += [f"{name}: missing" for name in sorted(expected.keys() - present)]
    problems += [f"{name}: a link or no file" for name in there if name not in names]
    problems += [f"{name}: not in the manifest" for name in sorted(present - expected.keys())]
    measured = digests.sha256_files([folder / name for name in names])
    for name in names:
        size, digest, known = (folder / name).stat().st_size, measured[folder / name], expected[name]
        if by_size and size != known.bytes:
            problems.append(f"{name}: {size} bytes, {how} with {known.bytes}")
        elif digest != known.sha256:
            problems.append(f"{name}: sha256 {digest[:12]}, {how} with {known.sha256[:12]}")
    return problems


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The paths at which two JSON objects differ; a value that is missing is one that is null."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}")
    return found
