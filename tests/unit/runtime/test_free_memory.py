"""Whether a model's weights stay on the disk."""

from __future__ import annotations

import pytest

from quantpress.errors import CapabilityError
from quantpress.runtime import free_memory


@pytest.mark.parametrize(
    ("offload", "weights", "stay"),
    [("auto", 18_000_000_000, False), ("auto", 19_000_000_000, True), ("disk", 1, True), ("never", 1, False)],
)
def test_where_the_weights_are(offload: str, weights: int, stay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: 20_000_000_000)
    assert free_memory.stay_on_disk(weights, offload) is stay


@pytest.mark.parametrize(
    ("offload", "words"), [("never", "held in memory"), ("auto", "beside the weights"), ("disk", "beside the weights")]
)
def test_what_has_no_room_in_any_case(offload: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: 1_000_000_000)
    with pytest.raises(CapabilityError, match=words):
        free_memory.stay_on_disk(20_000_000_000, offload)
