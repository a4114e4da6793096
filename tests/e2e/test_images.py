"""Image-text models calibrated on images: through their own processor, into the language model and nowhere else."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Run
from PIL import Image
from safetensors.numpy import save_file
from support import SMALL

from quantpress.errors import CapabilityError, InputError
from quantpress.model import headers
from quantpress.model.source import Model
from quantpress.quantize import stage
from quantpress.recipe.recipe import Calibration

pytestmark = pytest.mark.e2e
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<from>", "<to>", "<video>"]
WORDS = re.findall(r"\w+", "what is in this picture a red cat on the blue roof of an old house user assistant")
TEXT = SMALL | {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 16}
# A template that says <image>, or what the family's own says, in the place of each image.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content "
    "%}{{ 'IMAGE' if part.type == 'image' else part.text }} {% endfor %}{% endif %}</s> {% endfor %}"
)


def _tokenizer(folder: Path, shown: str, **named: str) -> None:
    """Whole words, with the special tokens that a processor asks its tokenizer for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate([*SPECIAL, "<unk>", *dict.fromkeys(WORDS)])}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    made.add_special_tokens(SPECIAL)
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **tokens, extra_special_tokens=named)
    fast.chat_template = TEMPLATE.replace("IMAGE", shown)
    fast.save_pretrained(folder)


def _gemma3(folder: Path) -> None:
    """Four tokens for every image, whatever its size."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = TEXT | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
    tower = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=text,
        vision_config=tower | {"image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        image_token_index=3,
        boi_token_index=4,
        eoi_token_index=5,
    )
    model = Gemma3ForConditionalGeneration(config).bfloat16()
    # transformers begins it with zeros, and then the language model sees nothing of an image.
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()
    model.save_pretrained(folder)
    _tokenizer(folder, "<from>", image_token="<image>", boi_token="<from>", eoi_token="<to>")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 56, "width": 56}}
    preprocessor = {"image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor", **half}
    _write(folder / "preprocessor_config.json", preprocessor)
    _write(folder / "processor_config.json", {"processor_class": "Gemma3Processor", "image_seq_length": 4})


def _qwen25vl(folder: Path) -> None:
    """As many tokens as an image is large, and a processor with a half for videos, which needs torchvision."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tower = {"depth": 1, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}
    text = {name: value for name, value in TEXT.items() if name != "head_dim"}
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        vision_config=tower | {"patch_size": 14, "fullatt_block_indexes": [0]},
        image_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
        video_token_id=6,
        tie_word_embeddings=False,
    )
    Qwen2_5_VLForConditionalGeneration(config).bfloat16().save_pretrained(folder)
    _tokenizer(folder, "<from> <image> <to>", image_token="<image>", video_token="<video>")
    sizes = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    sizes |= {"size": {"shortest_edge": 3136, "longest_edge": 12544}}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    _write(folder / "preprocessor_config.json", kinds | sizes)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    import torch

    torch.manual_seed(0)
    make(folder)
    return folder


def _data(folder: Path, seed: int, conversations: int = 6) -> Path:
    """Conversations with one or two images each, but for one without, and one that is too long. Only the pixels hang on
    the seed."""
    folder.mkdir()
    rows = []
    for number in range(conversations):
        names = [f"{number}-{each}.png" for each in range(0 if number == 2 else 1 + number % 2)]
        for each, name in enumerate(names):
            blocks = numpy.random.default_rng(seed + 10 * number + each).integers(0, 255, (5, 7, 3), dtype="uint8")
            Image.fromarray(blocks.repeat(12, axis=0).repeat(12, axis=1)).save(folder / name)
        parts = [*({"type": "image", "path": name} for name in names), {"type": "text", "text": "what is in this"}]
        answer = " ".join(WORDS * (20 if number == 4 else 1))
        rows.append([{"role": "user", "content": parts}, {"role": "assistant", "content": answer}])
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


def _scales(checkpoint: Path) -> dict[str, float]:
    """The static scale of each layer's input."""
    from safetensors.torch import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    return {name: float(value) for name, value in tensors.items() if name.endswith("input_scale")}


