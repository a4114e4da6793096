"""Ray: a cluster of this machine alone or one that runs already, its nodes, and the stages as its tasks."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from quantpress.errors import CapabilityError, first_line
from quantpress.runtime import environment
from quantpress.sweep import placing, task
from quantpress.sweep.placing import Node
from quantpress.sweep.stages import Outcome, Stage, ended, why_skipped
from quantpress.sweep.task import RETRIES

# Outcomes are a few hundred bytes; Ray takes no store for objects smaller than this.
_OBJECT_STORE = 80 * 2**20


def require_ray() -> None:
    """Raises CapabilityError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise CapabilityError(
            f"a sweep runs on Ray, which is not installed in {sys.prefix}",
            hint="pip install 'quantpress[cluster]', or pip install ray",
        )


def _ray() -> Any:
    import ray  # a second; it reads its token, if any, when it is imported

    return ray


@contextmanager
def connected(address: str | None) -> Iterator[list[Node]]:
    """Ray, on this machine or at this address ("auto": the cluster that this machine is a node of), and its nodes.

    Raises CapabilityError where it cannot be reached, or has no node that works.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray begins a task that it killed for its memory again without end; this is read here, and not on the nodes.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    if not address:
        os.environ |= _ours_alone() | _large_gpus_alone()
    ray, stop = _ray(), signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**({"address": address} if address else _this_machine()), log_to_driver=False, logging_level="error")
        signal.signal(signal.SIGTERM, stop)  # Ray would end the program there, without a word of ours
    except Exception as error:  # Ray raises that class itself
        raise CapabilityError(
            f"Ray on {address or 'this machine'} cannot be used: {first_line(error)}",
            hint="`ray status --address ADDRESS` shows a cluster; on this machine, look below /tmp/ray",
        ) from error
    try:
        yield _nodes(ray)
    finally:
        ray.shutdown()


def _ours_alone() -> dict[str, str]:
    """Ray's variables for a cluster of this machine alone. Its ports answer only who knows the token. Where other
    programs take the memory, Ray would stop our stages for it, again and again; by hand they are not stopped either."""
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return ours | {"RAY_memory_monitor_refresh_ms": "0"}


def _large_gpus_alone() -> dict[str, str]:
    """CUDA's variables that leave out a small card for a screen, which Ray would hand out like any other one. Numbers
    are those of nvidia-smi."""
    large = environment.large_gpus()
    if len(large) == len(environment.visible_gpus()):
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpu.device for gpu in large), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _this_machine() -> dict[str, Any]:
    """Ray's settings for a cluster of this machine alone, which ends with us."""
    here = placing.this_machine()
    return {
        "address": "local",
        "num_cpus": here.cpus,
        "num_gpus": here.gpus,
        "_memory": here.memory,
        "object_store_memory": _OBJECT_STORE,
        "include_dashboard": False,
    }


def _nodes(ray: Any) -> list[Node]:
    """The nodes that are up and take tasks; those with GPUs are asked how much memory one has."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not resources:
        raise CapabilityError("no node of the cluster takes tasks", hint="start one (docs/how-to/sweep.md)")
    of_one = _gpu_memory(ray) if any(one.get("GPU", 0) for one in resources) else 0
    return [
        Node(
            cpus=int(one["CPU"]),
            gpus=int(one.get("GPU", 0)),
            memory=int(one.get("memory", 0)),
            gpu_memory=[of_one] * int(one.get("GPU", 0)) if of_one else [],
        )
        for one in resources
    ]


def _gpu_memory(ray: Any) -> int:
    """Bytes of one GPU of the cluster, asked where one is; 0 where nvidia-smi does not tell."""
    asked = ray.remote(num_cpus=0, num_gpus=0.01, max_retries=RETRIES)(environment.gpu_memory)
    return min(ray.get(asked.remote()), default=0)


def outcomes(stages: Sequence[Stage], nodes: Sequence[Node], setting: task.Setting) -> Iterator[Outcome]:
    """Hands each stage to Ray when all those that it comes after have ended, and gives each outcome when it is there.

    No task gets another one's outcome from Ray: with one that is lost, Ray would give up every stage behind it, also
    those that do not require it. Raises CapabilityError, before anything begins, for a stage that no node has the GPUs
    for.
    """
    ray = _ray()
    placed = {stage.key: placing.options(stage.needs, nodes) for stage in stages}
    run = ray.remote(max_retries=RETRIES, retry_exceptions=[task.LostError])(_run)
    waiting, running, done = list(stages), dict[Any, Stage](), dict[str, Outcome]()
    while waiting or running:
        ready = next((stage for stage in waiting if done.keys() >= set(stage.after)), None)
        if ready is None:
            (ref, *_), _ = ray.wait(list(running), num_returns=1)
            outcome = _outcome(ray, ref, running.pop(ref), setting)
        else:
            waiting.remove(ready)
            why = why_skipped(ready, done)
            if why is None:
                running[run.options(name=ready.title, **placed[ready.key]).remote(ready, setting)] = ready
                continue
            outcome = ended(ready, "skipped", error=why)
        done[outcome.key] = outcome
        yield outcome


def _run(stage: Stage, setting: task.Setting) -> Outcome:
    node = _ray().get_runtime_context().get_node_id()
    try:
        return task.run(stage, setting, node)
    except task.NodeLostError:
        os._exit(1)  # a worker without its node goes on for minutes, and what it raised would not count as lost


def _outcome(ray: Any, ref: Any, stage: Stage, setting: task.Setting) -> Outcome:
    try:
        found: Outcome = ray.get(ref)
        return found
    except ray.exceptions.RayError as error:
        # What a task raised is its cause, without Ray's traceback.
        return task.lost(stage, setting.logs, first_line(getattr(error, "cause", None) or error))
