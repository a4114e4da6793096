"""Engines as data: the shipped ones, what lies over what, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress.language import shipped
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload import engines, workload
from quantpress_serve.workload.engine import Engine
from quantpress_serve.workload.engines import load_engine
from quantpress_serve.workload.workload import load_workload

LOAD = "name: w\ndescription: d\ninput_len: 8\noutput_len: 8\nconcurrency: [1]\nrequests: 4\n"


def engine_file(folder: Path, settings: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\ndescription: d\n{settings}\n")
    return str(path)


@pytest.mark.parametrize("name", shipped.names("engines"))
def test_every_shipped_engine_is_valid(name: str) -> None:
    assert engines.load_file(name).name == name
    assert load_engine([name]) != Engine() or name == "auto"


def test_each_item_lies_over_those_before_it_and_all_over_the_workload(tmp_path: Path) -> None:
    own = "engine: {tensor_parallel_size: 4, max_num_seqs: 8, extra_args: {block-size: 16, stream-interval: 2}}\n"
    (tmp_path / "w.yaml").write_text(LOAD + own)
    mine = engine_file(tmp_path, "max_num_seqs: 32\nextra_args: {block-size: 32}")
    items = ["one-gpu", mine, "max_num_seqs=64", "extra_args.optimization-level=0"]
    made = load_workload(str(tmp_path / "w.yaml"), engine=items).engine
    assert (made.tensor_parallel_size, made.max_num_seqs) == (1, 64)
    assert made.extra_args == {"block-size": 32, "stream-interval": 2, "optimization-level": 0}
    assert load_workload(str(tmp_path / "w.yaml")).engine.tensor_parallel_size == 4
    assert load_workload(str(tmp_path / "w.yaml"), engine=["auto"]).engine.tensor_parallel_size == "auto"


def test_an_engine_gives_a_workload_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n')
    text = LOAD.replace("input_len: 8\n", "prompts: {format: jsonl, path: p.jsonl}\n")
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(InputError, match=r"prompts need engine\.max_model_len"):
        load_workload(str(tmp_path / "w.yaml"))
    assert load_workload(str(tmp_path / "w.yaml"), engine=["max_model_len=256"]).model_len == 256


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("on-gpu", "'on-gpu' is not a shipped engine; did you mean 'one-gpu'?"),
        ("nowhere/e.yaml", "nowhere/e.yaml: no such file"),
        ("tensor_paralel_size=2", "unknown key 'tensor_paralel_size'; did you mean 'tensor_parallel_size'"),
        ("tensor_parallel_size=0", "tensor_parallel_size is 0"),
        ("max_num_seqs=many", "max_num_seqs is 'many'"),
        ("extra_args.port=80", "quantpress sets this argument itself"),
        ("extra_args.worker-cls=evil.Worker", "may run code"),
        ("extra_args.api-key=x", "is a secret"),
        ("name=other", "unknown key 'name'"),
        ("max_num_seqs.x.y=1", "--engine 'max_num_seqs.x.y=1'"),
    ],
)
def test_what_is_wrong_with_an_engine_is_told(item: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        load_engine(["max_num_seqs=8", item])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("tensor_paralel_size: 2", "mine.yaml:3:1: unknown key 'tensor_paralel_size'"),
        ("extra_args: {middleware: [evil.A]}", "--trust-workload middleware"),
        ("kv_cache_dtype: --trust-remote-code", "kv_cache_dtype"),
    ],
)
def test_a_file_of_ones_own_is_held_to_the_same_rules(settings: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_engine([engine_file(tmp_path, settings)])
    assert words in caught.value.render()


def test_a_trusted_argument_may_come_from_the_engine(tmp_path: Path) -> None:
    mine = engine_file(tmp_path, "extra_args: {chat-template: mine.jinja}")
    assert "--chat-template=mine.jinja" in load_engine([mine], ["chat-template"]).arguments()
    (tmp_path / "w.yaml").write_text(LOAD)
    assert load_workload(str(tmp_path / "w.yaml"), ["chat-template"], [mine]).engine == engines.layered([mine])


@pytest.mark.parametrize("given", ["data-parallel-size", "data_parallel_size", "--data-parallel-size"])
def test_what_is_a_setting_today_is_taken_from_where_it_stood(given: str, tmp_path: Path) -> None:
    extra = {given: 2, "enable-expert-parallel": True, "block-size": 16}
    made = Engine.model_validate({"extra_args": extra})
    assert made == Engine(data_parallel_size=2, enable_expert_parallel=True, extra_args={"block-size": 16})
    assert {"--data-parallel-size=2", "--enable-expert-parallel", "--block-size=16"} < set(made.arguments())


def test_results_of_earlier_versions_are_of_the_same_workload(tmp_path: Path) -> None:
    """What was not there then is not recorded where it is not set."""
    (tmp_path / "w.yaml").write_text(LOAD)
    load = load_workload(str(tmp_path / "w.yaml"))
    fitted = load.model_copy(update={"engine": load.engine.model_copy(update={"tensor_parallel_size": 1})})
    assert workload.record(fitted).engine.dump() == {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "kv_cache_dtype": "auto",
        "enforce_eager": "auto",
        "extra_args": {},
    }


@pytest.mark.parametrize(
    ("items", "deciding"),
    [
        ([], {}),
        (["one-gpu", "max_model_len=512", "gpu_memory_utilization=0.5"], {}),
        (["cpu-two"], {"tensor-parallel-size": 2}),
        (["kv-fp8", "enforce_eager=true"], {"kv-cache-dtype": "fp8", "enforce-eager": True}),
    ],
)
def test_what_of_an_engine_may_change_a_number(items: list[str], deciding: dict[str, Any]) -> None:
    assert load_engine(items).deciding() == deciding


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["max_num_seqs=64"], ["--max-num-seqs=64"]),
        (["kv_cache_dtype=auto"], ["--kv-cache-dtype=auto"]),
        (["pipeline_parallel_size=1"], ["--pipeline-parallel-size=1"]),
        (["data_parallel_size=1"], ["--data-parallel-size=1"]),
    ],
)
def test_only_what_was_named_takes_the_place_of_what_was_measured(items: list[str], words: list[str]) -> None:
    assert sorted(engines.layered(items).command_line()) == sorted(words)


def test_processes_on_a_cpu_share_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from quantpress_serve import vllm

    monkeypatch.setattr(vllm, "gpus", list)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    # Two nodes, each with hyperthreads of its own, as two sockets have them.
    monkeypatch.setattr(vllm, "_node_of_cores", lambda: {core: core // 2 % 2 for core in range(8)})
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    assert serving_environment(5)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,2,3,4,5,6,7"
    shared = serving_environment(5, 2)
    assert shared["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,4,5|2,3,6,7"
    assert (shared["VLLM_CPU_KVCACHE_SPACE"], serving_environment(1, 2)["VLLM_CPU_KVCACHE_SPACE"]) == ("2", "1")
