"""A package is complete or absent, the same for the same inputs, and every byte of it is checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from quantpress.artifact import manifest
from quantpress.artifact.manifest import Artifact
from quantpress.cli import verify
from quantpress.errors import CapabilityError, InputError, StageError
from quantpress.model.source import Model
from quantpress.package import build, bundle, card, signing
from quantpress.runtime import console, digests, ownership

Pack = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_key(path: Path, curve: ec.EllipticCurve | None = None, password: bytes | None = None) -> tuple[Path, Path]:
    """A private key and its public one; RSA where no curve is named."""
    key = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, public = serialization.Encoding.PEM, path.with_suffix(".pub")
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path, public


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, Path]:
    return write_key(tmp_path / "key.pem", ec.SECP256R1())


def test_a_package_has_every_file_and_its_digest(made: Artifact, pack: Pack) -> None:
    folder = pack()
    assert folder == made.folder / "package"
    about = json.loads((folder / "manifest.json").read_text())
    assert about["files"].keys() | {"manifest.json"} == set(build.contents(folder))
    assert {"README.md", "config.json", "model-2.safetensors", "recipe.resolved.yaml"} < about["files"].keys()
    assert {"deploy/kserve.yaml", "deploy/kubernetes.yaml", "deploy/docker-run.sh"} < about["files"].keys()
    for name, entry in about["files"].items():
        assert entry["sha256"] == digests.sha256_file(folder / name)
    assert (folder / "model-0.safetensors").read_bytes() == (made.checkpoint / "model-0.safetensors").read_bytes()
    assert build.verify(folder) == []


def test_what_a_checkpoint_brings_under_the_packages_own_names_is_left_out(made: Artifact, pack: Pack) -> None:
    """The unquantized model's card, which goes with its checkpoint, and the manifest of a package that was adopted."""
    known = made.finished()
    for name in ("README.md", "manifest.json", "LICENSE"):
        (made.checkpoint / name).write_text("somebody wrote this elsewhere")
    known.model_copy(update={"files": manifest.file_table(made.checkpoint)}).save(made.manifest_file)
    folder = pack()
    assert "somebody wrote this elsewhere" not in (folder / "README.md").read_text()
    assert (folder / "LICENSE").read_text() == "somebody wrote this elsewhere"
    assert build.verify(folder) == []


def test_terms_that_are_in_checkpoint_and_model_are_packaged_once(
    made: Artifact, pack: Pack, origin_model: Model
) -> None:
    """As root, too, nothing is written through a hard link into the checkpoint."""
    (made.checkpoint / "LICENSE").write_text("the checkpoint's own")
    made.finished().model_copy(update={"files": manifest.file_table(made.checkpoint)}).save(made.manifest_file)
    (origin_model.path / "LICENSE").write_text("the model's")
    folder = pack()
    assert (folder / "LICENSE").read_text() == (made.checkpoint / "LICENSE").read_text() == "the checkpoint's own"
    assert build.verify(folder) == []


def test_the_same_inputs_make_the_same_package(pack: Pack, tmp_path: Path) -> None:
    one, two = pack(), pack(to=tmp_path / "two")
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one byte": (lambda folder: (folder / "README.md").open("ab").write(b"x"), "README.md: sha256"),
    "missing": (lambda folder: (folder / "deploy" / "kserve.yaml").unlink(), "deploy/kserve.yaml: missing"),
    "extra": (lambda folder: (folder / "model-9.safetensors").write_bytes(b""), "model-9.safetensors: not in the"),
    "extra link": (lambda folder: (folder / "x").symlink_to("/nowhere"), "x: not in the manifest"),
    "hidden": (lambda folder: (folder / ".x.py").write_text(""), ".x.py: not in the manifest"),
    "no manifest of ours": (
        lambda folder: (folder / "manifest.json").write_text('{"kind": "package", "schema_version": 9, "files": {}}'),
        "manifest.json: not a manifest of this version",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, pack: Pack, quantpress: Run) -> None:
    folder = pack(to=pack().parent / "copied")
    damage, words = DAMAGE[case]
    damage(folder)
    done = quantpress("verify", str(folder))
    assert done.returncode == 1
    assert words in done.stdout
    assert "Traceback" not in done.stderr


def test_what_the_hubs_client_adds_to_a_download_is_no_damage(pack: Pack) -> None:
    folder = pack()
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / ".gitignore").write_text("*")
    (folder / ".cache" / "huggingface" / "download" / "README.md.metadata").write_text("")
    assert build.verify(folder) == []


def test_a_signed_package(pack: Pack, key: tuple[Path, Path], tmp_path: Path, quantpress: Run) -> None:
    folder = pack(sign_key=key[0], to=tmp_path / "signed")
    moved = folder.rename(tmp_path / "elsewhere")
    done = quantpress("verify", str(moved), "--public-key", str(key[1]))
    assert done.returncode == 0
    assert done.stdout.startswith(f"{moved}: as packaged, and signed by the owner of the key")
    assert "the signature was not checked" in quantpress("verify", str(moved)).stdout


