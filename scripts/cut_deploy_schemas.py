"""Makes tests/schemas/*.json: what deploy/ and sweeps use of four public schemas, without their descriptions.

    cut_deploy_schemas.py KUBERNETES COMPOSE KSERVE RAYJOB

KUBERNETES: `v1.37.0-local-strict` in the package kubernetes-validate 1.37.0. COMPOSE: `compose-spec.json` in the
package check-jsonschema. KSERVE: config/crd/full/serving.kserve.io_inferenceservices.yaml of KServe's repository.
RAYJOB: ray-operator/config/crd/bases/ray.io_rayjobs.yaml of KubeRay's repository.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "tests" / "schemas"
PREDICTOR = ("containers", "volumes", "minReplicas", "maxReplicas", "imagePullSecrets", "serviceAccountName")

OF_A_JOB = ("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec")
OF_A_CLUSTER = ("headGroupSpec", "workerGroupSpecs")
OF_A_POD = ("automountServiceAccountToken", "containers", "enableServiceLinks", "securityContext", "volumes")


def bare(node: Any) -> Any:
    """The schema without descriptions. A property called `description` stays."""
    if isinstance(node, list):
        return [bare(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {key: bare(value) for key, value in node.items() if not (key == "description" and isinstance(value, str))}


def strict(node: Any) -> Any:
    """A CRD's schema with unknown fields refused, as `kubectl apply --validate=strict` does."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = "properties" in node and "additionalProperties" not in node and "type" in node
    extra = {"additionalProperties": False} if closed else {}
    return {key: strict(value) for key, value in node.items()} | extra


def kubernetes(folder: Path) -> dict[str, Any]:
    text = (folder / "_definitions.json").read_text(encoding="utf-8").replace("/api/_definitions.json#", "#")
    definitions, wanted = json.loads(text)["$defs"], ["io.k8s.api.apps.v1.Deployment", "io.k8s.api.core.v1.Service"]
    kept: dict[str, Any] = {}
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = bare(definitions[name])
            wanted += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(definitions[name]))
    return {"$defs": dict(sorted(kept.items()))}


def kserve(path: Path) -> dict[str, Any]:
    (version,) = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    whole = schema["properties"]["spec"]["properties"]["predictor"]["properties"]
    predictor = {"type": "object", "properties": {name: whole[name] for name in PREDICTOR}, "required": ["containers"]}
    spec = {"type": "object", "properties": {"predictor": predictor}, "required": ["predictor"]}
    kind = {"apiVersion": {"const": f"serving.kserve.io/{version['name']}"}, "kind": {"const": "InferenceService"}}
    metadata = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    top = {"type": "object", "properties": kind | {"metadata": metadata, "spec": spec}}
    return dict(bare(strict(top | {"required": ["apiVersion", "kind", "metadata", "spec"]})))


def rayjob(path: Path) -> dict[str, Any]:
    versions = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"]
    (version,) = [one for one in versions if one["name"] == "v1"]
    whole = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec = {"type": "object", "properties": {name: whole["properties"][name] for name in OF_A_JOB}}
    cluster = spec["properties"]["rayClusterSpec"]
    cluster["properties"] = {name: cluster["properties"][name] for name in OF_A_CLUSTER}
    head, workers = (cluster["properties"][name] for name in OF_A_CLUSTER)
    pod = head["properties"]["template"]["properties"]["spec"]["properties"]
    template = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": {name: pod[name] for name in OF_A_POD}}},
    }
    for group in (head, workers["items"]):  # both have a pod's template, word for word
        group["properties"]["template"] = {"$ref": "#/$defs/template"}
    labels = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 47}, "labels": labels},
        "required": ["name"],
    }
    kind = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}}
    top = {"type": "object", "properties": kind | {"metadata": metadata, "spec": spec}}
    top |= {"required": ["apiVersion", "kind", "metadata", "spec"], "$defs": {"template": template}}
    return dict(bare(strict(top)))


def main() -> int:
    made = {"kubernetes": kubernetes(Path(sys.argv[1])), "kserve": kserve(Path(sys.argv[3]))}
    made["rayjob"] = rayjob(Path(sys.argv[4]))
    made["compose"] = bare(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    for name, schema in made.items():
        (TARGET / f"{name}.json").write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
