"""Models on the hub, which is a stand-in here: what is wrong is found before the weights are fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, Hub, hub_of

from quantpress.cli import main, prepare
from quantpress.cli.options import Work
from quantpress.errors import CapabilityError, InputError
from quantpress.model import hub, source
from quantpress.model.headers import read_folder
from quantpress.recipe.loading import load_recipe

CHAT = '{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}\n'


@pytest.fixture
def on_the_hub(make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A small Llama under the name org/name, of whose weights more than 100 kB are no header."""
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))
    with hub_of(make_model("there", hidden=256, intermediate=512), tmp_path / "hub", monkeypatch) as server:
        yield server


def run(*arguments: str) -> int:
    return main.main([arguments[0], "--model", "org/name", "--target", "any", *arguments[1:]])


def test_the_headers_are_read_without_the_weights_and_are_those_of_the_weights(on_the_hub: Hub) -> None:
    light = source.described_model("org/name")
    assert light.path.name == COMMIT
    assert not hub.fetched(light.path)
    assert light.headers() == read_folder(on_the_hub.folder)
    assert on_the_hub.fetched["model.safetensors"] < (on_the_hub.folder / "model.safetensors").stat().st_size / 2
    whole = source.find_model("org/name")
    assert whole.revision == COMMIT
    assert whole.headers() == light.headers()
    assert hub.headers_of("org/name", whole.path) == light.headers()  # of the files now


