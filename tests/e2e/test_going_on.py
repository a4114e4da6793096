"""A calibration that was killed goes on after its finished blocks, and gives what an unbroken one gives.

QUANTPRESS_BLOCK_KILLS=1 kills a run of each recipe several times; `make crash-test` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from quantpress.artifact import kept_blocks, own, upkeep
from quantpress.artifact.manifest import Artifact
from quantpress.model import headers
from quantpress.model.source import find_model
from quantpress.plan.resolve import plan_of
from quantpress.quantize import stage
from quantpress.quantize.keeping import keep_for
from quantpress.quantize.workers import OneshotJob, recipe_job
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.recipe import Calibration, Recipe

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]

HERE = Path(__file__).parent
SMALL = ["calibration.samples=2", "calibration.max_sequence_length=64"]
ALL = os.environ.get("QUANTPRESS_BLOCK_KILLS") == "1"
# After how many blocks a run is stopped, each time. Two layers are three blocks; with two modifiers that need data,
# there are twice as many.
ONE, TWO = [1, 2], [2, 2, 1]
STOPS = {"smoothquant-gptq-w8a8": TWO}
if ALL:
    STOPS |= {"smoothquant-w8a8-static": TWO, "awq-gptq-w4a16": TWO, "gptq-w4a16": ONE, "awq-w4a16": ONE}
    STOPS |= {"imatrix": ONE, "mixed-w4-w8": ONE, "nvfp4": ONE, "kv-fp8": ONE, "sparsegpt": ONE, "wanda": ONE}
    STOPS |= {"quip": ONE}
# Where a run is killed: when the block of this number in this pass is kept.
KILLS = {"smoothquant-gptq-w8a8": [(1, 0)]}
if ALL:
    KILLS = {"gptq-w4a16": [(0, 0), (0, 1), (0, 2)], "awq-w4a16": [(0, 0), (0, 1), (0, 2)]}
    KILLS["smoothquant-gptq-w8a8"] = [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
OTHERS: dict[str, list[dict[str, Any]]] = {
    # Hessians that cannot be inverted, so that there is something to remember until the end.
    "fallback": [{"gptq": {"scheme": "W4A16", "dampening_frac": 1e-12, "fallback_limit": 1}}],
    "sparsegpt": [{"sparsegpt": {"sparsity": 0.5, "mask_structure": "2:4"}}],
    "wanda": [{"wanda": {"sparsity": 0.5, "mask_structure": "2:4"}}, {"rtn": {"scheme": "W4A16"}}],
    "imatrix": [{"rtn": {"scheme": "W4A16", "weight_observer": "imatrix_mse"}}],
    "quip": [{"quip": {"transform_block_size": 64}}, {"gptq": {"scheme": "W4A16"}}],
}


@pytest.fixture(scope="module")
def even_widths(make_llama: Callable[..., Path]) -> Path:
    return make_llama("even-widths", 256, 384)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory, even_widths: Path) -> Path:
    """A mixture of four experts, with the same tokenizer."""
    import torch
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("models") / "mixtral"
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_local_experts": 4}
    config = MixtralConfig(**shape, num_attention_heads=4, num_key_value_heads=2, vocab_size=49152)
    MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(even_widths).save_pretrained(folder)
    return folder


def _recipe(name: str) -> Recipe:
    if name not in OTHERS:
        return load_recipe(name, SMALL)
    calibration = Calibration(samples=2, max_sequence_length=64)
    made = {"name": name, "description": "d", "modifiers": OTHERS[name], "calibration": calibration}
    return Recipe.model_validate(made)


def _job(name: str, folder: Path, out: Path) -> OneshotJob:
    """With the weights on the disk, so that both are tested at once: neither may change a byte."""
    source = find_model(str(folder))
    plan = plan_of(_recipe(name), source)
    inputs = stage.inputs_of(plan, source)
    keep = keep_for(Artifact(out / name), plan, inputs.model_copy(update={"model": {}}), lambda: inputs.digest, 0)
    return OneshotJob(
        common=recipe_job(plan, source, out / name),
        largest_input=plan.largest_input,
        compute_dtype="stored",
        deciding_files=source.deciding_files(),
        digest_cache=out / "digests.json",
        keep=keep,
        offload=out / f"{name}-weights",
    )


def test_what_is_stopped_and_left_on_the_disk_gives_the_same_bytes(
    even_widths: Path, mixtral: Path, tmp_path: Path
) -> None:
    """Every kind of modifier, and what it says: in one process, where an exception stands in for the kill."""
    jobs = {name: [_job(name, even_widths, tmp_path).dump(), stops] for name, stops in STOPS.items()}
    experts = tmp_path / "experts"
    jobs["mixtral"] = [_job("fallback", mixtral, experts).dump(), ONE]
    if ALL:
        jobs["mixtral, AWQ"] = [_job("awq-gptq-w4a16", mixtral, experts).dump(), TWO]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(HERE / "stop_many.py"), str(tmp_path / "jobs.json"), str(tmp_path / "done.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "done.json").read_text())
    assert all(whole.pop("seconds_before") == 0 < stopped.pop("seconds_before") for whole, stopped in results.values())
    assert [name for name, (whole, stopped) in results.items() if whole != stopped] == []
    folders = {name: Path(job["common"]["output"]) for name, (job, _) in jobs.items()}
    whole = {name: headers.digests(at / "whole") for name, at in folders.items()}
    assert {name: headers.digests(at / "stopped") for name, at in folders.items()} == whole
    assert results["mixtral"][0]["calibration"]["experts"]["fewest"] > 0
    assert "could not invert the Hessians" in str(results["mixtral"][0]["warnings"])


def kill_at(command: subprocess.Popen[bytes], folder: Path, epoch: int, block: int) -> None:
    """kill -9 when this block is kept; what the command started is gone when this returns."""
    worker = psutil.Process(command.pid)
    while command.poll() is None:
        kept = kept_blocks.read(kept_blocks.file_of(folder, block))
        if kept and kept.epoch == epoch:
            break
        time.sleep(0.001)
    started = worker.children(recursive=True)
    command.kill()
    command.wait(timeout=30)
    psutil.wait_procs(started, timeout=30)


@pytest.mark.parametrize("recipe", KILLS)
def test_a_killed_run_goes_on_at_the_next_block(
    recipe: str, even_widths: Path, tmp_path: Path, real: Run, start: Start
) -> None:
    def arguments(out: str) -> tuple[str, ...]:
        settings = [option for setting in SMALL for option in ("--set", setting)]
        return ("quantize", recipe, "--model", str(even_widths), "--out", str(tmp_path / out), *settings)

    real(*arguments("whole"))
    whole, killed = (Artifact(tmp_path / out / even_widths.name / recipe) for out in ("whole", "killed"))
    folder = kept_blocks.folder_of(killed.folder)
    for epoch, block in KILLS[recipe]:
        kill_at(start(*arguments("killed")), folder, epoch, block)
        at = kept_blocks.standing(kept_blocks.read_all(folder))
        assert (at.epoch, at.block) > (epoch, block)
        assert not killed.folder.exists()
    done = real(*arguments("killed"), "--offload", "disk")
    assert f"goes on at {at}" in done.stderr
    assert "stay on the disk" in done.stderr
    assert not folder.exists()
    assert own.strangers(killed.folder) == []
    assert headers.digests(killed.checkpoint) == headers.digests(whole.checkpoint)
    assert upkeep.verify(killed) == []
    parts = {"seconds", "created"}
    assert killed.finished().model_dump(exclude=parts) == whole.finished().model_dump(exclude=parts)
