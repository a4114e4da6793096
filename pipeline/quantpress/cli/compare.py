"""`quantpress compare`: two folders of lm-eval samples, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantpress.cli.options import Commands, add_flags
from quantpress.cli.scoring import add_count_no_signal, add_gate
from quantpress.errors import InputError, StageError


@dataclass(frozen=True)
class Options:
    baseline: Path
    candidate: Path
    metric: str | None
    filter: str | None
    count_no_signal: bool
    gate: list[str]


def add(commands: Commands) -> None:
    parser = commands.add_parser("compare", help="compare two folders of lm-eval samples, whoever made them")
    parser.add_argument("baseline", type=Path, help="a folder with samples_<task>.jsonl files somewhere below it")
    parser.add_argument("candidate", type=Path, help="another one, scored on the same documents")
    parser.add_argument(
        "--metric", help="acc, acc_norm, exact_match, word_perplexity ... (default: the first there is)"
    )
    parser.add_argument("--filter", help="one of lm-eval's filters, for tasks that log several (default: the first)")
    add_count_no_signal(parser)
    add_gate(parser)
    add_flags(parser)


def run(options: Options) -> None:
    from quantpress import report
    from quantpress.runtime.console import show
    from quantpress_evaluate.comparison import gates, logged
    from quantpress_evaluate.comparison.compare import compare_suite
    from quantpress_evaluate.stage import require_gates

    baseline, candidate = logged.read(options.baseline), logged.read(options.candidate)
    tasks = sorted(baseline.keys() & candidate.keys())
    if not tasks:
        raise InputError(
            f"{options.baseline} and {options.candidate} have no task in common",
            hint=f"they hold {', '.join(baseline)} and {', '.join(candidate)}",
        )
    asked = [gates.parse(gate, tasks) for gate in options.gate]
    scored = {
        task: logged.paired(task, baseline[task], candidate[task], options.metric, options.filter) for task in tasks
    }
    try:
        result = compare_suite(scored, count_no_signal=options.count_no_signal)
    except StageError as error:
        raise InputError(error.message, hint="score both on the same documents") from error
    result = result.model_copy(update={"gates": [gates.decide(gate, result) for gate in asked]})
    show(result.dump(), report.accuracy_table(options.candidate.name, result))
    require_gates({str(options.candidate): result.gates})
