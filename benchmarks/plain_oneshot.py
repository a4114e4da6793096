"""The ten-line script that quantize is measured against: llmcompressor called by hand with the same settings.

python benchmarks/plain_oneshot.py RECIPE MODEL_FOLDER OUTPUT_FOLDER      (RECIPE: rtn-w4a16 or gptq-w4a16)
"""

import json
import random
import sys
from pathlib import Path

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES, LENGTH, BATCH = 16, 512, 8

recipe, model_folder, output = sys.argv[1:]
groups = {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 64}}
modifier = {"rtn-w4a16": QuantizationModifier, "gptq-w4a16": GPTQModifier}[recipe]
tokenizer = AutoTokenizer.from_pretrained(model_folder)
data = None
if recipe == "gptq-w4a16":
    torch.manual_seed(42)
    chats = Path(__file__).parents[1] / "recipes" / "calibration" / "chat.jsonl"
    documents = [json.loads(line)["messages"] for line in chats.read_text().splitlines()]
    random.Random(42).shuffle(documents)
    tokens: list[int] = []
    for messages in documents:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        tokens += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(tokens) >= SAMPLES * LENGTH:
            break
    ids = torch.tensor(tokens[: SAMPLES * LENGTH]).view(SAMPLES, LENGTH)
    items = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    data = DataLoader(items, batch_size=BATCH, shuffle=False)
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto")
oneshot(
    model=model,
    processor=tokenizer,
    recipe=[modifier(config_groups={"group_0": groups}, ignore=["lm_head"])],
    dataset=data,
    output_dir=output,
)
