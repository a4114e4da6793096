"""A checkpoint of others becomes an artifact: its source stays as it is, and everybody is told where it comes from."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import COMMIT, hub_of

from quantpress.adopt import stage
from quantpress.adopt.source import Source, find
from quantpress.adopt.stage import Adoption
from quantpress.artifact import upkeep
from quantpress.artifact.manifest import Manifest, artifact_of
from quantpress.cli import adopted
from quantpress.cli.options import Work
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model.headers import Tensor, read, write
from quantpress.model.source import find_model
from quantpress.package import build
from quantpress.report.facts import collect
from quantpress.report.views import markdown, page
from quantpress.runtime import digests

Make = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "meta": {"quantizer": ["gptqmodel:7.6.0"]}}
NAME = "their-gptq"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def base(make_model: Make) -> Path:
    return make_model("base")


@pytest.fixture
def theirs(base: Path, tmp_path: Path) -> Path:
    """The base with its projections as GPTQ stores them in 4 bits."""
    folder = tmp_path / "theirs"
    shutil.copytree(base, folder)
    tensors = {}
    for name, one in read(base / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = one
            continue
        rows, columns = one.shape
        layer = name.removesuffix(".weight")
        tensors[f"{layer}.qweight"] = Tensor("I32", (columns // 8, rows), rows * columns // 2)
        tensors[f"{layer}.qzeros"] = Tensor("I32", (columns // 32, rows // 8), rows * columns // 64)
        tensors[f"{layer}.scales"] = Tensor("BF16", (columns // 32, rows), rows * columns // 16)
    write(folder / "model.safetensors", tensors, lambda name: bytes(tensors[name].nbytes))
    put(folder, {"quantization_config": GPTQ, "transformers_version": "5.1.0"})
    return folder


def put(folder: Path, more: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text()) | more
    (folder / "config.json").write_text(json.dumps(config))


def served() -> str:
    return "0.32.0"


def taken(theirs: Path, base: Path, out: Path, tried: Callable[[], str] | None = served) -> Manifest:
    found, model = find(str(theirs), False, False), find_model(str(base))
    described = found.described(model)
    return stage.adopt(Adoption(artifact_of(out, model.name, NAME), found.candidate, model, described, tried))


def test_a_repository_of_the_hub(theirs: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_of(theirs, tmp_path / "hub", monkeypatch):
        found, model = find("org/name", False, False), find_model(str(base))
        described = found.described(model)
        made = stage.adopt(Adoption(artifact_of(tmp_path, model.name, NAME), found.candidate, model, described, served))
    assert made.adopted
    assert (made.adopted.source, made.adopted.revision, made.adopted.bits) == ("org/name", COMMIT, [4])
    assert upkeep.verify(artifact_of(tmp_path, "base", NAME)) == []


def state(folder: Path) -> dict[str, Any]:
    return {
        path.name: (digests.sha256_file(path), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
    }


def test_what_its_files_say_is_in_the_manifest_and_the_source_stays_as_it_is(
    theirs: Path, base: Path, tmp_path: Path
) -> None:
    before = state(theirs)
    made = taken(theirs, base, tmp_path / "out")
    assert made.adopted
    assert (made.adopted.source, made.adopted.format, made.adopted.bits) == (str(theirs), "gptq", [4])
    assert made.adopted.makers == {"gptqmodel": "7.6.0", "transformers": "5.1.0"}
    assert (made.adopted.vllm, made.quantized_layers, made.scales) == ("0.32.0", 14, "group of 32")
    assert (made.recipe["modifiers"], made.seconds, made.calibration) == ([], None, None)
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    assert artifact.finished() == made
    assert upkeep.verify(artifact) == []
    assert [row.stage for row in upkeep.status(tmp_path / "out")] == ["adopted"]
    assert state(theirs) == before
    shutil.rmtree(theirs)
    assert upkeep.verify(artifact) == []


def test_what_people_edit_is_no_link(theirs: Path, base: Path, tmp_path: Path) -> None:
    taken(theirs, base, tmp_path / "out")
    put(theirs, {"note": "edited in place"})
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    assert upkeep.verify(artifact) == []
    with (theirs / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    same = (artifact.checkpoint / "model.safetensors").samefile(theirs / "model.safetensors")
    assert bool(upkeep.verify(artifact)) == same  # a link: what is served is no longer what was adopted, and is named


def test_the_same_files_are_adopted_once(theirs: Path, base: Path, tmp_path: Path) -> None:
    def never() -> str:
        raise AssertionError("vLLM is not asked again")

    made = taken(theirs, base, tmp_path / "out")
    assert taken(theirs, base, tmp_path / "out", never) == made
    put(theirs, {"note": "other bytes"})
    assert taken(theirs, base, tmp_path / "out").digest != made.digest


def test_another_vllm_is_asked_too(theirs: Path, base: Path, tmp_path: Path) -> None:
    """And may refuse it; the manifest stays as it is, for which recertifications vouch."""
    model, asked = find_model(str(base)), list[str]()

    def by(version: str) -> Manifest:
        found = find(str(theirs), False, False)
        artifact, described = artifact_of(tmp_path / "out", model.name, NAME), found.described(model)
        return stage.adopt(
            Adoption(artifact, found.candidate, model, described, lambda: asked.append(version) or version, version)
        )

    first = by("0.32.0")
    assert by("0.33.0") == by("0.32.0") == first
    assert asked == ["0.32.0", "0.33.0"]


def test_what_holds_no_safetensors_is_refused_before_its_base_is_looked_for(theirs: Path) -> None:
    (theirs / "model.safetensors").rename(theirs / "gptq_model-4bit-128g.safetensors")
    with pytest.raises(InputError, match=r"but neither model\.safetensors nor"):
        find(str(theirs), False, False)
    (theirs / "gptq_model-4bit-128g.safetensors").rename(theirs / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds no \*.safetensors"):
        find(str(theirs), False, False)


def test_what_was_damaged_is_put_back_and_its_results_stay(theirs: Path, base: Path, tmp_path: Path) -> None:
    made = taken(theirs, base, tmp_path / "out")
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    (artifact.folder / "accuracy.json").write_text("{}")
    (artifact.checkpoint / "model.safetensors").unlink()
    assert taken(theirs, base, tmp_path / "out").files == made.files
    assert upkeep.verify(artifact) == []
    weights = (theirs / "model.safetensors").read_bytes()
    (artifact.checkpoint / "config.json").write_text("x" * (theirs / "config.json").stat().st_size)
    taken(theirs, base, tmp_path / "out")
    assert upkeep.verify(artifact) == []
    # Overwritten in its source, with which it is shared, and put back there as another file.
    with (theirs / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\1")
    (theirs / "model.safetensors").unlink()
    (theirs / "model.safetensors").write_bytes(weights)
    taken(theirs, base, tmp_path / "out")
    assert upkeep.verify(artifact) == []
    assert (artifact.folder / "accuracy.json").is_file()


def test_what_goes_with_a_checkpoint_is_taken_and_what_a_package_says_of_itself_is_not(
    theirs: Path, base: Path, tmp_path: Path
) -> None:
    for name in ("LICENSE", "manifest.json", "sbom.cdx.json", "additional_chat_templates/tools.jinja"):
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_text("{}")
    made = taken(theirs, base, tmp_path / "out")
    assert {"LICENSE", "additional_chat_templates/tools.jinja"} < made.files.keys()
    assert not {"manifest.json", "sbom.cdx.json"} & made.files.keys()


def test_vllm_may_be_asked_later(theirs: Path, base: Path, tmp_path: Path) -> None:
    made = taken(theirs, base, tmp_path / "out", None)
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    (artifact.folder / "accuracy.json").write_text("{}")
    assert made.adopted and made.adopted.vllm is None
    later = taken(theirs, base, tmp_path / "out")
    assert later.adopted and later.adopted.vllm == served()
    assert artifact.finished() == later
    assert (artifact.folder / "accuracy.json").is_file()
    assert taken(theirs, base, tmp_path / "out", None) == later


def test_what_vllm_does_not_serve_leaves_nothing(theirs: Path, base: Path, tmp_path: Path) -> None:
    def refused() -> str:
        raise CapabilityError("vLLM does not serve it")

    with pytest.raises(CapabilityError):
        taken(theirs, base, tmp_path / "out", refused)
    assert not list((tmp_path / "out" / "base").glob("*"))


def test_a_source_that_changes_meanwhile_is_refused(theirs: Path, base: Path, tmp_path: Path) -> None:
    def changed() -> str:
        put(theirs, {"note": "changed"})
        return served()

    with pytest.raises(StageError, match="changed while in use"):
        taken(theirs, base, tmp_path / "out", changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 128}, "hidden_size 128"),
        ({"vocab_size": 33}, "vocab_size 33"),
        ({"architectures": ["OPTForCausalLM"]}, "architectures"),
    ],
)
def test_what_was_made_from_another_model(change: dict[str, Any], said: str, theirs: Path, base: Path) -> None:
    put(theirs, change)
    with pytest.raises(InputError, match=said) as caught:
        find(str(theirs), False, False).described(find_model(str(base)))
    assert "--model" in str(caught.value.hint)


@pytest.mark.parametrize("named", ["org/base", ["org/base"], "https://huggingface.co/org/base"], ids=str)
def test_the_base_that_a_card_names(named: object, theirs: Path) -> None:
    (theirs / "README.md").write_text(f"---\nbase_model: {json.dumps(named)}\n---\n# A model\n")
    assert find(str(theirs), False, False).base() == "org/base"


@pytest.mark.parametrize("card", ["# No head\n", "---\nbase_model: [org/one, org/other]\n---\n"])
def test_without_one_it_is_asked_for(card: str, theirs: Path) -> None:
    (theirs / "README.md").write_text(card)
    source: Source = find(str(theirs), False, False)
    with pytest.raises(InputError, match="does not say which model") as caught:
        source.base()
    assert "--model" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["w8a8-dynamic", "baseline", "Two Words", ""])
def test_names_that_it_cannot_have(name: str) -> None:
    with pytest.raises(InputError, match="--as"):
        stage.require_name(name)


def test_what_a_recipe_made_is_not_replaced(theirs: Path, base: Path, tmp_path: Path) -> None:
    made = taken(theirs, base, tmp_path / "out")
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    made.model_copy(update={"adopted": None}).save(artifact.manifest_file)
    with pytest.raises(InputError, match="holds what the recipe"):
        taken(theirs, base, tmp_path / "out")


def work(out: Path, model: Path, **more: Any) -> Work:
    usual = {"set": [], "target": None, "compute_dtype": "auto", "offload": "auto"}
    return Work(model=str(model), out=out, trust_remote_code=False, dequantize=False, **(usual | more))


def test_it_is_found_by_its_name_and_for_its_model_alone(
    theirs: Path, base: Path, make_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    taken(theirs, base, out)
    monkeypatch.setattr(adopted, "untruthful_of", lambda artifact: "transformers cannot load it")
    assert adopted.is_adopted(NAME, out)
    assert not adopted.is_adopted("rtn-w4a16", out)
    assert not adopted.is_adopted(NAME, tmp_path / "elsewhere")
    found = adopted.candidate(NAME, work(out, base))
    assert (found.artifact.name, found.untruthful) == (NAME, "transformers cannot load it")
    assert found.loaded.checkpoint_bytes < found.loaded.weight_bytes
    assert {scheme.group_size for scheme in found.loaded.schemes.values()} == {32}
    with pytest.raises(InputError, match="was adopted to be compared with") as caught:
        adopted.candidate(NAME, work(out, make_model("other", hidden=128)))
    assert str(base) in str(caught.value.hint)
    with pytest.raises(InputError, match="--set changes a recipe"):
        adopted.candidate(NAME, work(out, base, set=["name=x"]))
    names, [one] = adopted.told_apart(["rtn-w4a16", NAME], work(out, base), require_kernels=False)
    assert (names, one.artifact) == (["rtn-w4a16"], found.artifact)
    with pytest.raises(InputError, match="--require-kernels goes with recipes"):
        adopted.told_apart([NAME], work(out, base), require_kernels=True)


def test_a_report_says_that_it_was_made_elsewhere(theirs: Path, base: Path, tmp_path: Path) -> None:
    taken(theirs, base, tmp_path / "out")
    report = collect.collect(tmp_path / "out" / "base", None)
    assert "their-gptq was made elsewhere (gptq; its files name gptqmodel 7.6.0" in report.decision.caveats[0]
    for text in (markdown.render(report), page.render(report)):
        assert f"quantpress adopt {theirs} --as {NAME}" in text
        assert "elsewhere" in text
        assert "quantpress quantize" not in text


def test_the_command_takes_it_without_asking_vllm_and_others_refuse_to_make_it_again(
    theirs: Path, base: Path, quantpress: Run, tmp_path: Path
) -> None:
    said = ("--model", str(base), "--out", "out")
    done = quantpress("adopt", str(theirs), "--as", NAME, "--target", "any", "--json", *said)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adopted"]["vllm"] is None
    again = quantpress("reproduce", f"out/base/{NAME}")
    assert (again.returncode, "how it was made is not known here" in again.stderr) == (2, True)


def test_a_package_of_it_says_so_and_takes_no_rights_from_its_source(theirs: Path, base: Path, tmp_path: Path) -> None:
    taken(theirs, base, tmp_path / "out")
    before = state(theirs)
    artifact = artifact_of(tmp_path / "out", "base", NAME)
    about = build.build(artifact, find_model(str(base)), build.Order(to=tmp_path / "package"))
    card = (tmp_path / "package" / "README.md").read_text()
    assert "compressed elsewhere (gptq; its files name gptqmodel 7.6.0" in card
    assert "Weights: 4 bits, one scale for each group of 32." in card
    assert "llmcompressor" not in card
    assert "recipe.resolved.yaml" not in about.files
    assert build.verify(tmp_path / "package") == []
    assert state(theirs) == before