WRONG = {
    "a recipe that does not fit the shapes": (
        ["quantize", "rtn-w4a16", "--set", "modifiers.0.rtn.group_size=96"],
        2,
        "96",
    ),
    "a conversation that no template takes": (
        ["quantize", "gptq-w4a16", "--set", "calibration.dataset=chats.jsonl"],
        2,
        "chats.jsonl:2: the conversation is empty",
    ),
    "too little memory": (["quantize", "rtn-w4a16"], 4, "piece by piece takes 0.9 GB of memory, 0.8 GB are free"),
    "a model larger than the disk": (["quantize", "rtn-w4a16"], 4, "GB needed"),
    "a model without a chat template that is to write chats": (
        ["quantize", "gptq-w4a16", "--set", "calibration.dataset=self"],
        2,
        "has no chat template",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_found_before_the_weights_are_fetched(
    case: str, on_the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, words = WRONG[case]
    monkeypatch.chdir(tmp_path)
    Path("chats.jsonl").write_text(CHAT + '{"messages": []}\n')
    if "memory" in case:
        monkeypatch.setattr("quantpress.runtime.free_memory.available", lambda: 800_000_000)
    if "disk" in case:
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    assert run(*arguments, "--out", str(tmp_path / "out")) == code
    said = capsys.readouterr().err
    assert words in said, said
    assert on_the_hub.fetched["model.safetensors"] < (on_the_hub.folder / "model.safetensors").stat().st_size / 2
    assert not (tmp_path / "out").exists()


STORED = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}}
WRONG_TO_DEQUANTIZE = {
    "a recipe that does not fit the shapes": (["rtn-w4a16", "--set", "modifiers.0.rtn.group_size=96"], 2, "96"),
    "a target that cannot serve it": (["w4afp8", "--target", "sm_100"], 4, "W4AFP8 is served on sm_90"),
    "a disk that holds the stored weights only": (["rtn-w4a16"], 4, "GB needed"),
}


@pytest.mark.parametrize("case", WRONG_TO_DEQUANTIZE)
def test_what_is_wrong_with_weights_to_dequantize_is_found_before_they_are_fetched(
    case: str, on_the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, words = WRONG_TO_DEQUANTIZE[case]
    config = json.loads((on_the_hub.folder / "config.json").read_text())
    (on_the_hub.folder / "config.json").write_text(json.dumps({**config, "quantization_config": STORED}))
    if "disk" in case:
        stored = sum(tensor.nbytes for tensor in read_folder(on_the_hub.folder).values())
        monkeypatch.setattr("quantpress.runtime.disk.free_space", lambda folder: stored if "hub" in str(folder) else 9)
    assert run("quantize", *arguments, "--dequantize", "--out", str(tmp_path / "out")) == code
    said = capsys.readouterr().err
    assert words in said, said
    assert on_the_hub.fetched["model.safetensors"] < (on_the_hub.folder / "model.safetensors").stat().st_size / 2


def test_a_repository_without_weights_as_safetensors_is_refused(on_the_hub: Hub) -> None:
    (on_the_hub.folder / "model.safetensors").rename(on_the_hub.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"org/name holds neither model\.safetensors nor"):
        source.described_model("org/name")


def test_shards_that_an_index_names_otherwise_are_fetched(on_the_hub: Hub) -> None:
    expected = read_folder(on_the_hub.folder)
    (on_the_hub.folder / "model.safetensors").rename(on_the_hub.folder / "gptq-1.safetensors")
    index = {"weight_map": dict.fromkeys(expected, "gptq-1.safetensors")}
    (on_the_hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert source.described_model("org/name").headers() == expected
    assert source.find_model("org/name").headers() == expected


def test_an_index_that_names_what_the_repository_does_not_hold_is_wrong_input(on_the_hub: Hub) -> None:
    index = {"weight_map": dict.fromkeys(read_folder(on_the_hub.folder), "model-9.safetensors")}
    (on_the_hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"its index names model-9\.safetensors, which the repository does not"):
        hub.whole("org/name", False)


def test_a_pattern_for_layers_that_only_tensors_tell_of_is_no_error_before_they_are_fetched(
    on_the_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of layers for speculative decoding, which transformers does not load: with --dequantize the config is all that
    is known of what will be."""
    config = json.loads((on_the_hub.folder / "config.json").read_text())
    (on_the_hub.folder / "config.json").write_text(json.dumps({**config, "quantization_config": STORED}))
    monkeypatch.setattr(prepare, "find_model", lambda *_: "fetched")
    recipe = load_recipe("w8a8-dynamic", ['modifiers.0.rtn.ignore=["lm_head", "re:.*mtp.*"]'])
    work = Work("org/name", on_the_hub.folder, [], None, "auto", "auto", trust_remote_code=False, dequantize=True)
    assert str(prepare.loaded_model(work, [recipe])) == "fetched"


def test_a_hub_that_gives_no_parts_of_files_is_planned_by_its_config(on_the_hub: Hub) -> None:
    on_the_hub.gives_parts = False
    light = source.described_model("org/name")
    assert light.headers() == {}


def test_a_fetch_that_was_interrupted_goes_on(on_the_hub: Hub) -> None:
    """The index is there, and not all that it names: that is no reason to refuse the model."""
    names = list(read_folder(on_the_hub.folder))
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (on_the_hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    light = source.described_model("org/name")
    assert (light.path / "model.safetensors.index.json").is_file()
    assert set(light.headers()) == set(names)
    # ... nor to plan by what is there of them, where the hub gives no headers.
    rest = dict.fromkeys(names[1:], "model-2.safetensors")
    index["weight_map"] |= rest
    (light.path / "model.safetensors.index.json").unlink()
    (light.path / "model.safetensors.index.json").write_text(json.dumps(index))
    (light.path / "model.safetensors").write_bytes((on_the_hub.folder / "model.safetensors").read_bytes())
    on_the_hub.gives_parts = False
    assert source.described_model("org/name").headers() == {}


@pytest.mark.parametrize("index", [True, False])
def test_weights_that_cannot_be_fetched_are_no_wrong_input(
    index: bool, on_the_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client takes the folder of a cache that another version of it filled as whole when it is offline."""
    if index:
        named = dict.fromkeys(read_folder(on_the_hub.folder), "model-1.safetensors")
        (on_the_hub.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
        (on_the_hub.folder / "model.safetensors").rename(on_the_hub.folder / "model-1.safetensors")
    hub.without_weights("org/name", False)
    moved = (tmp_path / "hub").rename(tmp_path / "moved")  # in memory it has a listing for the old place
    (moved / "models--org--name" / "trees" / f"{COMMIT}.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(moved))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CapabilityError, match=r"org/name: its weights .*cannot be fetched") as caught:
        source.find_model("org/name")
    assert "network" in str(caught.value.hint)


def test_one_file_of_another_name_is_not_fetched_to_be_refused(on_the_hub: Hub) -> None:
    (on_the_hub.folder / "model.safetensors").rename(on_the_hub.folder / "gptq_model-4bit-128g.safetensors")
    with pytest.raises(InputError, match=r"neither model\.safetensors nor") as caught:
        source.find_model("org/name")
    assert "rename it model.safetensors" in str(caught.value.hint)
    assert "gptq_model-4bit-128g.safetensors" not in on_the_hub.fetched


def test_the_weights_of_parts_that_go_with_a_model_are_fetched(on_the_hub: Hub) -> None:
    """sentence-transformers' Dense: a folder that modules.json names, with a config and weights of its own."""
    (on_the_hub.folder / "2_Dense").mkdir()
    (on_the_hub.folder / "2_Dense" / "model.safetensors").write_bytes(b"small")
    (on_the_hub.folder / "original").mkdir()
    (on_the_hub.folder / "original" / "model.safetensors").write_bytes(b"the same weights again")
    (on_the_hub.folder / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    found = source.find_model("org/name")
    assert (found.path / "2_Dense" / "model.safetensors").read_bytes() == b"small"
    assert not (found.path / "original").exists()
