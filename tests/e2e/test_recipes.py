"""Every shipped recipe through the real llmcompressor, on small Llamas made here: fast, and real tensors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError, InputError
from quantpress.language import shipped
from quantpress.model import headers
from quantpress.model.source import find_model
from quantpress.plan import hardware, kernels, servable, sizes
from quantpress.plan.resolve import Plan, plan_of
from quantpress.quantize import streaming
from quantpress.quantize.stage import stream_job
from quantpress.quantize.workers import DISTANCE, DistanceJob, OneshotJob, recipe_job
from quantpress.recipe import presets as schemes
from quantpress.recipe import recipe
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import atomic
from quantpress_serve.vllm import find_vllm

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
HERE = Path(__file__).parent
SMALL = ["calibration.samples=2", "calibration.max_sequence_length=64"]
# Goes through the command itself, and is made twice: what it learns from data must not change.
REPRODUCED = "smoothquant-gptq-w8a8"
FEWER = {  # modifiers that no shipped recipe uses
    "autoround": {"autoround": {"scheme": "W4A16", "iters": 2, "batch_size": 2, "enable_torch_compile": False}},
    "spinquant": {"spinquant": {}},
    "quip": {"quip": {"transform_block_size": 64}},
    "wanda": {"wanda": {"sparsity": 0.5, "mask_structure": "2:4", "ignore": ["lm_head", "re:.*o_proj$"]}},
    "sparsegpt": {"sparsegpt": {"sparsity": 0.5, "mask_structure": "2:4"}},
    "imatrix": {"rtn": {"scheme": "W4A16", "weight_observer": "imatrix_mse"}},
    "block-explicit": {
        "rtn": {
            "weights": {"type": "float", "strategy": "block", "block_structure": [64, 64], "observer": "mse"},
            "input_activations": {"type": "float", "strategy": "group", "group_size": 64, "dynamic": True},
        }
    },
    "two-schemes": {
        "rtn": {
            "groups": [
                {"targets": ["re:.*mlp.*"], "scheme": "W4A16_ASYM", "weight_observer": "mse"},
                {"targets": ["re:.*self_attn.*"], "scheme": "W8A16", "weight_observer": "minmax"},
            ]
        }
    },
}


@pytest.fixture(scope="module")
def even_widths(make_llama: Callable[..., Path]) -> Path:
    """A Llama with two layers of random weights whose widths every shipped scheme divides."""
    return make_llama("even-widths", 256, 384)


@pytest.fixture(scope="module")
def odd_widths(make_llama: Callable[..., Path]) -> Path:
    """The same with widths that 128 does not divide, and 64 only one of them."""
    return make_llama("odd-widths", 192, 352)


def _recipe(name: str) -> recipe.Recipe:
    if name not in FEWER:
        return load_recipe(name, SMALL)
    whole = ("autoround", "imatrix", "block-explicit", "two-schemes", "sparsegpt")
    then = [] if name in whole else [{"rtn": {"scheme": "W4A16"}}]
    data = {"name": name, "description": "d", "modifiers": [FEWER[name], *then]}
    made = recipe.Recipe.model_validate(data)
    small = recipe.Calibration(samples=2, max_sequence_length=64)
    return made.model_copy(update={"calibration": small}) if made.needs_data else made


Made = dict[str, tuple[Plan, Path]]


def _make(names: list[str], folder: Path, out: Path, worker: str = "oneshot") -> Made:
    """Plans and makes each recipe's checkpoint; one process for all, since its imports cost more than the work."""
    source = find_model(str(folder))
    plans = {name: plan_of(_recipe(name), source) for name in names}
    jobs = {
        name: OneshotJob(
            common=recipe_job(made, source, out / name),
            largest_input=made.largest_input,
            compute_dtype="stored",
        ).dump()
        for name, made in plans.items()
    }
    _run(jobs, out, worker)
    return {name: (made, out / name) for name, made in plans.items()}


def _run(jobs: dict[str, Any], out: Path, worker: str) -> None:
    (out / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(HERE / "quantize_many.py"), str(out / "jobs.json"), str(out / "done.json"), worker]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((out / "done.json").read_text()).keys() == jobs.keys()


