"""What hands a sweep to a cluster: a script that the shell reads as it is meant, and a RayJob by KubeRay's schema."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantpress.sweep.file import Cluster
from quantpress.sweep.submitting import kuberay, object_name, ray_job

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "rayjob.json").read_text())
WORDS = ["quantpress", "sweep", "/shared/my sweeps/night.yaml", "--gate=recovery>=0.99", "--address", "auto"]
CPUS = Cluster(image="registry/quantpress:1", claim="shared", folder="/shared", nodes=3, cpus=16, memory="64Gi")
GPUS = Cluster(**{**CPUS.model_dump(), "gpus": 2, "queue": "team-a"})


def job(cluster: Cluster, name: str = "night") -> dict[str, Any]:
    return dict(yaml.safe_load(kuberay(name, cluster, WORDS)))


@pytest.mark.parametrize("cluster", [CPUS, GPUS], ids=["cpus", "gpus and kueue"])
def test_a_rayjob_is_what_kuberays_schema_allows(cluster: Cluster) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    made = job(cluster)
    jsonschema.validate(made, SCHEMA)
    assert shlex.split(made["spec"]["entrypoint"]) == WORDS


BROKEN = [
    ("spec.entrypoints", "x"),
    ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
    ("spec.rayClusterSpec.workerGroupSpecs.0.replicas", "3"),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.images", "x"),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.volumes.0.name", None),
    ("metadata.labels.a", 1),
    ("metadata.name", "x" * 48),
]


@pytest.mark.parametrize(("where", "value"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_field_is_refused(where: str, value: Any) -> None:
    made = job(GPUS)
    node: Any = made
    *path, last = where.split(".")
    for key in path:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)


def test_the_head_takes_no_stage_and_the_nodes_what_was_asked_for() -> None:
    cluster = job(GPUS)["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (workers,) = cluster["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 3
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_queue_is_kueues_label() -> None:
    assert job(GPUS)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "kueue.x-k8s.io/queue-name" not in job(CPUS)["metadata"]["labels"]


def test_the_script_submits_the_words_as_they_are(tmp_path: Path) -> None:
    """A `ray` that writes down what it is told stands in for Ray."""
    ray, script = tmp_path / "ray", tmp_path / "submit.sh"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$RAY_ADDRESS" "$@"\n')
    script.write_text(ray_job("night", CPUS, WORDS))
    ray.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", str(script)], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["http://127.0.0.1:8265", "job", "submit", "--", *WORDS]


@given(st.text())
def test_names_of_objects(text: str) -> None:
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", object_name(text))
