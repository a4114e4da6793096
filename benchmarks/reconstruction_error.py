"""How well a checkpoint's decoder layers reproduce the model's, layer by layer.

    python benchmarks/reconstruction_error.py MODEL_FOLDER CHECKPOINT_FOLDER

Prints a JSON list: for each decoder layer |quantized(x) - original(x)|^2 / |original(x) - x|^2, where x is what the
unquantized model hands to that layer (so that one layer's error does not carry over to the next, and the part of the
output that merely passes through does not hide the error). The tokens are 4 sequences of 512 from the end of the
shipped chats, which calibration with few samples does not reach.
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from quantpress import calibration_data
from quantpress.recipe import Calibration

original_folder, checkpoint_folder = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(original_folder)
(source,) = Calibration().sources
held_out = list(calibration_data.documents(source, seed=42))[::-1]
tokens = [token for document in held_out for token in calibration_data.tokens_of(document, tokenizer)]
ids = torch.tensor(tokens[: 4 * 512]).view(4, 512)
original = AutoModelForCausalLM.from_pretrained(original_folder, dtype=torch.float32)
unpacked = CompressedTensorsConfig(run_compressed=False)
quantized = AutoModelForCausalLM.from_pretrained(checkpoint_folder, dtype=torch.float32, quantization_config=unpacked)
errors: list[float] = []


def hidden(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def compare(own: torch.nn.Module) -> Any:
    def hook(_: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        change = hidden(output) - args[0]
        errors.append(float((hidden(own(*args, **kwargs)) - hidden(output)).pow(2).sum() / change.pow(2).sum()))

    return hook


for layer, own in zip(original.model.layers, quantized.model.layers, strict=True):
    layer.register_forward_hook(compare(own), with_kwargs=True)
with torch.inference_mode():
    original(input_ids=ids, use_cache=False)
print(json.dumps(errors))
