"""Everything that a run needs, in one folder that works without a network: model, data, recipes, wheels by lock."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantpress.artifact.manifest import file_table
from quantpress.errors import CapabilityError, InputError, slug
from quantpress.language import quoting, shipped
from quantpress.model.source import EMBEDDED, Model
from quantpress.package import texts, wheels
from quantpress.quantize import calibration_data
from quantpress.quantize.conversations import image_parts
from quantpress.quantize.workers import DOCUMENTS, DocumentsJob
from quantpress.recipe.recipe import SHIPPED_DATASET, Calibration, Recipe, Source
from quantpress.runtime import atomic, digests, disk, environment, locks, ownership
from quantpress.runtime.cache import cache_folder
from quantpress.runtime.identity import Identity
from quantpress.runtime.inside import inside
from quantpress.runtime.records import Record
from quantpress.runtime.worker import Worker

_TREE = Path(__file__).resolve().parents[3]
_SOURCES = ("Makefile", "pyproject.toml", "README.md", "LICENSE")
_FOLDERS = ("requirements", "scripts", "recipes", "pipeline", "evaluate", "serve")


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    `suite` and `workload` are files, and so are engines, among which single settings (KEY=VALUE) may be.
    `options` are further ones of the run; `documents` the tasks' local files by task;
    `on_the_hub` the tasks without one, which `documents_worker` fetches (evaluate's: this room knows nothing of it).
    """

    recipes: list[Recipe]
    model: Model
    suite: Path
    workload: Path
    engine: list[Path | str]
    options: list[str]
    documents: dict[str, Path]
    on_the_hub: list[dict[str, Any]]
    documents_worker: Worker[Any, Any]
    wheels: bool


class Bundle(Record):
    """A bundle's bundle.json: the recipes' names, and each file but itself with its sha256; `bytes` is their sum."""

    recipes: list[str]
    model: Identity
    bytes: int
    files: dict[str, str]


def bundle(contents: Contents, target: Path) -> Bundle:
    """Writes the folder `target`, complete or not at all, and returns what its bundle.json says.

    Raises InputError if `target` is something else than a bundle, CapabilityError if something cannot be fetched.
    """
    ownership.require_ours(target, _strangers, "name another folder with --to")
    if contents.wheels and not (_TREE / "Makefile").is_file():
        raise CapabilityError(
            "wheels are collected by the locks of the source tree, and this is an installed quantpress",
            hint="add --no-wheels, or run it from a clone",
        )
    target = target.absolute()
    disk.require_writable(target)
    with locks.lock(target), atomic.staging(target) as staged:
        model = _add_model(contents.model, staged)
        recipes = [_add_recipe(recipe, contents.model, staged) for recipe in contents.recipes]
        suite = _add_suite(contents.suite, staged)
        workload = _add_file(contents.workload, staged / "workloads", shipped.folder("workloads"))
        for task, path in contents.documents.items():
            _copy(path, staged / "benchmarks" / f"{task}.jsonl")
        if contents.on_the_hub:
            _fetch_documents(contents.on_the_hub, staged / "benchmarks", contents.documents_worker)
        arguments = [*recipes, "--model", model, "--suite", suite, "--workload", workload]
        arguments += [*contents.options, *(f"--engine={_add_engine(item, staged)}" for item in contents.engine)]
        _write_script(staged / "run.sh", arguments, (staged / "benchmarks").is_dir())
        if contents.wheels:
            _add_tree(staged)
        about = _manifest_of(contents, staged)
        atomic.write_json(staged / "bundle.json", about.dump())
        atomic.publish(staged, target, _strangers)
    return about


def _strangers(folder: Path) -> list[str]:
    return ownership.strangers_beside(folder, "bundle.json")


def _manifest_of(contents: Contents, staged: Path) -> Bundle:
    table = file_table(staged)
    return Bundle(
        recipes=[recipe.name for recipe in contents.recipes],
        model=contents.model.identity(),
        bytes=sum(file.bytes for file in table.values()),
        files={name: file.sha256 for name, file in table.items()},
    )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _add_model(model: Model, staged: Path) -> str:
    """Copies the model's files and returns what run.sh calls it."""
    if model.source == EMBEDDED:
        folder, named = staged / "cache" / "models" / model.name, EMBEDDED
    elif model.source.endswith(".gguf"):
        _copy(Path(model.source), staged / "model" / Path(model.source).name)
        return f"model/{Path(model.source).name}"
    else:
        folder, named = staged / "model" / model.name, f"model/{model.name}"
    for path in sorted(model.path.rglob("*")):
        relative = path.relative_to(model.path)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            _copy(inside(model.path, relative.as_posix()), folder / relative)
    return named


