"""The serve stage's own logic; the server itself is exercised in tests/e2e."""

import json
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from support import answering

from quantpress.artifact.throughput import Cell, ServerFacts, Throughput
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model.source import Model
from quantpress.runtime import process, worker
from quantpress_serve.bench import chat, likelihoods, stage
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.starter import Starter
from quantpress_serve.bench.subject import Sides, Subject
from quantpress_serve.bench.workers import Likelihoods
from quantpress_serve.server import causes, foreign, memory, server, server_log
from quantpress_serve.server.foreign import Address
from quantpress_serve.server.server import Launch, Server, ServerLost
from quantpress_serve.server.server_log import AtMetrics
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload import engine as engines
from quantpress_serve.workload import workload
from quantpress_serve.workload.engine import Argument
from quantpress_serve.workload.workload import Engine, Level, load_workload

RECORDED = Path(__file__).parents[1] / "recorded"
ARGUMENTS = {
    name: Argument.model_validate(known)
    for name, known in json.loads((RECORDED / "arguments.json").read_text()).items()
}


def server_at(url: str, **more: Any) -> Server:
    return Server(url=url, name="m", path=Path("/m"), facts=ServerFacts(command=""), **more)


def launch(vllm: Path) -> Launch:
    return Launch(vllm=vllm, path=Path("/model"), name="m", engine=Engine(), model_len=64)


def result(name: str, complete: bool = True, digest: str = "d") -> Throughput:
    """A real result, as if under another workload and of another checkpoint."""
    real = Throughput.load(RECORDED.with_name("results") / "throughput.json")
    workload = real.workload.model_copy(update={"name": name})
    return real.model_copy(update={"workload": workload, "complete": complete, "checkpoint_digest": digest})


def fake_vllm(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("log", "meaning"),
    [
        ("port", "the port was taken in the meantime"),
        ("tp", "tensor_parallel_size does not divide the attention heads"),
        ("kv", "too little memory for VLLM_CPU_KVCACHE_SPACE"),
        ("keyerror", "does not know a tensor of this checkpoint"),
        ("scheme", "this build of vLLM has no kernel for the scheme"),
        ("ctx", "the model was not made for so long a context"),
        ("avx2", "vLLM's library for this CPU lacks an operator that the scheme needs"),
    ],
)
def test_what_vllm_really_says_is_explained(log: str, meaning: str) -> None:
    """Recorded from vLLM 0.32.0 on a CPU, which was made to fail in each of these ways."""
    assert meaning in causes.explain(RECORDED / f"{log}.log")


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        # Formatted as vLLM's source does it, for what cannot be provoked on a CPU.
        ("KeyError: 'layers.0.mlp.down_proj.weight_scale'", "does not know a tensor"),
        (
            "ValueError: Weight input_size_per_partition=8960 is not divisible by group_size=128.",
            "does not fit the kern",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "does not fit this GPU"),
        (
            "RuntimeError: Quantization scheme is not supported for the current GPU. Min capability: 89",
            "GPU is too old",
        ),
        ("ValueError: No available memory for the cache blocks. Try increasing", "no memory is left for the KV cache"),
        (
            "ValueError: something new\nRuntimeError: Engine core initialization failed. See root",
            "^ValueError: something",
        ),
    ],
)
def test_a_cause_is_found_wherever_the_log_names_it(line: str, meaning: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"(APIServer pid=1) INFO 01-01 00:00:00 [x.py:1] KeyError: not this\n{line}\n")
    assert re.search(meaning, causes.explain(tmp_path / "log"))


def test_a_server_that_dies_while_starting_is_explained(tmp_path: Path) -> None:
    vllm = fake_vllm(tmp_path, f"raise SystemExit(open({str(RECORDED / 'tp.log')!r}).read())")
    with (
        pytest.raises(StageError, match="does not divide the attention heads") as caught,
        server.serving(launch(vllm), tmp_path / "log"),
    ):
        pass
    assert caught.value.log == tmp_path / "log"
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def test_a_taken_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind((server.HOST, 0))
        holder.listen()
        with pytest.raises(InputError, match=f"port {holder.getsockname()[1]} on 127.0.0.1 cannot be used"):
            server.require_free(holder.getsockname()[1])


