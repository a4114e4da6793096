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
from quantpress.sweep.stages import Outcome, Stage, ended

# How often a stage is begun again whose worker, or whose node, went away.
RETRIES = 3
# Ray hands outcomes of a few hundred bytes from task to task; it takes no store for objects smaller than this.
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
    if not address:
        os.environ |= _ours_alone()
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
    """Hands all stages to Ray, and gives each outcome when it is there.

    Raises CapabilityError, before anything begins, for a stage that no node has the GPUs for.
    """
    ray = _ray()
    placed = {stage.key: placing.options(stage.needs, nodes) for stage in stages}
    run = ray.remote(max_retries=RETRIES, retry_exceptions=[task.LostError])(_run)
    refs: dict[str, Any] = {}
    for stage in stages:
        before = [refs[key] for key in stage.after]
        refs[stage.key] = run.options(name=stage.title, **placed[stage.key]).remote(stage, setting, *before)
    waiting = {refs[stage.key]: stage for stage in stages}
    while waiting:
        (ref, *_), _ = ray.wait(list(waiting), num_returns=1)
        yield _outcome(ray, ref, waiting.pop(ref), setting)


def _run(stage: Stage, setting: task.Setting, *before: Outcome) -> Outcome:
    node = _ray().get_runtime_context().get_node_id()
    try:
        return task.run(stage, setting, node, list(before))
    except task.NodeLostError:
        os._exit(1)  # a worker without its node goes on for minutes, and what it raised would not count as lost


def _outcome(ray: Any, ref: Any, stage: Stage, setting: task.Setting) -> Outcome:
    try:
        found: Outcome = ray.get(ref)
        return found
    except ray.exceptions.RayError as error:
        begun = task.attempts(setting.logs, stage)
        if not begun:  # what it waits for was lost, which is said there
            return ended(stage, "skipped", error="a stage before it was lost")
        why = f"its worker went away {len(begun)} times: {first_line(error)}"
        return ended(stage, "lost", error=why, attempts=len(begun), log=str(begun[-1]))
