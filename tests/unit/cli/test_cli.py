"""Bad input: one clear message, the right exit code, no traceback, nothing half-written."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.runtime import environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
GOOD = "name: r\ndescription: d\nmodifiers:\n  - rtn: {scheme: W8A8}\n"

WRONG = {
    "unknown recipe": (["quantize", "gptq-w4a61"], 2, "did you mean 'gptq-w4a16'"),
    "a recipe that is near no other": (
        ["quantize", "zzz"],
        2,
        "'zzz' is not a shipped recipe\n  next: name one of awq",
    ),
    "no such recipe file": (["quantize", "nowhere/r.yaml"], 2, "no such file"),
    "YAML that does not parse": (["quantize", "broken.yaml"], 2, "broken.yaml:2:1: not YAML"),
    "unknown modifier": (["recipes", "validate", "modifier.yaml"], 2, "did you mean 'rtn'"),
    "unknown scheme": (["quantize", "scheme.yaml"], 2, "did you mean 'W8A8'"),
    "missing model": (["quantize", "good.yaml", "--model", "./nowhere"], 2, "no such folder or file"),
    "missing GGUF": (["quantize", "good.yaml", "--model", "gone.gguf"], 2, "gone.gguf: no such file"),
    "a folder that is no model": (["quantize", "good.yaml", "--model", "empty"], 2, "holds no config.json"),
    "weights as pickle": (["quantize", "good.yaml", "--model", "pickle"], 2, "safetensors only"),
    "already quantized": (
        ["quantize", "good.yaml", "--model", "quantized"],
        2,
        "already quantized (compressed-tensors)",
    ),
    "no network": (
        ["quantize", "good.yaml", "--model", "nobody/nothing"],
        4,
        "cannot be fetched from the Hugging Face hub",
    ),
    "unwritable target": (
        ["quantize", "good.yaml", "--model", "tiny", "--out", "good.yaml"],
        4,
        "not a writable folder",
    ),
    "missing data set": (
        ["quantize", "gptq-w4a16", "--model", "tiny", "--set", "calibration.dataset=x.jsonl"],
        2,
        "x.jsonl",
    ),
    "bad override": (["quantize", "good.yaml", "--set", "calibration"], 2, "--set 'calibration' is not"),
    "unknown suite": (["evaluate", "good.yaml", "--suite", "smoek"], 2, "did you mean 'smoke'"),
    "bad limit": (["evaluate", "good.yaml", "--limit", "0"], 2, "at least one document"),
    "unknown workload": (["bench", "good.yaml", "--workload", "chta"], 2, "did you mean 'chat'"),
    "unknown engine": (["evaluate", "good.yaml", "--engine", "one-gpus"], 2, "did you mean 'one-gpu'"),
    "vLLM missing": (["bench", "good.yaml", "--vllm", "/no/vllm"], 4, "/no/vllm is not an executable"),
    "a scheme that the target does not serve": (
        ["quantize", "fp8-static", "--model", "tiny", "--target", "cpu"],
        4,
        "FP8 static is not served on cpu",
    ),
    "an unknown target": (["quantize", "good.yaml", "--model", "tiny", "--target", "sm_42"], 2, "not a target"),
    "nothing to report": (["report", "--model", "tiny"], 2, "holds no artifact"),
    "no command": (["frobnicate"], 2, "invalid choice"),
}


@pytest.fixture
def folder(tmp_path: Path, make_model: Callable[..., Path]) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "broken.yaml").write_text("name: [\n")
    (tmp_path / "modifier.yaml").write_text(GOOD.replace("rtn:", "rnt:"))
    (tmp_path / "scheme.yaml").write_text(GOOD.replace("W8A8", "W8A88"))
    make_model()
    (tmp_path / "empty").mkdir()
    pickled = make_model("pickle")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    quantized = make_model("quantized")
    (quantized / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}}))
    return tmp_path


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_input_is_one_clear_message(case: str, folder: Path, quantpress: Run) -> None:
    arguments, code, words = WRONG[case]
    before = sorted(folder.rglob("*"))
    done = quantpress(*arguments)
    assert words in done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert case == "no command" or "\n  next: " in done.stderr
    kept = [path for path in sorted(folder.rglob("*")) if "cache" not in path.relative_to(folder).parts]
    assert kept == before


def test_the_embedded_model_without_a_network(folder: Path, quantpress: Run) -> None:
    alone = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}
    done = quantpress("quantize", "good.yaml", env=alone)
    assert done.returncode == 4
    assert "the embedded model cannot be fetched" in done.stderr
    assert not list((folder / "cache").rglob("*.gguf"))


def test_the_traceback_is_shown_when_asked_for(folder: Path, quantpress: Run) -> None:
    assert "Traceback" in quantpress("quantize", "broken.yaml", "--traceback").stderr


def test_a_taken_port_is_wrong_input(folder: Path, quantpress: Run) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = quantpress("bench", "good.yaml", "--model", "tiny", "--vllm", sys.executable, "--port", port)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr


def test_valid_recipes_are_said_to_be(folder: Path, quantpress: Run) -> None:
    done = quantpress("recipes", "validate", "good.yaml", "gptq-w4a16")
    assert done.returncode == 0
    assert done.stdout == "good.yaml: valid (rtn)\ngptq-w4a16: valid (gptq)\n"


def test_json_is_json(folder: Path, quantpress: Run) -> None:
    assert "gptq-w4a16" in json.loads(quantpress("recipes", "list", "--json").stdout)
    assert json.loads(quantpress("recipes", "validate", "good.yaml", "--json").stdout)["good.yaml"]["name"] == "r"


def test_no_colour_where_there_is_no_terminal(folder: Path, quantpress: Run) -> None:
    done = quantpress("quantize", "good.yaml", "--model", "nobody/nothing")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.skipif(bool(environment.gpus()), reason="what this machine serves is asked for on a CPU")
def test_what_this_machine_cannot_serve_is_not_quantized_for_it(folder: Path, quantpress: Run) -> None:
    for command in (["bench"], ["serve"], ["run", "--suite", "smoke"]):
        done = quantpress(*command, "fp8-static", "--model", "tiny", "--vllm", sys.executable)
        assert done.returncode == 4
        assert "FP8 static is not served on cpu" in done.stderr
        assert "--target any" in done.stderr
        assert not (folder / "artifacts").exists()