def test_an_impossible_port_is_named() -> None:
    with pytest.raises(InputError, match="port 70000"):
        server.require_free(70000)


def test_vllm_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CapabilityError, match="/no/vllm is not an executable"):
        Sides(vllm="/no/vllm").executable()
    monkeypatch.setenv("VLLM", "/no/other")
    with pytest.raises(CapabilityError, match="/no/other"):
        Sides().executable()


def test_a_url_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not answer as a vLLM server: \[Errno 111\]"):
        foreign.attach(Address(url=f"http://127.0.0.1:{server.free_port()}"), tmp_path)


def test_what_a_server_tells_while_it_starts() -> None:
    """Recorded from vLLM 0.32.0 on a CPU, which does not say what its weights take; a GPU's line is from its source."""
    text = (RECORDED / "started.log").read_text()
    found = server_log.told_in_log(text).dump()
    assert found == {
        "weights_gib": None,
        "load_s": 0.43,
        "kv_cache_tokens": 40768,
        "kv_cache_gib": 1.0,
        "engine_init_s": 1.23,
        "kernels": None,
    }
    on_gpu = "Model loading took 7.51 GiB memory and 3.20 seconds\nModel loading took 7.62 GiB memory and 3.1 seconds\n"
    on_gpu += "Available KV cache memory: 61.4 GiB\nGPU KV cache size: 503,088 tokens, Maximum concurrency for 8,192"
    assert server_log.told_in_log(on_gpu).weights_gib == 7.62
    assert server_log.told_in_log(on_gpu).kv_cache_gib == 61.4
    assert server_log.told_in_log(on_gpu).kv_cache_tokens == 503088


def test_what_a_server_tells_at_metrics() -> None:
    found = server_log.told_at_metrics((RECORDED / "metrics.txt").read_text())
    assert found == AtMetrics(kv_cache_tokens=38826, prefix_caching=False, started=1.79539151335e9)
    assert server_log.told_at_metrics("") == AtMetrics()


