"""How many GPUs share a model, by what each has and what the model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.cli.main import main
from quantpress.errors import CapabilityError
from quantpress.plan import hardware
from quantpress.recipe.presets import SCHEMES
from quantpress.runtime import environment
from quantpress_serve.server import fit
from quantpress_serve.server.fit import Need, fitted
from quantpress_serve.workload.engine import Engine
from quantpress_serve.workload.workload import Workload

GB = 10**9
# 70 billion parameters in 16 bits, and a load that fills 12 GB.
NEED = Need(weights=140 * GB, kv_cache=12 * GB, one_request=GB, share=1.0, splits=[1, 2, 4, 8, 16, 32, 64], kv_heads=8)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Has the machine show so many GPUs of so many GB."""

    def show(number: int, gigabytes: int) -> None:
        monkeypatch.setattr(environment, "gpu_memory", lambda: [gigabytes * GB] * number)

    return show


def size_of(engine: Engine, need: Need = NEED) -> Any:
    return fitted(engine, need).engine.tensor_parallel_size


@pytest.mark.parametrize(
    ("number", "gigabytes", "engine", "need", "size"),
    [
        (8, 80, {}, NEED, 4),  # 2 * 72 GB hold the weights, and not the KV cache too
        (8, 200, {}, NEED, 1),
        (4, 80, {}, NEED, 4),
        (8, 80, {"gpu_memory_utilization": 0.98}, NEED, 4),  # nor activations beside both
        (8, 80, {}, replace(NEED, share=0.5), 8),
        (8, 80, {}, replace(NEED, splits=[1, 8]), 8),
        (8, 80, {"pipeline_parallel_size": 2}, NEED, 2),
        (8, 80, {"data_parallel_size": 2, "enable_expert_parallel": True}, NEED, 2),
        (8, 24, {}, replace(NEED, weights=20 * GB, kv_cache=0, one_request=0), 2),
        (1, 24, {}, replace(NEED, weights=21 * GB, kv_cache=0, one_request=0), 1),  # there is no other choice
        (8, 80, {"tensor_parallel_size": 2}, NEED, 2),
        (8, 80, {}, replace(NEED, weights=60 * GB, kv_cache=30 * GB, kv_heads=1), 2),
    ],
)
def test_as_few_gpus_as_weights_and_kv_cache_fit(
    number: int, gigabytes: int, engine: dict[str, Any], need: Need, size: int, gpus: Callable[[int, int], None]
) -> None:
    gpus(number, gigabytes)
    assert size_of(Engine.model_validate(engine), need) == size


def test_it_says_why(gpus: Callable[[int, int], None]) -> None:
    gpus(8, 80)
    assert fitted(Engine(), NEED).why == (
        "tensor parallel 4: 140.00 GB of weights and 12.00 GB of KV cache do not fit 2 GPUs of 80 GB (this "
        "server's share of one: 72.00 GB, activations included)"
    )
    assert "4.00 GB of weights and 12.00 GB of KV cache fit one GPU" in str(
        fitted(Engine(), replace(NEED, weights=4 * GB)).why
    )


def test_less_kv_cache_than_the_load_fills_makes_requests_wait(gpus: Callable[[int, int], None]) -> None:
    gpus(2, 80)
    found = fitted(Engine(), NEED)
    assert (found.engine.tensor_parallel_size, found.tight) == (2, True)
    assert "requests will wait" in str(found.why)


def test_by_the_kv_cache_nothing_is_refused(gpus: Callable[[int, int], None]) -> None:
    """What is known of it is an upper bound: layers with a sliding window need far less."""
    gpus(1, 48)
    found = fitted(Engine(), replace(NEED, weights=8 * GB, kv_cache=51 * GB, one_request=51 * GB))
    assert (found.engine.tensor_parallel_size, found.tight) == (1, True)


@pytest.mark.parametrize(
    ("number", "need", "hint"),
    [
        (1, NEED, "2 such GPUs would hold them"),
        (4, replace(NEED, weights=1000 * GB), "16 such GPUs would hold them"),
        (4, replace(NEED, splits=[1]), "take larger GPUs"),
    ],
)
def test_what_fits_no_number_of_gpus_is_refused(
    number: int, need: Need, hint: str, gpus: Callable[[int, int], None]
) -> None:
    gpus(number, 80)
    with pytest.raises(CapabilityError, match=r"\d+\.\d+ GB of weights do not fit") as caught:
        fitted(Engine(), need)
    assert hint in str(caught.value.hint)


