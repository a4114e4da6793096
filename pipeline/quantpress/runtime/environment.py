"""Which program runs which stage, and what this machine is. The serving side is known by its executable alone."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from quantpress.errors import CapabilityError

# The distributions whose versions decide a checkpoint's bytes or a score.
DECISIVE = ("llmcompressor", "compressed-tensors", "torch", "transformers", "tokenizers", "numpy")
SCORING = ("lm_eval", "compressed-tensors", "torch", "transformers", "tokenizers", "datasets")


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of installed distributions. Raises CapabilityError if one is missing."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise CapabilityError(f"{name} is not installed in {sys.prefix}", hint="make setup") from error
    return found


def machine() -> dict[str, Any]:
    """What a measurement must name: processor, cores that this process may use, memory, GPUs, Python."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(pages / 2**30, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@cache
def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this machine shows; none where CUDA_VISIBLE_DEVICES hides them all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    output = subprocess.run(query, capture_output=True, text=True, check=False)
    return [line.strip() for line in output.stdout.splitlines() if line.strip()] if output.returncode == 0 else []


def find_vllm(named: str | None) -> Path:
    """The `vllm` executable: the one named, else $VLLM, else .venv-vllm beside this environment, else on the path.

    Raises CapabilityError if there is none.
    """
    named = named or os.environ.get("VLLM") or None
    beside = Path(sys.prefix).parent / ".venv-vllm" / "bin" / "vllm"
    wanted = named or (str(beside) if beside.exists() else "vllm")
    found = shutil.which(wanted)
    if not found:
        raise CapabilityError(
            f"{named} is not an executable" if named else "vLLM was not found",
            hint="make setup, or name yours with VLLM=/path/to/vllm; its load generator is needed with --vllm-url too",
        )
    return Path(found).absolute()


def vllm_version(executable: Path) -> str:
    """Version of the vLLM behind `executable`, from its environment's metadata; "unknown" for a wrapper elsewhere."""
    for library in executable.resolve().parent.parent.glob("lib/python3*/site-packages"):
        for info in library.glob("vllm-*.dist-info"):
            return info.name.removeprefix("vllm-").removesuffix(".dist-info")
    return "unknown"


def _no_proxy() -> dict[str, str]:
    """vLLM's load generator goes through the environment's proxy unless our own servers are excepted."""
    if not any(name.lower() in ("http_proxy", "all_proxy") for name in os.environ):
        return {}
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    value = ",".join(filter(None, (excepted, "127.0.0.1", "localhost")))
    return {"no_proxy": value, "NO_PROXY": value}


def waiting() -> dict[str, str]:
    """How long torch's threads (GNU OpenMP) spin at a barrier before they sleep, unless the caller has a say in it.

    By default they spin for milliseconds: beside another busy program each barrier then waits for a thread whose core
    is being spun away, and one is slowed down far more than twofold (docs/explanation/measurements.md). At this count
    that is gone, and nothing is lost on an idle machine; at 1000 a tenth was, with OMP_WAIT_POLICY=passive a fifth.
    """
    named = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    return {} if any(name in os.environ for name in named) else {"GOMP_SPINCOUNT": "2500"}


def serving_environment(kv_space_gib: int | None = None) -> dict[str, str]:
    """Environment variables for vLLM. On a CPU it would bind one core only and take nearly all of the memory.

    `kv_space_gib` is then the size of its KV cache, unless VLLM_CPU_KVCACHE_SPACE is set already.
    """
    settings = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **_no_proxy(), **waiting()}
    if not gpus():
        # With AMX, vLLM would multiply 4-bit weights by activations that it rounds to 8 bits: not what was scored.
        settings["VLLM_CPU_INT4_W4A8"] = os.environ.get("VLLM_CPU_INT4_W4A8", "0")
        settings["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
        if space := os.environ.get("VLLM_CPU_KVCACHE_SPACE") or kv_space_gib:
            settings["VLLM_CPU_KVCACHE_SPACE"] = str(space)
    return settings
