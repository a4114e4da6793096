"""vLLM in its own environment: where it is, which version it is, and with what settings it runs."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
from pathlib import Path

from quantpress.errors import CapabilityError
from quantpress.runtime.environment import gpus, waiting
from quantpress_serve import surroundings


def find_vllm(named: str | None) -> Path:
    """The `vllm` executable: the one named, else $VLLM, else .venv-vllm beside this environment, else on the path.

    Raises CapabilityError if there is none.
    """
    named = named or os.environ.get("VLLM") or None
    beside = our_environment() / "bin" / "vllm"
    wanted = named or (str(beside) if beside.exists() else "vllm")
    found = shutil.which(wanted)
    if not found:
        raise CapabilityError(
            f"{named} is not an executable" if named else "vLLM was not found",
            hint="make setup, or name yours with VLLM=/path/to/vllm",
        )
    return Path(found).absolute()


def our_environment() -> Path:
    """Where `make setup` puts vLLM."""
    return Path(sys.prefix).parent / ".venv-vllm"


def python_of(executable: Path) -> Path | None:
    """The Python of vLLM's environment; None for a wrapper that stands elsewhere, which cannot be asked."""
    python = executable.parent / "python"
    return python if python.exists() else None


def vllm_version(executable: Path) -> str:
    """Version of the vLLM behind `executable`, from its environment's metadata; "unknown" for a wrapper elsewhere."""
    return versions_beside(executable, ("vllm",)).get("vllm", "unknown")


def versions_beside(executable: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of distributions in the environment of another program, by the metadata that lies there."""
    found = {}
    for library in executable.resolve().parent.parent.glob("lib/python3*/site-packages"):
        for info in library.glob("*.dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            if (canonical := re.sub(r"[-_.]+", "-", name).lower()) in names:
                found[canonical] = version
    return found


def serving_environment(kv_space_gib: int | None = None, processes: int = 1) -> dict[str, str]:
    """What tunes vLLM: the caller's own settings, and on a CPU ours, for it would bind one core only and take nearly
    all of the memory. Results record them. `surroundings` makes a process's whole environment of them.

    `kv_space_gib` is then the size of its KV cache, unless VLLM_CPU_KVCACHE_SPACE is set already. Both it and the cores
    are shared out among the `processes` of the engine.
    """
    settings = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", **waiting()}
    if not gpus():
        # With AMX, vLLM would multiply 4-bit weights by activations that it rounds to 8 bits: not what was scored.
        settings["VLLM_CPU_INT4_W4A8"] = "0"
        settings["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, cores)) for cores in _shares(processes))
        if kv_space_gib:
            settings["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, kv_space_gib // processes))
    return settings | surroundings.tuning()


def _shares(processes: int) -> list[list[int]]:
    """This process's cores in so many parts of one size, cut along the memory nodes where these are as many."""
    node = _node_of_cores()
    cores = sorted(os.sched_getaffinity(0), key=lambda core: (node.get(core, 0), core))
    cuts = [len(cores) * number // processes for number in range(processes + 1)]
    return [sorted(cores[start:end]) for start, end in itertools.pairwise(cuts)]


def _node_of_cores(nodes: Path = Path("/sys/devices/system/node")) -> dict[int, int]:
    """The memory node of each core; empty where the kernel knows of none."""
    return {
        int(core.name.removeprefix("cpu")): int(node.name.removeprefix("node"))
        for node in nodes.glob("node[0-9]*")
        for core in node.glob("cpu[0-9]*")
    }
