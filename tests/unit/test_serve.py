"""The serve stage's own logic; the server itself is exercised in tests/e2e."""

import socket
import sys
from pathlib import Path

import psutil
import pytest

from quantpress.console import Console
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress_serve import chat, server, stage
from quantpress_serve.load import Cell
from quantpress_serve.server import Launch
from quantpress_serve.workload import Engine


def launch(vllm: Path) -> Launch:
    return Launch(vllm, Path("/model"), "m", Engine(), 64)


def fake_vllm(tmp_path: Path, code: str) -> Path:
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("last", "meaning"),
    [
        ("KeyError: 'layers.0.mlp.down_proj.weight_scale'", "does not know a tensor"),
        ("OSError: [Errno 98] address already in use", "port was taken"),
        ("ValueError: Weight input_size = 8960 is not divisible by 128", "does not fit the kernel"),
        ("torch.OutOfMemoryError: CUDA out of memory", "does not fit this GPU"),
    ],
)
def test_a_server_that_dies_while_starting_is_explained(last: str, meaning: str, tmp_path: Path) -> None:
    vllm = fake_vllm(tmp_path, f"raise SystemExit({'Traceback' + chr(10) + last!r})")
    with (
        pytest.raises(StageError, match=meaning) as caught,
        server.serving(launch(vllm), tmp_path / "log", Console(quiet=True)),
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
        stage.Sides(vllm="/no/vllm").check()
    monkeypatch.setenv("VLLM", "/no/other")
    with pytest.raises(CapabilityError, match="/no/other"):
        stage.Sides().check()


def test_a_url_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not answer as a vLLM server"):
        server.attach(f"http://127.0.0.1:{server.free_port()}", tmp_path)


@pytest.mark.parametrize("text", ["", "   ", "!!!!!!!!!!", "the the the the the the the the", "\n\n\n", "a"])
def test_nonsense_is_degenerate(text: str) -> None:
    assert chat.degenerate(text)


@pytest.mark.parametrize("text", ["Paris.", "The capital of France is Paris.", "42 is"])
def test_sense_is_not(text: str) -> None:
    assert not chat.degenerate(text)


@pytest.mark.parametrize(
    ("ratios", "failed", "expected"),
    [
        ([1.2, 1.3, 1.1], 0, "faster"),
        ([1.2, 1.02, 1.1], 0, "no difference shown"),
        ([0.5, 0.6, 0.5], 0, "slower"),
        ([1.5, 1.5], 0, "no verdict: 2 pairs, 3 needed"),
        ([0.99, 1.01, 1.0], 0, "no difference shown"),
        ([1.5, 1.5], 1, "not comparable: requests failed"),
    ],
)
def test_a_verdict_needs_every_pair(ratios: list[float], failed: int, expected: str) -> None:
    assert stage.verdict(ratios, failed) == expected


def test_seeds_are_fresh_for_each_round_and_shared_by_a_pair() -> None:
    seeds = {(c, r): Cell("candidate", c, r).seed for c in (1, 8, 64) for r in range(5)}
    assert len(set(seeds.values())) == len(seeds)
    assert Cell("baseline", 8, 2).seed == Cell("candidate", 8, 2).seed


def test_the_summary_is_made_of_pairs() -> None:
    names = (*stage.TRACKED, *stage.LATENCIES)
    speeds = {("candidate", 0): 12.0, ("baseline", 0): 10.0, ("baseline", 1): 20.0, ("candidate", 1): 30.0}
    speeds |= {("candidate", 2): 26.0, ("baseline", 2): 20.0}
    cells = [
        {"role": role, "round": number, "concurrency": 8, "figures": dict.fromkeys(names, speed)}
        for (role, number), speed in speeds.items()
    ]
    (row,) = stage.summarize(cells)
    assert row["ratios"] == [1.2, 1.5, 1.3]
    assert row["speedup"] == pytest.approx(1.3)
    assert row["verdict"] == "faster"
    assert row["candidate"]["output_throughput"] == 26.0