def test_seeds_are_fresh_for_each_run_round_and_level_and_shared_by_a_pair() -> None:
    levels = [Level(concurrency=number) for number in (1, 8, 64)] + [Level(request_rate=0.5)]
    seeds = [Turn("candidate", level, r, base).seed for level in levels for r in range(5) for base in (1, 7_000_000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert Turn("baseline", levels[1], 2, 5).seed == Turn("candidate", levels[1], 2, 5).seed


def command_of(text: str, tmp_path: Path, level: int = 0) -> str:
    path = tmp_path / "w.yaml"
    path.write_text(f"name: w\ndescription: d\n{text}\n")
    load = load_workload(str(path))
    generator = Generator(Starter(Path("vllm"), tmp_path / "log", tmp_path), load, tmp_path)
    one = server_at("http://127.0.0.1:1", tokenizer=Path("/tokens"))
    return " ".join(generator.command(one, Turn("candidate", load.levels[level], 0), "x.json"))


def test_the_load_generators_command_says_what_the_workload_says(tmp_path: Path) -> None:
    text = "input_len: {min: 24, max: 40}\noutput_len: 8\nconcurrency: [1, 4]\nrequests_per_stream: 3"
    said = command_of(f"{text}\ngoodput: {{ttft: 500, tpot: 62.5}}", tmp_path, level=1)
    assert "--dataset-name random --random-input-len 32 --random-output-len 8 --random-range-ratio" in said
    assert '{"input": 0.25, "output": 0.0}' in said
    assert "--num-prompts 12 --num-warmups 4 --max-concurrency 4 --goodput ttft:500 tpot:62.5 --percentile" in said
    assert "--tokenizer /tokens" in said
    said = command_of("input_len: 8\noutput_len: 8\nrequest_rates: [0.5, 2]\nrequests: 30", tmp_path, level=1)
    assert "--num-prompts 30 --num-warmups 2 --request-rate 2 " in said
    assert "range-ratio" not in said


def test_prompts_from_a_file_go_to_the_load_generator(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Why?", "output_tokens": 5}\n')
    talk = [{"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}]
    (tmp_path / "s.json").write_text(json.dumps(talk))
    rest = "engine: {max_model_len: 512}\nconcurrency: [1]\nrequests: 4\nprompts:"
    said = command_of(f"{rest} {{format: jsonl, path: p.jsonl}}", tmp_path)
    assert (
        f"--dataset-name custom --dataset-path {tmp_path}/p.jsonl --skip-chat-template --custom-output-len -1" in said
    )
    said = command_of(f"output_len: 16\n{rest} {{format: sharegpt, path: s.json}}", tmp_path)
    assert f"--dataset-name sharegpt --dataset-path {tmp_path}/s.json --sharegpt-output-len 16" in said


def test_no_request_of_ours_carries_a_seed() -> None:
    """A seeded request kills vLLM 0.32.0 on a CPU."""
    source = Path(chat.__file__).read_text()
    assert '"seed"' not in source


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (
            {"max_num_seqs": 8, "pipeline_parallel_size": 2},
            "--pipeline-parallel-size=2 --kv-cache-dtype=auto --max-num-seqs=8",
        ),
        (
            {"extra_args": {"enable_chunked_prefill": False, "block-size": 32}},
            "--no-enable-chunked-prefill --block-size=32",
        ),
        ({"extra_args": {"compilation-config": {"level": 1}}}, '--compilation-config={"level": 1}'),
    ],
)
def test_engine_settings_become_arguments(engine: dict[str, Any], words: str) -> None:
    made = Engine.model_validate(engine)
    assert words in " ".join(made.arguments())
    engines.require_taken(made, ARGUMENTS, "0.32.0")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"extra_args": {"max-num-sqs": 8}}, "no argument --max-num-sqs; did you mean 'max-num-seqs'"),
        ({"kv_cache_dtype": "fp9"}, "--kv-cache-dtype of vLLM 0.32.0 takes one of auto, bfloat16"),
        ({"extra_args": {"enable-chunked-prefill": 1}}, "is a flag: true or false"),
        ({"extra_args": {"block-size": True}}, "takes a value"),
        ({"extra_args": {"block-size": "many"}}, "takes a number of type int"),
        ({"extra_args": {"block-size": [1, 2]}}, "takes one value"),
    ],
)
def test_an_engine_setting_that_vllm_does_not_take_is_told_why(engine: dict[str, Any], words: str) -> None:
    """Against the arguments that vLLM 0.32.0's own parser was seen to have."""
    with pytest.raises(InputError, match=re.escape(words)):
        engines.require_taken(Engine.model_validate(engine), ARGUMENTS, "0.32.0")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("port", "sets this argument itself"),
        ("no-enable-prefix-caching", "itself"),
        ("max_num_seqs", "engine.max_num_seqs"),
    ],
)
def test_an_extra_argument_of_ours_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        engines.require_names(Engine(extra_args={name: 1}))
    assert words in caught.value.render()


def test_threads_spin_less_unless_the_caller_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert serving_environment()["GOMP_SPINCOUNT"] == "2500"
    assert worker.worker_environment()["GOMP_SPINCOUNT"] == "2500"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in serving_environment() | worker.worker_environment()


def test_an_engine_that_dies_of_the_first_request_is_explained(tmp_path: Path) -> None:
    """Its server still answers, with 500, and then not at all: the cause is in the log."""
    log = tmp_path / "vllm.log"
    log.write_text((RECORDED / "avx2.log").read_text())
    dead = subprocess.Popen(["true"])
    dead.wait()
    with answering(500, b'{"error": {"message": "EngineCore encountered an issue."}}') as url:
        lost = server_at(url, log=log, running=dead)
        scored = Likelihoods(windows=[[1, 2, 3]], likelihoods=[[-1.0, -1.0]])
        asked = (
            lambda: likelihoods.by_server("candidate", lost, scored),
            lambda: chat.answers_of("candidate", lost),
        )
        for ask in asked:
            with pytest.raises(server.ServerLost, match=r"lacks an operator .* no attribute 'cpu_gemm_wna16'"):
                ask()


