"""Whether a model's weights stay on the disk."""

from __future__ import annotations

import pytest

from quantpress.errors import CapabilityError
from quantpress.runtime import free_memory

GB = 10**9


@pytest.mark.parametrize(
    ("offload", "whole", "stay"), [("auto", 20 * GB, False), ("auto", 21 * GB, True), ("disk", 1, True)]
)
def test_where_the_weights_are(offload: str, whole: int, stay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: 20 * GB)
    assert free_memory.stay_on_disk(whole, 2 * GB, offload) is stay


@pytest.mark.parametrize("offload", ["auto", "disk"])
def test_what_has_no_room_in_any_case(offload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: GB)
    with pytest.raises(CapabilityError, match=r"takes 2\.0 GB of memory although the weights stay on the disk"):
        free_memory.stay_on_disk(20 * GB, 2 * GB, offload)
