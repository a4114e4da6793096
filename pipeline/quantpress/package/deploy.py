"""deploy/: how a cluster starts vLLM on a package, with the engine arguments that were measured."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from quantpress.artifact.throughput import WITH_ALL_OF_THE_MEMORY, ServerFacts, Throughput
from quantpress.language import quoting
from quantpress.package import texts

GPU_IMAGE, CPU_IMAGE = "vllm/vllm-openai:v{}", "vllm/vllm-openai-cpu:v{}-x86_64"
# What the locks install; used where nothing was measured. A test compares.
DEFAULT_VLLM = "0.32.0"
PORT = 8000
_KV_SPACE = 4  # GiB on a CPU where nothing was measured
_RELEASE = re.compile(r"^\d+\.\d+\.\d+((\.post|rc)\d+)?$")
_OF_THE_RUN = {"--host", "--port", "--served-model-name", "--seed", "--tokenizer", "--load-format"}
_PARALLEL = ("tensor", "pipeline", "data")
_SHM_SIZE = 4  # GiB; vLLM's processes share memory through /dev/shm, of which a container has 64 MB otherwise


@dataclass(frozen=True)
class Engine:
    """How to start vLLM. `arguments` go behind `vllm serve MODEL`; `notes` say where all this comes from."""

    image: str
    cpu: bool
    gpus: int
    cores: int
    arguments: list[str]
    environment: dict[str, str]
    notes: list[str]


def engine(
    throughput: Throughput | None, trust_remote_code: bool = False, device: str = "auto", asked: Sequence[str] = ()
) -> Engine:
    """The engine as measured, or vLLM's defaults where nothing was. `device` (gpu, cpu) overrides where it runs, and
    `asked`, arguments of vLLM's, what was measured."""
    server = throughput.servers["candidate"] if throughput else None
    known = throughput is not None and server is not None and server.startup_s is not None
    own, variables, notes = _measured(throughput) if known and throughput else ([], {}, [_unknown(throughput)])
    measured_on_cpu = bool(known and throughput and not throughput.machine.gpus)
    cpu = measured_on_cpu if device == "auto" else device == "cpu"
    if known and cpu != measured_on_cpu:
        other = "a GPU, where nothing was measured" if measured_on_cpu else "a CPU, where nothing was measured"
        own, notes = _without(own, {"--enforce-eager"}), [*notes, f"These files are for {other}."]
    if any(word not in own for word in asked):
        notes = [*notes, f"Not as measured, but asked for: {shlex.join(asked)}"]
        own = [*_without(own, {name for word in asked if word.startswith("--") for name in _forms(word)}), *asked]
    if trust_remote_code and "--trust-remote-code" not in own:
        own = [*own, "--trust-remote-code"]
    if "--max-model-len" not in own:
        own = [*own, "--max-model-len", "auto"]
        notes.append("--max-model-len auto: the model's whole context, or as much of it as fits the memory.")
    version, note = _version(throughput.vllm.version if known and throughput else None)
    image = (CPU_IMAGE if cpu else GPU_IMAGE).format(version)
    return Engine(
        image=image,
        cpu=cpu,
        gpus=0 if cpu else math.prod(_number(own, f"--{kind}-parallel-size") for kind in _PARALLEL),
        cores=throughput.machine.cores if throughput and cpu and known else 0,
        arguments=own,
        environment={"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        | (_on_a_cpu(variables, notes) if cpu else {}),
        notes=[*notes, *note],
    )


def _on_a_cpu(measured: dict[str, str], notes: list[str]) -> dict[str, str]:
    """Variables for a CPU. Left alone, vLLM binds its threads to all cores but one."""
    notes.append("A CPU: nothing here was measured on a GPU; quantpress package --device gpu makes files for one.")
    if cores := measured.get("VLLM_CPU_OMP_THREADS_BIND"):
        notes.append(f"Measured with threads bound to cores {cores}; nobind, as a container's cores are not known.")
    space = measured.get("VLLM_CPU_KVCACHE_SPACE", str(_KV_SPACE))
    return {"VLLM_CPU_KVCACHE_SPACE": space, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def _unknown(throughput: Throughput | None) -> str:
    if throughput is None:
        return "Speed was not measured (quantpress bench): these are vLLM's own defaults."
    return "Speed was measured on servers that someone else runs, with settings not known here: these are defaults."


def _measured(throughput: Throughput) -> tuple[list[str], dict[str, str], list[str]]:
    """Arguments, environment and notes of the candidate's server, less what only served the measurement."""
    command, variables = _started_with(throughput.servers["candidate"])
    whole = command[command.index("serve") + 2 :]
    left_out = _only_for_measuring(throughput)
    machine = throughput.machine
    notes = [
        f"Measured with vLLM {throughput.vllm.version} on {', '.join(machine.gpus) or machine.processor} "
        f"under the workload {throughput.workload.name}, with:",
        f"  {shlex.join(_without(whole, _OF_THE_RUN))}",
        *(f"Left out: {name} ({why})." for name, why in left_out.items() if name in whole),
    ]
    kept = _without(whole, _OF_THE_RUN | left_out.keys())
    if (share := throughput.workload.engine.gpu_memory_utilization) and "--gpu-memory-utilization" in left_out:
        kept += ["--gpu-memory-utilization", f"{share:g}"]  # the whole of what the workload asks for
    return kept, variables, notes


def _started_with(server: ServerFacts) -> tuple[list[str], dict[str, str]]:
    """The server's command as words, and the variables set for it. Older results have both in one line for people."""
    if server.argv:
        return server.argv, server.env or {}
    words = shlex.split(server.command)
    program = words.index("serve") - 1
    return words[program:], dict(word.split("=", 1) for word in words[:program] if "=" in word)


def _only_for_measuring(throughput: Throughput) -> dict[str, str]:
    """Arguments that quantpress added for the measurement's sake, not because the workload asks for them."""
    asked = throughput.workload.engine
    why = {"--no-enable-prefix-caching": "off while measuring, so that no round profits from the one before"}
    if not asked.max_model_len:
        why["--max-model-len"] = "while measuring, just what the workload needed"
    if throughput.paired not in WITH_ALL_OF_THE_MEMORY:
        why["--gpu-memory-utilization"] = "while measuring, shared with the unquantized model's server"
    return why


def _without(arguments: list[str], names: set[str]) -> list[str]:
    """The arguments less those of these names with their values, written `--name value` or `--name=value`."""
    kept: list[str] = []
    dropping = False
    for word in arguments:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in names
        if not dropping:
            kept.append(word)
    return kept


def _forms(word: str) -> tuple[str, str]:
    """The argument that a word names, as it is set and as it is taken back."""
    name = word.partition("=")[0].removeprefix("--").removeprefix("no-")
    return f"--{name}", f"--no-{name}"


def _number(arguments: list[str], name: str) -> int:
    """The value of `--name value` or `--name=value`, 1 where there is none."""
    for word, following in itertools.pairwise([*arguments, "1"]):
        if word.partition("=")[0] == name:
            return int(word.partition("=")[2] or following)
    return 1


def _version(measured: str | None) -> tuple[str, list[str]]:
    """The image's version: the release measured against, without its build, or the default."""
    release = (measured or "").partition("+")[0]
    if _RELEASE.match(release):
        return release, []
    reason = f"vLLM {measured} is no release" if measured else "no vLLM was measured against"
    return DEFAULT_VLLM, [f"Image of vLLM {DEFAULT_VLLM}: {reason}."]


def object_name(text: str) -> str:
    """A name that Kubernetes, KServe and compose take: lower case, digits and dashes, a letter first, 50 at most."""
    return quoting.object_name(text, 50)


def files(name: str, made: Engine, storage: str, weight_bytes: int) -> dict[str, str]:
    """Name and text of every file of deploy/."""
    return {
        "docker-run.sh": _docker(name, made),
        "docker-compose.yaml": _commented(made, _COMPOSE_USE, [_compose(name, made)]),
        "kubernetes.yaml": _commented(
            made, _KUBERNETES_USE.format(claim=_claim(storage, name)[0]), _kubernetes(name, made, storage, weight_bytes)
        ),
        "kserve.yaml": _commented(
            made, _KSERVE_USE.format(storage=storage), [_kserve(name, made, storage, weight_bytes)]
        ),
    }


_COMPOSE_USE = "docker compose -f deploy/docker-compose.yaml up      (from the package's folder)"
_KUBERNETES_USE = "kubectl apply -f kubernetes.yaml      (the PersistentVolumeClaim {claim} holds the package)"
_KSERVE_USE = "kubectl apply -f kserve.yaml      (KServe fetches {storage})"


def _commented(made: Engine, use: str, documents: list[dict[str, Any]]) -> str:
    head = "".join(f"# {quoting.comment(line)}\n" for line in (use, *made.notes))
    return head + yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice twice: people edit these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _arguments(name: str, folder: str, made: Engine) -> list[str]:
    return [folder, "--served-model-name", name, "--host", "0.0.0.0", "--port", str(PORT), *made.arguments]


def _docker(name: str, made: Engine) -> str:
    folder = f"/models/{name}"
    return texts.rendered(
        "docker-run.sh.jinja",
        quoting.shell,
        notes=made.notes,
        gpus=0 if made.cpu else made.gpus,
        shm_size=f"{_SHM_SIZE}g",
        ports=f"127.0.0.1:{PORT}:{PORT}",
        environment=made.environment,
        folder=folder,
        image=made.image,
        arguments=_arguments(name, folder, made),
    )


def _compose(name: str, made: Engine) -> dict[str, Any]:
    folder = f"/models/{name}"
    health = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{PORT}/health')"
    service: dict[str, Any] = {
        "image": made.image,
        "entrypoint": ["vllm", "serve"],
        "command": _arguments(name, folder, made),
        "environment": made.environment,
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "volumes": [{"type": "bind", "source": "..", "target": folder, "read_only": True}],
        "shm_size": f"{_SHM_SIZE}g",
        "restart": "unless-stopped",
        "healthcheck": {
            "test": ["CMD", "python3", "-c", health],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": "30m",
        },
    }
    if not made.cpu:
        devices = [{"driver": "nvidia", "count": made.gpus, "capabilities": ["gpu"]}]
        service["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    return {"name": object_name(name), "services": {"vllm": service}}


def _claim(storage: str, name: str) -> tuple[str, str]:
    """Claim and path of a pvc:// address; elsewhere a claim called models, with a folder of the package's name."""
    if storage.startswith("pvc://"):
        claim, _, path = storage.removeprefix("pvc://").partition("/")
        return claim, path.strip("/")
    return "models", name


def _resources(made: Engine, weight_bytes: int) -> dict[str, Any]:
    """Memory and cores are always named: where they are not, KServe puts 2 GiB and one core, for limits too."""
    weights = weight_bytes / 2**30
    if not made.cpu:
        # Weights pass through the host's memory on their way; what a GPU's server needs there was not measured.
        memory, cores = weights + 8, (2 * made.gpus, 8 * made.gpus)
    else:
        # Weights, the KV cache of each process, 4 GiB for vLLM itself, and one more for each further process.
        processes = math.prod(_number(made.arguments, f"--{kind}-parallel-size") for kind in _PARALLEL)
        memory = weights + processes * float(made.environment["VLLM_CPU_KVCACHE_SPACE"]) + 3 + processes
        # Where it was measured, all of the cores; a node keeps a part of one for itself.
        cores = (max(1, made.cores - 1), max(1, made.cores))
    least = {"memory": f"{int(memory) + 1}Gi", "cpu": str(cores[0])}
    most = {"memory": f"{int(memory) + 1 + _SHM_SIZE}Gi", "cpu": str(cores[1])}
    gpus = {} if made.cpu else {"nvidia.com/gpu": str(made.gpus)}
    return {"limits": {**gpus, **most}, "requests": {**gpus, **least}}


def _container(made: Engine, arguments: list[str], container: str, port: str, weight_bytes: int) -> dict[str, Any]:
    """What a Deployment and an InferenceService have in common."""
    health = {"httpGet": {"path": "/health", "port": PORT}}
    return {
        "name": container,
        "image": made.image,
        "command": ["vllm", "serve"],
        "args": arguments,
        "env": [{"name": key, "value": value} for key, value in made.environment.items()],
        "ports": [{"name": port, "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(made, weight_bytes),
        "securityContext": {"allowPrivilegeEscalation": False},
        # vLLM answers /health once it serves: half an hour to load, then ten seconds between looks.
        "startupProbe": {**health, "periodSeconds": 10, "failureThreshold": 180},
        "readinessProbe": {**health, "periodSeconds": 10},
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }


_SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_SHM_SIZE}Gi"}}


def _kubernetes(name: str, made: Engine, storage: str, weight_bytes: int) -> list[dict[str, Any]]:
    folder, called = f"/models/{name}", object_name(name)
    labels = {"app.kubernetes.io/name": called}
    claim, path = _claim(storage, name)
    container = _container(made, _arguments(name, folder, made), "vllm", "http", weight_bytes)
    mount = {"name": "model", "mountPath": folder, "readOnly": True} | ({"subPath": path} if path else {})
    container["volumeMounts"].append(mount)
    volume = {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            # A Service called vllm would put VLLM_PORT into the environment, which vLLM reads as its own.
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": [volume, _SHM],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": called, "labels": labels},
        "spec": {
            "replicas": 1,
            # GPUs are rarely free twice: the old server goes before the new one comes.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": called, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }
    return [deployment, service]


def _kserve(name: str, made: Engine, storage: str, weight_bytes: int) -> dict[str, Any]:
    """A predictor of our own image: KServe's vLLM runtime brings a vLLM of another version than was measured."""
    # Knative, on which KServe may run, takes no other name of a port for HTTP than http1.
    container = _container(made, _arguments(name, "/mnt/models", made), "kserve-container", "http1", weight_bytes)
    # KServe's storage initializer reads this and mounts what it fetched at /mnt/models.
    container["env"].insert(0, {"name": "STORAGE_URI", "value": storage})
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": object_name(name)},
        "spec": {"predictor": {"minReplicas": 1, "containers": [container], "volumes": [_SHM]}},
    }
