"""A sweep as a table: a row for each cell and each model itself, a column for what is done with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.errors import listed
from quantpress.sweep.stages import Outcome, Stage, State
from quantpress.sweep.task import attempts, begun_at

if TYPE_CHECKING:
    from rich.table import Table

_WORDS: dict[State, str] = {
    "made": "made",
    "there": "was there",
    "gate": "gate not met",
    "failed": "failed",
    "skipped": "skipped",
    "lost": "lost",
}
_MARKS: dict[State, str] = {"made": "✓", "there": "✓", "gate": "!", "failed": "✗", "skipped": "-", "lost": "✗"}
_ITSELF = "(the model itself)"


class Progress:
    """What is done and under way of some stages; `logs` is the folder in which their attempts write."""

    def __init__(self, stages: Sequence[Stage], logs: Path) -> None:
        self.stages = stages
        self.done: dict[str, Outcome] = {}
        self._logs = logs

    def line(self, outcome: Outcome) -> str:
        """One outcome, for a log."""
        took = f" in {outcome.seconds:.1f} s on {outcome.host}" if outcome.seconds is not None else ""
        again = f", attempt {outcome.attempts}" if outcome.attempts > 1 else ""
        why = f": {outcome.error.splitlines()[0]}" if outcome.error else ""
        number = f"({len(self.done)} of {len(self.stages)})"
        return f"{_MARKS[outcome.state]} {outcome.title}: {_WORDS[outcome.state]}{took}{again}{why}  {number}"

    def table(self) -> Table:
        """For a terminal, as it is now."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for name in _header(self.stages):
            table.add_column(name, no_wrap=True)
        for row in _rows(self.stages, {stage.key: self._cell(stage) for stage in self.stages}):
            table.add_row(*row)
        return table

    def under_way(self) -> str:
        """What is under way, on one line."""
        begun = [stage.title for stage in self.stages if stage.key not in self.done and attempts(self._logs, stage)]
        return f"{len(self.done)} of {len(self.stages)} done; {listed(begun) or 'nothing'} under way"

    def text(self) -> str:
        """The same as text, when all is done."""
        return as_text(self.stages, {stage.key: self._cell(stage) for stage in self.stages})

    def _cell(self, stage: Stage) -> str:
        if outcome := self.done.get(stage.key):
            took = f" {outcome.seconds:.0f} s" if outcome.seconds is not None and outcome.state == "made" else ""
            return f"{_MARKS[outcome.state]} {_WORDS[outcome.state]}{took}"
        if begun := attempts(self._logs, stage):
            again = f", attempt {len(begun)}" if len(begun) > 1 else ""
            return f"… {time.time() - begun_at(begun[-1]):.0f} s{again}"
        return ""


def plan(stages: Sequence[Stage], there: set[str]) -> str:
    """What would be done, for people."""
    cells = {stage.key: "was there" if stage.key in there else _needed(stage) for stage in stages}
    missing = len(stages) - len(there)
    return f"{as_text(stages, cells)}\n\n{missing} of {len(stages)} stages are to be done"


def _needed(stage: Stage) -> str:
    needs = stage.needs
    parts = [
        f"{needs.memory / 1e9:.1f} GB" if needs.memory else "",
        f"{needs.gpus} GPU{'s' if needs.gpus > 1 else ''}" if needs.gpus else "",
        "alone" if needs.alone else "",
    ]
    return ", ".join(filter(None, parts)) or "to do"


def as_text(stages: Sequence[Stage], cells: dict[str, str]) -> str:
    """A table in plain text: columns that are as wide as their longest cell."""
    rows = [_header(stages), *_rows(stages, cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


_ORDER = ("quantize", "baseline", "evaluate", "bench")
Column = tuple[str, str]  # a suite and a workload may have one name


def _column(stage: Stage) -> Column:
    return ("evaluate" if stage.verb == "baseline" else stage.verb), stage.of or "checkpoint"


def _columns(stages: Sequence[Stage]) -> list[Column]:
    """The checkpoint first, then suites, then workloads."""
    by_verb = sorted(stages, key=lambda stage: _ORDER.index(stage.verb))
    return list(dict.fromkeys(map(_column, by_verb)))


def _header(stages: Sequence[Stage]) -> list[str]:
    return ["model", "recipe", *(name for _, name in _columns(stages))]


def _rows(stages: Sequence[Stage], cells: dict[str, str]) -> list[list[str]]:
    columns = _columns(stages)
    found: dict[tuple[str, str], dict[Column, list[str]]] = {}
    for stage in stages:
        row = found.setdefault((stage.model, stage.recipe or _ITSELF), {})
        row.setdefault(_column(stage), []).append(cells[stage.key])
    models = list(dict.fromkeys(model for model, _ in found))
    in_order = sorted(found, key=lambda names: (models.index(names[0]), names[1] == _ITSELF))
    return [
        [*names, *(" / ".join(filter(None, found[names].get(column, []))) for column in columns)] for names in in_order
    ]
