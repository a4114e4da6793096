"""GPTQ by GPTQModel, on given token ids, with its own defaults: with_gptqmodel.py MODEL TOKENS GROUP_SIZE OUTPUT."""

import json
import os
import sys
from pathlib import Path

# Its default on two cores is one worker, and then it does not start ("requests 2 workers but parent 'cpu' only has 1").
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

from gptqmodel import GPTQConfig, GPTQModel

model_folder, tokens, group_size, output = sys.argv[1:]
sequences = json.loads(Path(tokens).read_text())
model = GPTQModel.load(model_folder, GPTQConfig(bits=4, group_size=int(group_size)))
model.quantize([{"input_ids": sequence, "attention_mask": [1] * len(sequence)} for sequence in sequences])
model.save(output)
