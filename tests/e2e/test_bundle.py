"""A bundle works with the network cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpress.artifact import upkeep
from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Artifact
from quantpress.artifact.results import results_of
from quantpress.artifact.throughput import Throughput
from quantpress.plan import hardware

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
NO_NETWORK = ("unshare", "--map-root-user", "--net")
# A network of its own has not even the loopback interface up, which the servers need.
SCRIPT = """
import fcntl, socket, struct, subprocess, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x49, b""))  # SIOCSIFFLAGS: UP | LOOPBACK | RUNNING
try:
    socket.create_connection(("192.0.2.1", 80), timeout=3)
except OSError as error:
    print("cut:", error)
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


@pytest.mark.skipif(
    subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode != 0,
    reason="no user namespaces here to cut the network in",
)
def test_a_bundle_runs_the_whole_chain_without_a_network(
    two_layers: Path, least_load: Path, tmp_path: Path, real: Run, real_environment: dict[str, str]
) -> None:
    documents = [json.dumps({"text": f"Document {number}. " * 40}) for number in range(40)]
    (tmp_path / "own.jsonl").write_text("\n".join(documents))
    settings = {"calibration.dataset": tmp_path / "own.jsonl", "calibration.samples": 2}
    settings |= {"calibration.max_sequence_length": 64, "modifiers.1.gptq.targets": r"['re:.*layers\.0\..*']"}
    (tmp_path / "few.yaml").write_text("name: few\ndescription: Few at once.\nmax_num_seqs: 8\n")
    made = real(
        *(
            "bundle",
            "smoothquant-gptq-w8a8",
            "--model",
            str(two_layers),
            "--suite",
            "smoke",
            "--workload",
            str(least_load),
        ),
        *("--engine", str(tmp_path / "few.yaml"), "--engine", "max_num_batched_tokens=1024"),
        *("--to", str(tmp_path / "bundle"), "--no-wheels", "--json"),
        *("--offload", "never", "--compute-dtype", "float32"),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    )
    about = json.loads(made.stdout)
    assert {"run.sh", "recipes/smoothquant-gptq-w8a8.yaml", f"workloads/{least_load.name}"} <= set(about["files"])
    script = (tmp_path / "bundle" / "run.sh").read_text()
    assert "--compute-dtype=float32 --offload=never" in script
    for path in (tmp_path / "own.jsonl", tmp_path / "few.yaml", least_load):
        path.unlink()
    moved = (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    env = {name: value for name, value in real_environment.items() if not name.startswith(("QUANTPRESS", "HF_"))}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    options = ("--limit", "2", "--pairing", "alternating")
    command = [*NO_NETWORK, sys.executable, "-c", SCRIPT, str(moved / "run.sh"), *options]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "cut:" in done.stdout
    artifact = Artifact(moved / "artifacts" / "two-layers" / "smoothquant-gptq-w8a8")
    assert upkeep.verify(artifact) == []
    assert artifact.finished().quantized_layers == 7
    assert results_of(artifact, Accuracy).newest()
    throughput = results_of(artifact, Throughput).newest()
    assert throughput
    argv = throughput.servers["candidate"].argv
    assert argv
    assert {"--max-num-seqs=8", "--max-num-batched-tokens=1024"} < set(argv)
    assert throughput.served
    assert throughput.served.tokens
    assert throughput.served.tokens > 1000
    if hardware.cell("W8A8", hardware.this_machine()).support == "full":
        assert throughput.served.verdict == "as scored", throughput.served
    assert throughput.pairing == "alternating"
    assert set(throughput.capacity) == {"candidate", "baseline"}
    assert "one at a time, each with all of the memory" in (artifact.folder.parent / "report.md").read_text()


def test_a_folder_that_is_no_bundle_is_not_overwritten(two_layers: Path, tmp_path: Path, real: Run) -> None:
    theirs = tmp_path / "mine" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine\n")
    done = real(
        *("bundle", "rtn-w4a16", "--model", str(two_layers), "--suite", "smoke", "--to", str(tmp_path / "mine")),
        "--no-wheels",
        expect=2,
    )
    assert "holds what quantpress did not write: notes.txt" in done.stderr
    assert list((tmp_path / "mine").iterdir()) == [theirs]
