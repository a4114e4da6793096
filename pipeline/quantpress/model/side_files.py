"""The files of a model's folder beside its weights: config, tokenizer, processors, templates, licence, code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from quantpress.runtime import foreign
from quantpress.runtime.inside import inside

# Files of a model's folder that are no part of it: weights in any format, and what tools keep beside them.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json", ".lock")


def side_files(folder: Path) -> list[Path]:
    """All that are no weights, and the files of the folders that go with them: more templates, and what
    sentence-transformers' modules.json names.

    Raises InputError for one that lies elsewhere.
    """
    beside = [path for path in sorted(folder.iterdir()) if not path.name.endswith(WEIGHTS)]
    return _inside(folder, beside) + files_below(folder)


def files_below(folder: Path) -> list[Path]:
    """Those of the folders that go with a model. Raises InputError for one that lies elsewhere."""
    below = [
        path
        for name in ("additional_chat_templates", *parts(folder))
        for path in sorted(folder.glob(f"{name}/*"))
        if _is_of_a_part(path)
    ]
    return _inside(folder, below)


def _inside(folder: Path, paths: list[Path]) -> list[Path]:
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    return [inside(folder, path.relative_to(folder).as_posix()) for path in files]


def copied(file: Path, source: Path, target: Path) -> None:
    """Copies a file of one folder to its place in another."""
    place = target / file.relative_to(source)
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, place)


def parts(folder: Path) -> list[str]:
    """Names of the folders that sentence-transformers' modules.json names."""
    try:
        modules = foreign.read_json(folder / "modules.json")
    except (OSError, ValueError):
        modules = []
    named = [part.get("path") for part in modules if isinstance(part, dict)] if isinstance(modules, list) else []
    return [name for name in named if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name)]


def _is_of_a_part(path: Path) -> bool:
    """Its own weights too, which are small; safetensors only."""
    return path.suffix == ".safetensors" or not path.name.endswith(WEIGHTS)
