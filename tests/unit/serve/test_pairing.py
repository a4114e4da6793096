"""How servers share the machine: what is chosen by which facts, what is refused, and what each server then gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import psutil
import pytest

from quantpress.artifact.throughput import Inputs, ServerFacts, Throughput
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model.source import Model
from quantpress.runtime import environment
from quantpress.runtime.environment import Gpu
from quantpress_serve.bench import looks, pairing, servers, stage
from quantpress_serve.bench.pairing import Facts, Pairing
from quantpress_serve.bench.run import Run
from quantpress_serve.bench.starter import Starter
from quantpress_serve.bench.subject import Sides
from quantpress_serve.server import server, trial
from quantpress_serve.server.devices import Devices
from quantpress_serve.server.memory import GIB
from quantpress_serve.server.server import Launch
from quantpress_serve.workload.workload import Engine, Workload, load_workload

RESULT = Path(__file__).parents[1] / "results" / "throughput.json"
H100 = 80 * GIB
TWO = (("0",), ("1",))


def gpus(*free: int, kind: str = "H100") -> list[Gpu]:
    return [Gpu(device=str(n), kind=kind, memory=H100, free=room) for n, room in enumerate(free)]


def facts(needed: float = 4, together: float = 10, alone: float = 30, **more: Any) -> Facts:
    return Facts(needed=needed, together=together, alone=alone, **more)


@pytest.mark.parametrize(
    ("asked", "given", "expected"),
    [
        ("auto", facts(groups=TWO), "apart"),
        ("auto", facts(), "together"),
        ("auto", facts(needed=11), "alternating"),
        ("auto", facts(told=False), "alternating"),
        ("together", facts(needed=11, groups=TWO), "together"),
        ("alternating", facts(groups=TWO), "alternating"),
        ("apart", facts(groups=TWO), "apart"),
    ],
)
def test_the_first_pairing_in_which_both_have_what_the_load_needs(asked: str, given: Facts, expected: str) -> None:
    assert pairing.chosen(asked, given).name == expected


def test_the_reason_names_what_was_compared() -> None:
    said = pairing.chosen("auto", facts(needed=11)).reason
    assert said == "side by side each server would have 10.0 GiB beside its weights, and the load needs 11.0"
    assert pairing.chosen("auto", facts(groups=(("0", "1"), ("2", "3")))).reason == "each server has 2 GPUs of its own"


@pytest.mark.parametrize(
    ("free", "devices"),
    [((H100, H100), ()), ((10 * GIB, H100), ("1",)), ((10 * GIB, 10 * GIB), ())],
    ids=["all", "the second", "none"],
)
def test_where_something_else_is_on_the_first_gpu_another_is_taken(free: tuple[int, ...], devices: Devices) -> None:
    found = pairing.facts_on(gpus(*free), Engine(tensor_parallel_size=1), 1.0, [GIB, GIB])
    chosen = pairing.chosen("together", found)
    assert [chosen.devices_of(role, start) for role in ("candidate", "baseline") for start in (0, 1)] == [devices] * 4


def test_a_server_alone_takes_another_gpu_than_one_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint's trial, as scoring and `quantpress serve` do."""
    monkeypatch.setattr(environment, "gpus", lambda: ["H100", "H100"])
    monkeypatch.setattr(environment, "visible_gpus", lambda: gpus(10 * GIB, H100))
    asked: list[Launch] = []

    def serving(launch: Launch, log: Path) -> NoReturn:
        asked.append(launch)
        raise StageError("not today")

    monkeypatch.setattr(server, "serving", serving)
    monkeypatch.setattr(trial, "vllm_version", lambda vllm: "0.32.0")
    with pytest.raises(CapabilityError):
        trial.require_served(Model("m", tmp_path, "m", {}), "m", Path("vllm"), Engine(), tmp_path / "log")
    assert asked[0].environment()["CUDA_VISIBLE_DEVICES"] == "1"


