"""What a plan says of memory, disk and time beforehand, against what real runs took."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import planned_from

from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Manifest
from quantpress.artifact.throughput import Throughput
from quantpress.cli import needed
from quantpress.cli.needed import Machine
from quantpress.errors import CapabilityError
from quantpress.model.source import Model
from quantpress.plan import needs, pace
from quantpress.plan.pace import Time
from quantpress.plan.resolve import Plan
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
RESULTS = Path(__file__).parents[1] / "results"
# SmolLM2-135M-Instruct, the embedded model.
SMOLLM: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
LARGE = SMOLLM | {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8}
FEW = ["calibration.samples=32"]  # of 512 tokens
# Peak bytes of whole `quantpress quantize` runs of the embedded model (/usr/bin/time -v), seconds of an idle machine.
PEAKS = {
    "rtn-w4a16": ([], 899_784 * 1024),
    "w8a8-dynamic": ([], 993_736 * 1024),
    "fp8-dynamic": ([], 1_004_192 * 1024),
    "gptq-w4a16": (FEW, 1_212_224 * 1024),
    "smoothquant-gptq-w8a8": (["calibration.samples=8"], 1_165_260 * 1024),
    "kv-fp8": (FEW, 1_169_404 * 1024),
}
# GFLOP/s of the machine that these were measured on, and the seconds that it took.
SPEEDS = {"bfloat16": 359.0, "float32": 118.0}
SECONDS = {("gptq-w4a16", 128): 324, ("gptq-w4a16", 16): 76, ("rtn-w4a16", 0): 8.4, ("w8a8-dynamic", 0): 7.7}


@pytest.fixture(scope="module")
def planned() -> Callable[..., Plan]:
    return lambda name, *settings, config=SMOLLM: planned_from(load_recipe(name, list(settings)), config)


@pytest.mark.parametrize("name", PEAKS)
def test_the_peak_of_memory_is_within_a_tenth_of_what_was_measured(name: str, planned: Callable[..., Plan]) -> None:
    settings, measured = PEAKS[name]
    assert needs.quantizing_bytes(planned(name, *settings), SMOLLM) == pytest.approx(measured, rel=0.1)


def test_scoring_holds_the_logits_of_a_batch(planned: Callable[..., Plan]) -> None:
    """1.26 GB were measured on the suite smoke (/usr/bin/time -v), whose requests have some 40 tokens, not 128."""
    plan = planned("rtn-w4a16")
    of_a_token = 2 * 16 * 49152 * 4
    found = needs.scoring_bytes(plan, SMOLLM, float32=False)
    assert found - (128 - 40) * of_a_token == pytest.approx(1_233_528 * 1024, rel=0.1)
    assert needs.scoring_bytes(plan, SMOLLM, float32=True) - found == 2 * plan.parameters


@pytest.mark.parametrize("case", SECONDS, ids=str)
def test_the_time_that_is_counted_holds_what_was_measured(case: tuple[str, int], planned: Callable[..., Plan]) -> None:
    name, samples = case
    plan = planned(name, *([f"calibration.samples={samples}"] if samples else []))
    found = pace.counted(needs.quantizing_work(plan), SPEEDS, "bfloat16")
    assert found.least < SECONDS[case] < found.most
    assert found.most / found.least < 3


def test_gptq_and_awq_take_longer_than_rounding_and_more_with_more_data(planned: Callable[..., Plan]) -> None:
    def seconds(*asked: str) -> float:
        return pace.counted(needs.quantizing_work(planned(*asked)), SPEEDS, "bfloat16").most

    more = ("calibration.samples=128", "calibration.max_sequence_length=512")
    assert seconds("rtn-w4a16") < seconds("gptq-w4a16", *FEW) < seconds("gptq-w4a16", *more)
    assert seconds("gptq-w4a16", *more) < seconds("awq-w4a16", *more)


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        (120, 300, "2 to 5 min"),
        (118, 122, "2 min"),
        (5.1, 16, "5 to 16 s"),
        (1700, 7300, "0.5 to 2 h"),
        (150, 582, "2 to 10 min"),
        (1_200_000, 3_300_000, "330 to 920 h"),
    ],
)
def test_times_are_said_as_exactly_as_they_are_known(least: float, most: float, words: str) -> None:
    assert Time(least=least, most=most, source="counted").words == f"{words} (counted)"


def _ran_before(out: Path, change: Callable[[Any], Any] = lambda given: given) -> None:
    """The artifact of the recorded results, as this machine would have made it."""
    here, folder = environment.machine().dump(), out / "SmolLM2-135M-Instruct" / "rtn-w4a16"
    folder.mkdir(parents=True)
    for name, kind in (("manifest", Manifest), ("accuracy", Accuracy), ("throughput", Throughput)):
        given = json.loads((RESULTS / f"{name}.json").read_text()) | {"machine": here}
        (folder / f"{name}.json").write_text(json.dumps(change(given)))
        kind.load(folder / f"{name}.json")


def test_what_this_machine_took_before_comes_first(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    plan, name = planned("rtn-w4a16"), "SmolLM2-135M-Instruct"
    assert pace.of_quantizing(plan, name, tmp_path) is None
    _ran_before(tmp_path)
    took = json.loads((RESULTS / "manifest.json").read_text())["seconds"]
    found = pace.of_quantizing(plan, name, tmp_path)
    assert found and found.least < took < found.most and found.source == "as rtn-w4a16 took"
    # Of another model, by its size; of another recipe's modifiers nothing.
    larger = pace.of_quantizing(planned("rtn-w4a16", config=LARGE), "another", tmp_path)
    assert larger and larger.least > 10 * found.most
    assert pace.of_quantizing(planned("gptq-w4a16"), name, tmp_path) is None
    assert pace.of_quantizing(planned("kv-fp8"), name, tmp_path) is None  # the same modifier, but with data
    bench = pace.of_measuring(name, tmp_path)
    assert bench and bench.source == "as smoke took"


def test_what_another_machine_took_does_not_count(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    _ran_before(tmp_path, lambda given: given | {"machine": given["machine"] | {"processor": "another"}})
    name = "SmolLM2-135M-Instruct"
    assert pace.of_quantizing(planned("rtn-w4a16"), name, tmp_path) is None
    assert pace.of_scoring(name, tmp_path) is None
    assert pace.of_measuring(name, tmp_path) is None


def test_a_file_that_cannot_be_read_does_not_count(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    _ran_before(tmp_path)
    for path in tmp_path.rglob("*.json"):
        path.write_text("{}")
    assert pace.of_quantizing(planned("rtn-w4a16"), "SmolLM2-135M-Instruct", tmp_path) is None
    assert pace.of_measuring("SmolLM2-135M-Instruct", tmp_path) is None


@pytest.mark.parametrize(
    ("config", "free", "fits"),
    [
        (SMOLLM, 900_000_000, "calibration.batch_size=1 would fit"),
        (SMOLLM, 700_000_000, "a recipe without data would fit"),
        (LARGE, 1_000_000_000, "a smaller model"),
    ],
    ids=["less at once", "no data", "a smaller model"],
)
def test_what_is_too_large_is_exit_4_with_what_would_fit(
    config: dict[str, Any], free: int, fits: str, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = planned("gptq-w4a16", config=config)
    model = Model("m", tmp_path, "m", config)
    machine = Machine(free=free, disk=10**13, speeds=SPEEDS, compute="stored")
    found = needed.stages(plan, model, tmp_path, machine)
    assert "more than the" in found[0].words
    with pytest.raises(CapabilityError, match=r"quantizing takes about .* of memory, and .* are free") as caught:
        needed.require_fits(plan, model, machine, found)
    assert fits in (caught.value.hint or "")
    little = Machine(free=10**13, disk=1000, speeds=SPEEDS, compute="stored")
    with pytest.raises(CapabilityError, match=r"of disk, and 0\.0 MB are free"):
        needed.require_fits(plan, model, little, needed.stages(plan, model, tmp_path, little))


def test_on_a_gpu_only_earlier_runs_tell_the_time(
    planned: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: ["NVIDIA L4, 23034 MiB"])
    model = Model("m", tmp_path, "m", SMOLLM)
    machine = needed.machine_for(model, tmp_path / "out")
    stages = needed.stages(planned("rtn-w4a16"), model, tmp_path / "out", machine)
    assert [stage.time for stage in stages] == [None, None, None]
    assert stages[2].memory is None
    assert "time known after a first run" in stages[0].words


def test_plan_says_it_beforehand_and_ends_with_4_for_this_machine_alone(quantpress: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(LARGE | {"num_hidden_layers": 400}))
    more = ("--set", "calibration.samples=1000000")  # which are held between two blocks
    done = quantpress("plan", "gptq-w4a16", "--model", "m", *more, env={"QUANTPRESS_TARGET": ""})
    assert done.returncode == 4
    said = [line for line in done.stdout.splitlines() if re.search(r" (quantize|evaluate|bench) ", line)]
    assert len(said) == 3
    assert re.search(r"needs +quantize +\d+\.\d+ GB of memory \(the weights stay on the disk\), more than ", said[0])
    assert re.search(r" of disk; .* h \(counted\)$", said[0])
    assert "a recipe without data would fit" in done.stderr
    streamed = quantpress("plan", "rtn-w4a16", "--model", "m", "--target", "any", "--json")
    assert json.loads(streamed.stdout)["needs"][0]["memory"] < 10e9, "it goes from file to file"
    for words, env in ((["--target", "any"], {}), (["--target", "sm_90"], {}), ([], {"QUANTPRESS_TARGET": "any"})):
        done = quantpress("plan", "gptq-w4a16", "--model", "m", *words, "--json", env=env)
        assert done.returncode == 0, done.stderr
        stages = {stage["name"]: stage for stage in json.loads(done.stdout)["needs"]}
        assert list(stages) == ["quantize", "evaluate", "bench"]
        assert stages["quantize"]["time"]["least"] < stages["quantize"]["time"]["most"]
