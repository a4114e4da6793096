"""GPTQ by a plain llmcompressor script, on given token ids, with its own defaults:

with_llmcompressor.py MODEL TOKENS GROUP_SIZE OUTPUT
"""

import json
import sys
from pathlib import Path

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

model_folder, tokens, group_size, output = sys.argv[1:]
ids = torch.tensor(json.loads(Path(tokens).read_text()))
items = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
weights = {"num_bits": 4, "strategy": "group", "group_size": int(group_size)}
groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
oneshot(
    model=AutoModelForCausalLM.from_pretrained(model_folder, dtype="auto"),
    processor=AutoTokenizer.from_pretrained(model_folder),
    recipe=[GPTQModifier(config_groups=groups, ignore=["lm_head"])],
    dataset=DataLoader(items, batch_size=1, shuffle=False),
    output_dir=output,
)
