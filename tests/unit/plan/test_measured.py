"""What `recipes suggest` takes from benches below --out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.plan import measured

Bench = Callable[..., None]
H100 = "NVIDIA H100 80GB HBM3, 81559 MiB"


@pytest.fixture
def bench(tmp_path: Path, results: Callable[[str], Any]) -> Bench:
    """Writes a bench of a recipe: its speed-up under eight requests at once, in four pairs that are all alike."""

    def write(recipe: str, speedup: float, gpu: str = H100, concurrency: int = 8, **changed: Any) -> None:
        folder = tmp_path / "m" / "dummy" / recipe
        folder.mkdir(parents=True)
        found = results("throughput") | {"weights": "dummy"}
        found["machine"]["gpus"] = [gpu]
        found["cells"] = [
            {"role": role, "concurrency": concurrency, "round": number, "figures": {"output_throughput": speed}}
            | changed
            for number in range(4)
            for role, speed in (("candidate", 100 * speedup), ("baseline", 100.0))
        ]
        (folder / "throughput.json").write_text(json.dumps(found))

    return write


def test_what_was_measured_on_such_a_machine_is_taken(bench: Bench, tmp_path: Path) -> None:
    bench("w4afp8", 1.7)
    bench("fp8-dynamic", 1.5, gpu="NVIDIA A100-SXM4-80GB, 81920 MiB")
    bench("fp8-block", 1.9, untrustworthy=["another job ran"])
    bench("gptq-w4a16", 2.5, concurrency=1)
    bench("w8a8-dynamic", 1.6, concurrency=4)
    bench("fp8-static", 0.8)
    (tmp_path / "m" / "dummy" / "nvfp4").mkdir()
    (tmp_path / "m" / "dummy" / "nvfp4" / "throughput.json").write_text("{")
    found = measured.speeds(tmp_path / "m", "sm_90", under_load=True)
    assert {name: one.slower for name, one in found.items()} == {"w4afp8": False, "fp8-static": True}
    assert "measured: 1.70 (1.56 to 1.85) of the unquantized" in found["w4afp8"].claim
    assert list(measured.speeds(tmp_path / "m", "sm_80", under_load=True)) == ["fp8-dynamic"]
    assert list(measured.speeds(tmp_path / "m", "sm_90", under_load=False)) == ["gptq-w4a16"]
    assert measured.speeds(tmp_path / "m", "cpu", under_load=True) == {}


def test_measured_comes_before_published_and_slower_after(
    bench: Bench, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    from quantpress.model.source import Model
    from quantpress.plan import suggest

    folder = make_model(hidden=128, intermediate=256)
    model = Model("m", folder, str(folder), json.loads((folder / "config.json").read_text()))
    bench("rtn-w4a16", 1.2)
    bench("w8a8-dynamic", 1.4)
    bench("fp8-dynamic", 0.8)
    rows = [row for row in suggest.suggestions(model, "sm_90", "throughput", tmp_path) if row.possible]
    assert [row.recipe for row in rows[:2]] == ["w8a8-dynamic", "rtn-w4a16"]
    assert rows[-1].recipe == "fp8-dynamic"
    assert rows[0].reasons[0][1].endswith("w8a8-dynamic/throughput.json")
