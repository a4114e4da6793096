"""Every command in the documents is run, in the order of the text, by a reader who has little time and a small model.

Blocks marked `sh` hold commands. What a document names and nobody has (a model, benchmark files, a bucket) is replaced
by STAND_INS; what another test runs is named in ELSEWHERE; the rest is run as it stands. Commands that start vLLM take
minutes: `make test-docs` runs them too (QUANTPRESS_DOCS=1).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import Store, blocks

from quantpress_serve.server.server import free_port
from quantpress_serve.vllm import find_vllm

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
READ_FIRST = ["README.md", "docs/tutorial.md", "docs/how-to/own-model.md"]
FOLDERS = ("docs", "docs/how-to", "docs/reference", "docs/explanation")
OTHERS = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
NAMES = [*READ_FIRST, *(name for name in OTHERS if name not in READ_FIRST)]
# Suites and workloads that take hours are replaced by ones of the same kind with next to no load.
STAND_INS = {
    " /models/mine": " models/mine",
    " /models/theirs": " models/theirs",
    "=/models/mine": "=models/mine",
    "--data /data/benchmarks": "--data data --workload least.yaml",
    "/data/benchmarks": "data",
    "/path/to/vllm": str(find_vllm(None)),
    "WORKLOAD=chat": "WORKLOAD=least.yaml",
    "--workload chat": "--workload least.yaml",
    "WORKLOAD=glance": "WORKLOAD=least.yaml",
    " --vllm-url": " --workload least.yaml --vllm-url",
    "SUITE=smoke": "SUITE=few.yaml",
    "--suite smoke": "--suite few.yaml",
    "bundle rtn-w4a16": "bundle --no-wheels rtn-w4a16",
    "host:8001": "127.0.0.1:PORT",
    "host:8000": "127.0.0.1:PORT",
    "127.0.0.1:8000": "127.0.0.1:PORT",
    "--port 8000": "--port PORT",
}
SERVE = 'make serve RECIPE=w8a8-dynamic MODEL=/models/mine ARGS="--port 8000"'
# The beginning of a command, and the test that runs it.
ELSEWHERE = {
    "git clone": "nothing: who reads this has cloned",
    "make demo": "tests/e2e/test_chain.py",  # with less data and load
    "make test": "this is it",
    "make lint": "make test",
    "bundle/run.sh": "tests/e2e/test_bundle.py",
    ".venv/bin/pip install 'ray": "tests/e2e/test_sweep.py",
    ".venv/bin/pip install mlflow-skinny": "tests/unit/report/test_tracking.py",
    ".venv/bin/quantpress report --mlflow": "tests/unit/report/test_tracking.py",
    ".venv/bin/quantpress evaluate gptq-w4a16 --suite smoke --limit 12 --backend vllm": "tests/e2e/test_evaluate.py",
    ".venv/bin/quantpress adopt /models/theirs.gguf": "tests/e2e/test_adopt.py",
    ".venv/bin/quantpress recertify": "tests/e2e/test_chain.py",
    ".venv/bin/quantpress verify artifacts/mine/w8a8-dynamic/recertified": "tests/unit/evaluate/test_recertify.py",
    ".venv/bin/quantpress quantize rtn-w4a16 --model /models/fp8 --dequantize": "tests/e2e/test_quantized_sources.py",
}
STARTS_VLLM = re.compile(
    r"make (run|bench|serve|gpu-report)\b|quantpress (run|bench)\b|quantpress sweep \S+$|^curl|^VLLM=|--noise-floor"
)
EVERYTHING = bool(os.environ.get("QUANTPRESS_DOCS"))
LEAST = """
name: least
description: As little load as makes a figure.
input_len: 16
output_len: 4
concurrency: [1]
requests_per_stream: 2
rounds: 1
"""
TASKS = {"yesno": ["boolq"], "physical": ["piqa"], "endings": ["hellaswag"], "science": ["arc_easy", "arc_challenge"]}


def commands(path: Path) -> list[str]:
    lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


@dataclass
class Desk:
    """A clone without results, and what the documents speak of: a model, benchmark files, recipes, a bucket."""

    folder: Path
    environ: dict[str, str]
    port: int
    server: subprocess.Popen[bytes] | None = None

    def run(self, line: str) -> None:
        if "--vllm-url" in line and not self.server:
            self.serve(SERVE)
        if line.startswith("make serve"):
            self.serve(line)
            return
        done = subprocess.run(
            self.shell(line),
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        expected = (0, 3) if "--gate" in line else (0,)
        assert done.returncode in expected, f"{line}\n{done.stdout}\n{done.stderr}"

    def shell(self, line: str) -> list[str]:
        for name, stand_in in STAND_INS.items():
            line = line.replace(name, stand_in)
        return ["bash", "-euo", "pipefail", "-c", line.replace("PORT", str(self.port))]

    def serve(self, line: str) -> None:
        """Starts what runs in the foreground, and returns when it answers."""
        self.stop()
        log = self.folder / "serve.log"
        with log.open("w") as stream:
            self.server = subprocess.Popen(
                self.shell(line),
                cwd=self.folder,
                env=self.environ,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while "Application startup complete" not in (said := log.read_text()):
            assert self.server.poll() is None and time.monotonic() < deadline, said
            time.sleep(1)

    def stop(self) -> None:
        """Ctrl-C."""
        if self.server:
            os.killpg(self.server.pid, signal.SIGINT)
            self.server.wait(60)
            self.server = None


def few_documents(folder: Path) -> None:
    """The suite `few` and the benchmarks' files: the first four documents of each task of the suite `smoke`."""
    (folder / "smoke").mkdir()
    (folder / "data").mkdir()
    for source, names in TASKS.items():
        lines = (ROOT / "evaluate" / "suites" / "smoke" / f"{source}.jsonl").read_text().splitlines()[:4]
        for path in [folder / "smoke" / f"{source}.jsonl", *(folder / "data" / f"{name}.jsonl" for name in names)]:
            path.write_text("\n".join(lines) + "\n")
    suite = (ROOT / "evaluate" / "suites" / "smoke.yaml").read_text()
    (folder / "few.yaml").write_text(suite.replace("name: smoke", "name: few"))


