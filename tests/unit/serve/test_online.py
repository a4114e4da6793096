"""The model as vLLM quantizes it while it loads: which methods are taken here, and who is served by them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantpress.errors import CapabilityError, InputError
from quantpress_serve.bench import online
from quantpress_serve.bench.subject import Sides
from quantpress_serve.probes import asking
from quantpress_serve.probes.asking import Online
from quantpress_serve.workload.workload import load_workload

KNOWN = {
    "fp8_per_channel": Online(linear=True, moe=True, reason=None),
    "fp8_per_block": Online(linear=True, moe=True, reason="ValueError: it needs AMX"),
    "int8_per_channel_weight_only": Online(linear=False, moe=True, reason=None),
}


def test_a_method_that_is_computed_here_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "online", lambda vllm: KNOWN)
    online.require_method("fp8_per_channel", Path("vllm"))


@pytest.mark.parametrize(
    ("method", "known", "error", "words"),
    [
        ("fp8_channel", KNOWN, InputError, r"did you mean 'fp8_per_channel'.*\n.*such names are fp8_per_block, "),
        ("fp8_per_block", KNOWN, CapabilityError, r"it needs AMX\)\n  next: here it computes fp8_per_channel$"),
        ("int8_per_channel_weight_only", KNOWN, CapabilityError, "nothing but experts"),
        ("fp8_per_channel", {}, CapabilityError, "names nothing by which it quantizes"),
    ],
)
def test_another_is_refused_with_the_reason(
    method: str, known: Any, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "online", lambda vllm: known)
    with pytest.raises(error, match=words):
        try:
            online.require_method(method, Path("vllm"))
        except (InputError, CapabilityError) as caught:
            raise type(caught)(f"{caught.message}\n  next: {caught.hint}") from caught


def test_only_the_candidate_is_quantized_while_it_loads() -> None:
    engine = load_workload("smoke").engine
    assert engine.online("fp8_per_channel").arguments() == [*engine.arguments(), "--quantization=fp8_per_channel"]
    assert engine.online(None) == engine


def test_it_is_a_result_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    seen: list[Any] = []
    monkeypatch.setattr(online.stage, "measure", lambda subject, *_: seen.append(subject))
    model: Any = SimpleNamespace(
        name="m", path=tmp_path, deciding_files=list, identity=lambda: SimpleNamespace(digest="d"), config={}
    )
    for method in ("fp8_per_channel", "mxfp8"):
        online.bench(method, model, load_workload("smoke"), Sides(), tmp_path / "out", fresh=False)
    one, other = seen
    assert one.folder == tmp_path / "out" / "m" / "online" / "fp8_per_channel"
    assert (one.name, one.online, one.candidate) == ("online-fp8_per_channel", "fp8_per_channel", tmp_path)
    assert one.weight_bytes == {"candidate": 8, "baseline": 8}
    assert len({one.digest, other.digest, "d"}) == 3


def test_it_is_paired_as_the_recipe_beside_which_it_stands() -> None:
    recipe: Any = SimpleNamespace(paired="alternating")
    assert Sides().paired_as(recipe).pairing == "alternating"
    assert Sides(pairing="together").paired_as(recipe).pairing == "together"  # which was asked for
