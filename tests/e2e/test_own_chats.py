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
    embedded_model: Path, tmp_path: Path, real: Run, real_environment: dict[str, str]
) -> None:
    cache = Path(real_environment["QUANTPRESS_CACHE"]) / "own-chats"

    def made(out: str) -> tuple[Path, dict[str, Any]]:
        real("quantize", *RECIPE, *LENGTH, "--out", str(tmp_path / out))
        folder = tmp_path / out / embedded_model.name / "fp8-static"
        (source,) = json.loads((folder / "manifest.json").read_text())["inputs"]["calibration"]["sources"]
        return folder, source

    folder, source = made("one")
    assert source["dataset"] == "self"
    about = source["written"]
    assert about["vllm"].startswith("0.")
    assert (about["asked"], about["seeds"]) == (8, [1, 8])
    assert 0 < about["conversations"] <= 8
    assert about["tokens"] > 128

    # The artifact keeps them: the cache may be emptied, and no vLLM is needed.
    shutil.rmtree(cache / source["revision"])
    done = real("reproduce", str(folder), "--json", env={"VLLM": "/no/vllm"})
    assert json.loads(done.stdout)["identical"]

    # Written once more, they are the same.
    shutil.rmtree(cache / source["revision"])
    _, again = made("two")
    assert again == source
