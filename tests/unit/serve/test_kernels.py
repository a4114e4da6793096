"""Which kernels vLLM says it chose, and what is said where they are not those that were planned."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import SMALL_LLAMA, planned_from

from quantpress.artifact.throughput import KernelUse, ServerFacts, Throughput
from quantpress.errors import CapabilityError
from quantpress.plan import hardware, kernels
from quantpress.recipe.loading import load_recipe
from quantpress.report import throughput_table
from quantpress.report.facts import decide
from quantpress.runtime import console
from quantpress_serve.bench import kernels as kernels_of_a_bench
from quantpress_serve.bench import stage
from quantpress_serve.server import server_log

# As vLLM 0.32.0 printed them on a CPU, for these recipes.
ON_A_CPU = {
    "rtn-w4a16": """
(Worker pid=30741) INFO 11-27 19:02:31 [__init__.py:923] Using CPUWNA16LinearKernel for mixed-precision linear
(Worker pid=30741) INFO 11-27 19:02:31 [compressed_tensors_wNa16.py:138] Using CPUWNA16LinearKernel for \
CompressedTensorsWNA16
""",
    "w8a8-dynamic": """
(Worker pid=31114) INFO 11-27 19:03:17 [__init__.py:846] Selected CPUInt8ScaledMMLinearKernel for \
CompressedTensorsW8A8Int8
""",
    "fp8-dynamic": """
(Worker pid=31485) INFO 11-27 19:04:04 [__init__.py:797] Selected ChannelWiseTorchFP8ScaledMMLinearKernel for \
CompressedTensorsW8A8Fp8
""",
    "w4a8": """
