"""The model card: metadata that the hub's client reads back, the results as measured, nothing made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Adopted, Artifact
from quantpress.errors import InputError
from quantpress.model.source import EMBEDDED, Model
from quantpress.package import origin
from quantpress.runtime import atomic

Pack = Callable[..., Path]


def card(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text())


def test_the_metadata_says_what_is_known(pack: Pack, origin_model: Model) -> None:
    head = (
        "---\r\nlicense: other\r\nlicense_name: llama3.2\r\nlicense_link: LICENSE\r\nbase_model: its/parent\r\n---\r\n"
    )
    (origin_model.path / "README.md").write_text(head + "# A model\n", newline="")
    (origin_model.path / "LICENSE").write_text("the terms")
    folder = pack(base_model="meta/Llama")
    data = card(folder).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("meta/Llama", "quantized")
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "llama3.2", "LICENSE")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"compressed-tensors", "vllm", "pack-quantized"} <= set(data["tags"])
    assert (folder / "LICENSE").read_text() == "the terms"


def test_what_the_models_files_do_not_say_is_not_made_up(pack: Pack) -> None:
    found = card(pack())
    data = found.data.to_dict()
    assert not {"license", "base_model", "base_model_relation", "language"} & data.keys()
    assert "the model's own files do not state one" in found.text
    assert "no base model is named" in found.text


@pytest.mark.parametrize("text", ["# no head\n", "---\n[\n---\n", "---\n- a\n---\n", "---\nlicense:\n---\n"])
def test_a_card_that_says_nothing(text: str, origin_model: Model) -> None:
    (origin_model.path / "README.md").write_text(text)
    assert origin.origin_of(origin_model).license is None


def test_where_models_come_from(origin_model: Model) -> None:
    embedded = origin.origin_of(Model("SmolLM2-135M-Instruct", origin_model.path, EMBEDDED, {}))
    assert (embedded.base_model, embedded.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    hub = origin.origin_of(Model("a--b", origin_model.path, "a/b@main", {}, revision="0123abc"))
    assert (hub.base_model, hub.license) == ("a/b", None)
    assert origin.origin_of(origin_model, license="mit").source == "whoever packaged it"
    with pytest.raises(InputError, match="not an id"):
        origin.origin_of(origin_model, base_model="https://example.org/x")


def test_the_model_index_has_the_measured_results(pack: Pack, results: Callable[[str], Any]) -> None:
    found = {one.dataset_type: one for one in card(pack()).data.eval_results or []}
    tasks = results("accuracy")["tasks"]
    assert found.keys() == tasks.keys()
    for name, row in tasks.items():
        assert found[name].metric_value == pytest.approx(row["candidate"], abs=1e-4)
        assert found[name].metric_type == row["metric"]
        assert str(row["documents"]) in found[name].dataset_name
        assert "lm-eval 0.4.13" in (found[name].source_name or "")


def test_the_text_has_the_measurements_and_how_to_repeat_them(pack: Pack, results: Callable[[str], Any]) -> None:
    text = card(pack()).text
    (cell,) = results("throughput")["cells"]  # the model's were cut, so there is no speed-up
    assert f"| not measured | {cell['figures']['output_throughput']:.1f} | not measured | no baseline |" in text
    assert "| 4-bit integers | one for each group of 64, symmetric | as they are |" in text
    assert results("throughput")["answers"]["candidate"]["answer"] in text
    assert "only the first documents" not in text
    assert "lm_eval run --model hf --model_args pretrained=SmolLM2-135M-Instruct-rtn-w4a16," in text
    assert "name: rtn-w4a16" in text


def test_documents_that_were_not_asked_are_said(made: Artifact, pack: Pack, results: Callable[[str], Any]) -> None:
    accuracy = results("accuracy")
    task = accuracy["settings"]["tasks"][0]
    task["limit"] = 8
    atomic.write_json(made.folder / "accuracy.json", accuracy)
    found = card(pack())
    assert f"of `{task['task']}` only the first documents" in found.text
    names = [one.dataset_name for one in found.data.eval_results or []]
    assert [name for name in names if "the first documents, no sample" in name] == [names[0]]


def test_every_suite_is_in_the_card(made: Artifact, pack: Pack, results: Callable[[str], Any]) -> None:
    accuracy = results("accuracy")
    (name, row), *_ = accuracy["tasks"].items()
    other = {**accuracy, "suite": "other", "tasks": {"only_here": row}}
    atomic.write_json(made.folder / "accuracy" / "other.json", other)
    found = card(pack())
    assert f"Suite `{accuracy['suite']}`" in found.text
    assert "Suite `other`" in found.text
    assert {"only_here", name} <= {one.dataset_type for one in found.data.eval_results or []}


def test_no_folder_of_this_machine_is_published(pack: Pack, tmp_path: Path) -> None:
    folder = pack()
    for path in (folder / "README.md", folder / "manifest.json", *(folder / "deploy").iterdir()):
        for private in ("/home/", "/opt/", str(tmp_path)):
            assert private not in path.read_text(), path.name


def test_what_was_not_measured_is_said(made: Artifact, pack: Pack) -> None:
    for name in ("accuracy", "throughput"):
        (made.folder / f"{name}.json").unlink()
    found = card(pack())
    assert found.text.count("Not measured.") == 2
    assert found.data.eval_results is None
    assert "vLLM's own defaults" in found.text


def test_a_description_closes_no_block_and_starts_no_html(made: Artifact, pack: Pack) -> None:
    text = "name: r\ndescription: |\n  ```\n  <script>alert(1)</script>\n  ````\n"
    (made.folder / "recipe.resolved.yaml").write_text(text)
    notes = ["<img src=x onerror=alert(1)>", "[a link](https://example.org)\n# A heading"]
    made.finished().model_copy(update={"warnings": notes}).save(made.manifest_file)
    found = card(pack(license="`mit` <b>")).text
    assert f"`````yaml\n{text.strip()}\n`````\n" in found
    assert "> **Note:** &lt;img src=x onerror=alert(1)>\n" in found
    assert "> **Note:** \\[a link](https://example.org) # A heading\n" in found
    assert "License: ``mit` <b>``" not in found
    assert "License: `` `mit` <b> ``, as" in found


def test_what_a_config_does_not_state_is_not_called_none(made: Artifact, pack: Pack) -> None:
    """As ModelOpt writes its groups: neither strategy nor symmetry."""
    config = json.loads((made.checkpoint / "config.json").read_text())
    group = {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8, "type": "float"}}
    config["quantization_config"]["config_groups"] = {"group_0": {**group, "targets": ["Linear"]}}
    (made.checkpoint / "config.json").write_text(json.dumps(config))
    made.finished().model_copy(update={"files": manifest.file_table(made.checkpoint)}).save(made.manifest_file)
    found = card(pack()).text
    assert "None" not in found
    assert "| 8-bit floats | not stated | 8-bit floats, with fixed scales |" in found


def test_layers_that_could_not_be_counted_are_not_called_none(made: Artifact, pack: Pack) -> None:
    """Experts in one tensor, which an adopted checkpoint stores one by one."""
    config = json.loads((made.checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (made.checkpoint / "config.json").write_text(json.dumps(config))
    adopted = Adopted(source="s", revision=None, format="gptq", bits=[], makers={}, vllm=None)
    update = {"files": manifest.file_table(made.checkpoint), "adopted": adopted, "quantized_layers": 0}
    made.finished().model_copy(update=update).save(made.manifest_file)
    found = card(pack()).text
    assert "layers are quantized" not in found
    assert "No layer's weights are quantized" not in found
    assert "## Quantization\n\ngptq." in found


def test_a_result_of_another_checkpoint_is_not_shown(made: Artifact, pack: Pack) -> None:
    path = made.folder / "accuracy.json"
    path.write_text(path.read_text().replace('"checkpoint_digest": "', '"checkpoint_digest": "0'))
    assert "## Accuracy\n\nNot measured." in card(pack()).text
