"""What of the caller's environment reaches a vLLM of ours."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from quantpress.errors import CapabilityError, InputError
from quantpress.runtime import process
from quantpress_serve import surroundings
from quantpress_serve.bench.subject import Sides
from quantpress_serve.server import memory
from quantpress_serve.server.server import Launch
from quantpress_serve.vllm import serving_environment
from quantpress_serve.workload.workload import Engine

OTHER_SERVERS = {
    **{"VLLM_API_KEY": "sesame-open-7351", "VLLM_PORT": "tcp://10.0.0.1:8000", "VLLM_HOST_IP": "10.0.0.1"},
    **{"VLLM_SERVICE_HOST": "10.0.0.1", "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1", "VLLM_DP_SIZE": "2"},
    **{"VLLM_LOGGING_CONFIG_PATH": "/nowhere", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": "x"},
    **{"VLLM_USE_RUST_BENCH": "1", "VLLM_USE_MODELSCOPE": "1", "VLLM_SERVER_DEV_MODE": "1"},
    **{
        "MASTER_PORT": "1",
        "WORLD_SIZE": "8",
        "RANK": "3",
        "WEB_CONCURRENCY": "auto",
        "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    },
}
TUNING = {"VLLM_USE_DEEP_GEMM": "0", "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD": "64", "VLLM_CPU_KVCACHE_SPACE": "3"}


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if (
            name.startswith("VLLM")
            or name.lower().endswith("_proxy")
            or name in (*surroundings._OTHERS, "OPENAI_API_KEY")
        ):
            monkeypatch.delenv(name)
    surroundings._say_once.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", None)


def environment_of(changes: dict[str, str | None], tmp_path: Path) -> dict[str, str]:
    """The environment that a process gets with these changes."""
    code = f"import json, os; json.dump(dict(os.environ), open({str(tmp_path / 'env.json')!r}, 'w'))"
    assert process.run([sys.executable, "-c", code], tmp_path / "log", changes) == 0
    found: dict[str, str] = json.loads((tmp_path / "env.json").read_text())
    return found


def test_what_tunes_vllm_is_passed_on_and_recorded_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**OTHER_SERVERS, **TUNING, "OPENAI_API_KEY": "sesame-open-7351"}.items():
        monkeypatch.setenv(name, value)
    settings = serving_environment(2)
    assert settings.items() >= TUNING.items()
    assert not settings.keys() & OTHER_SERVERS.keys()
    given = environment_of(surroundings.of_server(settings), tmp_path)
    assert given.items() >= TUNING.items()
    assert not given.keys() & {*OTHER_SERVERS, "OPENAI_API_KEY"}
    load = environment_of(surroundings.of_load_generator(settings, "h", None), tmp_path)
    assert not load.keys() & {*OTHER_SERVERS, "OPENAI_API_KEY"}
    surroundings.of_server(settings)
    said = capsys.readouterr().err
    assert said.count("not passed on to vLLM") == 1
    assert all(name in said for name in OTHER_SERVERS)
    assert "sesame" not in said
    words = surroundings.without_words()
    assert words[:2] == ["env", "-u"]
    assert set(words[2::2]) == OTHER_SERVERS.keys()


def test_nothing_is_said_where_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    surroundings.of_server(serving_environment())
    assert capsys.readouterr().err == ""
    assert surroundings.without_words() == []


def test_a_server_for_people_keeps_the_key_that_guards_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    monkeypatch.setenv("VLLM_PORT", "77")
    given = environment_of(surroundings.of_server({}, for_people=True), tmp_path)
    assert given["VLLM_API_KEY"] == "sesame"
    assert "VLLM_PORT" not in given
    assert "NO_COLOR" not in given
    assert surroundings.of_server({})["NO_COLOR"] == "1"


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_no_proxy_stands_between_the_load_and_a_named_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As aiohttp asks, by which vLLM's load generator sends."""
    from urllib.request import getproxies, proxy_bypass

    monkeypatch.setenv(name, "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "elsewhere")
    for variable, value in surroundings.of_load_generator({}, "gpu-7.example.org", "k").items():
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert getproxies()
    for host in ("gpu-7.example.org", "127.0.0.1", "localhost", "elsewhere"):
        assert proxy_bypass(host)
    assert not proxy_bypass("other.example.org")


def test_a_temporary_folder_that_is_too_long_for_sockets_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    long, fits = (tmp_path / ("x" * 80)), f"/tmp/{'y' * (surroundings.LONGEST_FOLDER - 5)}"
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert surroundings.sockets() == {"VLLM_RPC_BASE_PATH": "/tmp"}
    Path(fits).mkdir(exist_ok=True)
    try:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", fits)
        assert surroundings.sockets() == {}
        with socket.socket(socket.AF_UNIX) as one:  # the longest path that vLLM makes there
            one.bind(f"{fits}/{'z' * 36}")
        with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="too long"):
            one.bind(f"{fits}y/{'z' * 36}")
        (Path(fits) / ("z" * 36)).unlink()
    finally:
        Path(fits).rmdir()
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", str(long))
    assert surroundings.sockets() == {"VLLM_RPC_BASE_PATH": "/tmp"}
    monkeypatch.setattr(surroundings, "_SHORT_FOLDERS", ())
    with pytest.raises(CapabilityError, match=r"a folder for sockets has at most 70") as caught:
        Sides().executable()
    assert "export TMPDIR=" in caught.value.render()


def test_threads_that_the_caller_binds_stay_bound_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    launch = Launch(vllm=Path("vllm"), path=tmp_path, name="m", engine=Engine(), model_len=64)
    assert launch.environment()["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


@pytest.mark.parametrize("named", ["0", "4.5", "much", "-1"])
def test_a_size_of_the_kv_cache_that_is_none_is_refused(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", named)
    with pytest.raises(InputError, match="is a whole number of GiB"):
        memory.kv_space_alone(1)
