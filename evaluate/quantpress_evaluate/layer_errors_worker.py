"""How well a checkpoint's decoder layers reproduce the model's, layer by layer.

For each decoder layer |quantized(x) - original(x)|^2 / |original(x) - x|^2, where x is what the unquantized model hands
to that layer (so that one layer's error does not carry over to the next, and the part of the output that merely passes
through does not hide the error). The tokens are 4 sequences of 512 from the end of the shipped chats, which calibration
with few samples does not reach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.errors import InputError
from quantpress.model.source import read_config
from quantpress.model.whole_model_worker import text_decoder, whole_model
from quantpress.quantize import calibration_data
from quantpress.recipe.recipe import Calibration
from quantpress_evaluate import workers
from quantpress_evaluate.workers import LayerErrorsJob, MeasuredLayers

SEQUENCES = 4
LENGTH = 512


def layer_errors(job: LayerErrorsJob) -> MeasuredLayers:
    """Both models are held in memory in 32 bits a weight."""
    import torch
    from transformers import CompressedTensorsConfig

    trust, format_of = job.trust_remote_code, read_config(job.checkpoint).get("quantization_config") or {}
    original = whole_model(job.model, trust, dtype=torch.float32)
    packed = format_of.get("quant_method") == "compressed-tensors"  # what was adopted may be of another format, or none
    unpacking = {"quantization_config": CompressedTensorsConfig(run_compressed=False)} if packed else {}
    quantized = whole_model(job.checkpoint, trust, dtype=torch.float32, **unpacking)
    errors: list[float] = []
    for layer, own in zip(_layers(original), _layers(quantized), strict=True):
        layer.register_forward_hook(_compare(own, errors), with_kwargs=True)
    ids = _tokens(job.model, job.trust_remote_code)
    with torch.inference_mode():
        original(input_ids=ids, use_cache=False)
    return MeasuredLayers(errors=errors, tokens=int(ids.numel()))


def _layers(model: Any) -> Any:
    """The text decoder's layers: its outermost list of modules."""
    import torch

    return next(module for module in text_decoder(model).modules() if isinstance(module, torch.nn.ModuleList))


def _compare(own: Any, errors: list[float]) -> Any:
    def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        change = _hidden(output) - args[0]
        error = (_hidden(own(*args, **kwargs)) - _hidden(output)).pow(2).sum() / change.pow(2).sum()
        errors.append(float(error))

    return hook


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _tokens(model: Path, trust: bool) -> Any:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=trust)
    (source,) = Calibration().sources
    held_out = list(calibration_data.documents(source, seed=42))[::-1]
    tokens: list[int] = []
    for document in held_out:
        tokens += calibration_data.tokens_of(document, tokenizer)
        if len(tokens) >= SEQUENCES * LENGTH:
            return torch.tensor(tokens[: SEQUENCES * LENGTH]).view(SEQUENCES, LENGTH)
    raise InputError(f"the shipped chats give {len(tokens)} tokens", hint=f"{SEQUENCES * LENGTH} are needed")


if __name__ == "__main__":
    raise SystemExit(workers.LAYER_ERRORS.main(layer_errors))
