"""The oneshot stage's heavy half: recipe -> llmcompressor's modifiers -> oneshot -> compressed-tensors checkpoint."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from quantpress.artifact.manifest import Calibrated
from quantpress.errors import InputError, StageError, listed
from quantpress.model.whole_model_worker import keep_expert_names, loaded_model, remote_code_explained
from quantpress.plan.products_worker import float32_products
from quantpress.quantize import calibration_data, remarks, several_worker, weights_on_disk_worker
from quantpress.quantize.expert_tokens import ExpertCounter
from quantpress.quantize.going_on_worker import Keeper, origin_of
from quantpress.quantize.image_inputs_worker import calibration_inputs, explained, loaded_processor
from quantpress.quantize.to_llmcompressor import modifiers_of
from quantpress.quantize.workers import ONESHOT, OneshotJob, OneshotResult
from quantpress.recipe.recipe import Calibration, Recipe
from quantpress.runtime import digests, worker


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


def calibration_loader(calibration: Calibration, tokenizer: Any, job: OneshotJob) -> tuple[Any, Calibrated]:
    """A DataLoader over this process's packed sequences in fixed order, and what the manifest says of all of them.

    Where files name images, it is over what the model's processor makes of the conversations, one by one.
    """
    import torch
    from torch.utils.data import DataLoader

    if where := calibration_data.first_image(calibration):
        processor = loaded_processor(job.common.model, job.common.trust_remote_code, where)
        batches, with_images = calibration_inputs(calibration, processor)
        return DataLoader(several_worker.share(batches), batch_size=None, shuffle=False), with_images

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
    return DataLoader(several_worker.share(items), batch_size=calibration.batch_size, shuffle=False), about


def require_all_loaded(model: Any, missing: list[str]) -> None:
    """Raises InputError for weights that the files lack: transformers would make them up, with a line in its log."""
    if missing:
        raise InputError(
            f"{type(model).__name__} needs {len(missing)} tensors that the model's files do not hold: "
            f"{listed(missing)}",
            hint="fetch the model again; its config must be that of its weights, and experts that were dequantized one "
            "by one must be so in the model's own files",
        )


def require_finite(model: Any, layers: Collection[str]) -> list[str]:
    """Raises InputError naming the layers to quantize whose weights hold NaN or infinity; warns of other tensors."""
    import torch

    numbers = ((name, tensor) for name, tensor in weights_on_disk_worker.parameters(model) if tensor.numel())
    broken = [name for name, tensor in numbers if not torch.stack(tensor.aminmax()).isfinite().all()]
    return said_of_broken(broken, layers)


def said_of_broken(broken: Sequence[str], layers: Collection[str]) -> list[str]:
    """What to say of tensors that hold NaN or infinity; raises InputError if one belongs to a layer to quantize."""
    if touched := [name for name in broken if name.rpartition(".")[0] in layers]:
        raise InputError(
            f"{len(touched)} tensors of layers that are to be quantized hold NaN or infinity: {listed(touched)}",
            hint="fetch the model again; if its publisher made it so, add these layers to `ignore`",
        )
    if not broken:
        return []
    return [
        f"{len(broken)} tensors of the model hold NaN or infinity ({listed(broken)}): they are kept as they "
        "are, and what the model answers may be nothing"
    ]


def calibrates_all_experts(recipe: Recipe) -> bool:
    """Whether each expert computes with all calibration tokens: llmcompressor's default, unless the recipe says no."""
    return recipe.calibration is None or recipe.calibration.all_experts is not False


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
    do_without_scikit_learn()
    with several_worker.joined(), ThreadPoolExecutor(1) as hashing:
        if job.digest_cache is None or worker.rank():
            return quantize(job)
        return quantize(job, hashing.submit(digests.cached_sha256, job.deciding_files, job.digest_cache))


def quantize(job: OneshotJob, hashed: Future[dict[Path, str]] | None = None) -> OneshotResult:
    """Writes the checkpoint; `hashed` are the digests of the model's files, without which no block is kept.

    Raises InputError for a model that needs code of its own and may not run it, or for data that cannot be used;
    StageError if llmcompressor left something out.
    """
    do_without_scikit_learn()
    import torch
    from llmcompressor import oneshot
    from llmcompressor.core import active_session
    from llmcompressor.modeling.moe.linearize import linearize_moe
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
    data, about = calibration_loader(recipe.calibration, tokenizer, job) if recipe.calibration else (None, None)
    with several_worker.loading(weights_on_disk_worker.loading(job.offload)) as options:
        model, missing = loaded_model(source, trust, dtype="auto", **options)
    require_all_loaded(model, missing)
    weights_on_disk_worker.settle(model)
    keep_expert_names(model)

    # The work itself; what llmcompressor warns of meanwhile is kept.
    modifiers = modifiers_of(recipe, model)
    linearize_moe(model)  # as oneshot would: so each expert has its name, and can be counted
    warnings = require_finite(model, set(job.layers))
    counter, all_experts = ExpertCounter(model), calibrates_all_experts(recipe)
    set_aside = set_aside_invalid_generation_config(model)
    said: list[str] = []
    logger.add(said.append, level="DEBUG", format="{message}", filter=remarks.is_kept)
    with_images = bool(about and about.images)
    keeper = None
    if job.keep and hashed:
        origin = partial(origin_of, job.keep, job.common.model, hashed)
        keeper = Keeper(job.keep.folder, origin, said, {"seen": counter.seen, "routed": counter.routed})
    keeping = keeper.installed() if keeper else nullcontext()
    exact = float32_products(job.compute_dtype == "float32")
    with exact, explained(model, with_images), keeping, several_worker.in_step():
        oneshot(
            model=model,
            processor=tokenizer,
            recipe=modifiers,
            dataset=data,
            output_dir=str(job.common.output),
            trust_remote_code_model=trust,
            moe_calibrate_all_experts=all_experts,
        )
    if set_aside:
        (job.common.output / "generation_config.json").unlink(missing_ok=True)
    ran = len(active_session().lifecycle.recipe.modifiers)
    if ran != len(modifiers):
        raise StageError(f"llmcompressor ran {ran} modifiers of {len(modifiers)}", hint="report this with the log")
    note = f"{about.tokens} calibration tokens" if about else "no calibration data needed"
    if about and about.images:
        note += f", {about.images.tokens} of {about.images.images} images"
    if keeper and keeper.left_out:
        note += f"; {keeper.left_out}, and was made anew"
    warnings += remarks.of_fallbacks(recipe, said) + remarks.of_llmcompressor(said)
    if about:
        about = about.model_copy(update={"experts": counter.counted(all_experts)})
        warnings += remarks.of_data(about, job.largest_input) + remarks.of_experts(about.experts)
    return OneshotResult(
        modifiers=[type(modifier).__name__ for modifier in modifiers],
        calibration=about,
        warnings=warnings,
        threads=torch.get_num_threads(),
        seconds_before=keeper.seconds_before if keeper else 0.0,
        note=note,
    )


if __name__ == "__main__":
    raise SystemExit(ONESHOT.main(quantize_and_hash))