def test_a_signature_finds_what_a_changed_manifest_hides(pack: Pack, key: tuple[Path, Path], quantpress: Run) -> None:
    folder = pack(sign_key=key[0])
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text("{ }")
    about = json.loads((folder / "manifest.json").read_text())
    about["files"]["tokenizer.json"]["sha256"] = digests.sha256_file(folder / "tokenizer.json")
    (folder / "manifest.json").write_text(json.dumps(about))
    assert build.verify(folder) == []
    done = quantpress("verify", str(folder), "--public-key", str(key[1]))
    assert done.returncode == 1
    assert done.stdout.endswith(": model.sig: not signed like this: manifest.json, tokenizer.json\n")


@pytest.mark.parametrize("case", ["unsigned", "another key", "no signature", "cut short", "file gone"])
def test_a_signature_that_is_none(case: str, pack: Pack, key: tuple[Path, Path], tmp_path: Path) -> None:
    folder = pack(sign_key=None if case == "unsigned" else key[0])
    public = write_key(tmp_path / "other.pem", ec.SECP256R1())[1] if case == "another key" else key[1]
    if case == "no signature":
        (folder / "model.sig").write_text("{}")
    elif case == "cut short":
        (folder / "model.sig").write_bytes((folder / "model.sig").read_bytes()[:-40])
    elif case == "file gone":
        (folder / "config.json").unlink()
    problems = build.verify(folder, public)
    assert [line for line in problems if line.startswith("model.sig: ")]
    assert all(len(line) > len("model.sig: ") for line in problems)


@pytest.mark.parametrize("case", ["missing", "no key", "RSA", "another curve", "locked"])
def test_a_key_that_cannot_sign_is_wrong_input(case: str, tmp_path: Path, pack: Pack, made: Artifact) -> None:
    path = tmp_path / "bad.pem"
    if case == "no key":
        path.write_text("-----BEGIN NOTHING-----\n")
    elif case != "missing":
        curve = {"another curve": ec.SECP256K1(), "locked": ec.SECP384R1()}.get(case)
        write_key(path, curve, b"secret" if case == "locked" else None)
    with pytest.raises(InputError):
        pack(sign_key=path)
    assert not (made.folder / "package").exists()


