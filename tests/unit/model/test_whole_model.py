"""Where a whole model is put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantpress.model import whole_model_worker


@pytest.mark.parametrize(
    ("device", "gpus", "options", "moved"),
    [("cpu", 4, {}, ["cpu"]), ("cuda", 1, {}, ["cuda"]), ("cuda", 2, {"device_map": "auto"}, [])],
)
def test_a_model_is_split_over_several_gpus(
    device: str, gpus: int, options: dict[str, str], moved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    seen: dict[str, Any] = {}
    to: list[str] = []

    class Model:
        def to(self, device: str) -> Model:
            to.append(device)
            return self

    def load(folder: Path, trust_remote_code: bool, **given: Any) -> Model:
        seen.update(given)
        return Model()

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(whole_model_worker, "whole_model", load)
    whole_model_worker.placed_model(Path("m"), False, device, dtype="auto")
    assert (seen, to) == ({"dtype": "auto", **options}, moved)