@pytest.fixture(scope="module")
def desk(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for path in ROOT.iterdir():
        if path.name not in ("artifacts", ".cache", "docs", ".git"):
            (folder / path.name).symlink_to(path)
    (folder / "docs").mkdir()
    (folder / "models").mkdir()
    # Both models are the same, so what is made of one is there for the other.
    (folder / "artifacts" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    (folder / "artifacts" / "mine").symlink_to("SmolLM2-135M-Instruct")
    shutil.copytree(two_layers, folder / "models" / "mine")
    shutil.copytree(two_layers, folder / "models" / "theirs")
    shutil.copytree(two_layers, folder / "cache" / "models" / "SmolLM2-135M-Instruct")
    (folder / "least.yaml").write_text(LEAST)
    few_documents(folder)
    (folder / "mine.yaml").write_text(blocks(ROOT / "docs" / "how-to" / "own-model.md", "yaml")[0])
    night = blocks(ROOT / "docs" / "how-to" / "sweep.md", "yaml")[0]
    (folder / "night.yaml").write_text(night.replace("[smoke]", "[few.yaml]").replace("glance", "least.yaml"))
    chats = (ROOT / "recipes" / "calibration" / "chat.jsonl").read_text().splitlines()
    (folder / "chats.jsonl").write_text("\n".join(chats[:100]))
    store = Store()
    environ = {
        **os.environ,
        **store.environment,
        "HF_HUB_OFFLINE": "1",
        "QUANTPRESS_TARGET": "any",
        "QUANTPRESS_CACHE": str(folder / "cache"),
        "WORKLOAD": "least.yaml",
    }
    one = Desk(folder, environ, free_port())
    yield one
    one.stop()
    store.server.stop()


def lay_out(desk: Desk) -> None:
    """What readers have when they come to the reports and samples of others: those that they made before."""
    artifacts = desk.folder / "artifacts" / "SmolLM2-135M-Instruct"
    for name in ("old", "main"):
        (desk.folder / name).mkdir(exist_ok=True)
        if (artifacts / "report.json").is_file():
            shutil.copy(artifacts / "report.json", desk.folder / name)
    theirs = {"baseline": artifacts / "baseline" / "scores", "candidate": artifacts / "gptq-w4a16" / "scores"}
    if all(list(scores.glob("few-*")) for scores in theirs.values()):
        for name, scores in theirs.items():
            shutil.copytree(next(scores.glob("few-*")), desk.folder / "theirs" / name, dirs_exist_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_runs(name: str, desk: Desk) -> None:
    desk.stop()
    for line in commands(ROOT / name):
        lay_out(desk)
        elsewhere = any(line.startswith(beginning) for beginning in ELSEWHERE)
        if elsewhere or (STARTS_VLLM.search(line) and not EVERYTHING):
            continue
        started = time.monotonic()
        desk.run(line)
        print(f"{time.monotonic() - started:.0f} s  {line}")


def test_the_tests_that_are_named_exist() -> None:
    named = [where for where in ELSEWHERE.values() if where.startswith("tests/")]
    assert named and all((ROOT / where).is_file() for where in named)
