"""A folder that vLLM serves with --load-format dummy: config.json with the quantization_config that a recipe makes.

The model is built on torch's meta device, where no tensor holds a number, and llmcompressor attaches its schemes to it
as it would before quantizing; compressed-tensors then writes what it finds. So it is written by the same code.
"""

from __future__ import annotations

from typing import Any

from quantpress.model import headers
from quantpress.model.structure import StructureJob
from quantpress.model.structure_worker import linearize, loaded_shapes
from quantpress.model.whole_model_worker import empty_model, keep_expert_names, remote_code_explained
from quantpress.quantize.oneshot_worker import do_without_scikit_learn
from quantpress.quantize.to_llmcompressor import modifiers_of
from quantpress.quantize.workers import SHAPES, RecipeJob
from quantpress.runtime.worker import Result


def write_config(job: RecipeJob) -> Result:
    """Writes config.json. Raises InputError for a model that needs code of its own and may not run it."""
    do_without_scikit_learn()
    attached_model(job)
    return Result()


def attached_model(job: RecipeJob, as_loaded: bool = False) -> tuple[Any, list[Any]]:
    """Writes config.json, and gives the model on the meta device, whose layers have their schemes, with the modifiers.

    With `as_loaded` it is what would be loaded from the model's files, so that it knows their names, with experts taken
    apart as `oneshot` does. Raises InputError for a model that needs code of its own and may not run it.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationStatus
    from llmcompressor.modifiers.quantization.quantization.mixin import QuantizationMixin
    from llmcompressor.transformers.compression.compressed_tensors_utils import resave_config
    from transformers import AutoConfig

    source, output, trust = str(job.model), str(job.output), job.trust_remote_code
    with remote_code_explained(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    if as_loaded:
        files = headers.read_folder(job.model)
        model, _ = loaded_shapes(StructureJob(folder=source, tensors=files, trust_remote_code=trust))
        keep_expert_names(model)
        linearize(model)
    else:
        model = empty_model(config, trust)
    model.config.save_pretrained(output)
    resave_config(model.config, output)  # as oneshot does: the model's own, which transformers would write otherwise
    modifiers = modifiers_of(job.recipe, model)
    for modifier in modifiers:
        if isinstance(modifier, QuantizationMixin):
            modifier.initialize_quantization(model)
    compressor = ModelCompressor.from_pretrained_model(model)
    if compressor.quantization_config is not None:
        compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    compressor.update_config(output)
    return model, modifiers


if __name__ == "__main__":
    raise SystemExit(SHAPES.main(write_config))