@pytest.fixture(scope="module")
def checkpoints(even_widths: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make([*shipped.names("recipes"), *FEWER], even_widths, tmp_path_factory.mktemp("checkpoints"))


def test_every_recipe_with_data_gives_the_same_bytes_again(
    even_widths: Path, checkpoints: Made, tmp_path: Path
) -> None:
    """In another process and in the opposite order, so that nothing may be left over from the recipe before. Those
    without data are made again by streaming, below."""
    with_data = [name for name in shipped.names("recipes")[::-1] if checkpoints[name][0].recipe.calibration]
    again = _make(with_data, even_widths, tmp_path)
    differing = [
        name for name, (_, made) in again.items() if headers.digests(made) != headers.digests(checkpoints[name][1])
    ]
    assert differing == []


def test_two_processes_see_together_what_one_sees(
    even_widths: Path, checkpoints: Made, tmp_path: Path, real: Run
) -> None:
    """Over gloo on a CPU, where GPUs would use NCCL. Sums may be taken in another order: the weights are as near as
    bits allow."""
    settings = [word for one in (*SMALL, "calibration.processes=2") for word in ("--set", one)]
    options = ("--model", str(even_widths), "--out", str(tmp_path))
    done = json.loads(real("quantize", "gptq-w4a16", *options, *settings, "--json").stdout)
    assert done["inputs"]["calibration"]["processes"] == 2
    made, alone = tmp_path / even_widths.name / "gptq-w4a16" / "checkpoint", checkpoints["gptq-w4a16"][1]
    assert _config(made) == _config(alone)
    assert headers.digests(made).keys() == headers.digests(alone).keys()
    (tmp_path / "compared").mkdir()
    job = DistanceJob(one=made, other=alone)
    rows = DISTANCE.run(job, tmp_path / "compared", "comparing", tmp_path / "log").tensors
    assert {name: row for name, row in rows.items() if not row.distance <= row.bound} == {}


def test_the_config_for_dummy_weights_is_the_real_one(even_widths: Path, checkpoints: Made, tmp_path: Path) -> None:
    """`bench --weights dummy` serves a config.json made without a weight; vLLM must not see any difference."""
    made = _make(shipped.names("recipes"), even_widths, tmp_path, "shapes")
    configs = {name: (_config(path), _config(checkpoints[name][1])) for name, (_, path) in made.items()}
    assert {name: found for name, (found, real) in configs.items() if found != real} == {}
    assert all(found for found, _ in configs.values())


def test_streaming_gives_what_holding_the_model_gives(
    even_widths: Path, odd_widths: Path, checkpoints: Made, odd_checkpoints: Made, tmp_path: Path
) -> None:
    """Every recipe without data, tensor by tensor, and the same config; also where the layers that share a scale lie in
    different files, and where blocks of weights have to be filled up."""
    shards = _sharded(even_widths, tmp_path / "sharded")
    free = [name for name, (made, _) in checkpoints.items() if made.recipe.calibration is None]
    cases = [(name, shards, checkpoints[name]) for name in free if {*_modifiers(checkpoints[name][0])} == {"rtn"}]
    cases += [(name, odd_widths, odd_checkpoints[name]) for name in ("fp8-block", "w8a8-dynamic")]
    assert {name for name in shipped.names("recipes") if load_recipe(name).calibration is None} <= set(free)
    jobs, real = {}, {}
    for name, folder, (made, checkpoint) in cases:
        source = find_model(str(folder))
        assert streaming.held_because(made, source) is None, name
        target = tmp_path / f"{folder.name}-{name}"
        target.mkdir()
        real[target] = checkpoint
        jobs[target.name] = stream_job(made, source, target).dump()
    _run(jobs, tmp_path, "stream")
    assert {made for made, held in real.items() if headers.digests(made) != headers.digests(held)} == set()
    assert {made for made, held in real.items() if _whole_config(made) != _whole_config(held)} == set()
    many = json.loads((tmp_path / "sharded-nvfp4a16" / "model.safetensors.index.json").read_text())
    tensors = headers.read_folder(tmp_path / "sharded-nvfp4a16")
    assert many["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert many["weight_map"].keys() == tensors.keys()


def _sharded(folder: Path, target: Path) -> Path:
    """The same model in three files, of which no two neighbours lie in one."""
    shutil.copytree(folder, target)
    (target / "model.safetensors").unlink()
    tensors, read_one = headers.read_folder(folder), headers.reader(headers.weight_files(folder))
    files = {name: f"model-{number % 3 + 1:05}-of-00003.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        headers.write(target / file, {name: tensors[name] for name in tensors if files[name] == file}, read_one)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return target


def _modifiers(plan: Plan) -> list[str]:
    return [modifier.name for modifier in plan.recipe.modifiers]


def _whole_config(checkpoint: Path) -> Any:
    return json.loads((checkpoint / "config.json").read_text())


def _config(checkpoint: Path) -> dict[str, Any]:
    config = json.loads((checkpoint / "config.json").read_text())
    return dict(config.get("quantization_config") or {})


@pytest.mark.parametrize("name", [*shipped.names("recipes"), *FEWER])
def test_a_recipe_makes_the_checkpoint_it_names(name: str, checkpoints: Made) -> None:
    made, checkpoint = checkpoints[name]
    tensors = headers.read_folder(checkpoint)
    scaled = {tensor.removesuffix(".weight_scale") for tensor in tensors if tensor.endswith(".weight_scale")}
    assert scaled == set(made.layers)
    untouched = set(made.structure.linears) - set(made.layers) - {"lm_head"}
    assert all(tensors[f"{layer}.weight"].dtype == "BF16" for layer in untouched)
    for layer in made.layers:
        stored = sum(tensor.nbytes for tensor_name, tensor in tensors.items() if tensor_name.startswith(f"{layer}."))
        expected = sizes.layer_bytes(made.structure.linears[layer], made.schemes[layer])
        if name != "quip":  # its rotation matrix lies with one layer
            assert stored == expected, layer
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert made.checkpoint_bytes == pytest.approx(total, rel=0.01)
    modifiers = [modifier.body for modifier in made.recipe.modifiers]
    cached = any(getattr(body, "kv_cache", None) for body in modifiers)
    assert any(tensor.endswith(".k_scale") for tensor in tensors) is cached
    assert (_config(checkpoint).get("kv_cache_scheme") is not None) is cached


@pytest.mark.parametrize("name", [*shipped.names("recipes"), *FEWER])
def test_its_quantization_config_is_what_the_recipe_says(name: str, checkpoints: Made) -> None:
    made, checkpoint = checkpoints[name]
    groups = list(_config(checkpoint).get("config_groups", {}).values())
    wanted = {
        (s.weight_bits, s.kind, s.symmetric, s.group_size, s.activations != "none", s.activation_bits)
        for s in made.schemes.values()
    }
    found = {
        (
            group["weights"]["num_bits"],
            group["weights"]["type"],
            group["weights"]["symmetric"],
            group["weights"]["group_size"],
            group["input_activations"] is not None,
            (group["input_activations"] or {"num_bits": 16})["num_bits"],
        )
        for group in groups
    }
    assert found == wanted
    if made.layers:
        assert "lm_head" in _config(checkpoint)["ignore"]


def test_pruned_layers_are_half_zero_and_ignored_ones_are_not(checkpoints: Made) -> None:
    from safetensors.torch import load_file

    weights = load_file(checkpoints["sparsegpt"][1] / "model.safetensors")
    share = {name: (weight == 0).float().mean().item() for name, weight in weights.items() if "proj" in name}
    assert all(value == pytest.approx(0.5, abs=0.01) for value in share.values()), share
    assert (weights["model.embed_tokens.weight"] == 0).float().mean() < 0.01


ODD = ("gptq-w4a16", "w8a8-dynamic", "fp8-block", "mixed-w4-w8", "awq-w4a16-sym")


@pytest.fixture(scope="module")
def odd_checkpoints(odd_widths: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _make(list(ODD), odd_widths, tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("name", ODD)
def test_widths_that_do_not_divide(name: str, odd_checkpoints: Made) -> None:
    made, checkpoint = odd_checkpoints[name]
    tensors = headers.read_folder(checkpoint)
    assert sum(tensor.endswith(".weight_scale") for tensor in tensors) == len(made.layers) == 14
    stored = sum(tensor.nbytes for tensor in tensors.values())
    assert made.checkpoint_bytes == pytest.approx(stored, rel=0.01)
    for layer in made.layers:
        size = made.schemes[layer].group_size
        if size:
            assert tensors[f"{layer}.weight_scale"].shape[1] == made.structure.linears[layer][1] // size


def test_widths_that_a_scheme_cannot_divide_are_refused(odd_widths: Path) -> None:
    source = find_model(str(odd_widths))
    with pytest.raises(InputError, match="group_size 128 does not divide the 192 input features"):
        plan_of(load_recipe("w4afp8"), source)


def test_the_command_makes_the_same_checkpoint_twice(even_widths: Path, tmp_path: Path, real: Run) -> None:
    """As every recipe is made twice above, by the worker."""
    name = REPRODUCED
    settings = [part for setting in SMALL for part in ("--set", setting)]
    made = real("quantize", name, "--model", str(even_widths), "--out", str(tmp_path), "--json", *settings)
    manifest = json.loads(made.stdout)
    assert manifest["quantized_layers"] == 14
    assert [warning for warning in manifest["warnings"] if "fewer" in warning]
    again = json.loads(real("reproduce", str(tmp_path / "even-widths" / name), "--json").stdout)
    assert again["promised"]
    assert again["identical"]
    assert not list((tmp_path / "even-widths").glob(".*staging*"))


def test_the_command_takes_a_recipe_that_leaves_the_weights_alone(even_widths: Path, tmp_path: Path, real: Run) -> None:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    made = real("quantize", "kv-fp8", "--model", str(even_widths), "--out", str(tmp_path), "--json", *settings)
    manifest = json.loads(made.stdout)
    assert manifest["quantized_layers"] == 0
    assert manifest["bytes"]["checkpoint"] >= manifest["bytes"]["model"]


@pytest.fixture(scope="module")
def asked_of_vllm(checkpoints: Made) -> dict[str, Any]:
    """What vLLM says: the scheme that it picks for each GPU, and the answers of what this machine serves."""
    try:
        python = find_vllm(None).parent / "python"
    except CapabilityError:
        pytest.skip("vLLM is not installed beside this environment")
    if not python.is_file():
        pytest.skip("the vllm on the path is no environment of Python's")
    names = [name for name, (made, _) in checkpoints.items() if made.layers or name == "kv-fp8"]
    target = hardware.this_machine()
    here = [name for name in names if servable.table(checkpoints[name][0])[target].support != "no"]
    # One of each kind: recipes of a kind differ in how their numbers were found, not in how they are served.
    kinds = {"+".join(servable.kinds_of(checkpoints[name][0])): name for name in reversed(here)}
    folder = checkpoints[names[0]][1].parent
    command = [str(python), str(HERE / "vllm_probe.py"), str(folder), *names, "--load", *kinds.values()]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1] / "serve")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1])) | {"served": kinds}


