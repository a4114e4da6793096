"""Families of models: each made small and random, planned, quantized twice, and asked in vLLM.

    make bench-families ARGS="--only llama,qwen3"        (a minute for each; the other rows stay)

Writes docs/reference/models.md. `--out FOLDER` is kept: a model that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/models.md"
ROWS = ROOT / "docs/reference/models.json"
VLLM = ROOT / ".venv-vllm/bin/python"
TEXT: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "head_dim": 32,
    "pad_token_id": 2,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
PLAIN = {key: value for key, value in TEXT.items() if key != "head_dim"}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
ROUTED = {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
SIGMOID = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # as published; vLLM asks the config
LINEAR = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
QWEN_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128}
QWEN_TOKENS = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
MROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
LATENT = {
    "q_lora_rank": 64,
    "kv_lora_rank": 512,  # 576 with the next: what vLLM's attention has a kernel for
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
}


@dataclass(frozen=True)
class Family:
    """How a small model of the family is made; `extra` is the prefix of tensors that are added for speculation."""

    kind: str
    settings: dict[str, Any]
    model_class: str | None = None
    speculative: bool = False


MAMBA = {"mamba_d_state": 16, "mamba_n_groups": 1, "mamba_expand": 2, "mamba_d_conv": 4}
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", TEXT),
    "mistral": Family("mistral", TEXT),
    "qwen2": Family("qwen2", PLAIN),
    "qwen3": Family("qwen3", TEXT),
    "gemma2": Family("gemma2", {**TEXT, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}),
    "phi3": Family("phi3", PLAIN),
    "granite": Family("granite", PLAIN),
    "olmo2": Family("olmo2", PLAIN),
    "cohere": Family("cohere", PLAIN),
    "smollm3": Family("smollm3", PLAIN),
    "exaone4": Family("exaone4", PLAIN),
    "opt": Family("opt", {**PLAIN, "ffn_dim": 256, "word_embed_proj_dim": 128, "init_std": 0.1}),
    "lfm2": Family(
        "lfm2",
        {
            **PLAIN,
            "tie_word_embeddings": True,  # vLLM's class always ties them
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "conv_dim": 128,
            "block_dim": 128,
        },
    ),
    "mixtral": Family("mixtral", {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": Family("qwen3_moe", {**TEXT, **EXPERTS, "num_experts": 4, "mlp_only_layers": []}),
    "gpt_oss": Family("gpt_oss", {**TEXT, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": Family(
        "glm4_moe", {**TEXT, **ROUTED, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1}, speculative=True
    ),
    "deepseek_v3": Family("deepseek_v3", {**PLAIN, **ROUTED, **LATENT, "num_key_value_heads": 4, **SIGMOID}),
    "granitemoehybrid": Family(
        "granitemoehybrid",
        {
            **PLAIN,
            **MAMBA,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 128,
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 32,
        },
    ),
    "nemotron_h": Family(
        "nemotron_h",
        {
            **TEXT,
            **ROUTED,
            "layers_block_type": ["mamba", "attention", "moe", "mlp"],
            "num_hidden_layers": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 16,
            "n_groups": 2,
            "conv_kernel": 4,
            "moe_shared_expert_intermediate_size": 64,
        },
    ),
    "qwen3_next": Family(
        "qwen3_next",
        {**TEXT, **EXPERTS, **LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 64, "mlp_only_layers": []},
    ),
    "qwen3_5": Family(
        "qwen3_5",
        {
            **QWEN_TOKENS,
            "tie_word_embeddings": False,
            "text_config": {**TEXT, **LINEAR, "mtp_num_hidden_layers": 1},
            "vision_config": {**QWEN_VISION, "patch_size": 16, "num_position_embeddings": 16},
        },
        "Qwen3_5ForConditionalGeneration",
        speculative=True,
    ),
    "qwen2_5_vl": Family(
        "qwen2_5_vl",
        {
            **QWEN_TOKENS,
            "tie_word_embeddings": False,
            "text_config": {**PLAIN, "rope_parameters": MROPE},
            "vision_config": {**QWEN_VISION, "patch_size": 14, "fullatt_block_indexes": [1]},
        },
        "Qwen2_5_VLForConditionalGeneration",
    ),
    "qwen3_vl": Family(
        "qwen3_vl",
        {
            **QWEN_TOKENS,
            "tie_word_embeddings": False,
            "text_config": {**TEXT, "rope_parameters": MROPE},
            "vision_config": {**QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        },
        "Qwen3VLForConditionalGeneration",
    ),
    "llama4": Family(
        "llama4",
        {
            "image_token_index": 4,
            "boi_token_index": 5,
            "eoi_token_index": 6,
            "tie_word_embeddings": False,
            "text_config": {
                **TEXT,
                "intermediate_size_mlp": 256,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 512,
            },
            "vision_config": {
                **VISION,
                "intermediate_size": 256,
                "image_size": 56,
                "patch_size": 14,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "vision_output_dim": 64,
            },
        },
        "Llama4ForConditionalGeneration",
    ),
    "gemma3": Family(
        "gemma3",
        {
            "mm_tokens_per_image": 4,
            "boi_token_index": 5,
            "eoi_token_index": 6,
            "image_token_index": 4,
            "text_config": {**TEXT, **SLIDING, "query_pre_attn_scalar": 32},
            "vision_config": {**VISION, "image_size": 56, "patch_size": 14, "vision_use_head": False},
        },
        "Gemma3ForConditionalGeneration",
    ),
    "gemma4": Family(
        "gemma4",
        {
            "audio_config": None,
            "image_token_id": 4,
            "boi_token_id": 5,
            "eoi_token_id": 6,
            "text_config": {
                **TEXT,
                **SLIDING,
                "vocab_size_per_layer_input": 49152,
                "hidden_size_per_layer_input": 32,
                "num_kv_shared_layers": 0,
                "global_head_dim": 32,
            },
            "vision_config": {**VISION, "num_key_value_heads": 4, "head_dim": 16, "patch_size": 14},
        },
        "Gemma4ForConditionalGeneration",
    ),
}
RECIPES = {
    "data-free": """
