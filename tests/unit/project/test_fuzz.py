"""Every reader of files of others, on files that nobody would write: our own errors, in bounded time."""

from __future__ import annotations

import copy
import errno
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval_files import choices, generated

from quantpress.artifact.accuracy import Accuracy
from quantpress.artifact.manifest import Manifest
from quantpress.artifact.throughput import Throughput
from quantpress.errors import QuantpressError
from quantpress.language import shipped
from quantpress.model import headers, soundness, source
from quantpress.model.config import dtype_of, positions
from quantpress.model.source import Model
from quantpress.package import build, origin
from quantpress.quantize import calibration_data, conversations
from quantpress.recipe.loading import load_recipe
from quantpress.report.facts.data import Report
from quantpress.runtime.time_limit import time_limit
from quantpress_evaluate import suite
from quantpress_evaluate.comparison import asked, logged
from quantpress_serve.workload import engines, prompts
from quantpress_serve.workload.workload import load_workload

RESULTS = Path(__file__).parents[1] / "results"
REPORT = Path(__file__).parents[1] / "report" / "recorded" / "report-version-1.json"
SECONDS = 5.0  # for one file
FEW = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What stands where something else belongs.
ODD = st.sampled_from(
    [
        *(None, True, 0, -1, 2**70, 10**400, 1e999, -1e999, float("nan"), 1e-320, "", " ", "\0", "\x1b[2J", "\ud800"),
        *("a" * 5000, "../../etc/passwd", "/etc/passwd", "!!python/object", "*a", "{{ x }}", "<script>", "2024-13-01"),
        *([], {}, [[]], [{}], {"": None}, {"a": {"a": {"a": []}}}, [None], [1, "a", None], {"doc_id": {}}, [0, 0]),
    ]
)


def changed(value: Any, draw: Callable[[Any], Any]) -> Any:
    """The value with something odd in the place of a part of it, or without the part."""
    value = copy.deepcopy(value)
    at = value
    while isinstance(at, dict | list) and at:
        key: Any = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(min(len(at), 5)))))
        if not isinstance(at[key], dict | list) or not at[key] or draw(st.integers(0, 3)) == 0:
            if draw(st.integers(0, 4)):
                at[key] = draw(ODD)
            else:
                del at[key]
            return value
        at = at[key]
    return draw(ODD)


@st.composite
def like(draw: Callable[[Any], Any], values: list[Any], write: Callable[[Any], str]) -> bytes:
    """A file of one of these values, changed in some places, or in its bytes."""
    value = draw(st.sampled_from(values))
    for _ in range(draw(st.integers(1, 3))):
        value = changed(value, draw)
    raw = write(value).encode("utf-8", "surrogatepass")
    match draw(st.integers(0, 9)):
        case 0:
            return raw[: draw(st.integers(0, len(raw)))]
        case 1:
            place = draw(st.integers(0, len(raw)))
            return (
                raw[:place]
                + draw(st.sampled_from([b"\xff", b"\0", b"[" * 3000, b'"', b"\n", b"9" * 5000]))
                + raw[place:]
            )
    return raw


def as_yaml(value: Any) -> str:
    try:
        return str(yaml.safe_dump(value, allow_unicode=True))
    except ValueError:  # a number that Python does not write out
        return repr(value)[:100]


def as_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:
        return '{"a": ' + "9" * 5000 + "}"


def as_lines(value: Any) -> str:
    return "\n".join(as_json(row) for row in value) + "\n" if isinstance(value, list) else as_json(value)