def test_more_gpus_than_there_are_and_more_processes_than_cores(
    gpus: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2, 80)
    with pytest.raises(CapabilityError, match=r"takes 8 GPUs .* may use 2"):
        fitted(Engine(tensor_parallel_size=4, data_parallel_size=2), NEED)
    gpus(0, 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(CapabilityError, match=r"takes 4 cores .* may use 2"):
        fitted(Engine(tensor_parallel_size=4), NEED)
    assert (size_of(Engine()), size_of(Engine(tensor_parallel_size=2))) == (1, 2)


def test_a_bench_shares_the_gpus_among_two_servers(gpus: Callable[[int, int], None]) -> None:
    """The larger of the two decides for both: one engine, so that the pair compares."""
    config = {"num_hidden_layers": 8, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    down_proj = "model.layers.0.mlp.down_proj"
    structure = SimpleNamespace(linears={down_proj: (4096, 11008)})
    plan: Any = SimpleNamespace(
        weight_bytes=6 * GB, checkpoint_bytes=2 * GB, schemes={down_proj: SCHEMES["W4A16"]}, structure=structure
    )
    load = Workload(
        name="w", description="d", input_len=936, output_len=1000, concurrency=[8], requests_per_stream=1, rounds=1
    )
    need = fit.need_of([plan], config, load.engine, fit.Asked(context=2000, at_once=8), fit.largest([plan]))
    assert (need.weights, need.one_request) == (6 * GB, 2 * 8 * 128 * 2 * 2000 * 8)
    assert need.kv_cache == 8 * need.one_request
    assert need.splits == [1, 2]  # groups of 128 do not divide 11008 / 4
    gpus(4, 8)
    assert fit.for_load(load, [plan], config, "together").engine.tensor_parallel_size == 2
    assert fit.for_load(load, [plan], config).engine.tensor_parallel_size == 2
    assert fit.alone(Engine(max_model_len=2000), plan, config).engine.tensor_parallel_size == 1


NVIDIA_SMI = """#!/bin/sh
case "$*" in
  *index,uuid,name*)
    for row in "0, GPU-aa, H100, 81559" "1, GPU-ab, H100, 81559" "2, GPU-bc, L4, 23034" "3, GPU-cd, GB10, [N/A]"; do
      echo "$row, 0"; done ;;
  *index,uuid,compute_cap*)
    for row in "0, GPU-aa, 9.0" "1, GPU-ab, 9.0" "2, GPU-bc, 8.9"; do echo "$row"; done ;;
  *) for row in 0 1 2; do echo "NVIDIA H100 80GB HBM3, 81559 MiB"; done ;;
esac
"""


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with an nvidia-smi that shows three GPUs."""
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text(NVIDIA_SMI)
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment.gpus.cache_clear()
    yield smi.parent
    environment.gpus.cache_clear()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [81559, 81559, 23034]),
        ("0,2", [81559, 23034]),
        ("GPU-b,0", [23034, 81559]),
        ("MIG-1", []),
        ("", []),
        ("3", []),
    ],
)
def test_only_gpus_that_may_be_used_count(
    visible: str | None, expected: list[int], three_gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.gpu_memory() == [number * 2**20 for number in expected]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["9.0", "9.0", "8.9"]), ("1,0", ["9.0", "9.0"]), ("GPU-b", ["8.9"]), ("MIG-1", ["9.0", "9.0", "8.9"])],
)
def test_only_gpus_that_may_be_used_decide_the_target(
    visible: str | None, expected: list[str], three_gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.visible_capabilities() == expected
    assert hardware.this_machine() == ("sm_90" if "8.9" not in expected else "sm_89")


def test_a_small_card_for_a_screen_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    need = Need(weights=16 * 10**9, kv_cache=0, one_request=0, share=1.0, splits=[1, 2, 4], kv_heads=8)
    found = fitted(Engine(), need, [80 * 10**9] * 2 + [4 * 10**9])
    assert found.engine.tensor_parallel_size == 1
    # Where the engine takes three, it is one of them.
    found = fitted(Engine(pipeline_parallel_size=3), replace(need, weights=10**9), [80 * 10**9] * 2 + [8 * 10**9])
    assert found.engine.tensor_parallel_size == 1


def test_the_command_line_takes_an_engine_on_gpus(
    three_gpus: Path, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    asked = ["rtn-w4a16", "--model", str(make_model())]
    code = main(["bench", *asked, "--vllm", str(tmp_path / "vllm"), "--engine", "tensor_parallel_size=4"])
    assert (code, "takes 4 GPUs" in capsys.readouterr().err) == (4, True)
    assert main(["plan", *asked, "--context", "64"]) == 0
    said = capsys.readouterr().out
    assert "engine       on this machine tensor parallel 1: " in said
    assert " fit one GPU of 86 GB" in said
    assert not (tmp_path / "artifacts").exists()