# Where vLLM picks a scheme and a kernel of it fails later: known from its source, not from its configuration.
LATER = {("W8A8", "sm_100"), ("W8A8", "sm_120")}


def test_our_table_of_hardware_is_what_vllm_says(checkpoints: Made, asked_of_vllm: dict[str, Any]) -> None:
    for name, by_target in asked_of_vllm["schemes"].items():
        kinds = set(servable.kinds_of(checkpoints[name][0])) - {hardware.KV_CACHE, hardware.ROTATIONS}
        for target, picked in by_target.items():
            ours = all(hardware.cell(kind, target).support != "no" for kind in kinds)
            theirs = not any(scheme.startswith("no:") for scheme in picked)
            if not any((kind, target) in LATER for kind in kinds):
                assert ours is theirs, (name, target, kinds, picked)


def test_what_this_machine_serves_is_loaded_and_answers(asked_of_vllm: dict[str, Any]) -> None:
    assert asked_of_vllm["answers"].keys() == set(asked_of_vllm["served"].values())
    assert len(asked_of_vllm["answers"]) >= 2  # of a CPU with AVX2; six and more with AVX-512 or a GPU
    failed = {name: answer for name, answer in asked_of_vllm["answers"].items() if isinstance(answer, str)}
    assert not failed
    assert all(len(answer) == 4 for answer in asked_of_vllm["answers"].values())


