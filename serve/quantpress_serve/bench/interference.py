"""Whether anything else slowed the machine down during a measurement: other programs, the hypervisor, throttling."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from quantpress.artifact.throughput import Disturbance
from quantpress.runtime import environment, process

# Shares of the measured time beyond which a measurement is not trusted. An idle machine stays well below them: see
# docs/explanation/measurements.md.
OTHER_WORK = 0.10  # of the cores, used by processes that quantpress did not start
STOLEN = 0.05  # of the cores, given by the hypervisor to other virtual machines
THROTTLED = 0.05  # of the time, in which a container's CPU quota held its processes back
SLOWED = 0.05  # of a GPU's samples, one a second, in which heat or power held its clock down

# nvidia-smi's names for what slows a GPU down beyond its ordinary power management.
_SLOWDOWNS = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown")
_CPU_STAT = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))


def problems(seen: Disturbance) -> list[str]:
    """Why a measurement under these conditions cannot be trusted; an empty list if it can."""
    bounds = (
        (seen.other_work, OTHER_WORK, "other programs took {:.0%} of the cores"),
        (seen.stolen, STOLEN, "the hypervisor took {:.0%} of the cores"),
        (seen.throttled, THROTTLED, "a CPU quota held the processes back for {:.0%} of the time"),
        (seen.gpu_slowed, SLOWED, "heat or power held a GPU's clock down for {:.0%} of the time"),
    )
    found = [
        text.format(share) + f" (bound {bound:.0%})"
        for share, bound, text in bounds
        if share is not None and share > bound
    ]
    others = seen.other_gpu_processes
    return found + ([f"{others} other processes used the GPU"] if others else [])


@dataclass
class Watch:
    """A measurement that is being watched. `seen` holds what disturbed it, once the block has ended."""

    seen: Disturbance = field(default_factory=Disturbance)


@contextmanager
def watching(folder: Path, expected_on_gpu: frozenset[str] = frozenset()) -> Iterator[Watch]:
    """Watches this machine until the block ends. On a machine with a GPU, nvidia-smi writes its samples to `folder`.

    `expected_on_gpu` are the processes whose work is being measured.
    """
    watch, before = Watch(), Sample.take()
    log = folder / "nvidia-smi.log"
    with ExitStack() as stack:
        if environment.gpus():
            log.unlink(missing_ok=True)
            query = ",".join(f"clocks_event_reasons.{name}" for name in _SLOWDOWNS)
            words = ["nvidia-smi", f"--query-gpu=uuid,{query}", "--format=csv,noheader", "-l", "1"]
            stack.enter_context(process.guarded(words, log))
        yield watch
    watch.seen = before.until(Sample.take())
    if environment.gpus():
        slowed = slowed_share(log.read_text(errors="replace") if log.exists() else "", environment.hidden_gpus())
        others = len(on_gpu() - expected_on_gpu)
        watch.seen = watch.seen.model_copy(update={"gpu_slowed": slowed, "other_gpu_processes": others})


def slowed_share(text: str, hidden: Collection[str] = ()) -> float | None:
    """The share of nvidia-smi's samples in which a clock was held down, without those of the hidden GPUs; None if there
    are no samples."""
    samples = [line.split(", ") for line in text.splitlines() if "ctive" in line]
    samples = [sample for sample in samples if sample[0] not in hidden]
    return sum("Active" in sample for sample in samples) / len(samples) if samples else None


def on_gpu() -> frozenset[str]:
    """Ids of the processes that compute on a GPU, as the driver counts them, but for those that CUDA_VISIBLE_DEVICES
    hides; none without a GPU."""
    if not environment.gpus():
        return frozenset()
    words = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    hidden = environment.hidden_gpus()
    return frozenset(row[0] for row in rows if row[0].isdecimal() and row[-1] not in hidden)


@dataclass(frozen=True)
class Sample:
    """Seconds so far: of the clock, and of the cores that we may use, by whoever used them.

    `busy` is everybody's time, `ours` that of this process and its children, `stolen` the hypervisor's.
    """

    clock: float
    busy: float
    ours: float
    stolen: float
    throttled: float
    cores: int

    @classmethod
    def take(cls) -> Sample:
        import psutil  # 30 ms

        cores = sorted(os.sched_getaffinity(0))
        times = psutil.cpu_times(percpu=True)
        mine = [times[core] for core in cores if core < len(times)]
        busy = sum(core.user + core.nice + core.system + core.irq + core.softirq for core in mine)
        return cls(
            clock=time.monotonic(),
            busy=busy,
            ours=_ours(),
            stolen=sum(core.steal for core in mine),
            throttled=_throttled(),
            cores=len(cores),
        )

    def until(self, later: Sample) -> Disturbance:
        """Shares of the time between two samples, as far as processors go."""
        seconds = max(later.clock - self.clock, 1e-9)
        others = (later.busy - self.busy) - (later.ours - self.ours)
        return Disturbance(
            other_work=round(max(0.0, others) / seconds / self.cores, 4),
            stolen=round((later.stolen - self.stolen) / seconds / self.cores, 4),
            throttled=round((later.throttled - self.throttled) / seconds, 4),
        )


def _ours() -> float:
    """Processor time (s) of this process and of all its descendants, also of those that have ended."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for program in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = program.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _throttled() -> float:
    """Seconds for which a quota held this group of processes back; 0 without a quota."""
    for path in _CPU_STAT:
        with suppress(OSError):
            words = dict(line.split() for line in path.read_text().splitlines())
            return int(words.get("throttled_usec", 0)) / 1e6 + int(words.get("throttled_time", 0)) / 1e9
    return 0.0
