"""Which plans go from file to file, why others do not, and what memory that takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.cli import needed
from quantpress.cli.needed import Machine
from quantpress.errors import CapabilityError
from quantpress.model import headers
from quantpress.model.source import Model, find_model
from quantpress.plan import needs
from quantpress.plan.resolve import Plan, plan_of
from quantpress.quantize import streaming
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import free_memory

TENSOR = {"num_bits": 8, "strategy": "tensor"}


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Model:
    return find_model(str(make_model()))


def planned(model: Model, *modifiers: dict[str, Any], **more: Any) -> Plan:
    return plan_of(Recipe.model_validate({"name": "r", "description": "d", "modifiers": list(modifiers)} | more), model)


@pytest.mark.parametrize(
    ("modifiers", "more", "because"),
    [
        ([{"rtn": {"scheme": "FP8_DYNAMIC"}}], {}, None),
        ([{"rtn": {"scheme": "W8A8", "weight_observer": "mse"}}], {}, None),
        ([{"rtn": {"weights": TENSOR}}], {}, None),
        ([{"rtn": {"weights": TENSOR | {"observer": "mse"}}}], {}, "number of threads"),
        ([{"rtn": {"scheme": "FP8"}}], {"calibration": {}}, "does more than to round"),
        ([{"rtn": {"scheme": "W8A8", "kv_cache": {}}}], {"calibration": {}}, "does more than to round"),
        ([{"gptq": {"scheme": "W8A8"}}], {"calibration": {}}, "does more than to round"),
        ([{"spinquant": {"rotations": ["R1"]}}, {"rtn": {"scheme": "W8A8"}}], {}, "does more than to round"),
        ([{"rtn": {"scheme": "W8A16", "targets": ["Embedding"], "ignore": [], "group_size": 32}}], {}, "an embedding"),
        ([{"rtn": {"scheme": "W8A8", "ignore": []}}], {}, "lm_head has no tensor of its own"),
    ],
)
def test_only_plain_rounding_of_layers_with_tensors_of_their_own_is_streamed(
    modifiers: list[dict[str, Any]], more: dict[str, Any], because: str | None, model: Model
) -> None:
    plan = planned(model, *modifiers, **more)
    found = streaming.held_because(plan, model)
    assert (found is None) is (because is None)
    assert because is None or because in str(found)
    assert streaming.is_streamed(plan, model) is (because is None)


def test_a_layer_that_is_loaded_in_another_type_than_it_is_stored_in_is_not_streamed(model: Model) -> None:
    """It would be rounded to 16 bits before it is quantized."""
    config = model.config | {"dtype": "float32"}
    other = Model(model.name, model.path, model.source, config)
    plan = planned(other, {"rtn": {"scheme": "W8A8"}})
    assert "is stored as BF16, and loaded as F32" in str(streaming.held_because(plan, other))


def test_an_embedding_that_is_stored_as_the_output_head_alone_is_not_left_out(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """As safetensors' save_model writes tied weights: under one of their names."""
    from safetensors.torch import load_file, save_file

    folder = make_model("tied")
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors.pop("model.embed_tokens.weight")
    tensors.pop("lm_head.weight", None)
    alone = "the embedding is stored as the output head alone"
    for name, because in (("model.embed_tokens", "None"), ("lm_head", alone)):
        save_file({**tensors, f"{name}.weight": embedding}, file, {"format": "pt"})
        found = find_model(str(folder))
        assert str(streaming.held_because(planned(found, {"rtn": {"scheme": "W8A8"}}), found)) == because


def test_an_output_head_of_its_own_is_kept_whatever_the_config_says(make_model: Callable[..., Path]) -> None:
    """Some configs tie by default, and their models have a head of their own."""
    from safetensors.torch import load_file, save_file

    folder = make_model("own-head", tied=False)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    found = find_model(str(folder))
    plan = planned(found, {"rtn": {"scheme": "W8A8"}})
    assert streaming.left_out(plan, found) == ["lm_head.weight"]  # the same numbers: vLLM ties them
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1}, file, {"format": "pt"})
    other = find_model(str(folder))
    assert streaming.left_out(plan, other) == []


