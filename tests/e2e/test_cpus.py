"""What vLLM has and computes on each kind of CPU, asked of the installed one; the other kind is imitated."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError
from quantpress.plan import hardware
from quantpress.runtime import cpu, environment
from quantpress_serve.probes import operators_probe as cpu_probe
from quantpress_serve.vllm import find_vllm

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(environment.gpus()), reason="asks the vLLM of a machine without a GPU"),
]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
AS_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "PYTHONPATH": str(Path(__file__).parents[1] / "as_avx2"),
}


def _asked(env: dict[str, str]) -> dict[str, Any]:
    try:
        python = find_vllm(None).parent / "python"
    except CapabilityError:
        pytest.skip("vLLM is not installed beside this environment")
    done = subprocess.run(
        [str(python), cpu_probe.__file__], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("target", [cpu.THIS, "cpu-avx2"])
def test_our_table_of_cpus_is_what_the_library_has_and_computes(target: str) -> None:
    asked = _asked({} if target == cpu.THIS else AS_AVX2)
    for kind in hardware.TABLE:
        whole = hardware.TABLE[kind][cpu.THIS]
        found = hardware.cell(kind, target)
        if whole.operator and found.operator:
            assert found.operator in asked["operators"], kind
    assert ("cpu_gemm_wna16" in asked["operators"]) is (hardware.cell("W4A16", target).support == "full")
    assert asked["int8_is_exact"] is (hardware.cell("W8A8", target).support == "full")
    assert asked["rotates_heads"] is False, "this vLLM's rotary operator is right: say so in docs/reference/models.md"


def test_4_bit_weights_are_refused_on_avx2_in_seconds(two_layers: Path, tmp_path: Path, real: Run) -> None:
    started = time.monotonic()
    env = AS_AVX2 | {"QUANTPRESS_TARGET": "auto"}
    for command in ("quantize", "run", "bench", "serve"):
        suite = ("--suite", "smoke") if command == "run" else ()
        options = ("--model", str(two_layers), "--out", str(tmp_path / "out"), *suite)
        done = real(command, "rtn-w4a16", *options, expect=4, env=env)
        assert "W4A16 is not served on cpu (AVX2)" in done.stderr
        assert "cpu serves W8A8 (inexactly), FP8 dynamic" in done.stderr
        assert "--target any" in done.stderr
    assert time.monotonic() - started < 60
    assert not (tmp_path / "out").exists()


def test_the_demo_takes_what_the_machine_serves(two_layers: Path, tmp_path: Path, real: Run) -> None:
    """As far as its choice: it ends at a gate that is none."""
    options = ("--model", str(two_layers), "--out", str(tmp_path), "--gate", "nothing")
    for env, words in (
        (AS_AVX2, "demo: fp8-dynamic, which this machine serves as it is"),
        ({}, f"demo: {'gptq-w4a16' if 'avx512f' in cpu.features() else 'fp8-dynamic'}"),
    ):
        done = real("demo", *options, expect=2, env=env | {"QUANTPRESS_TARGET": "auto"})
        assert words in done.stderr
        assert ("not gptq-w4a16 here" in done.stderr) is ("fp8-dynamic" in words)


@pytest.mark.skipif(
    hardware.cell("W8A8", hardware.this_machine()).support == "full" and "QUANTPRESS_DOCS" not in os.environ,
    reason="two minutes for a kernel that is exact here; `make test-docs` runs it, and test_bundle serves W8A8 too",
)
def test_int8_is_served_as_exactly_as_the_table_says(
    embedded_model: Path, least_load: Path, tmp_path: Path, real: Run
) -> None:
    """On the real model: exact with VNNI, and without it the difference is seen, said and explained."""
    options = ("--target", "auto", "--workload", str(least_load), "--out", str(tmp_path))
    done = real("bench", "w8a8-dynamic", *options)
    result = json.loads((tmp_path / embedded_model.name / "w8a8-dynamic" / "throughput.json").read_text())
    exact = hardware.cell("W8A8", cpu.THIS).support == "full"
    assert result["served"]["verdict"] == ("as scored" if exact else "not as scored")
    assert ("saturate" in done.stderr) is not exact
    assert ("saturate" in (result["served"]["cause"] or "")) is not exact


def test_what_vllm_does_not_quantize_while_it_loads_is_refused_before_anything_is_made(
    two_layers: Path, tmp_path: Path, real: Run
) -> None:
    """vLLM is asked for real: it makes a layer of each kind, and says why it cannot."""
    asked = ("bench", "w8a8-dynamic", "--model", str(two_layers), "--out", str(tmp_path), "--online")
    done = real(*asked, "fp8", expect=2)
    assert "such names are" in done.stderr
    assert "fp8_per_channel" in done.stderr
    if not environment.gpus() and "amx_tile" not in cpu.features():
        assert "requires AMX" in real(*asked, "fp8_per_block", expect=4).stderr
    assert not list(tmp_path.iterdir())
