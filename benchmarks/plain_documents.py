"""What one writes with llmcompressor alone: the documents one by one, each at its own length, batch size 1.

python benchmarks/plain_documents.py RECIPE SAMPLES MODEL_FOLDER OUTPUT_FOLDER

The modifiers are those of the shipped recipe, and the documents end at the token where SAMPLES packed sequences of 512
would: only the way the data is fed differs from quantpress.
"""

import sys
from pathlib import Path

import torch
from llmcompressor import oneshot
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantpress.model.source import find_model
from quantpress.plan.resolve import plan_of
from quantpress.quantize import calibration_data
from quantpress.quantize.oneshot_worker import pin_memory_only_with_an_accelerator
from quantpress.quantize.to_llmcompressor import modifiers_of
from quantpress.recipe.loading import load_recipe

name, samples, model_folder, output = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
plan = plan_of(load_recipe(name), find_model(model_folder))
calibration = plan.recipe.calibration
assert calibration is not None
pin_memory_only_with_an_accelerator()
torch.manual_seed(calibration.seed)
tokenizer = AutoTokenizer.from_pretrained(model_folder)
budget = samples * calibration.max_sequence_length
items = []
for document in calibration_data.documents(calibration.sources[0], calibration.seed):
    ids = torch.tensor(calibration_data.tokens_of(document, tokenizer)[:budget])
    budget -= len(ids)
    items.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    if budget <= 0:
        break
print(f"{len(items)} documents, {sum(len(item['input_ids']) for item in items)} tokens")
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto")
oneshot(
    model=model,
    processor=tokenizer,
    recipe=modifiers_of(plan.recipe, model),
    dataset=DataLoader(items, batch_size=1, shuffle=False),
    output_dir=output,
)
Path(output, "recipe.yaml").unlink(missing_ok=True)
