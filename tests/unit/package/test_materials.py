"""sbom.cdx.json: valid CycloneDX, the same bytes each time, and of what the manifest says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import CapabilityError
from quantpress.package import build, materials

Pack = Callable[..., Path]


def test_a_package_lists_what_it_was_made_of_and_with(pack: Pack, results: Callable[[str], Any]) -> None:
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    folder = pack(sbom=True, license="mit")
    text = (folder / materials.SBOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    parts = {part["name"]: part for part in found["components"]}
    made = results("manifest")
    for name, version in made["inputs"]["versions"].items():
        assert parts[name]["version"] == version
    assert parts["vllm"]["version"] == results("throughput")["vllm"]["version"]
    assert parts[made["model"]["name"]]["licenses"] == [{"license": {"name": "mit"}}]
    (of_package,) = [one for one in found["dependencies"] if one["ref"] == "package"]
    assert set(of_package["dependsOn"]) == {part["bom-ref"] for part in found["components"]}
    assert build.verify(folder) == []
    assert materials.SBOM in json.loads((folder / "manifest.json").read_text())["files"]
    assert (pack(sbom=True, license="mit") / materials.SBOM).read_text() == text


def test_without_the_library_it_is_said_before_anything_is_made(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    with pytest.raises(CapabilityError, match="--sbom needs the package cyclonedx-python-lib"):
        pack(sbom=True)
    assert not (pack() / materials.SBOM).exists()
