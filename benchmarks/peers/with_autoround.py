"""AutoRound on given token ids: with_autoround.py MODEL TOKENS GROUP_SIZE OUTPUT [light]

With its own defaults (200 steps a layer), or those of its `auto-round-light` (50).
"""

import json
import sys
from pathlib import Path

import torch
from auto_round import AutoRound

model_folder, tokens, group_size, output, *mode = sys.argv[1:]
ids = torch.tensor(json.loads(Path(tokens).read_text()))
# A mask of its own: AutoRound would take the end-of-sequence tokens between packed documents for padding.
batches = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in ids]
AutoRound(
    model_folder,
    scheme="W4A16",
    group_size=int(group_size),
    dataset=batches,
    nsamples=len(ids),
    seqlen=ids.shape[1],
    **({"iters": 50, "lr": 5e-3} if mode == ["light"] else {}),
).quantize_and_save(output, format="auto_round")
(made,) = Path(output).iterdir()  # a folder in it, which is named after the model
for file in made.iterdir():
    file.rename(Path(output) / file.name)
made.rmdir()
