"""`quantpress compare`: two folders of lm-eval samples, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantpress.cli.options import Commands, add_flags
from quantpress.cli.scoring import add_count_no_signal, add_gate

if TYPE_CHECKING:
    from quantpress_evaluate.comparison.runs import Side

_HINT = (
    "the figures are there; an inconclusive gate needs more documents, or both sides scored alike on every task; "
    "TASK:recovery>=0.99 is a gate on one task"
)


@dataclass(frozen=True)
class Options:
    baseline: Path
    candidate: Path
    metric: str | None
    filter: str | None
    differing: bool
    count_no_signal: bool
    gate: list[str]


def add(commands: Commands) -> None:
    parser = commands.add_parser("compare", help="compare two folders of lm-eval samples, whoever made them")
    parser.add_argument(
        "baseline",
        type=Path,
        help="a folder with samples_<task>.jsonl files of one model somewhere below it, or one such file or "
        "results_<time>.json, which names its run",
    )
    parser.add_argument("candidate", type=Path, help="another one, asked the same of the same documents")
    parser.add_argument(
        "--metric", help="acc, acc_norm, exact_match, word_perplexity ... (default: the first that both have)"
    )
    parser.add_argument(
        "--filter", help="one of lm-eval's filters, for tasks that log several (default: a strict one that both have)"
    )
    parser.add_argument(
        "--differing",
        action="store_true",
        help="compare although the two were not asked alike: the differences are shown, and no gate passes",
    )
    add_count_no_signal(parser)
    add_gate(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.runtime import console
    from quantpress_evaluate.comparison import gates, pairing, runs
    from quantpress_evaluate.comparison.compare import compare_suite
    from quantpress_evaluate.stage import require_gates

    baseline, candidate = runs.one_run(options.baseline), runs.one_run(options.candidate)
    paired = pairing.paired(baseline, candidate, pairing.Wanted(options.metric, options.filter, options.differing))
    tasks = [*paired.scored, *(item.task for item in paired.left_out)]
    asked = [gates.parse(gate) for gate in options.gate]
    gates.require_tasks(asked, tasks)
    result = compare_suite(paired.scored, count_no_signal=options.count_no_signal)
    notes = [*baseline.notes, *candidate.notes, *result.notes, *_not_known(options, baseline, candidate)]
    about = {"differences": paired.differences, "left_out": paired.left_out, "notes": notes}
    result = result.model_copy(update=about)
    result = result.model_copy(update={"gates": [gates.decide(gate, result) for gate in asked]})
    console.show(result.dump(), report.accuracy_table(_name(options.candidate), result))
    require_gates({str(options.candidate): result.gates}, _HINT)


def _not_known(options: Options, *sides: Side) -> list[str]:
    """What is said where samples alone were compared."""
    named = zip((options.baseline, options.candidate), sides, strict=True)
    if unknown := [str(path) for path, side in named if side.unknown]:
        return [
            f"documents, prompts and generation settings were compared; no results_<time>.json beside the samples of "
            f"{' and '.join(unknown)} tells of the rest: task version, few-shot number, chat template"
        ]
    return []


def _name(path: Path) -> str:
    return path.name or path.resolve().name
