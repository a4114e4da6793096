"""One side of a comparison: the one run of one model below a folder, or a refusal that lists what is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantpress.errors import InputError, listed
from quantpress_evaluate.comparison import asked, differences, logged
from quantpress_evaluate.comparison.asked import NOTHING, Results
from quantpress_evaluate.comparison.differences import Logged, first_of
from quantpress_evaluate.comparison.samples import Samples, common_filter, filtered

# samples_boolq.jsonl.gz is ours, samples_boolq_2026-01-31T12-00-00.123456.jsonl lm-eval's own.
_TIME = r"\d{4}-\d{2}-\d{2}T[\d.-]+"
_SAMPLES = re.compile(rf"^samples_(?P<task>.+?)(?:_(?P<time>{_TIME}))?\.jsonl(?:\.gz)?$")
_RESULTS = re.compile(rf"^.+_(?P<time>{_TIME})\.json$")


@dataclass(frozen=True)
class Side:
    """What one model answered, by task; `unknown` are tasks of which no results file tells how they were asked."""

    tasks: dict[str, Logged]
    notes: list[str]
    unknown: list[str]


@dataclass(frozen=True)
class _File:
    """A file of samples. `time` is "" where its name has none."""

    path: Path
    task: str
    time: str
    results: Results | None

    @property
    def shown_model(self) -> str:
        """The model's name; the folder itself where nothing tells one."""
        if self.results and self.results.model:
            loaded = self.results.loaded_with
            return f"{self.results.model} ({loaded})" if loaded else self.results.model
        return self.path.parent.name if self.time else str(self.path.parent)

    @property
    def model(self) -> str:
        """The model's name as lm-eval makes it a folder's, whether the results or the folder told it."""
        return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", self.shown_model)


def one_run(path: Path) -> Side:
    """The samples of the run below a folder, or of the one that a samples or results file in it belongs to.

    Of several runs alike of one model the newest counts, task by task. Raises InputError if there are no samples, or
    runs of several models, or runs that were not asked the same.
    """
    files = _files(path)
    if not files:
        raise InputError(f"{path} holds no samples of lm-eval", hint=logged.HINT)
    _require_one_model(path, files)
    tasks, notes = {}, []
    for task in sorted({file.task for file in files}):
        of_task = sorted((file for file in files if file.task == task), key=lambda file: file.time)
        newest, samples = _newest(path, of_task)
        tasks[task] = Logged(samples, _asked(newest))
        if len(of_task) > 1:
            notes.append(f"{path}: {task}: the newest of {len(of_task)} runs alike, {newest.time}")
    unknown = [task for task, of_task in tasks.items() if not of_task.asked.settings]
    return Side(tasks, notes, unknown)


def _files(path: Path) -> list[_File]:
    """Every file of samples below a folder, or of the run that a file names."""
    if path.is_dir():
        # Hidden folders are what a killed run left, and caches.
        found = [file for file in sorted(path.rglob("samples_*")) if not _is_hidden(file.relative_to(path))]
        return _with_results(found)
    named = _SAMPLES.match(path.name) or _RESULTS.match(path.name)
    if not named or not path.is_file():
        raise InputError(f"{path} is not a folder, nor a file of lm-eval's", hint=logged.HINT)
    return [file for file in _with_results(sorted(path.parent.glob("samples_*"))) if file.time == (named["time"] or "")]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _with_results(paths: Iterable[Path]) -> list[_File]:
    known: dict[tuple[Path, str], Results | None] = {}
    files = []
    for path in paths:
        if (found := _SAMPLES.match(path.name)) and not path.is_dir():
            run = path.parent, found["time"] or ""
            if run not in known:
                known[run] = _results_of(*run)
            files.append(_File(path, found["task"], run[1], known[run]))
    return files


def _results_of(folder: Path, time: str) -> Results | None:
    """lm-eval's results beside its samples, of the same time; in our score folders they lie below lm_eval/."""
    pattern = f"*_{time}.json" if time else "lm_eval/*/results_*.json"
    found = sorted(folder.glob(pattern))
    return asked.read(found[-1]) if found else None


def _require_one_model(path: Path, files: list[_File]) -> None:
    models: dict[str, list[_File]] = {}
    for file in files:
        models.setdefault(file.model, []).append(file)
    if len(models) == 1:
        return
    there = [
        f"{own[0].shown_model}: {listed([file.task for file in own], 5)} in {own[0].path.parent}"
        for own in models.values()
    ]
    lines = first_of(there)
    raise InputError(
        "\n       ".join([f"{path} holds runs of {len(models)} models, and a side is one model:", *lines]),
        hint=f"name one of them: {_name_of(files[0], files)}",
    )


def _name_of(file: _File, files: list[_File]) -> Path:
    """What to type to get a file's run alone."""
    folder = file.path.parent
    beside = [other for other in files if folder in other.path.parents]
    if {other.model for other in beside} == {file.model} and len({other.task for other in beside}) == len(beside):
        return folder
    return file.results.path if file.results and file.time else file.path


def _newest(path: Path, files: list[_File]) -> tuple[_File, Samples]:
    """The newest file of one task, and its samples. Raises InputError if the others were not asked the same."""
    *older, newest = files
    samples = logged.read(newest.path)
    if not older:
        return newest, samples
    folders, times = {file.path.parent for file in files}, {file.time for file in files}
    if len(folders) > 1 or len(times) < len(files) or "" in times:
        raise _several(path, files, "and nothing tells which one counts")
    for file in older:
        before = logged.read(file.path)
        name = common_filter(before, samples)
        if before and samples and name is None:
            raise _several(path, files, "and they have no filter in common")
        found = differences.between(
            file.task,
            Logged(filtered(before, name), _asked(file)),
            Logged(filtered(samples, name), _asked(newest)),
            metric="",
            filter_name=name,
        )
        if found:
            one = found[0]
            raise _several(path, files, f"which differ: {one.what}: {one.baseline} (older), {one.candidate} (newest)")
    return newest, samples


def _several(path: Path, files: list[_File], why: str) -> InputError:
    lines = first_of([str(file.path) for file in files])
    return InputError(
        "\n       ".join([f"{path} holds {len(files)} runs of {files[0].task}, {why}:", *lines]),
        hint=f"name one of them: {_name_of(files[-1], files)}",
    )


def _asked(file: _File) -> asked.Asked:
    return file.results.asked(file.task) if file.results else NOTHING