def test_what_calibration_holds_decides_whether_weights_stay_on_the_disk(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `plan` counts it: so that both say the same."""
    data = {"calibration": {"samples": 1000, "max_sequence_length": 512}}
    plan = planned(model, {"gptq": {"scheme": "W8A8"}}, **data)
    whole = needs.quantizing_bytes(plan, model.config)
    assert needs.offloaded_bytes(plan, model.config) < whole - 1000
    for free, stay in ((whole, False), (whole - 1, True)):
        monkeypatch.setattr(free_memory, "available", lambda free=free: free)
        assert streaming.stay_on_disk(plan, model, "auto") is stay
        machine = Machine(free=free, disk=10**13, speeds=None, compute="stored")
        assert ("on the disk" in needed.stages(plan, model, model.path, machine)[0].words) is stay


def test_experts_share_a_scale_in_a_model_that_the_names_of_their_files_do_not_tell(tmp_path: Path) -> None:
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 1}
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "decoder_sparse_step": 1, "mlp_only_layers": []}
    config = {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], **sizes, **heads, **experts}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Model("m", tmp_path, str(tmp_path), config)
    assert streaming.held_because(planned(model, {"rtn": {"scheme": "FP8_DYNAMIC"}}), model) is None
    assert "shares a scale" in str(streaming.held_because(planned(model, {"rtn": {"scheme": "NVFP4A16"}}), model))


def test_the_memory_does_not_grow_with_the_model(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PIECE", 100_000)
    needed, sizes = [], []
    for layers in (2, 8):
        model = find_model(str(make_model(f"with-{layers}", layers=layers)))
        needed.append(streaming.peak_bytes(planned(model, {"rtn": {"scheme": "W8A8"}}), model))
        sizes.append(sum(tensor.nbytes for tensor in model.headers().values()))
    assert needed[0] == needed[1] > streaming.LIBRARIES
    assert sizes[1] > 1.5 * sizes[0]


def test_as_many_processes_as_fit_into_the_memory_and_twice_the_largest_file(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(model, {"rtn": {"scheme": "W8A8"}})
    one, two = (streaming.peak_bytes(plan, model, number) for number in (1, 2))
    assert [streaming.processes(plan, model, free) for free in (0, one, two - 1, two)] == [1, 1, 1, 2]
    largest = max(path.stat().st_size for path in headers.weight_files(model.path))
    most = streaming.processes(plan, model, 10**15)
    assert streaming.peak_bytes(plan, model, most) <= 2 * largest + 1_500_000_000
    monkeypatch.setattr(free_memory, "available", lambda: one - 1)
    with pytest.raises(CapabilityError, match=r"piece by piece takes 0\.9 GB of memory, 0\.9 GB are free"):
        streaming.stay_on_disk(plan, model, "never")


def test_the_limits_of_all_groups_that_a_process_is_in_hold(tmp_path: Path) -> None:
    """Of both versions: a batch system's group lies inside of others, and its folder is not the outermost."""
    process = tmp_path / "cgroup"
    inner = tmp_path / "v2" / "system" / "job"
    inner.mkdir(parents=True)
    process.write_text("0::/system/job\n")
    (inner.parent / "memory.max").write_text("max\n")
    for name, text in (("max", "6000000"), ("current", "2500000"), ("stat", "anon 1\ninactive_file 500000\n")):
        (inner / f"memory.{name}").write_text(text)
    assert free_memory.available(tmp_path / "v2", process) == 4_000_000
    inner = tmp_path / "v1" / "memory" / "job"
    inner.mkdir(parents=True)
    process.write_text("5:cpu,cpuacct:/\n4:memory:/job\n")
    stat = "inactive_file 7\ntotal_inactive_file 500000\n"
    for name, text in (("limit_in_bytes", "6000000"), ("usage_in_bytes", "5500000"), ("stat", stat)):
        (inner / f"memory.{name}").write_text(text)
    assert free_memory.available(tmp_path / "v1", process) == 1_000_000
