"""A package of a real checkpoint: made, verified, and started with arguments that the real vLLM knows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from quantpress_serve.vllm import find_vllm

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
_PARSE = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
known = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
try:
    make_arg_parser(FlexibleArgumentParser()).parse_args([*sys.argv[1:], "--no-such-thing"])
except SystemExit:
    print(known.max_model_len, known.served_model_name[0], known.port)
"""


def test_a_package_of_a_real_checkpoint(real: Run, two_layers: Path, tmp_path: Path) -> None:
    made = real("package", "rtn-w4a16", "--model", str(two_layers), "--out", str(tmp_path), "--device", "cpu", "--json")
    about = json.loads(made.stdout)
    folder = Path(about["folder"])
    assert "was not measured" in made.stderr
    assert real("verify", str(folder)).stdout.startswith(f"{folder}: as packaged; not signed: ")
    assert "Not measured." in (folder / "README.md").read_text()
    service = yaml.safe_load((folder / "deploy" / "docker-compose.yaml").read_text())["services"]["vllm"]
    python = find_vllm(None).parent / "python"
    if not python.exists():
        pytest.skip("the vLLM here is not an environment of its own")
    command = [str(python), "-c", _PARSE, *service["command"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == f"-1 {about['name']} 8000"