def _add_recipe(recipe: Recipe, model: Model, staged: Path) -> str:
    """Writes the recipe as it was resolved, its data beside it, and returns its path in the bundle."""
    if recipe.calibration:
        sources = [_add_source(source, recipe.calibration, model, staged) for source in recipe.calibration.sources]
        recipe = recipe.model_copy(update={"calibration": recipe.calibration.with_sources(sources)})
    text = yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True)
    atomic.write_text(staged / "recipes" / f"{recipe.name}.yaml", text)
    return f"recipes/{recipe.name}.yaml"


def _add_source(source: Source, calibration: Calibration, model: Model, staged: Path) -> Source:
    """The source as a file of the bundle. The shipped chats need none."""
    if source.dataset == SHIPPED_DATASET:
        return source
    path = calibration_data.local_file(source)
    if path:
        name = f"{digests.sha256_file(path)[:8]}-{slug(path.name)}"
        if calibration_data.images_of(path):
            _copy_with_images(path, staged / "data" / name)
        else:
            _copy(path, staged / "data" / name)
    else:
        name = f"{slug(source.dataset)}-{str(source.revision)[:8]}-{calibration.seed}.jsonl"
        _fetch(source, calibration, model, staged / "data" / name)
    return Source(dataset=f"data/{name}", weight=source.weight)


def _copy_with_images(path: Path, target: Path) -> None:
    """Writes the documents as they are read, with the images that they name in a folder beside them."""
    folder = target.with_name(target.name + ".images")
    lines = []
    for document in calibration_data.read_local(path):
        for part in image_parts(document.get("messages", [])):
            image = Path(part["path"])
            name = f"{digests.sha256_file(image)[:16]}{image.suffix}"
            _copy(image, folder / name)
            part["path"] = f"{folder.name}/{name}"
        lines.append(json.dumps(document, ensure_ascii=False) + "\n")
    atomic.write_text(target, "".join(lines))


def _fetch(source: Source, calibration: Calibration, model: Model, target: Path) -> None:
    """As many documents of a hub data set as its share of the sequences needs, in the order of the seed."""
    job = DocumentsJob(
        source=source,
        seed=calibration.seed,
        tokens=calibration.samples * calibration.max_sequence_length,
        model=model.path,
        trust_remote_code=model.trust_remote_code,
        output=target,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    title = f"fetching documents of {source.dataset}"
    log = target.parent / "fetch.log"
    DOCUMENTS.run(job, target.parent, title, log)
    log.unlink()


def _add_file(path: Path, folder: Path, shipped_folder: Path) -> str:
    """A shipped file by its name; another one copied, and its path in the bundle."""
    if path.parent.resolve() == shipped_folder.resolve():
        return path.stem
    _copy(path, folder / path.name)
    return f"{folder.name}/{path.name}"


def _add_suite(path: Path, staged: Path) -> str:
    named = _add_file(path, staged / "suites", shipped.folder("suites"))
    if "/" in named:
        for task in yaml.safe_load(path.read_text(encoding="utf-8"))["tasks"]:
            if data := task.get("data"):
                if Path(data).is_absolute() or ".." in Path(data).parts:
                    raise InputError(
                        f"task {task['task']}: {data} does not lie below the suite's folder, so it cannot be bundled",
                        hint="move the documents beside the suite",
                    )
                _copy(inside(path.parent, data), staged / "suites" / data)
    return named


def _add_engine(item: Path | str, staged: Path) -> str:
    return item if isinstance(item, str) else _add_file(item, staged / "engines", shipped.folder("engines"))


def _fetch_documents(tasks: list[dict[str, Any]], folder: Path, worker: Worker[Any, Any]) -> None:
    folder.mkdir(exist_ok=True)
    title, log = "fetching the suite's documents", folder / "fetch.log"
    cache = (cache_folder() / "datasets").resolve()
    job = worker.job.model_validate({"tasks": tasks, "output": folder, "cache": cache})
    worker.run(job, folder, title, log)
    log.unlink()
    shutil.rmtree(folder / "tasks")


def _write_script(path: Path, arguments: list[str], has_documents: bool) -> None:
    values = {"has_documents": has_documents, "build": _vllm_build(), "arguments": arguments}
    path.write_text(texts.rendered("run.sh.jinja", quoting.shell, **values), encoding="utf-8")
    path.chmod(0o755)


def _vllm_build() -> str:
    """Which vLLM is for this machine, as the Makefile decides it."""
    return "cuda" if environment.gpus() else "cpu"


def _add_tree(staged: Path) -> None:
    """The source tree and, by its locks, a wheel of everything that `make setup` installs."""
    tree = staged / "quantpress"
    tree.mkdir()
    for name in _SOURCES:
        _copy(_TREE / name, tree / name)
    for name in _FOLDERS:
        shutil.copytree(_TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    names = ("quantize", "build", f"vllm-{_vllm_build()}")
    wheels.collect(staged, [tree / "requirements" / f"{name}.lock" for name in names])
