"""The oneshot stage's heavy half: recipe -> llmcompressor's modifiers -> oneshot -> compressed-tensors checkpoint."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from quantpress.artifact.manifest import Calibrated
from quantpress.errors import InputError, StageError
from quantpress.model.whole_model_worker import whole_model
from quantpress.plan.products_worker import float32_products
from quantpress.quantize import calibration_data
from quantpress.quantize.to_llmcompressor import modifiers_of
from quantpress.quantize.workers import ONESHOT, OneshotJob, OneshotResult
from quantpress.recipe.recipe import Calibration
from quantpress.runtime import digests


def do_without_scikit_learn() -> None:
    """Starts a second faster: transformers imports scikit-learn, and with it pandas and scipy, for assisted decoding.

    That is never used here. A None in sys.modules makes Python treat a module as not installed; must run first.
    """
    sys.modules["sklearn"] = None  # type: ignore[assignment]


def pin_memory_only_with_an_accelerator() -> None:
    """llmcompressor 0.13 to 0.14.0.1: AWQ pins cached activations unconditionally, and torch refuses without one.

    "Cannot access accelerator device when none is available", from IntermediatesCache.pin_memory. Pinning only speeds
    up copies to an accelerator, so without one it can do nothing.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None


@contextmanager
def remote_code_explained(model: str) -> Iterator[None]:
    """Turns transformers' refusal to run a model's own code into an error that names the option."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise InputError(
            f"{model} brings Python code of its own, which is not run",
            hint="read that code; if you trust it, add --trust-remote-code",
        ) from error


def calibration_loader(calibration: Calibration, tokenizer: Any) -> tuple[Any, Calibrated]:
    """A DataLoader over the packed sequences in fixed order, and what the manifest says of them."""
    import torch
    from torch.utils.data import DataLoader

    sequences, sources = calibration_data.packed(calibration, tokenizer)
    ids = torch.tensor(sequences)
    items = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    about = Calibrated(
        sources=sources,
        sequences=len(sequences),
        distinct_sequences=len({tuple(sequence) for sequence in sequences}),
        sequence_length=ids.shape[1],
        tokens=ids.numel(),
        fingerprint=hashlib.sha256(ids.numpy().tobytes()).hexdigest(),
    )
    return DataLoader(items, batch_size=calibration.batch_size, shuffle=False), about


def data_warnings(about: Calibrated, largest_input: int) -> list[str]:
    """What is wrong with the calibration data, each with its consequence."""
    warnings = [
        f"{source.dataset} fills {source.sequences} of {source.requested_sequences} sequences: "
        "the recipe calibrates on less data than it asks for"
        for source in about.sources
        if source.sequences < source.requested_sequences
    ]
    if about.tokens < largest_input:
        warnings.append(
            f"{about.tokens} calibration tokens are fewer than the {largest_input} input features of the widest "
            "layer: GPTQ's Hessian cannot have full rank there, and activation ranges are guesses"
        )
    if about.distinct_sequences < about.sequences / 2:
        warnings.append(
            f"only {about.distinct_sequences} of {about.sequences} calibration sequences are distinct: "
            "one document repeated teaches no more than once"
        )
    return warnings


_FALLBACK = re.compile(r"Hessian inversion failed for (\d+)/(\d+) modules.*Affected modules: (.*)", re.DOTALL)


def fallback_warnings(said: Sequence[str]) -> list[str]:
    """Of llmcompressor's own warnings: the layers that GPTQ gave up on, with the consequence."""
    found = [match for message in said if (match := _FALLBACK.search(message))]
    return [
        f"GPTQ could not invert the Hessians of {match[1]} of {match[2]} layers ({_shortened(match[3])}): these were "
        "rounded to nearest, without calibration; look for activations that overflow, raise gptq.dampening_frac, or "
        "calibrate on more data"
        for match in found
    ]


def _shortened(names: str) -> str:
    listed = names.strip().split(", ")
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def set_aside_invalid_generation_config(model: Any) -> bool:
    """Whether the model's generation config is one that transformers reads but refuses to write; it is then replaced,
    so that the work of hours is not lost, and the model's own file is kept as it is (account.keep_side_files)."""
    from transformers import GenerationConfig

    try:
        if model.generation_config is not None:
            model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig()
        return True
    return False


def quantize_and_hash(job: OneshotJob) -> OneshotResult:
    """Quantizes, and meanwhile reads the digests of the model's files, which the caller finds in the cache afterwards.

    Hashing 16 GB takes seconds that would otherwise be spent before the start; while this process imports its
    libraries and loads the weights a core has little to do.
    """
    with ThreadPoolExecutor(1) as hashing:
        if job.digest_cache:
            hashing.submit(digests.cached_sha256, job.deciding_files, job.digest_cache)
        return quantize(job)


def quantize(job: OneshotJob) -> OneshotResult:
    """Writes the checkpoint.

    Raises InputError for a model that needs code of its own and may not run it, or for data that cannot be used;
    StageError if llmcompressor left something out.
    """
    do_without_scikit_learn()
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import active_session
    from loguru import logger
    from transformers import AutoConfig, AutoTokenizer

    # Nothing of the process decides the result: the seed is the recipe's.
    recipe, source, trust = job.common.recipe, str(job.common.model), job.common.trust_remote_code
    pin_memory_only_with_an_accelerator()
    torch.manual_seed(recipe.calibration.seed if recipe.calibration else 0)

    # Data before the model: wrong data is said before the weights are loaded.
    with remote_code_explained(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
        AutoConfig.from_pretrained(source, trust_remote_code=trust)
    data, about = calibration_loader(recipe.calibration, tokenizer) if recipe.calibration else (None, None)
    model = whole_model(source, trust, dtype="auto")

    # The work itself; what llmcompressor warns of meanwhile is kept.
    modifiers = modifiers_of(recipe, model)
    set_aside = set_aside_invalid_generation_config(model)
    said: list[str] = []
    logger.add(said.append, level="WARNING", format="{message}")
    with float32_products(job.compute_dtype == "float32"):
        oneshot(
            model=model,
            processor=tokenizer,
            recipe=modifiers,
            dataset=data,
            output_dir=str(job.common.output),
            trust_remote_code_model=trust,
        )
    if set_aside:
        (job.common.output / "generation_config.json").unlink(missing_ok=True)
    ran = len(active_session().lifecycle.recipe.modifiers)
    if ran != len(modifiers):
        raise StageError(f"llmcompressor ran {ran} modifiers of {len(modifiers)}", hint="report this with the log")
    note = f"{about.tokens} calibration tokens" if about else "no calibration data needed"
    return OneshotResult(
        modifiers=[type(modifier).__name__ for modifier in modifiers],
        calibration=about,
        warnings=(data_warnings(about, job.largest_input) if about else []) + fallback_warnings(said),
        threads=torch.get_num_threads(),
        note=note,
    )


if __name__ == "__main__":
    raise SystemExit(ONESHOT.main(quantize_and_hash))