def test_an_installed_vllm_is_asked_once(even_widths: Path, tmp_path: Path, real: Run) -> None:
    env = {"QUANTPRESS_CACHE": str(tmp_path)}
    arguments = ("plan", "w4afp8", "--model", str(even_widths), "--ask-vllm")
    asked = json.loads(real(*arguments, "--json", env=env).stdout)["vllm"]["schemes"]
    assert asked["W4AFP8"]["sm_90"].startswith("Compressed")
    assert asked["W4AFP8"]["sm_80"].startswith("no")
    answers = [atomic.read_kept(path) for path in (tmp_path / "vllm").glob("*.json")]
    (by_preset,) = (answer for answer in answers if "architectures" not in answer)
    (by_architecture,) = (answer for answer in answers if "architectures" in answer)
    assert list(by_architecture["architectures"]) == ["LlamaForCausalLM"]
    for preset, row in by_preset.items():
        kind = hardware.kind_of(schemes.SCHEMES[preset])
        for target, said in row.items():
            if (kind, target) not in LATER:
                assert said.startswith("no") is (hardware.cell(kind, target).support == "no"), (preset, target, said)
            said_for = kernels.SAID_FOR.get(kind, ("",))
            if hardware.cell(kind, target).classes and said_for[0].startswith("Compressed"):
                assert said in said_for, (preset, target, said)
    refused = real(*arguments, "--target", "sm_80", expect=4, env=env)
    assert "vLLM 0.32.0" in refused.stderr
    assert "asking vLLM" not in refused.stderr