name: data-free
description: 8-bit weights and activations, rounded.
modifiers:
  - rtn: {scheme: W8A8}
""",
    "calibrated": """
name: calibrated
description: 4-bit weights with GPTQ.
modifiers:
  - gptq: {scheme: W4A16, group_size: 32}
calibration: {samples: 8, max_sequence_length: 128}
""",
}
TOKENS = 96  # of the text that is asked about, in windows of 48
APART = "NOT THE SAME"
BOUND = 0.1  # nats a token: mean distance of vLLM's log-likelihoods from transformers', of one and the same checkpoint


def make(name: str, folder: Path, tokenizer: Path) -> None:
    """A small model with random weights, in bf16."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    family = FAMILIES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family.kind, **family.settings)
    if family.model_class:
        model = getattr(transformers, family.model_class)(config).to(torch.bfloat16)
    else:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    if family.speculative:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        last = f".layers.{config.get_text_config().num_hidden_layers - 1}."
        extra = {
            ("mtp" + one[one.index(".layers.") :]).replace(last, ".layers.0.")
            if family.model_class
            else one.replace(last, f".layers.{config.num_hidden_layers}."): tensor.clone()
            for one, tensor in tensors.items()
            if last in one and "visual" not in one
        }
        save_file(tensors | extra, path, metadata={"format": "pt"})


