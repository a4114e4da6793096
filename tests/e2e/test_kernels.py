"""Our table of kernels against vLLM's own choice at each compute capability, of a GPU that is imitated."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from quantpress.errors import CapabilityError
from quantpress.plan import hardware
from quantpress.runtime import environment
from quantpress_serve.vllm import find_vllm

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(environment.gpus()), reason="imitates GPUs on a machine without one"),
]
PROBE = Path(__file__).with_name("kernels_probe.py")
# Without FlashInfer, which vLLM for GPUs brings, these are served by Marlin.
FLASHINFERS = ("MXFP4", "MXFP8")


def test_our_table_of_gpus_names_the_kernels_that_vllm_chooses() -> None:
    try:
        python = find_vllm(None).parent / "python"
    except CapabilityError:
        pytest.skip("vLLM is not installed beside this environment")
    capabilities = [gpu.removeprefix("sm_") for gpu in (*hardware.GPUS, "sm_87", "sm_121")]
    done = subprocess.run([str(python), str(PROBE), *capabilities], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    by_gpu = json.loads(done.stdout.splitlines()[-1])
    for gpu, by_kind in by_gpu.items():
        for kind, (without, beside) in by_kind.items():
            ours = hardware.cell(kind, hardware.target_of(gpu))
            where = (kind, gpu, without, beside)
            if ours.classes:
                assert beside in ours.classes, where
                assert without in ours.classes or kind in FLASHINFERS, where
            if kind == "W4AFP8":
                assert without.startswith("no") is (ours.support == "no"), where
    assert by_gpu["sm_86"] == by_gpu["sm_87"] == by_gpu["sm_80"]
    assert by_gpu["sm_121"] == by_gpu["sm_120"] != by_gpu["sm_100"]