def reads(read: Callable[[Path], Any], path: Path, raw: bytes) -> None:
    """The reader ends in time, and raises nothing that is not ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    try:
        with time_limit(SECONDS):
            found = read(path)
            if isinstance(found, Iterator):
                list(found)
    except QuantpressError as error:
        assert error.message
        error.render()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which the command line explains, wherever it comes from
            raise


def shipped_files(kind: Any) -> list[Any]:
    return [yaml.safe_load(path.read_text()) for path in sorted(shipped.folder(kind).glob("*.yaml"))]


@FEW
@given(raw=like(shipped_files("recipes"), as_yaml))
def test_recipes(tmp_path: Path, raw: bytes) -> None:
    reads(lambda path: load_recipe(str(path)), tmp_path / "r.yaml", raw)


@FEW
@given(raw=like(shipped_files("suites"), as_yaml))
def test_suites(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> object:
        loaded, file = suite.load_suite(str(path))
        return suite.resolve_tasks(loaded, file, None)

    reads(read, tmp_path / "s.yaml", raw)


ENGINE = {"engine": {"max_num_seqs": 8, "extra_args": {"block-size": 8, "attention-backend": "X"}}}


@FEW
@given(raw=like([one | ENGINE for one in shipped_files("workloads")], as_yaml))
def test_workloads(tmp_path: Path, raw: bytes) -> None:
    reads(lambda path: load_workload(str(path)).engine.arguments(), tmp_path / "w.yaml", raw)


@FEW
@given(raw=like([one | ENGINE["engine"] for one in shipped_files("engines")], as_yaml))
def test_engines(tmp_path: Path, raw: bytes) -> None:
    reads(lambda path: engines.load_engine([str(path)]).arguments(), tmp_path / "e.yaml", raw)


TALKS = [[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 2]
LINES = [[{"prompt": "a b", "output_tokens": 3}, {"prompt": "c"}]]


@FEW
@given(talks=like(TALKS, as_json), lines=like(LINES, as_lines))
def test_prompts(tmp_path: Path, talks: bytes, lines: bytes) -> None:
    reads(lambda path: prompts.usable("sharegpt", path, has_output_len=True), tmp_path / "t.json", talks)
    reads(lambda path: prompts.usable("jsonl", path, has_output_len=False), tmp_path / "p.jsonl", lines)


CHATS = [[{"text": "a"}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "b"}]}]}] * 2]


@FEW
@given(raw=like(CHATS, as_lines))
def test_calibration_data(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> None:
        for placed in calibration_data.read_places(path):
            if "messages" in placed.document:
                conversations.conversation(placed.document["messages"], placed.where)

    reads(read, tmp_path / "d.jsonl", raw)


CONFIG = json.loads((RESULTS / "config.json").read_text())


@FEW
@given(raw=like([CONFIG, {"quantization_config": {"quant_method": "fp8"}}], as_json))
def test_configs(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> None:
        config = source.read_config(path.parent)
        soundness.quantization(path.parent, config, {})
        positions(config), dtype_of(config)

    reads(read, tmp_path / "config.json", raw)
    for name in soundness.SAID_ELSEWHERE[:1]:
        reads(lambda path: soundness.quantization(path.parent, {}, {}), tmp_path / name, raw)


@FEW
@given(raw=like([{"chat_template": "x", "model_max_length": 8}], as_json))
def test_tokenizer_configs(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> bool:
        return source.Model("m", path.parent, "m", {}).has_chat_template

    reads(read, tmp_path / "tokenizer_config.json", raw)


HEADER = {"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}}
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}


@FEW
@given(raw=like([HEADER], as_json), index=like([INDEX], as_json), length=st.none() | st.integers(0, 2**64 - 1))
def test_headers_and_indexes(tmp_path: Path, raw: bytes, index: bytes, length: int | None) -> None:
    folder = tmp_path / "m"
    reads(headers.read, folder / "model.safetensors", struct.pack("<Q", length or len(raw)) + raw + bytes(8))
    reads(lambda path: headers.read_folder(path.parent), folder / "model.safetensors.index.json", index)


SAMPLES = [
    choices("rw"),
    [generated(n, "7", True) for n in range(2)],
    [generated(0, "7", True, word_perplexity=[-1.0, 2])],
]
ASKED = {"results": {"a": {"acc,none": 0.5}}, "configs": {"a": {"num_fewshot": 0}}, "n-shot": {"a": 0}, "config": {}}


@FEW
@given(samples=like(SAMPLES, as_lines), results=like([ASKED], as_json))
def test_lm_evals_files(tmp_path: Path, samples: bytes, results: bytes) -> None:
    reads(logged.read, tmp_path / "samples_a.jsonl", samples)
    reads(lambda path: asked.read(path).asked("a"), tmp_path / "results_a.json", results)


@FEW
@given(
    kind=st.sampled_from([Manifest, Accuracy, Throughput, Report]),
    raw=like([json.loads((RESULTS / f"{name}.json").read_text()) for name in ("manifest", "accuracy")], as_json)
    | like([json.loads((RESULTS / "throughput.json").read_text())], as_json)
    | like([json.loads(REPORT.read_text())], as_json),
)
def test_results(tmp_path: Path, kind: Any, raw: bytes) -> None:
    reads(kind.load, tmp_path / "result.json", raw)


PACKAGE = {
    **{
        "kind": "package",
        "schema_version": 1,
        "name": "a",
        "recipe": "r",
        "checkpoint_digest": "d",
        "base_model": None,
    },
    **{"model": {"name": "m", "revision": None, "digest": "d"}, "license": None, "storage": "pvc://a/b", "bytes": 1},
    "measured": {"accuracy": True, "throughput": False},
    "engine": {"image": "i", "arguments": [], "environment": {}},
    "files": {"a.txt": {"bytes": 1, "sha256": "0" * 64}},
}


@FEW
@given(raw=like([PACKAGE], as_json))
def test_packages(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> None:
        build.is_package(path.parent)
        build.verify(path.parent)

    (tmp_path / "p").mkdir(exist_ok=True)
    (tmp_path / "p" / "a.txt").write_text("a")
    reads(read, tmp_path / "p" / "manifest.json", raw)


CARD = {"license": "mit", "license_link": "LICENSE", "language": ["en"], "base_model": "a/b", "model-index": [{"a": 1}]}


@FEW
@given(raw=like([CARD], as_yaml))
def test_cards(tmp_path: Path, raw: bytes) -> None:
    def read(path: Path) -> object:
        return origin.origin_of(Model("m", path.parent, str(path.parent), {}))

    reads(read, tmp_path / "README.md", b"---\n" + raw + b"\n---\n")


def test_the_bound_of_time_holds(tmp_path: Path) -> None:
    def forever(_: Path) -> None:
        while True:
            pass

    with pytest.raises(TimeoutError), pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "SECONDS", 0.05)
        reads(forever, tmp_path / "x", b"")
