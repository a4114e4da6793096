"""Conversations with images as a model takes them: through its own processor, one at a time and never cut."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from quantpress.artifact.manifest import Calibrated, CalibrationImages, Filled
from quantpress.errors import CapabilityError, InputError, QuantpressError, StageError, first_line, one_line
from quantpress.model.whole_model_worker import remote_code_explained
from quantpress.quantize import calibration_data, images
from quantpress.quantize.calibration_data import Placed
from quantpress.quantize.conversations import image_paths, rendered
from quantpress.recipe.recipe import Calibration, Source
from quantpress.runtime.digests import sha256_json

_TEXT = "calibrate on text: name data without images"
# What transformers' processors ask for beyond Pillow and torch.
_OPTIONAL = ("torchvision", "torchaudio", "timm")


def do_without_video() -> None:
    """Lets processors of images and videos be loaded without torchvision, which only their half for videos needs.

    transformers 5.15 to 5.17 loads all parts of a processor or none. Where torchvision is missing, a part for videos
    that is None is taken for one.
    """
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.processing_utils import ProcessorMixin

    if importlib.util.find_spec("torchvision"):
        return
    check = ProcessorMixin.check_argument_for_proper_class

    def checked(self: Any, name: str, argument: Any) -> Any:
        return None if name == "video_processor" and argument is None else check(self, name, argument)

    AutoVideoProcessor.from_pretrained = lambda *_, **__: None
    ProcessorMixin.check_argument_for_proper_class = checked


def loaded_processor(model: Path | str, trust_remote_code: bool, where: str) -> Any:
    """The model's processor; `where` the first conversation with an image stands.

    Raises InputError for a model that takes no images or lacks the processor's files, CapabilityError where a library
    is missing that its processor needs.
    """
    from transformers import AutoProcessor

    do_without_video()
    try:
        with remote_code_explained(str(model)):
            processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust_remote_code)
    except QuantpressError:
        raise
    except Exception as error:  # a dozen classes, by the part of the processor that fails
        raise _not_loaded(model, where, error) from error
    if getattr(processor, "image_processor", None) is None:
        raise InputError(
            f"{where}: names images, but {model} takes only text (its processor is {type(processor).__name__})",
            hint="leave the images out of the data, or name an image-text model",
        )
    return processor


def _not_loaded(model: Path | str, where: str, error: Exception) -> Exception:
    lacking = _lacking(error)
    if lacking:
        return CapabilityError(
            f"the processor of {model}, which {where} needs for its images, needs {' and '.join(lacking)}: "
            f"{one_line(error)}",
            hint=f"install the build of {lacking[0]} that belongs to the installed torch ({_install(lacking[0])}), or "
            + _TEXT,
        )
    return InputError(
        f"{where}: names images, but the processor of {model} cannot be loaded: {first_line(error)}",
        hint=f"fetch preprocessor_config.json and the like with the model, or {_TEXT}",
    )


def _lacking(error: BaseException | None) -> list[str]:
    """The libraries that are not installed and that an error, or what it came from, is about.

    transformers says of a class whose module does not import no more than that its requirements are not met.
    """
    said = ""
    unmet = False
    while error is not None:
        said += str(error).lower()
        unmet = unmet or "requirements" in str(error)
        error = error.__cause__ or error.__context__
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    return [name for name in missing if name in said] or (missing[:1] if unmet else [])


def _install(library: str) -> str:
    """torchvision's release for a release of torch: 0.N+15 for 2.N."""
    import torch

    if library != "torchvision":
        return f"pip install {library}"
    minor = int(torch.__version__.split(".")[1])
    return f"pip install --no-deps torchvision==0.{minor + 15}.*"


def templated(processor: Any) -> Any:
    """What holds the chat template: the processor, or its tokenizer alone in older models."""
    return processor if processor.chat_template else processor.tokenizer


class Inputs(NamedTuple):
    """What goes through the model at once (tensors by the names of its arguments), and what of it are images."""

    tensors: dict[str, Any]
    images: int = 0
    image_tokens: int = 0

    @property
    def tokens(self) -> int:
        return int(self.tensors["input_ids"].numel())