def test_pixels_reach_the_language_model_and_the_tower_stays_as_it_is(tmp_path: Path, real: Run) -> None:
    """The same words beside images of the same size: whatever differs comes from the pixels."""
    model = _made(tmp_path / "gemma3", _gemma3)
    scales = []
    for seed in (1, 1000):
        data, out = _data(tmp_path / str(seed), seed), tmp_path / f"out-{seed}"
        settings = ("calibration.samples=8", "calibration.max_sequence_length=128", f"calibration.dataset={data}")
        options = [word for setting in settings for word in ("--set", setting)]
        done = real("quantize", "fp8-static", *options, "--model", str(model), "--out", str(out), "--json")
        made = json.loads(done.stdout)
        assert made["calibration"]["images"] == {"conversations": 5, "images": 7, "tokens": 28, "too_long": 1}
        assert any("1 conversations of the calibration data are longer" in warning for warning in made["warnings"])
        checkpoint = out / "gemma3" / "fp8-static" / "checkpoint"
        scales.append(_scales(checkpoint))
        before, after = headers.digests(model), headers.digests(checkpoint)
        tower = [name for name in before if "vision" in name or "projector" in name]
        assert tower
        assert {name: after.get(name) for name in tower} == {name: before[name] for name in tower}
        assert (checkpoint / "preprocessor_config.json").read_bytes() == (
            model / "preprocessor_config.json"
        ).read_bytes()
    one, other = scales
    assert one.keys() == other.keys()
    assert len(one) == 14
    assert sum(one[name] != other[name] for name in one) > 7


def test_gptq_on_images_and_texts_where_the_processor_takes_videos_too(tmp_path: Path, real: Run) -> None:
    model = _made(tmp_path / "qwen", _qwen25vl)
    texts = tmp_path / "t.jsonl"
    texts.write_text("".join(json.dumps({"text": " ".join(WORDS * 8)}) + "\n" for _ in range(4)))
    recipe = {
        "name": "seeing",
        "description": "GPTQ on images and texts.",
        "modifiers": [{"gptq": {"scheme": "W4A16", "group_size": 32}}],
        "calibration": {
            "mixture": [
                {"dataset": str(_data(tmp_path / "d", 1)), "weight": 5},
                {"dataset": str(texts), "weight": 3},
            ],
            **{"samples": 8, "max_sequence_length": 128, "batch_size": 2},
        },
    }
    _write(tmp_path / "seeing.yaml", recipe)
    options = ("--model", str(model), "--json")
    planned = json.loads(real("plan", str(tmp_path / "seeing.yaml"), *options).stdout)
    out = ("--out", str(tmp_path / "out"))
    made = json.loads(real("quantize", str(tmp_path / "seeing.yaml"), *options, *out).stdout)
    seen = made["calibration"]["images"]
    assert (seen["conversations"], seen["images"]) == (5, 7)
    assert seen["tokens"] == 7 * 2 * 3  # 60 x 84 pixels are 4 x 6 patches, of which each 2 x 2 are a token
    assert planned["calibration"]["images"] == seen
    assert planned["calibration"]["tokens"] == made["calibration"]["tokens"]
    assert [source["sequences"] for source in made["calibration"]["sources"]] == [5, 3]


def _tried(folder: Path, data: Path) -> None:
    model = Model("m", folder, "m", {})
    stage.try_images(Calibration(dataset=str(data), samples=2), [data], model)


def test_what_cannot_see_is_named_with_the_line_that_asks_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded_model: Path
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    data = _data(tmp_path / "d", 1)
    with pytest.raises(InputError, match=r"d\.jsonl:1: names images, but .* takes only text"):
        _tried(embedded_model, data)

    blind = _made(tmp_path / "gemma3", _gemma3)
    (blind / "preprocessor_config.json").unlink()
    (blind / "processor_config.json").unlink()
    with pytest.raises(InputError, match=r"d\.jsonl:1: names images, but the processor of .* cannot be loaded"):
        _tried(blind, data)


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="torchvision is there: nothing is missing"
)
def test_a_processor_that_needs_torchvision_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pixtral"
    folder.mkdir()
    _tokenizer(folder, "<image>")
    _write(folder / "config.json", {"model_type": "mistral3"})
    save_file({"weight": numpy.zeros(1)}, folder / "model.safetensors")
    kinds = {"image_processor_type": "PixtralImageProcessor", "processor_class": "PixtralProcessor"}
    _write(folder / "preprocessor_config.json", kinds)
    _write(folder / "processor_config.json", kinds)
    with pytest.raises(CapabilityError, match="needs torchvision") as caught:
        _tried(folder, _data(tmp_path / "d", 1))
    assert "pip install --no-deps torchvision==0." in str(caught.value.hint)