(Worker pid=15245) INFO 11-27 19:21:38 [__init__.py:923] Using CPUWNA16LinearKernel for mixed-precision linear
(Worker pid=15245) INFO 11-27 19:21:38 [compressed_tensors_wNa8.py:165] Using CPUWNA16LinearKernel for \
CompressedTensorsWNA8Int
""",
}
# As its source prints them on a GPU: platforms/cuda.py, kernels/linear/__init__.py, fused_moe/oracle.
ON_A_GPU = """
(Worker_TP0 pid=9) INFO 01-01 00:00:00 [cuda.py:506] Using FLASHINFER attention backend out of potential backends: \
['FLASHINFER', 'TRITON_ATTN'].
(Worker_TP1 pid=8) INFO 01-01 00:00:00 [compressed_tensors_wNa16.py:138] Using MarlinLinearKernel for \
CompressedTensorsWNA16
(Worker_TP1 pid=8) INFO 01-01 00:00:00 [compressed_tensors_wNa16.py:138] Using ExllamaLinearKernel for \
CompressedTensorsWNA16
(Worker_TP0 pid=9) INFO 01-01 00:00:00 [__init__.py:1240] Using CutlassNvFp4LinearKernel for NVFP4 GEMM
(Worker_TP0 pid=9) INFO 01-01 00:00:00 [nvfp4.py:242] Using 'FLASHINFER_CUTLASS' NvFp4 MoE backend out of potential \
backends: ['FLASHINFER_CUTLASS'].
"""


def planned(recipe: str, target: str) -> kernels.Kernels:
    return kernels.planned(planned_from(load_recipe(recipe), SMALL_LLAMA), target)


@pytest.mark.parametrize("recipe", ON_A_CPU)
def test_what_a_cpu_chose_is_as_planned(recipe: str) -> None:
    said = server_log.told_in_log(ON_A_CPU[recipe]).kernels
    (use,) = kernels.held_against(planned(recipe, "cpu-avx512"), said)
    assert use.served and set(use.served) <= set(use.planned)
    assert use.others == []


def test_what_a_gpu_chose_is_read() -> None:
    assert server_log.told_in_log(ON_A_GPU).kernels == {
        "CompressedTensorsWNA16": ["ExllamaLinearKernel", "MarlinLinearKernel"],
        "NVFP4 GEMM": ["CutlassNvFp4LinearKernel"],
        "NvFp4 MoE": ["FLASHINFER_CUTLASS"],
        "attention": ["FLASHINFER"],
    }
    chosen_by_hand = "[cuda.py:446] Using AttentionBackendEnum.TRITON_ATTN backend.\n"
    assert server_log.told_in_log(chosen_by_hand).kernels == {"attention": ["TRITON_ATTN"]}
    for_images = "Using default backend AttentionBackendEnum.TORCH_SDPA for vit attention"
    assert server_log.told_in_log(for_images).kernels is None


def test_another_kernel_than_planned_is_named() -> None:
    said = server_log.told_in_log(ON_A_GPU).kernels
    (use,) = kernels.held_against(planned("rtn-w4a16", "sm_86"), said)
    assert use.sentence == "W4A16: planned MarlinLinearKernel, served by ExllamaLinearKernel"
    (cache,) = kernels.held_against(planned("kv-fp8", "sm_90"), said)
    assert cache.sentence == "KV cache FP8: planned FLASH_ATTN, served by FLASHINFER"


def test_latent_attention_has_kernels_of_its_own_that_the_table_does_not_know() -> None:
    plan = planned_from(load_recipe("kv-fp8"), {**SMALL_LLAMA, "kv_lora_rank": 16})
    (cache,) = kernels.held_against(kernels.planned(plan, "sm_90"), {"attention": ["FLASH_ATTN_MLA"]})
    assert (cache.planned, cache.served, cache.others) == ([], ["FLASH_ATTN_MLA"], [])


def test_kinds_for_which_vllm_says_the_same_share_their_kernels() -> None:
    """Its log does not tell which of two schemes of packed weights each of two kernels serves."""
    mixed = planned("mixed-w4-w8", "sm_90")
    assert mixed.keys() == {"W4A16", "W8A16"}
    both = {"CompressedTensorsWNA16": ["MacheteLinearKernel", "MarlinLinearKernel"]}
    assert not [use.others for use in kernels.held_against(mixed, both) if use.others]


def test_the_kernels_of_experts_are_not_those_of_other_layers() -> None:
    config = SMALL_LLAMA | {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    }
    made = planned_from(load_recipe("fp8-dynamic"), config)
    experts_alone = {name: scheme for name, scheme in made.schemes.items() if ".experts." in name}
    assert kernels.planned(made, "sm_90") == {"FP8 dynamic": ["CutlassFP8ScaledMMLinearKernel"]}
    alone: Any = SimpleNamespace(**{**vars(made), "schemes": experts_alone})
    assert kernels.planned(alone, "sm_90") == {"FP8 dynamic": []}


def subject(recipe: str, target: str, require: bool) -> Any:
    return SimpleNamespace(kernels=planned(recipe, target), require_kernels=require, name=recipe)


def servers(log: str) -> Any:
    facts = ServerFacts(command="vllm serve", kernels=server_log.told_in_log(log).kernels)
    return {"candidate": SimpleNamespace(facts=facts)}


def test_required_kernels_are_exit_4(capsys: pytest.CaptureFixture[str]) -> None:
    console.use()
    other = subject("rtn-w4a16", "sm_86", True)
    with pytest.raises(CapabilityError, match="planned MarlinLinearKernel, served by ExllamaLinearKernel") as caught:
        kernels_of_a_bench.looked_at(other, servers(ON_A_GPU))
    assert "without --require-kernels" in (caught.value.hint or "")
    with pytest.raises(CapabilityError, match="planned MarlinLinearKernel, vLLM did not say which serves"):
        kernels_of_a_bench.looked_at(other, servers(""))
    other.require_kernels = False
    (use,) = kernels_of_a_bench.looked_at(other, servers(ON_A_GPU)) or []
    assert use.others == ["ExllamaLinearKernel"]
    assert "served by ExllamaLinearKernel" in capsys.readouterr().err
    # Of what vLLM never names the kernel nothing can be required.
    kernels_of_a_bench.looked_at(subject("kv-fp8", "cpu-avx512", True), servers(""))
    assert "does not say which kernel serves KV cache FP8" in capsys.readouterr().err


def test_what_was_measured_with_other_kernels_is_not_taken_where_the_planned_are_required() -> None:
    use = KernelUse(kind="W8A8", planned=["A"], served=["B"], others=["B"])
    result: Any = SimpleNamespace(kernels=[use])
    with pytest.raises(CapabilityError, match="W8A8: planned A, served by B"):
        stage._kernels_known(subject("rtn-w4a16", "sm_86", True), result)
    assert stage._kernels_known(subject("rtn-w4a16", "sm_86", False), result)
    result.kernels = None  # by an older version: measured again
    assert not stage._kernels_known(subject("rtn-w4a16", "sm_86", True), result)


def test_report_and_verdict_name_another_kernel() -> None:
    path = Path(__file__).parents[1] / "results" / "throughput.json"
    use = KernelUse(kind="W4A16", planned=["A", "B"], served=["B", "C"], others=["C"])
    result = Throughput.load(path).model_copy(update={"kernels": [use]})
    said = throughput_table("r4", result)
    assert "another kernel than planned" in said.splitlines()[2]
    assert "W4A16: planned A or B, served by C" in said
    speed: Any = SimpleNamespace(served=None, kernels=[use])
    recipe: Any = SimpleNamespace(name="r4", throughput=speed)
    assert decide._engine_caveats([recipe]) == [
        "r4 was served by another kernel than planned (W4A16: planned A or B, served by C): its speed is that kernel's."
    ]


def test_a_gpu_belongs_to_its_own_generation() -> None:
    assert [hardware.target_of(f"sm_{number}") for number in (87, 88, 103, 121)] == [
        "sm_86",
        "sm_86",
        "sm_100",
        "sm_120",
    ]
    assert hardware._nearest(110) is None  # Jetson Thor: neither sm_100 nor sm_120
    assert hardware.cell("W8A8", "sm_120").support == "no"
    assert hardware.cell("NVFP4", "sm_120").classes != hardware.cell("NVFP4", "sm_100").classes