def test_too_few_gpus_are_none_to_be_apart_on() -> None:
    with pytest.raises(CapabilityError, match="not enough free GPUs of one kind"):
        pairing.chosen("apart", facts())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((16, 8), "together"), ((60, 20), "alternating"), ((140, 40), None)],
    ids=["8B", "30B", "70B"],
)
def test_one_gpu_holds_both_one_at_a_time_or_none(
    weights: tuple[int, int], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 GiB, of which vLLM takes 72; the load's KV cache: 1024 tokens, 64 at once, 8 GiB."""
    monkeypatch.setattr(environment, "gpus", lambda: ["H100"])
    monkeypatch.setattr(environment, "visible_gpus", lambda: gpus(H100))
    config = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    load = Workload(name="w", description="d", input_len=448, output_len=384, concurrency=[64], requests_per_stream=1)
    sizes = {"baseline": weights[0] * GIB, "candidate": weights[1] * GIB}
    if expected:
        assert pairing.decide("auto", config, load, sizes).name == expected
        return
    for asked in ("auto", "together", "alternating"):
        with pytest.raises(CapabilityError, match="GiB larger than the memory that it would have") as caught:
            pairing.decide(asked, config, load, sizes)
        assert "tensor_parallel_size" in str(caught.value.hint)


def test_servers_that_do_not_fit_together_are_told_to_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: ["H100"])
    monkeypatch.setattr(environment, "visible_gpus", lambda: gpus(H100))
    with pytest.raises(CapabilityError) as caught:
        pairing.decide("together", {}, load_workload("smoke"), {"baseline": 60 * GIB, "candidate": 20 * GIB})
    assert "--pairing alternating" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("here", "each", "groups"),
    [
        (gpus(H100, H100), 1, TWO),
        (gpus(H100), 1, ()),
        (gpus(H100, 10 * GIB, H100), 1, (("0",), ("2",))),  # the second one is taken by somebody
        (gpus(H100, H100, H100, H100), 2, (("0", "1"), ("2", "3"))),
        (gpus(H100, H100, H100), 2, ()),
        ([*gpus(H100), *gpus(H100, kind="A100")], 1, ()),  # of two kinds: what differs would be the GPU
    ],
)
def test_who_has_gpus_of_its_own(here: list[Gpu], each: int, groups: tuple[tuple[str, ...], ...]) -> None:
    found = pairing.facts_on(here, Engine(tensor_parallel_size=each), 1.0, [GIB, GIB])
    assert found.groups == groups
    assert found.alone == pytest.approx(72 * each - 1)
    assert found.together == pytest.approx(36 * each - 1)


