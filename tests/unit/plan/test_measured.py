"""What `recipes suggest` takes from benches and scores below --out, and from what was published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.artifact.accuracy import Gate
from quantpress.language import shipped
from quantpress.model.source import Model
from quantpress.plan import measured, published, scored, suggest

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


def test_measurements_of_another_pairing_are_not_mixed_in(bench: Bench, tmp_path: Path) -> None:
    for name, speedup in (("w4afp8", 1.7), ("fp8-static", 0.8), ("fp8-block", 2.0)):
        bench(name, speedup)
    path = tmp_path / "m" / "dummy" / "fp8-block" / "throughput.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pairing": "alternating"}))
    assert set(measured.speeds(tmp_path / "m", "sm_90", under_load=True)) == {"w4afp8", "fp8-static"}


def small(make_model: Callable[..., Path]) -> Model:
    folder = make_model(hidden=128, intermediate=256)
    return Model("m", folder, str(folder), json.loads((folder / "config.json").read_text()))


def test_measured_comes_before_published_and_slower_after(
    bench: Bench, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = small(make_model)
    bench("rtn-w4a16", 1.2)
    bench("w8a8-dynamic", 1.4)
    bench("fp8-dynamic", 0.8)
    rows = [row for row in suggest.suggestions(model, "sm_90", "throughput", tmp_path) if row.possible]
    assert [row.recipe for row in rows[:2]] == ["w8a8-dynamic", "rtn-w4a16"]
    assert rows[-1].recipe == "fp8-dynamic"
    assert rows[0].reasons[0][1].endswith("w8a8-dynamic/throughput.json")


@pytest.fixture
def evaluated(tmp_path: Path, results: Callable[[str], Any]) -> Callable[..., None]:
    """Writes scores of a recipe with this KL."""

    def write(recipe: str, kl: float, failed: bool = False, **changed: Any) -> None:
        folder = tmp_path / "m" / recipe
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(results("manifest")))
        found = results("accuracy") | {"checkpoint_digest": results("manifest")["digest"]} | changed
        found["overall"] |= {"kl": kl, "kl_interval": [kl / 2, kl * 2]}
        found["gates"] = [Gate(gate="kl<=0.1", decision="fail" if failed else "pass").dump()]
        (folder / "accuracy.json").write_text(json.dumps(found))

    return write


def order(model: Model, goal: str, out: Path, target: str = "sm_90") -> list[str]:
    return [row.recipe for row in suggest.suggestions(model, target, goal, out) if row.possible]


def test_for_accuracy_what_was_scored_here_comes_first_and_what_failed_its_gate_last(
    evaluated: Callable[..., None], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    evaluated("rtn-w4a16", 0.02)
    evaluated("gptq-w4a16", 0.01)
    evaluated("fp8-dynamic", 0.9, failed=True)
    evaluated("w8a16", 0.001, suite="another")
    evaluated("awq-w4a16", 0.001, left_out=[{"task": "t", "reason": "r"}])
    (tmp_path / "m" / "w8a8-dynamic").mkdir()
    (tmp_path / "m" / "w8a8-dynamic" / "accuracy.json").write_text("{")
    assert set(scored.losses(tmp_path / "m")) == {"rtn-w4a16", "gptq-w4a16", "fp8-dynamic"}
    ranked = order(small(make_model), "accuracy", tmp_path)
    assert ranked[:2] == ["gptq-w4a16", "rtn-w4a16"]
    assert ranked[-1] == "fp8-dynamic"
    claim = scored.losses(tmp_path / "m")["fp8-dynamic"].claim
    assert claim.startswith("measured: KL 0.900 (0.450 to 1.800) from the unquantized model")
    assert "failed kl<=0.1" in claim


def test_for_accuracy_published_measurements_decide_and_are_named(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    rows = suggest.suggestions(small(make_model), "sm_90", "accuracy", tmp_path)
    ranked = [row.recipe for row in rows if row.possible]
    places = [ranked.index(name) for name in ("fp8-dynamic", "w8a8-dynamic", "gptq-w4a16", "rtn-w4a16")]
    assert places == sorted(places)
    sources = {row.recipe: [source for _, source in row.reasons] for row in rows}
    assert published.PAPER in sources["fp8-dynamic"]


def test_our_own_measurements_are_those_of_the_page() -> None:
    page = (shipped.folder("recipes").parent / published.MEASURED).read_text(encoding="utf-8")
    assert all(f"| {recipe} | {kl:.3f} |" in page for recipe, kl in published.KL.items())


def test_for_memory_bytes_are_counted_with_the_kv_cache(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """Of a model of this size a KV cache in 8 bits saves more than weights in 4 do."""
    model = small(make_model)
    ranked = order(model, "memory", tmp_path)
    assert ranked[0] == "kv-fp8"
    rows = {row.recipe: row.reasons for row in suggest.suggestions(model, "sm_90", "memory", tmp_path)}
    # 2 layers, keys and values of 128 features in 16 bits, 8 sequences of 4096 tokens.
    assert any(f"{2 * 2 * 128 * 2 * 8 * 4096 / 1e6:.1f} MB KV cache" in claim for claim, _ in rows["rtn-w4a16"])
    assert any(f"{2 * 128 * 2 * 8 * 4096 / 1e6:.1f} MB KV cache" in claim for claim, _ in rows["kv-fp8"])
