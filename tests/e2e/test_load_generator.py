"""vLLM's own load generator against a server that fails now and then."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from support import StandIn

from quantpress_serve.bench import load
from quantpress_serve.bench.load import Generator, Turn
from quantpress_serve.bench.starter import Starter
from quantpress_serve.server import foreign
from quantpress_serve.server.foreign import Address
from quantpress_serve.server.server import ServerLost
from quantpress_serve.vllm import find_vllm
from quantpress_serve.workload.workload import Workload

pytestmark = pytest.mark.e2e
LOAD = Workload(name="w", description="d", input_len=8, output_len=4, concurrency=[2], requests=6, rounds=1)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {"a": 0, "b": 1, "[UNK]": 2}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}'
    )


def waiting() -> list[psutil.Process]:
    below = psutil.Process().children(recursive=True)
    return [one for one in below if "load_probe.py" in " ".join(one.as_dict(["cmdline"])["cmdline"] or [])]


def test_one_process_imports_vllm_for_all_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that is given up takes it down, and the next one starts another, as after a kill; at the end there is
    none."""
    write_tokenizer(tmp_path)
    stand_in = StandIn()
    with stand_in.up() as url, Starter(find_vllm(None), tmp_path / "log", tmp_path) as starter:
        generator = Generator(starter, LOAD, tmp_path)
        server = foreign.attach(Address(url=url), tmp_path)

        def completed(number: int) -> float:
            return generator.measure(server, Turn("candidate", LOAD.levels[0], number)).figures["completed"]

        assert completed(0) == 6
        first = {one.pid for one in waiting()}
        assert completed(1) == 6
        assert {one.pid for one in waiting()} == first != set()
        with monkeypatch.context() as patch, pytest.raises(ServerLost):
            patch.setattr(load, "longest_time", lambda workload, level: 0.0)
            completed(2)
        assert not waiting()
        assert completed(3) == 6
        second = waiting()
        assert not first & {one.pid for one in second}
        for one in second:  # while no load runs, by the kernel for want of memory, say
            one.kill()
        psutil.wait_procs(second, timeout=10)
        assert completed(4) == 6
        assert list(tmp_path.glob("commands-*"))
    assert not waiting()
    assert not list(tmp_path.glob("commands-*"))


def test_it_brings_the_key_past_a_proxy_and_tells_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, on a server that fails every third request; a proxy of the environment answers nothing."""
    write_tokenizer(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_API_KEY", "of another server")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    stand_in = StandIn(key="sesame-open-7351", failing=lambda number, body: body["max_tokens"] == 4 and number % 3 == 0)
    with stand_in.up() as url:
        found = foreign.attach(Address(url=url, key="sesame-open-7351"), tmp_path)
        with Starter(find_vllm(None), tmp_path / "log", tmp_path) as starter:
            generator = Generator(starter, LOAD, tmp_path)
            cell = generator.measure(found, Turn("candidate", LOAD.levels[0], 0))
    failed = int(cell.figures["failed"])
    assert failed
    assert sum(cell.errors.values()) == failed
    assert all("Internal Server Error" in why for why in cell.errors)
    assert cell.figures["completed"] == 6 - failed
    assert cell.command
    for kept in (cell.model_dump_json(), (tmp_path / "log").read_text()):
        assert "sesame" not in kept