def test_a_locked_key_with_its_password(tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    path, public = write_key(tmp_path / "locked.pem", ec.SECP521R1(), b"open sesame")
    monkeypatch.setenv(signing.PASSWORD, "open sesame")
    assert build.verify(pack(sign_key=path), public) == []


def test_without_the_library(pack: Pack, key: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(CapabilityError, match="model-signing") as caught:
        pack(sign_key=key[0])
    assert "pip install 'model-signing" in str(caught.value.hint)


def test_a_checkpoint_that_is_not_what_was_made_is_not_packaged(made: Artifact, pack: Pack) -> None:
    (made.checkpoint / "model-1.safetensors").write_bytes(b"\xff" * 100_000)
    with pytest.raises(StageError, match=r"model-1\.safetensors"):
        pack()
    assert not (made.folder / "package").exists()


def test_a_fault_leaves_the_package_that_was_there(made: Artifact, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (pack() / "manifest.json").read_bytes()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(card, "render", full)
    with pytest.raises(OSError, match="No space"):
        pack()
    assert (made.folder / "package" / "manifest.json").read_bytes() == before
    assert not list(made.folder.glob(".package.staging-*"))


def test_another_folder_is_not_overwritten(pack: Pack, made: Artifact, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine").write_text("mine")
    with pytest.raises(InputError, match="did not write: mine"):
        pack(to=tmp_path / "mine")
    with pytest.raises(InputError, match="did not write"):
        pack(to=made.folder)
    with pytest.raises(InputError, match="not an address"):
        pack(storage="bucket/prefix")


def test_the_public_key_is_for_packages(made: Artifact, key: tuple[Path, Path], quantpress: Run) -> None:
    done = quantpress("verify", str(made.folder), "--public-key", str(key[1]))
    assert done.returncode == 2
    assert "neither a package nor a recertification" in done.stderr


@pytest.mark.parametrize(
    ("folder", "destination", "words"),
    [
        ("nowhere", "s3://b/p", "is not a package"),
        ("package", "ftp://b/p", "not a destination"),
        ("package", "s3://", "not a destination"),
        ("package", "s3://me:hunter2@bucket/p", "user name in it"),
        ("package", "hf://only-a-name", "is not a repository"),
        ("package", "oci://host/repo", "is not a reference"),
        ("package", "oci://host/Repo:tag", "is not a reference"),
    ],
)
def test_wrong_destinations(folder: str, destination: str, words: str, pack: Pack, quantpress: Run) -> None:
    shutil.move(pack(), pack().parents[3] / "package")
    done = quantpress("push", folder, destination)
    assert done.returncode == 2
    assert words in done.stderr
    assert "hunter2" not in done.stderr


def test_a_damaged_package_is_not_pushed(pack: Pack, quantpress: Run) -> None:
    folder = pack()
    (folder / "README.md").write_text("# Another model\n")
    done = quantpress("push", str(folder), "s3://bucket/prefix", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert "is not what was packaged: README.md" in done.stderr


FOREIGN = [
    ".gitattributes.py",
    ".gitattributes/x.py",
    ".cache/huggingface/x.py",
    ".cache/huggingface/download/x.py.metadata",
    ".git/config",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_has_almost_the_name_of_the_hubs_files_is_foreign(name: str, pack: Pack) -> None:
    folder = pack()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("")
    assert build.verify(folder) == [f"{name}: not in the manifest"]


def test_a_linked_folder_of_code_is_foreign(pack: Pack, tmp_path: Path) -> None:
    folder = pack()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "x.py").write_text("")
    (folder / "custom_generate").symlink_to(tmp_path / "code")
    (folder / ".gitattributes").symlink_to(tmp_path / "code" / "x.py")
    assert build.verify(folder) == [f"{name}: not in the manifest" for name in (".gitattributes", "custom_generate")]


@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_file_of_a_package_is_no_link(name: str, pack: Pack, tmp_path: Path) -> None:
    folder = pack()
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert any(line.startswith(f"{name}: a link or no file") for line in build.verify(folder))


def test_a_file_that_the_signature_does_not_cover_is_refused(pack: Pack, key: tuple[Path, Path]) -> None:
    """Somebody puts a signature of the owner's, of fewer files, beside a manifest and weights of his own."""
    folder = pack(sign_key=key[0])
    other = folder.with_name("other")
    other.mkdir()
    shutil.copyfile(folder / "README.md", other / "README.md")
    signing.sign(other, key[0])
    shutil.copyfile(other / "model.sig", folder / "model.sig")
    found = build.verified(folder, key[1])
    assert found.signature == "broken"
    assert found.problems


def test_what_the_hub_adds_is_no_part_of_what_is_signed(pack: Pack, key: tuple[Path, Path]) -> None:
    folder = pack(sign_key=key[0])
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert build.verified(folder, key[1]) == build.Verified([], "signed")


def test_json_says_whether_somebody_answers_for_a_package(
    pack: Pack, key: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsigned, signed = pack(to=tmp_path / "unsigned"), pack(sign_key=key[0], to=tmp_path / "signed")
    said = []
    for folder, public in ((unsigned, None), (signed, None), (signed, key[1])):
        console.use(as_json=True)
        verify.run(verify.Options(artifacts=[folder], public_key=public, out=tmp_path))
        said += json.loads(capsys.readouterr().out).values()
    assert [row["signature"] for row in said] == ["unsigned", "not checked", "signed"]
    assert [row["problems"] for row in said] == [[], [], []]


def test_a_package_with_files_of_others_is_not_made_again(pack: Pack) -> None:
    folder = pack()
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    with pytest.raises(InputError, match=r"did not write: \.git/HEAD"):
        pack()
    assert (folder / ".git" / "HEAD").exists()


def test_a_licence_that_is_a_link_to_a_key_is_not_handed_on(pack: Pack, origin_model: Model, tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text("PRIVATE")
    (origin_model.path / "LICENSE").symlink_to(tmp_path / "id_ed25519")
    with pytest.raises(InputError, match="leads out of its folder"):
        pack()


def test_a_checkpoint_with_a_link_is_not_packaged(pack: Pack, made: Artifact, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("PRIVATE")
    (made.checkpoint / "chat_template.jinja").symlink_to(tmp_path / "key")
    with pytest.raises(StageError, match=r"chat_template\.jinja: a link or no file"):
        pack()


def test_the_models_own_files_are_copied_not_shared(pack: Pack, origin_model: Model) -> None:
    (origin_model.path / "LICENSE").write_text("terms")
    folder = pack()
    assert not (folder / "LICENSE").samefile(origin_model.path / "LICENSE")


def test_a_package_and_its_checkpoint_do_not_change_each_other(pack: Pack, made: Artifact) -> None:
    folder = pack()
    one, other = folder / "model-0.safetensors", made.checkpoint / "model-0.safetensors"
    if one.samefile(other):
        assert one.stat().st_mode & 0o222 == 0
        assert "hard links" in verify._verified(folder, None).sound
        assert "hard links" in verify._verified(made.folder, None).sound
    else:
        one.write_bytes(b"")
        assert other.read_bytes()


@pytest.mark.parametrize("held", ["foreign", "with more", "a bundle"])
def test_a_bundle_replaces_bundles_only(held: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    listed = {} if held == "foreign" else {"files": {"run.sh": "0"}}
    (target / "bundle.json").write_text(json.dumps(listed))
    (target / "run.sh").write_text("")
    if held == "with more":
        (target / "artifacts").mkdir()
        (target / "artifacts" / "result.json").write_text("")
    if held == "a bundle":
        ownership.require_ours(target, bundle._strangers, "")
    else:
        with pytest.raises(InputError, match="did not write"):
            ownership.require_ours(target, bundle._strangers, "")
