"""A model writes its own chats with the real vLLM: named in the manifest, kept by the artifact, the same once more."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e
Run = Callable[..., "subprocess.CompletedProcess[str]"]
# 128 tokens are a batch of eight conversations; fixed scales are the quickest use of data.
RECIPE = ("fp8-static", "--set", "calibration.dataset=self", "--set", "calibration.samples=2")
LENGTH = ("--set", "calibration.max_sequence_length=64")


def test_a_model_writes_its_own_chats_and_writes_them_again(
    two_layers: Path, tmp_path: Path, real: Run, real_environment: dict[str, str]
) -> None:
    cache = Path(real_environment["QUANTPRESS_CACHE"]) / "own-chats"

    def made(out: str) -> tuple[Path, dict[str, Any]]:
        real("quantize", *RECIPE, *LENGTH, "--model", str(two_layers), "--out", str(tmp_path / out))
        folder = tmp_path / out / two_layers.name / "fp8-static"
        (source,) = json.loads((folder / "manifest.json").read_text())["inputs"]["calibration"]["sources"]
        return folder, source

    folder, source = made("one")
    assert source["dataset"] == "self"
    about = source["written"]
    assert about["vllm"].startswith("0.")
    # Eight at a time, until there are tokens enough: a model of random weights often ends at once.
    assert about["asked"] % 8 == 0 < about["asked"]
    assert about["seeds"] == [1, about["asked"]]
    assert 0 < about["conversations"] <= about["asked"]
    assert about["tokens"] > 128

    # The artifact keeps them: the cache may be emptied, and no vLLM is needed.
    shutil.rmtree(cache / source["revision"])
    done = real("reproduce", str(folder), "--json", env={"VLLM": "/no/vllm"})
    assert json.loads(done.stdout)["identical"]

    # Written once more, they are the same.
    shutil.rmtree(cache / source["revision"])
    _, again = made("two")
    assert again == source