def quantize(model: Path, recipe: str, out: Path) -> tuple[Path | None, str]:
    """The checkpoint, or the reason why there is none."""
    (out / f"{recipe}.yaml").write_text(RECIPES[recipe])
    command = [sys.executable, "-m", "quantpress", "quantize", str(out / f"{recipe}.yaml"), "--model", str(model)]
    done = subprocess.run(
        [*command, "--out", str(out / "artifacts"), "--target", "any"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None, next((line for line in done.stderr.splitlines() if line.startswith("error")), "no reason given")
    return out / "artifacts" / model.name / recipe / "checkpoint", "yes"


def by_transformers(
    folders: list[Path], dtype: str = "auto"
) -> tuple[list[list[int]], dict[str, list[list[float]] | str]]:
    """Windows of tokens, and each checkpoint's log-likelihoods of them, or why transformers cannot load it."""
    from transformers import AutoTokenizer

    from quantpress.errors import StageError
    from quantpress.model.whole_model_worker import whole_model
    from quantpress_serve.bench import likelihood_worker

    found: dict[str, list[list[float]] | str] = {}
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        try:
            answer = likelihood_worker.of_model(whole_model(folder, False, dtype=dtype), tokenizer, TOKENS // 2)
        except StageError as error:
            found[str(folder)] = error.message.replace(f" {folder}", "")
            continue
        windows = answer.windows[:2]
        found[str(folder)] = [[one or 0.0 for one in row] for row in answer.likelihoods[:2]]
    return windows, found


def by_vllm(
    folders: list[Path], windows: list[list[int]], dtype: str = "auto", eager: bool = True
) -> dict[str, dict[str, Any]]:
    """What vLLM says of each folder; a process that dies takes the folders after it along, which are asked anew.
    Eager, it runs its own operators (quantpress serves so on CPUs); compiled, torch's."""
    found: dict[str, dict[str, Any]] = {}
    rest = [str(folder) for folder in folders]
    while rest:
        asked = json.dumps({"windows": windows, "folders": rest, "dtype": dtype, "eager": eager})
        script = Path(__file__).with_name("answer_in_vllm.py")
        done = subprocess.run(
            [str(VLLM), str(script), asked],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env=_environment(),
        )
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"folder"')]
        found |= {answer["folder"]: answer for answer in answers}
        if len(answers) < len(rest):
            last = next((line for line in reversed(done.stderr.splitlines()) if "Error" in line), "died")
            found[rest[len(answers)]] = {"error": last.strip()[:400]}
        rest = rest[len(answers) + 1 :]
    return found


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def row_of(name: str, out: Path, tokenizer: Path) -> dict[str, str]:
    """One family through all of it."""
    model = out / name
    if not model.exists():
        make(name, model, tokenizer)
    row: dict[str, str] = {}
    folders = {"original": model}
    for recipe in RECIPES:
        checkpoint, row[recipe] = quantize(model, recipe, out)
        if checkpoint:
            folders[recipe] = checkpoint
    windows, scored = by_transformers(list(folders.values()))
    served = by_vllm(list(folders.values()), windows)
    for what, folder in folders.items():
        row[f"{what} in vLLM"] = _agreement(scored[str(folder)], served[str(folder)])
        if row[f"{what} in vLLM"].startswith(APART):
            row[f"{what} in vLLM"] += f"; in 32 bits {_in_32_bits(folder)}"
            compiled = by_vllm([folder], windows, eager=False)
            row[f"{what} in vLLM"] += f"; compiled {_agreement(scored[str(folder)], compiled[str(folder)])}"
    return row


def _in_32_bits(folder: Path) -> str:
    """Whether it is the rounding to 16 bits that sets the two apart, which a router's choices make large."""
    windows, scored = by_transformers([folder], "float32")
    return _agreement(scored[str(folder)], by_vllm([folder], windows, "float32")[str(folder)])


def _agreement(scored: list[list[float]] | str, answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"no: {answer['error']}"
    if isinstance(scored, str):
        return f"loads and answers; not compared: {scored}"
    pairs = [
        abs(ours - theirs)
        for mine, other in zip(scored, answer["likelihoods"], strict=True)
        for ours, theirs in zip(mine, other, strict=True)
    ]
    mean = sum(pairs) / len(pairs)
    return f"{'yes' if mean <= BOUND else APART}: {mean:.3f} nats a token apart, {max(pairs):.2f} at most"


def table(rows: dict[str, dict[str, str]]) -> Iterator[str]:
    """The page's lines."""
    columns = ["data-free", "calibrated", "original in vLLM", "data-free in vLLM", "calibrated in vLLM"]
    yield "| family | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in sorted(rows):
        cells = [rows[name].get(column, "").replace("|", "\\|").replace("\n", " ") for column in columns]
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def main() -> None:
    from quantpress.model.source import find_model

    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=Path("artifacts/families"))
    options = parser.parse_args()
    tokenizer = find_model("embedded").path
    rows = json.loads(ROWS.read_text()) if ROWS.is_file() else {}
    for name in options.only.split(","):
        options.out.mkdir(parents=True, exist_ok=True)
        try:
            rows[name] = row_of(name, options.out, tokenizer)
        except Exception as error:
            rows[name] = {"data-free": f"no: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        shutil.rmtree(options.out / "artifacts" / name, ignore_errors=True)
        print(name, json.dumps(rows[name], indent=1), flush=True)
        ROWS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
        before = PAGE.read_text(encoding="utf-8").partition("<!-- families -->")[0]
        PAGE.write_text(before + "<!-- families -->\n\n" + "\n".join(table(rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
