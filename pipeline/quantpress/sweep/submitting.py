"""What hands a sweep to a cluster that is not this machine: a script for `ray job submit`, and a RayJob for Kubernetes.

In both the sweep itself runs on the cluster's head, which does nothing else, and its stages on the other nodes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from quantpress.language import quoting
from quantpress.sweep.file import Cluster

_QUEUE = "kueue.x-k8s.io/queue-name"
_HEAD = {"cpu": "2", "memory": "8Gi"}
_USER = 1000  # no process of ours needs to be root
_KEPT_S = 600  # a finished cluster, for who wants to read its logs


def ray_job(name: str, cluster: Cluster, words: Sequence[str]) -> str:
    """A script that submits the words as a job to a cluster that runs."""
    submit = ["ray", "job", "submit", "--", *words]
    return (
        "#!/bin/sh\n"
        f"# {quoting.comment(f'Submits the sweep {name}; RAY_ADDRESS is the dashboard of the cluster.')}\n"
        f"# {quoting.comment(f'Every node has {cluster.folder} and an environment with quantpress[cluster].')}\n"
        "set -eu\n"
        'export RAY_ADDRESS="${RAY_ADDRESS:-http://127.0.0.1:8265}"\n'
        f"exec {shlex.join(submit)}\n"
    )


def kuberay(name: str, cluster: Cluster, words: Sequence[str]) -> str:
    """A RayJob that makes the cluster, runs the words on its head, and takes the cluster down."""
    called = object_name(name)
    labels = {"app.kubernetes.io/name": called} | ({_QUEUE: cluster.queue} if cluster.queue else {})
    document = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": called, "labels": labels},
        "spec": {
            "entrypoint": shlex.join(words),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEPT_S,
            "rayClusterSpec": {
                # No CPUs for tasks: nothing is measured beside the sweep itself.
                "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _pod(cluster, "head", _HEAD)},
                "workerGroupSpecs": [_workers(cluster)],
            },
        },
    }
    use = f"kubectl apply -f FILE      (needs the KubeRay operator; the claim {cluster.claim} is there)"
    return f"# {quoting.comment(use)}\n" + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def object_name(text: str) -> str:
    """A name that Kubernetes takes: lower case, digits and dashes, a letter first, short enough for what KubeRay puts
    behind it."""
    return quoting.object_name(f"sweep-{text}", 40)


def _workers(cluster: Cluster) -> dict[str, Any]:
    whole = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    gpus = {"nvidia.com/gpu": str(cluster.gpus)} if cluster.gpus else {}
    return {
        "groupName": "workers",
        # As many as will be: stages are sized by the nodes that there are.
        **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), cluster.nodes),
        "rayStartParams": {},
        "template": _pod(cluster, "worker", whole | gpus),
    }


def _pod(cluster: Cluster, kind: str, resources: dict[str, str]) -> dict[str, Any]:
    """Requests and limits are the same, so that Kubernetes gives a measured pod cores of its own. KubeRay itself mounts
    a /dev/shm as large as the memory."""
    cache = f"{cluster.folder.rstrip('/')}/.cache"
    container = {
        "name": f"ray-{kind}",
        "image": cluster.image,
        "env": [
            {"name": "QUANTPRESS_CACHE", "value": f"{cache}/quantpress"},
            {"name": "HF_HOME", "value": f"{cache}/huggingface"},
        ],
        "resources": {"requests": resources, "limits": {**resources}},  # YAML would point from one to the other
        "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True},
        "volumeMounts": [{"name": "shared", "mountPath": cluster.folder}],
    }
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsUser": _USER, "fsGroup": _USER},
            "containers": [container],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": cluster.claim}}],
        }
    }
