"""What is planned on each kind of CPU, by a faked list of its features."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SMALL_LLAMA, planned_from

from quantpress.cli import main, prepare
from quantpress.errors import CapabilityError
from quantpress.model.source import Model
from quantpress.plan import arithmetic, hardware, servable, suggest
from quantpress.plan import resolve as plan
from quantpress.plan.servable import require_served
from quantpress.recipe.loading import load_recipe
from quantpress.runtime import console, cpu, environment
from quantpress.runtime.console import Console
from quantpress_serve.probes import asking

# The flags that matter, as /proc/cpuinfo has them.
MACHINES = {
    "AMD Zen 3": {"avx2", "fma"},
    "Intel Alder Lake": {"avx2", "fma", "avx_vnni"},
    "Intel Skylake": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "Intel Ice Lake": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
    "AMD Zen 4": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"},
    "Intel Sapphire Rapids": set(cpu.KINDS["cpu-amx"]),
}
SERVED = {  # gptq-w4a16, w8a8-dynamic, fp8-dynamic, fp8-block, kv-fp8
    "AMD Zen 3": ("no", "inexact", "fallback", "no", "no"),
    "Intel Alder Lake": ("no", "full", "fallback", "no", "no"),
    "Intel Skylake": ("full", "inexact", "fallback", "no", "full"),
    "Intel Ice Lake": ("full", "full", "fallback", "no", "full"),
    "AMD Zen 4": ("full", "full", "fallback", "no", "full"),
    "Intel Sapphire Rapids": ("full", "full", "fallback", "full", "full"),
}
RECIPES = ("gptq-w4a16", "w8a8-dynamic", "fp8-dynamic", "fp8-block", "kv-fp8")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this machine one of MACHINES, without a GPU."""

    def be(machine: str) -> None:
        monkeypatch.setattr(cpu, "_of_this_machine", lambda limited: frozenset(MACHINES[machine]))
        monkeypatch.setattr(environment, "gpus", lambda: [])

    return be


def _planned(name: str) -> plan.Plan:
    return planned_from(load_recipe(name), SMALL_LLAMA)


@pytest.mark.parametrize("machine", MACHINES)
def test_each_kind_of_machine_serves_what_its_features_allow(machine: str, on: Callable[[str], None]) -> None:
    on(machine)
    assert tuple(servable.table(_planned(name))["cpu"].support for name in RECIPES) == SERVED[machine]
    for name, support in zip(RECIPES, SERVED[machine], strict=True):
        made = _planned(name)
        assert bool(servable.inexact(made, "cpu")) is (support == "inexact")
        if support == "no":
            with pytest.raises(CapabilityError, match=r"is not served on cpu \(") as caught:
                require_served(made, "cpu")
            assert "FP8 dynamic" in (caught.value.hint or "")
        else:
            require_served(made, "cpu")


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_inexact_is_suggested_after_what_is_exact(
    machine: str, on: Callable[[str], None], tmp_path: Path
) -> None:
    on(machine)
    rows = suggest.suggestions(_model(), "cpu", "throughput", tmp_path)
    order = [row.recipe for row in rows if row.possible]
    assert (order.index("w8a8-dynamic") > order.index("fp8-dynamic")) is (SERVED[machine][1] == "inexact")


def test_named_kinds_of_cpu_do_not_depend_on_this_machine(on: Callable[[str], None]) -> None:
    for machine in MACHINES:
        on(machine)
        assert hardware.cell("W4A16", "cpu-avx2").support == "no"
        assert hardware.cell("W8A8", "cpu-avx2").support == "inexact"
        assert hardware.cell("W4A16", "cpu-avx512").support == "full"
        assert hardware.cell("FP8 block", "cpu-amx").support == "full"


def test_settings_of_torch_and_onednn_are_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "flags : fma avx2 avx512f avx512_vnni avx_vnni amx_tile\n"
    cpu._of_this_machine.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda self: whole)
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert cpu.described() == "AVX-512, VNNI, AMX"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cpu.features() == {"avx2", "fma"}
    assert cpu.described() == "AVX2"
    cpu._of_this_machine.cache_clear()


_FOLDERS = tempfile.TemporaryDirectory()


def _model(dtype: str = "bfloat16") -> Model:
    """A model of which only the config is there."""
    folder, config = Path(_FOLDERS.name, dtype), SMALL_LLAMA | {"dtype": dtype}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return Model("m", folder, "m", config)


QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("machine", "dtype", "fast", "expected"),
    [
        ("AMD Zen 3", "bfloat16", 5.0, "float32"),
        ("AMD Zen 3", "bfloat16", 1.2, "stored"),
        ("AMD Zen 3", "float32", 5.0, "stored"),
        ("AMD Zen 4", "bfloat16", 5.0, "stored"),  # it has instructions: not even tried
        ("AMD Zen 4", "float16", 5.0, "float32"),
        ("Intel Sapphire Rapids", "float16", 5.0, "stored"),
    ],
)
def test_float32_is_taken_where_it_is_tried_and_faster(
    machine: str, dtype: str, fast: float, expected: str, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(machine)
    monkeypatch.setattr(arithmetic, "product_speeds", lambda name: {name: 10.0, "float32": 10.0 * fast})
    assert arithmetic.compute_dtype(_model(dtype), "auto") == expected
    assert arithmetic.compute_dtype(_model(dtype), "stored") == "stored"
    assert arithmetic.compute_dtype(_model(dtype), "float32") == "float32"


def test_what_was_tried_once_is_kept(
    on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on("AMD Zen 3")
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path))
    console.use()
    first = arithmetic.compute_dtype(_model(), "auto")
    assert "GFLOP/s" in capsys.readouterr().err
    assert arithmetic.compute_dtype(_model(), "auto") == first
    assert capsys.readouterr().err == ""


def test_the_weights_of_a_hub_model_are_not_fetched_for_what_is_not_served_here(
    on: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    on("AMD Zen 3")
    monkeypatch.setattr(prepare, "described_model", lambda *_: _model())
    monkeypatch.setattr(prepare, "find_model", lambda *_: pytest.fail("the weights were asked for"))
    monkeypatch.delenv("QUANTPRESS_TARGET", raising=False)
    for verb in ("quantize", "evaluate", "bench", "run"):
        suite = ["--suite", "smoke"] if verb in ("evaluate", "run") else []
        assert main.main([verb, "rtn-w4a16", "--model", "org/name", "--out", str(tmp_path), *suite]) == 4
        assert "W4A16 is not served" in capsys.readouterr().err


ANSWERS = {
    "lacks the operator": (
        "gptq-w4a16",
        {"operators": ["onednn_scaled_mm"], "int8_is_exact": True, "rotates_heads": True},
    ),
    "saturates": ("w8a8-dynamic", {"operators": ["onednn_scaled_mm"], "int8_is_exact": False}),
    "is exact": ("w8a8-dynamic", {"operators": ["onednn_scaled_mm"], "int8_is_exact": True}),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_installed_vllm_has_the_last_word(
    case: str, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, answer = ANSWERS[case]
    on("AMD Zen 3" if case == "is exact" else "AMD Zen 4")
    monkeypatch.setattr(asking, "_answer", lambda *_: {**answer, "rotates_heads": True})
    made = _planned(name)
    if case == "lacks the operator":
        with pytest.raises(CapabilityError, match="W4A16 needs cpu_gemm_wna16"):
            asking.inexact_here(made, Path("vllm"))
        return
    found = asking.inexact_here(made, Path("vllm"))
    assert (found is None) is (case == "is exact")


def test_an_operator_that_turns_heads_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"operators": [], "int8_is_exact": None, "rotates_heads": False}
    monkeypatch.setattr(asking, "_answer", lambda *_: answer)
    assert "--engine enforce_eager=false" in (asking.wrong_operator(Path("vllm")) or "")
    answer["rotates_heads"] = True
    assert asking.wrong_operator(Path("vllm")) is None


@pytest.mark.parametrize("platform", ["rocm", "xpu", "tpu"])
def test_what_the_table_does_not_know_is_not_taken_for_something_else(
    platform: str, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A vLLM that is no build for CPUs is asked what it serves on."""
    on("AMD Zen 4")
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    monkeypatch.setattr(asking, "_answer", lambda *_: {"platform": platform})
    with pytest.raises(CapabilityError, match=f"the target is unknown: vLLM serves on {platform} here") as caught:
        prepare.inexactness(_planned("w8a8-dynamic"), "auto", str(vllm))
    assert "--target any goes on all the same" in (caught.value.hint or "")
    assert prepare.inexactness(_planned("w8a8-dynamic"), "any", str(vllm)) is None
    monkeypatch.setattr(asking, "_answer", lambda *_: {"platform": None})
    assert prepare.target_named("auto", str(vllm)) == "cpu"


def test_without_vllm_the_devices_tell(on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    on("AMD Zen 4")
    assert hardware.this_machine() == "cpu"
    monkeypatch.setattr(environment, "other_accelerators", lambda: ["an AMD GPU (ROCm)"])
    with pytest.raises(CapabilityError, match=r"this machine has an AMD GPU \(ROCm\), of which the table"):
        hardware.this_machine()
    assert hardware.this_machine("cuda") == "cpu"  # vLLM sees GPUs that CUDA_VISIBLE_DEVICES hides
    assert hardware.this_machine("cpu") == "cpu"  # a vLLM for CPUs serves on nothing else