def inputs_of(placed: Placed, processor: Any) -> Inputs:
    """A conversation, or a text, as the model's arguments: a batch of one, nothing padded and nothing cut.

    Raises InputError, naming where it stands, for an image that is cut short, and for what template or processor do
    not take.
    """
    if "messages" not in placed.document:
        text, paths = placed.document["text"], []
    else:
        messages = placed.document["messages"]
        text, paths = rendered(messages, templated(processor), placed.where), image_paths(messages)
    pictures = [images.opened(path, placed.where) for path in paths]
    options = {"add_special_tokens": False} if "messages" in placed.document else {}
    try:
        found = dict(processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt", **options))
    except Exception as error:  # processors raise what they like
        raise InputError(
            f"{placed.where}: the model's processor does not take it: {first_line(error)}",
            hint="change its images or their number, or leave it out",
        ) from error
    found.pop("labels", None)  # PaliGemma's are for training
    ids = found["input_ids"]
    of_images = sum(int((ids == one).sum()) for one in set(processor.image_token_ids) - {None})
    if pictures and not of_images and any(one is not None for one in processor.image_token_ids):
        raise InputError(
            f"{placed.where}: no token of an image is among its {ids.numel()} tokens, so the images would be lost",
            hint="correct the model's chat template or its processor's image_token",
        )
    return Inputs(found, len(pictures), of_images)


class Drawn(NamedTuple):
    """The conversations of a source that were drawn, and how many were passed over because they are too long."""

    inputs: list[Inputs]
    too_long: int


def drawn_inputs(source: Source, calibration: Calibration, count: int, processor: Any) -> Drawn:
    """The first `count` conversations of a local file, in the order of the seed, that are not too long.

    One of more than `max_sequence_length` tokens is passed over: cut, it would hold a part of an image's tokens. Raises
    InputError if none is left.
    """
    path = calibration_data.local_file(source)
    assert path is not None  # hub data sets name no files
    found: list[Inputs] = []
    shortest, too_long = 0, 0
    for placed in calibration_data.drawn(path, calibration.seed):
        if len(found) == count:
            break
        made = inputs_of(placed, processor)
        if made.tokens <= calibration.max_sequence_length:
            found.append(made)
        else:
            too_long += 1
            shortest = min(shortest or made.tokens, made.tokens)
    if not found:
        raise InputError(
            f"{path}: every conversation is longer than {calibration.max_sequence_length} tokens (the shortest has "
            f"{shortest}), and images cannot be cut",
            hint=f"raise calibration.max_sequence_length to {shortest} or more, or make the images smaller",
        )
    return Drawn(found, too_long)


def calibration_inputs(calibration: Calibration, processor: Any) -> tuple[list[dict[str, Any]], Calibrated]:
    """The batches of data with images, and what the manifest says of them.

    Files that name images give a conversation at a time. Of a mixture's other sources the sequences are packed, and
    all are spread evenly over the whole. Raises InputError if a source gives nothing.
    """
    counts = calibration_data.shares(calibration.samples, [source.weight for source in calibration.sources])
    placed: list[tuple[float, Inputs]] = []
    about, too_long, conversations = [], 0, 0
    for source, count in zip(calibration.sources, counts, strict=True):
        path = calibration_data.local_file(source)
        if path and calibration_data.images_of(path):
            drawn = drawn_inputs(source, calibration, count, processor)
            found, too_long = drawn.inputs, too_long + drawn.too_long
            conversations += len(found)
            sequences = len(found)
        else:
            packed = calibration_data.sequences_of(source, processor.tokenizer, calibration, count)
            found, sequences = _of_texts(packed, calibration.batch_size), len(packed)
        placed += [((number + 0.5) / len(found), one) for number, one in enumerate(found)]
        about.append(Filled(dataset=source.dataset, requested_sequences=count, sequences=sequences))
    inputs = [one for _, one in sorted(placed, key=lambda item: item[0])]
    return alike([one.tensors for one in inputs]), _about(inputs, about, conversations, too_long)


def _of_texts(sequences: list[list[int]], batch_size: int) -> list[Inputs]:
    import torch

    ids = torch.tensor(sequences).split(batch_size)
    return [Inputs({"input_ids": rows, "attention_mask": torch.ones_like(rows)}) for rows in ids]


def _about(inputs: list[Inputs], sources: list[Filled], conversations: int, too_long: int) -> Calibrated:
    digests = [digest for one in inputs for digest in _digests(one)]
    return Calibrated(
        sources=sources,
        sequences=sum(source.sequences for source in sources),
        distinct_sequences=len(set(digests)),
        sequence_length=max(one.tensors["input_ids"].shape[1] for one in inputs),
        tokens=sum(one.tokens for one in inputs),
        fingerprint=sha256_json(digests),
        images=CalibrationImages(
            conversations=conversations,
            images=sum(one.images for one in inputs),
            tokens=sum(one.image_tokens for one in inputs),
            too_long=too_long,
        ),
    )


def _digests(one: Inputs) -> list[str]:
    """Of each sequence, with the pixels that belong to it."""
    others = {name: tensor for name, tensor in sorted(one.tensors.items()) if name != "input_ids" and one.images}
    pixels = b"".join(tensor.numpy().tobytes() for tensor in others.values() if hasattr(tensor, "numpy"))
    return [hashlib.sha256(row.numpy().tobytes() + pixels).hexdigest() for row in one.tensors["input_ids"]]


def alike(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with every argument in each: llmcompressor follows the model once, with the arguments of the first one.

    A batch without images has None where others have pixels, and zeros where others say of each token what it is. The
    first batch with pixels comes first.
    """
    import torch

    first = next(batch for batch in batches if len(batch) == max(map(len, batches)))
    ordered = [first, *(batch for batch in batches if batch is not first)]
    names = dict.fromkeys(name for batch in ordered for name in batch)
    per_token = {name for name in names if name in first and first[name].shape == first["input_ids"].shape}
    return [
        {
            name: batch[name] if name in batch else torch.zeros_like(batch["input_ids"]) if name in per_token else None
            for name in names
        }
        for batch in ordered
    ]


@contextmanager
def explained(model: Any, with_images: bool) -> Iterator[None]:
    """Says of a failure of llmcompressor's beside images that text may go through."""
    try:
        yield
    except QuantpressError:
        raise
    except Exception as error:
        if not with_images:
            raise
        raise StageError(
            f"llmcompressor failed on {type(model).__name__} with images: {type(error).__name__}: {one_line(error)}",
            hint=f"read the log; if it could not follow the model, {_TEXT}",
        ) from error