def test_the_kv_cache_of_a_cpu_fits_the_load_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    config = {"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048}
    load = workload.Workload(
        name="w", description="d", input_len=960, output_len=1000, concurrency=[64], requests_per_stream=1
    )
    free = SimpleNamespace(available=100 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    # 2024 tokens are 16 blocks of 128, and one more: 2176 * 64 * 16 layers * 2 * 8 heads * 64 * 2 bytes.
    assert memory.kv_space(config, load, 2**30, 2) == 5
    free.available = 12 * 2**30
    assert memory.kv_space(config, load, 2**30, 2) == 3
    free.available = 5 * 2**30
    with pytest.raises(CapabilityError, match="would be left for the KV cache"):
        memory.kv_space(config, load, 2**30, 2)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert memory.kv_space(config, load, 2**30, 2) == 7


def test_a_server_that_is_gone_ends_the_load(tmp_path: Path) -> None:
    """The load generator (here: one that never ends) is stopped at once, and the cause is in the error."""
    vllm = fake_vllm(tmp_path, "import time; time.sleep(600)")
    (tmp_path / "log").write_text((RECORDED / "kv.log").read_text())
    with process.guarded([sys.executable, "-c", "import time; time.sleep(1)"], None) as running:
        one = server_at("http://127.0.0.1:1", log=tmp_path / "log", running=running)
        load = load_workload("smoke")
        generator = Generator(Starter(vllm, tmp_path / "bench.log", tmp_path), load, tmp_path)
        with pytest.raises(ServerLost, match="the server of m stopped: too little memory"):
            generator.measure(one, Turn("candidate", load.levels[0], 0))


@pytest.mark.parametrize("started", [1.7e9, 1.6e9], ids=["the same", "another"])
def test_a_server_that_was_started_anew_between_two_cells_is_found(started: float, tmp_path: Path) -> None:
    """Even though no request failed: the load generator, here one that only writes its result, says so."""
    code = "import sys; args = sys.argv; value = lambda name: args[args.index(name) + 1]\n"
    code += "open(value('--result-dir') + '/' + value('--result-filename'), 'w').write('{\"output_throughput\": 5.0}')"
    load = load_workload("smoke")
    generator = Generator(Starter(fake_vllm(tmp_path, code), tmp_path / "bench.log", tmp_path), load, tmp_path)
    with answering(200, b"process_start_time_seconds 1.7e+09\n") as url:
        one = server_at(url, started=started)
        if started == 1.7e9:
            assert generator.measure(one, Turn("candidate", load.levels[0], 0)).figures["output_throughput"] == 5
        else:
            with pytest.raises(ServerLost, match="was restarted"):
                generator.measure(one, Turn("candidate", load.levels[0], 0))


def subject_in(folder: Path, digest: str = "d") -> Subject:
    model = Model("m", folder, "m", {})
    return Subject(
        name="r", folder=folder, digest=digest, candidate=folder, model=model, model_digest="m", weight_bytes={}
    )


def test_an_incomplete_result_never_takes_the_place_of_a_complete_one(tmp_path: Path) -> None:
    subject, chatted = subject_in(tmp_path), result("chat")
    assert stage.written(subject, result("chat", complete=False)).name == "throughput.json"
    assert stage.written(subject, chatted).name == "throughput.json"
    assert stage.written(subject, result("chat", complete=False)).name == "throughput-incomplete.json"
    assert subject.results.known("chat") == chatted
    assert stage.written(subject, result("latency", complete=False)).name == "throughput-incomplete.json"
    assert subject.results.known("chat") == chatted


def test_each_workload_keeps_its_result(tmp_path: Path) -> None:
    subject = subject_in(tmp_path)
    chatted, latency = result("chat"), result("latency")
    results = subject.results
    stage.written(subject, chatted)
    stage.written(subject, latency)
    assert (results.newest(), results.known("chat")) == (latency, chatted)
    results.to_front("chat")
    assert (results.newest(), results.known("latency")) == (chatted, latency)
    again = latency.model_copy(update={"cells": [Cell(role="candidate", figures={})]})
    stage.written(subject, again)
    assert (results.known("chat"), results.known("latency")) == (chatted, again)
    assert [path.name for path in (tmp_path / "throughput").iterdir()] == ["chat.json"]
    assert replace(results, digest="another").known("chat") is None
    stage.written(subject_in(tmp_path, "another"), result("chat", digest="another"))
    assert results.known("latency") is None  # it was of a checkpoint that is no more
