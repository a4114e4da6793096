"""What an installed vLLM says of itself is kept for as long as its environment stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpress.errors import CapabilityError
from quantpress_serve.probes import asking

WORKS, BROKEN = """echo '{"FP8": {"sm_90": "Fp8"}}'""", "echo ImportError: libtorch.so >&2; exit 1"


@pytest.mark.parametrize(
    "package", ["torch-2.13.0+cpu", "transformers-5.17.0", "compressed_tensors-0.19.0", "torchvision-0.30"]
)
def test_an_answer_does_not_hold_where_another_package_was_installed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    library, programs = tmp_path / "env" / "lib" / "python3.11" / "site-packages", tmp_path / "env" / "bin"
    programs.mkdir(parents=True)
    for name in ("vllm-0.32.0+cpu", package):
        (library / f"{name}.dist-info").mkdir(parents=True)
    python = programs / "python"
    python.write_text(f"#!/bin/sh\n{WORKS}\n")
    python.chmod(0o755)
    known = asking.schemes(programs / "vllm")
    python.write_text(f"#!/bin/sh\n{BROKEN}\n")
    assert asking.schemes(programs / "vllm") == known
    (library / f"{package}.dist-info").rename(library / f"{package}.post1.dist-info")
    with pytest.raises(CapabilityError, match=r"cannot be asked: ImportError: libtorch\.so"):
        asking.schemes(programs / "vllm")
