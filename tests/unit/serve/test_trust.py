"""What a workload may make of vLLM by itself, and what only with a word on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpress.errors import InputError
from quantpress_serve.workload.engine import Engine
from quantpress_serve.workload.trust import PERFORMANCE
from quantpress_serve.workload.workload import Workload, load_workload

# What vLLM 0.32.0's own parser said (probes/arguments_probe.py), the `--no-` forms left out.
VLLM = json.loads((Path(__file__).parents[1] / "recorded" / "vllm-0.32.0-arguments.json").read_text())
# Their type does not say that they are numbers or words of a list; read in vllm/engine/arg_utils.py.
_SEEN = {
    *("attention-backend", "mm-encoder-attn-backend", "mamba-backend", "optimization-level"),  # words of an Enum
    *("kv-cache-memory-bytes", "kv-offloading-size", "mamba-block-size", "max-num-active-seqs", "max-num-queued-reqs"),
    *("max-num-queued-tokens", "max-num-scheduled-tokens", "max-parallel-loading-workers", "num-gpu-blocks-override"),
    *("numa-bind-cpus", "numa-bind-nodes"),  # numbers and ranges of them
}


def workload(extra: dict[str, Any], folder: Path, *trusted: str) -> Workload:
    path = folder / "w.yaml"
    text = "name: w\ndescription: d\ninput_len: 8\noutput_len: 8\nconcurrency: [1]\nrequests: 4\n"
    path.write_text(text + f"engine: {json.dumps({'extra_args': extra})}\n")
    return load_workload(str(path), trusted)


@pytest.mark.parametrize("name", sorted(PERFORMANCE))
def test_what_a_workload_sets_by_itself_is_a_flag_a_number_or_a_word_of_a_list(name: str) -> None:
    known = VLLM[name]
    numbers = ("int", "float", "human_readable_int")
    assert known["flag"] or known["choices"] or known["type"] in numbers or name in _SEEN


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"tool-parser-plugin": "evil.py"}, "--trust-workload tool-parser-plugin"),
        ({"reasoning_parser_plugin": "evil.py"}, "--trust-workload reasoning-parser-plugin"),
        ({"middleware": ["evil.Middleware"]}, "--trust-workload middleware"),
        ({"config": "evil.yaml"}, "--trust-workload config"),
        ({"lora-modules": ["a=b", "--trust-remote-code"]}, "--trust-workload lora-modules"),
        ({"worker-cls": "evil.Worker"}, "--trust-workload worker-cls"),
        ({"kv-transfer-config": {"kv_connector_module_path": "evil"}}, "--trust-workload kv-transfer-config"),
        ({"hf-overrides": {"architectures": ["Evil"]}}, "--trust-workload hf-overrides"),
        ({"compilation-config": {"backend": "evil.backend"}}, "--trust-workload compilation-config"),
        ({"distributed-executor-backend": "evil.Executor"}, "--trust-workload distributed-executor-backend"),
        ({"chat-template": "evil.jinja"}, "--trust-workload chat-template"),
        ({"what-a-later-vllm-has": 1}, "--trust-workload what-a-later-vllm-has"),
        ({"compilation-config.backend": "evil.backend"}, "--trust-workload compilation-config.backend"),
        ({"attention-backend": "evil.module.Backend"}, "numbers and plain words"),
        ({"attention-backend": "../evil"}, "numbers and plain words"),
        ({"block-size": "8\n--trust-remote-code"}, "numbers and plain words"),
        ({"cudagraph-capture-sizes": [1, "--trust-remote-code"]}, "numbers and plain words"),
        ({"block-size": {"a": 1}}, "numbers and plain words"),
        ({"hf-token": "hf_secret"}, "export HF_TOKEN"),
        ({"api_key": ["s3cret"]}, "VLLM_API_KEY"),
        ({"some-password": "x"}, "is a secret"),
    ],
)
def test_an_argument_that_is_not_about_speed_needs_a_word(extra: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        workload(extra, tmp_path)
    assert words in caught.value.render()
    assert "s3cret" not in caught.value.render()
    assert "hf_secret" not in caught.value.render()


def test_what_is_about_speed_needs_none(tmp_path: Path) -> None:
    extra = {"block_size": 32, "no-async-scheduling": True, "attention-backend": "FLASH_ATTN", "enable-eplb": False}
    made = workload(extra | {"cudagraph-capture-sizes": [1, 2]}, tmp_path)
    assert "--block-size=32" in made.engine.arguments()


def test_arguments_are_trusted_one_by_one(tmp_path: Path) -> None:
    extra = {"chat-template": "mine.jinja", "worker_cls": "mine.Worker"}
    made = workload(extra, tmp_path, "chat-template", "worker-cls")
    assert "--worker-cls=mine.Worker" in made.engine.arguments()
    with pytest.raises(InputError, match="worker_cls"):
        workload(extra, tmp_path, "chat-template")
    with pytest.raises(InputError, match="names middleware, which neither workload nor engine sets"):
        workload({"chat-template": "mine.jinja"}, tmp_path, "chat-template", "middleware")
    with pytest.raises(InputError, match="dash before it"):
        workload({"lora-modules": ["a=b", "--trust-remote-code"]}, tmp_path, "lora-modules")
    with pytest.raises(InputError, match="is a secret"):
        workload({"hf-token": "x"}, tmp_path, "hf-token")


@pytest.mark.parametrize("field", ["kv_cache_dtype", "quantization"])
def test_a_value_cannot_become_an_argument(field: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Engine.model_validate({field: "--trust-remote-code"})


def test_the_command_line_says_whom_to_trust(
    quantpress: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    text = "name: w\ndescription: d\ninput_len: 8\noutput_len: 8\nconcurrency: [1]\nrequests: 4\n"
    (tmp_path / "w.yaml").write_text(text + "engine: {extra_args: {worker-cls: evil.Worker, middleware: [a.b]}}\n")
    asked = ("bench", "rtn-w4a16", "--model", str(make_model()), "--workload", "w.yaml")
    assert "--trust-workload worker-cls" in quantpress(*asked).stderr
    said = quantpress(*asked, "--trust-workload", "worker-cls").stderr
    assert "--trust-workload middleware" in said
    said = quantpress(*asked, "--trust-workload", "worker-cls,middleware", "--vllm", "/no/such/vllm").stderr
    assert "/no/such/vllm" in said
