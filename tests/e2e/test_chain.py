"""The main job on real parts: llmcompressor, lm-eval and vLLM on the embedded model, little data, little load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import SERVED

from quantpress.artifact import own
from quantpress.model import headers
from quantpress.runtime import digests, environment
from quantpress_serve.vllm import find_vllm

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[bytes]"]

WORKLOAD = """
name: tiny
description: As little load as makes a figure.
input_len: 32
output_len: 8
concurrency: [1, 2]
requests_per_stream: 2
rounds: 1
"""
CALIBRATED = SERVED == "gptq-w4a16"
DATA = ("--set", "calibration.samples=4", "--set", "calibration.max_sequence_length=256")
ENGINE = ("--engine", "one-gpu", "--engine", "max_num_seqs=8")
SMALL = (*(DATA if CALIBRATED else ()), "--target", "auto", *ENGINE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, real: Run, embedded_model: Path) -> Path:
    """The artifacts of one `quantpress run` over the whole chain."""
    out = tmp_path_factory.mktemp("chain")
    (out / "tiny.yaml").write_text(WORKLOAD)
    arguments = ("--suite", "smoke", "--limit", "8", "--workload", str(out / "tiny.yaml"), "--out", str(out))
    real("run", SERVED, *SMALL, *arguments)
    return out


@pytest.fixture
def artifact(finished: Path) -> Path:
    return finished / "SmolLM2-135M-Instruct" / SERVED


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_checkpoint_is_what_the_recipe_says(artifact: Path) -> None:
    config = read(artifact / "checkpoint" / "config.json")["quantization_config"]
    weights = config["config_groups"]["group_0"]["weights"]
    assert config["quant_method"] == "compressed-tensors"
    expected = (4, "int", 64, True) if CALIBRATED else (8, "float", None, True)
    assert (weights["num_bits"], weights["type"], weights["group_size"], weights["symmetric"]) == expected
    assert config["ignore"] == ["lm_head"]
    tensors = headers.read_folder(artifact / "checkpoint")
    assert sum(name.endswith(".weight_scale") for name in tensors) == 210


def test_the_manifest_covers_every_file(artifact: Path) -> None:
    manifest = read(artifact / "manifest.json")
    found = {str(p.relative_to(artifact / "checkpoint")) for p in (artifact / "checkpoint").rglob("*") if p.is_file()}
    assert set(manifest["files"]) == found
    for name, entry in manifest["files"].items():
        assert digests.sha256_file(artifact / "checkpoint" / name) == entry["sha256"]
    assert manifest["modifiers"] == ["GPTQModifier" if CALIBRATED else "QuantizationModifier"]
    assert manifest["calibration"] is None or manifest["calibration"]["tokens"] == 1024
    assert manifest["bytes"]["checkpoint"] < 0.7 * manifest["bytes"]["model"]
    assert manifest["compute_dtype"] in ("stored", "float32")


def test_others_may_read_the_weights(artifact: Path) -> None:
    assert (artifact / "checkpoint" / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_accuracy_is_lm_evals_own(artifact: Path) -> None:
    from lm_eval.utils import make_table

    result = read(artifact / "accuracy.json")
    assert set(result["tasks"]) == {f"quantpress_smoke_{name}" for name in ("yesno", "physical", "endings", "science")}
    folders = {"baseline": artifact.parent / "baseline", "candidate": artifact}
    for side, row in result["runs"].items():
        (written,) = (folders[side] / "scores" / row["folder"] / "lm_eval").rglob("results_*.json")
        by_lm_eval = read(written)["results"]
        assert all(task in make_table(read(written)) for task in result["tasks"])  # lm-eval's own reader
        for task, compared in result["tasks"].items():
            assert compared["documents"] == 8
            assert compared[side] == pytest.approx(by_lm_eval[task][f"{compared['metric']},none"])


def test_the_command_by_hand_gives_the_same_scores(artifact: Path, tmp_path: Path, real: Run) -> None:
    scored = read(artifact / "accuracy.json")["runs"]["candidate"]
    command = scored["command"].replace("OUT", str(tmp_path))
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", command], check=True, capture_output=True, timeout=300, env=env)
    done = real("compare", str(artifact / "scores" / scored["folder"]), str(tmp_path), "--json")
    tasks = json.loads(done.stdout)["tasks"]
    assert len(tasks) == 4
    assert all(row["kl"] < 1e-9 and row["difference"] == row["flips"] == 0 for row in tasks.values())


def test_the_checkpoint_answers_in_vllm(artifact: Path) -> None:
    result = read(artifact / "throughput.json")
    assert "Paris" in result["answers"]["candidate"]["answer"]
    assert "Paris" in result["answers"]["baseline"]["answer"]
    assert len(result["cells"]) == 4
    for cell in result["cells"]:
        assert cell["figures"]["completed"] == 2 * cell["concurrency"]
        assert cell["figures"]["total_output_tokens"] == 16 * cell["concurrency"]
        assert cell["figures"]["output_throughput"] > 0
    assert [row["failed_requests"] for row in result["summary"]] == [0, 0]


def test_both_servers_run_the_engine_that_was_asked_for(artifact: Path) -> None:
    result = read(artifact / "throughput.json")
    assert result["workload"]["engine"]["max_num_seqs"] == 8
    for server in result["servers"].values():
        assert {"--tensor-parallel-size=1", "--max-num-seqs=8"} < set(server["argv"])


@pytest.mark.skipif(bool(environment.gpus()), reason="the threads of a CPU server")
def test_the_server_uses_every_core(artifact: Path) -> None:
    log = (artifact.parent / "logs" / f"{SERVED}.vllm-candidate.log").read_text()
    cores = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    assert f"core ids=[{cores}]" in log


def test_the_report_is_written(artifact: Path) -> None:
    text = (artifact.parent / "report.md").read_text()
    assert "4-bit grid" in text
    assert SERVED in text
    assert "Served as scored" in text
    assert "Not measured: quantpress evaluate" not in text
    assert "Not measured: quantpress bench" not in text
    assert '<figure data-plot="pareto">' in (artifact.parent / "report.html").read_text()


def test_what_is_served_is_what_was_scored(artifact: Path) -> None:
    served = read(artifact / "throughput.json")["served"]
    assert served["verdict"] == "as scored", served
    assert served["tokens"] > 1000
    for side in served["sides"].values():
        assert -5 < side["scored"] < -2
        assert abs(side["difference"]) < 0.02
    assert read(artifact / "accuracy.json")["served"] == served


def test_nothing_is_left_running_or_half_written(artifact: Path, finished: Path) -> None:
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(finished) in " ".join(p.info["cmdline"] or [])]
    assert not list(finished.rglob("*.staging-*"))


def test_a_second_run_does_nothing(finished: Path, artifact: Path, real: Run) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (artifact / "checkpoint").iterdir()}
    arguments = ("--suite", "smoke", "--limit", "8", "--workload", str(finished / "tiny.yaml"), "--out", str(finished))
    started = time.monotonic()
    done = real("run", SERVED, *SMALL, *arguments)
    assert "up to date" in done.stderr
    assert done.stderr.count("nothing to do") == 3
    assert "scoring" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (artifact / "checkpoint").iterdir()} == stamps
    assert time.monotonic() - started < 30


def test_a_changed_recipe_says_what_changed(finished: Path, real: Run) -> None:
    done = real("quantize", "rtn-w4a16", "--out", str(finished))
    assert "up to date" not in done.stderr
    done = real("quantize", "rtn-w4a16", "--out", str(finished), "--set", "modifiers.0.rtn.group_size=32")
    assert "changed: recipe.modifiers" in done.stderr


def test_a_gate_that_is_not_met_is_exit_code_3_with_the_results_there(
    finished: Path, artifact: Path, real: Run
) -> None:
    arguments = ("evaluate", SERVED, *SMALL, "--suite", "smoke", "--limit", "8", "--out", str(finished))
    # Failed whatever the recipe: of few documents, KL's interval may hold 0.
    failed = real(*arguments, "--gate", "recovery>=5", "--gate", "flips<=100%", expect=3)
    assert failed.stderr.count("nothing to do") == 2
    assert "recovery>=5 failed" in failed.stderr
    decided = {gate["gate"]: gate["decision"] for gate in read(artifact / "accuracy.json")["gates"]}
    assert decided == {"recovery>=5": "fail", "flips<=100%": "pass"}
    assert "fail" in real("status", "--out", str(finished)).stdout
    real(*arguments)
    assert read(artifact / "accuracy.json")["gates"] == []


def test_the_noise_floor_is_measured_once_and_kept(finished: Path, artifact: Path, real: Run) -> None:
    arguments = ("evaluate", SERVED, *SMALL, "--suite", "smoke", "--limit", "8", "--out", str(finished))
    real(*arguments, "--noise-floor")
    result = read(artifact / "accuracy.json")
    # In float32 nothing differs: the sum of what rounds to nothing may lie on either side of 0.
    assert -1e-12 < result["noise_floor"]["kl"] < min(0.01, result["overall"]["kl"])
    by_vllm = result["runs"]["again" if environment.gpus() else "other backend"]
    assert "--max-num-seqs=8" in by_vllm["server"]  # the engine that serves scores
    again = real(*arguments, "--gate", "kl<=0", expect=3)
    assert again.stderr.count("nothing to do") == 4  # the two sides, and the model against itself in both ways
    assert read(artifact / "accuracy.json")["noise_floor"] == result["noise_floor"]
    assert ("asks for less than the model differs from itself" in again.stderr) is (result["noise_floor"]["kl"] > 0)
    assert "noise floor" in real("report", "--out", str(finished)).stdout


def test_the_same_vllm_in_another_place_moves_nothing(
    finished: Path, artifact: Path, real: Run, tmp_path: Path
) -> None:
    scored = ("--suite", "smoke", "--limit", "8", "--out", str(finished))
    real("evaluate", SERVED, *SMALL, *scored, "--gate", "flips<=100%")
    on_record = {name: (artifact / name).read_bytes() for name in ("accuracy.json", "throughput.json", "manifest.json")}
    (tmp_path / "env").symlink_to(find_vllm(None).parents[1])
    other = ("--vllm", str(tmp_path / "env" / "bin" / "vllm"), *ENGINE)
    done = real("recertify", str(artifact), *other, "--json")
    made = json.loads(done.stdout)
    assert (made["verdict"], made["moved"]) == ("holds", []), made
    assert all(pair["before"] == pair["after"] for pair in made["answers"])
    assert len(made["answers"]) == 5
    assert made["likelihoods"]["source"] == "in pairs"
    assert made["likelihoods"]["per_token"] < 1e-3
    assert [gate["after"]["decision"] for gate in made["gates"]] == ["pass"]
    assert made["speeds"]["source"] == "in pairs"
    assert all(row["before"] > 0 and row["after"] > 0 for row in made["speeds"]["rows"])
    (suite,) = made["accuracy"]
    assert all(row["kl"] < 0.1 for row in suite["comparison"]["tasks"].values())  # transformers on record, vLLM now
    assert "nothing to do" in real("recertify", str(artifact), *other).stderr
    assert {name: (artifact / name).read_bytes() for name in on_record} == on_record
    assert f"{made['folder']}: as recertified" in real("verify", made["folder"]).stdout
    assert "## On other engines" in real("report", "--out", str(finished)).stdout


def test_all_that_a_chain_leaves_in_its_folder_is_known_as_ours(artifact: Path) -> None:
    """Else the next run would refuse to replace it."""
    assert own.strangers(artifact) == []


def test_a_checkpoint_that_talks_nonsense_is_not_scored(finished: Path, tmp_path: Path, real: Run) -> None:
    from safetensors.torch import load_file, save_file

    out = shutil.copytree(finished, tmp_path / "out")
    artifact = out / "SmolLM2-135M-Instruct" / SERVED
    shutil.rmtree(artifact / "scores")
    weights = artifact / "checkpoint" / "model.safetensors"
    tensors = load_file(weights)
    for name in tensors:
        if name.endswith("down_proj.weight_scale"):
            tensors[name] *= 40
    save_file(tensors, weights, metadata={"format": "pt"})
    arguments = (SERVED, *SMALL, "--suite", "smoke", "--limit", "8", "--out", str(out))
    done = real("evaluate", *arguments, expect=1)
    assert "baseline on smoke: scored before" in done.stderr
    assert "the checkpoint is broken" in done.stderr
    assert not list((artifact / "scores").glob("smoke-*"))


def test_benchmarks_that_cannot_be_fetched(finished: Path, real: Run) -> None:
    done = real("evaluate", SERVED, *SMALL, "--suite", "commonsense", "--out", str(finished), expect=4)
    assert "QUANTPRESS_DATA=" in done.stderr


@pytest.mark.skipif("QUANTPRESS_DATA" not in os.environ, reason="QUANTPRESS_DATA names no folder with the benchmarks")
def test_the_real_benchmarks_from_a_folder(finished: Path, artifact: Path, real: Run) -> None:
    arguments = ("--suite", "commonsense", "--limit", "16", "--data", os.environ["QUANTPRESS_DATA"])
    real("evaluate", SERVED, *SMALL, *arguments, "--out", str(finished))
    tasks = read(artifact / "accuracy.json")["tasks"]
    assert set(tasks) == {"boolq", "piqa", "hellaswag", "arc_easy", "arc_challenge"}
    assert all(row["documents"] == 16 for row in tasks.values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_an_interrupted_bench_leaves_no_server(number: int, finished: Path, artifact: Path, start: Start) -> None:
    arguments = ("--workload", str(finished / "tiny.yaml"), "--out", str(finished), "--fresh")
    log = artifact.parent / "logs" / f"{SERVED}.vllm-candidate.log"
    log.unlink()
    before = (artifact / "throughput.json").read_bytes()
    running = start("bench", SERVED, *SMALL, *arguments)
    deadline = time.monotonic() + 120
    while not (log.exists() and "EngineCore" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert running.poll() is None
    started = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(number)
    assert running.wait(timeout=60) == (130 if number == signal.SIGINT else -9)
    deadline = time.monotonic() + 30
    while _left(started, str(finished)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not _left(started, str(finished))
    assert (artifact / "throughput.json").read_bytes() == before


def _left(started: Sequence[psutil.Process], folder: str) -> list[str]:
    """What runs of these processes, vLLM's renamed helpers among them, and command lines that name the folder."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [str(one) for one in started if _runs(one)] + [line for line in lines if folder in line]


def _runs(process: psutil.Process) -> bool:
    """What has ended may be there until somebody asks how."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