def test_sides_exchange_their_gpus_from_start_to_start() -> None:
    apart = Pairing("apart", "", TWO)
    assert [apart.devices_of("candidate", start) for start in range(3)] == [("0",), ("1",), ("0",)]
    assert [apart.devices_of("baseline", start) for start in range(3)] == [("1",), ("0",), ("1",)]
    assert Pairing("together", "").devices_of("candidate", 0) == ()
    launch = Launch(
        vllm=Path("vllm"), path=Path("m"), name="m", engine=Engine(), model_len=None, devices=("2", "3")
    ).environment()
    assert (launch["CUDA_VISIBLE_DEVICES"], launch["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")


def test_shown_gpus_are_those_that_the_caller_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "0, GPU-aa, H100, 81559, 81000\n1, GPU-bb, H100, 81559, 5\n2, GPU-cc, GB10, [N/A], [N/A]\n"
    monkeypatch.setattr(environment, "gpus", lambda: ["one", "two", "three"])
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [(gpu.device, gpu.free >> 20) for gpu in environment.visible_gpus()] == [("0", 81000), ("1", 5), ("2", 0)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb,MIG-1")
    assert [(gpu.device, gpu.memory >> 20) for gpu in environment.visible_gpus()] == [("GPU-bb", 81559), ("MIG-1", 0)]


def test_a_cpu_gives_each_server_what_the_load_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(environment, "gpus", list)
    free = SimpleNamespace(available=20 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    config = {"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2048}
    load = Workload(
        name="w", description="d", input_len=960, output_len=1000, concurrency=[64], requests_per_stream=1
    )  # 4.25 GiB of KV cache, in whole GiB
    weights = {"candidate": GIB, "baseline": 2 * GIB}
    together = pairing.decide("auto", config, load, weights)
    assert (together.name, together.memory_share) == ("together", 0.5)
    assert servers.kv_spaces(config, load, weights, together) == {"candidate": 5, "baseline": 5}
    free.available = 8 * GIB
    alternating = pairing.decide("auto", config, load, weights)
    assert (alternating.name, alternating.memory_share) == ("alternating", 1.0)
    assert servers.kv_spaces(config, load, weights, alternating) == {"candidate": 4, "baseline": 3}
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert pairing.decide("auto", config, load, weights).name == "alternating"  # for it, too, they need more
    assert servers.kv_spaces(config, load, weights, alternating) == {"candidate": 2, "baseline": 2}


def test_further_processes_of_a_server_take_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen is what can be given: the same count decides both."""
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(environment, "gpus", list)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=int(8.5 * GIB)))
    weights = {"candidate": GIB // 4, "baseline": GIB // 4}
    two = load_workload("smoke").model_copy(update={"engine": Engine(tensor_parallel_size=2)})
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64}
    chosen = pairing.decide("auto", config, two, weights)
    assert chosen.name == "alternating"
    assert servers.kv_spaces(config, two, weights, chosen) == {"candidate": 1, "baseline": 1}


def test_each_copy_of_a_model_has_all_of_its_weights() -> None:
    two = Engine(tensor_parallel_size=1, data_parallel_size=2)
    facts = pairing.facts_on(gpus(H100, H100), two, 1.0, [50 * GIB] * 2)
    assert facts.together == pytest.approx(72 - 100)
    assert facts.alone == pytest.approx(144 - 100)


def test_servers_that_run_already_are_not_paired() -> None:
    with pytest.raises(InputError, match="--pairing alternating says how servers of our own are started"):
        Sides(vllm_url="http://x", pairing="alternating").attached({}, load_workload("smoke"))


def test_another_pairing_is_measured_anew() -> None:
    result = Throughput.load(RESULT)
    assert result.paired == "together"  # of an older version, which named none
    known = result.inputs
    assert stage._changed(result, known) == []
    assert stage._changed(result, known.model_copy(update={"pairing": "together"})) == []
    assert stage._changed(result, known.model_copy(update={"pairing": "alternating"})) == ["pairing"]
    alternated = result.model_copy(
        update={"pairing": "alternating", "inputs": known.model_copy(update={"pairing": "alternating"})}
    )
    assert stage._changed(alternated, known) == []  # whatever was chosen will do where nobody asks
    assert stage._changed(alternated, known.model_copy(update={"pairing": "together"})) == ["pairing"]
    foreign = result.model_copy(update={"servers": {"candidate": ServerFacts(command="http://x")}})
    assert foreign.paired == "attached"
    assert Inputs().pairing is None


def test_a_side_that_does_not_start_costs_no_finished_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alternating, the candidate may have been loaded for an hour by then."""

    @contextmanager
    def started(*given: Any) -> Iterator[dict[str, str]]:
        roles = given[-1]
        if "baseline" in roles:
            raise StageError("vLLM stopped while starting", hint="read the log's end")
        yield dict.fromkeys(roles, "a server")

    def judged(seen: dict[str, Any], *_: Any) -> dict[str, Any]:
        return dict(seen)

    monkeypatch.setattr(servers, "started", started)
    monkeypatch.setattr(servers, "kv_spaces", lambda *_: {})
    monkeypatch.setattr(looks, "expected", lambda _: "nothing is scored")
    monkeypatch.setattr(looks, "look_at", lambda role, *_: role)
    monkeypatch.setattr(looks, "judged", judged)
    monkeypatch.setattr(Run, "measure", lambda run, *_: run.cells.append("a cell"))
    subject: Any = SimpleNamespace(name="a", logs=tmp_path, weight_bytes={}, model=SimpleNamespace(config={}))
    asked = stage._Asked(subject, load_workload("smoke"), Inputs(), Pairing("alternating", ""))
    run, known = stage._loaded(asked, Sides(), Starter(tmp_path / "vllm", tmp_path / "log", tmp_path), tmp_path)
    assert (run.cells, known) == (["a cell"], {"candidate": "candidate"})
    assert run.lost and run.lost.message == "vLLM stopped while starting"
