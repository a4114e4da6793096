"""The report's tables, made once for all views: a header, rows of plain text, and how many columns are words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from quantpress.artifact.accuracy import AGAIN, OTHER_BACKEND, RULES
from quantpress.artifact.throughput import ATTACHED, TOGETHER
from quantpress.report.facts.comparable import compared_suite, is_on_suite, is_under_but_for_pairing
from quantpress.report.facts.data import (
    Change,
    Dummy,
    Figure,
    Gate,
    Goal,
    Load,
    Moved,
    Paired,
    Point,
    Recipe,
    Report,
    Score,
    Server,
    Speed,
    Spread,
    Task,
    Together,
)
from quantpress.report.facts.decide import marks
from quantpress.report.views.formats import NONE, in_bytes, interval, measured_in, times
from quantpress.runtime.environment import Machine
from quantpress.statistics.signs import SIGNIFICANCE

Scored = tuple[str, Score]  # a recipe's name and one of its results
Measured = tuple[str, Speed]
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """The first `words` columns hold words, the rest figures."""

    header: list[str]
    rows: list[list[str]]
    words: int = 1


def scoreboard(report: Report) -> Table:
    """One row a recipe, the best first: everything that decides."""
    decision, load, suite = report.decision, report.decision.load, compared_suite(report.recipes)
    header = ["#", "recipe", "best for", "gate", "recovery (95%)", "size", "TPOT", "tokens/s"]
    if load:
        users = f"{load.least} user{'s' if load.least != 1 else ''}"
        header[-2:] = [f"TPOT, {users}", f"tokens/s, {load.most} users"]
    rows = []
    for recipe in report.recipes:
        best = ", ".join(goal.goal for goal in decision.goals if goal.winner == recipe.name)
        row = [str(recipe.number), recipe.name, best, decision.gate_states[recipe.name]]
        row.append(_kept_on(suite, recipe))
        row.append(f"{in_bytes(recipe.size.checkpoint_bytes)} ({_share(recipe.size.ratio)})")
        rows.append([*row, *_compared(recipe, load)])
    return Table(header, rows, 4)


def _kept_on(suite: str | None, recipe: Recipe) -> str:
    """The accuracy that is kept on the suite that is compared; that of another one does not belong into its column."""
    if recipe.accuracy and not is_on_suite(recipe, suite):
        return "other suite"
    return kept_accuracy(recipe).replace(" to ", "–") + (" ↓" if shows_loss(recipe.overall) else "")


def _compared(recipe: Recipe, load: Load | None) -> list[str]:
    """TPOT and tokens/s under the workload that is compared; figures of another one do not belong into its columns."""
    measured = recipe.throughput
    if load is None or recipe.name not in load.recipes:
        same = measured and is_under_but_for_pairing(measured, load)
        return [("other pairing" if same else "other workload") if measured else NONE] * 2
    return [_times(recipe, load.least, "tpot_ms"), _times(recipe, load.most, "output_tokens_s")]


def _times(recipe: Recipe, concurrency: int, metric: str) -> str:
    """How many times better than the model, with its interval; a question mark where neither way is shown."""
    ratio = recipe.ratio(concurrency, metric)
    if ratio is None:
        return NONE
    edges = f"{ratio.interval[0]:.2f}–{ratio.interval[1]:.2f}" if ratio.interval else measured_in(ratio)
    return f"{ratio.value:.2f}× ({edges}){'' if ratio.verdict in ('faster', 'slower') else ' ?'}"


def kept_accuracy(recipe: Recipe) -> str:
    """Recovery, or the ratio of perplexities where the suite has nothing else."""
    overall = recipe.overall
    if overall and overall.recovery.value is None and overall.perplexity_ratio.value is not None:
        return f"perplexity × {interval(overall.perplexity_ratio)}"
    return interval(overall.recovery if overall else None)


def shows_loss(overall: Paired | None) -> bool:
    """Whether the whole interval of what `kept_accuracy` shows lies on the side of a loss."""
    if overall is None:
        return False
    if overall.recovery.value is not None:
        return overall.recovery.interval is not None and overall.recovery.interval[1] < 1
    return overall.perplexity_ratio.interval is not None and overall.perplexity_ratio.interval[0] > 1


def goals(report: Report) -> Table:
    rows = [
        [goal.goal, goal.winner or no_winner(goal), winning_figure(goal), goal.reason] for goal in report.decision.goals
    ]
    return Table(["for", "recipe", "figure", "how sure"], rows, 4)


def loss(recipe: Recipe) -> str:
    """What a recipe costs in accuracy, in words."""
    overall = recipe.overall
    if overall is None:
        return "Accuracy: not measured."
    if overall.recovery.value is None and overall.perplexity_ratio.value is not None:
        return f"Accuracy: {kept_accuracy(recipe)} times the model's."
    if overall.recovery.value is None:
        return "Accuracy: no task carries a signal."
    text = f"Recovery {interval(overall.recovery)}"
    if overall.recovery.interval is None:
        return f"{text}."
    low, high = overall.recovery.interval
    if high < 1:
        return f"{text}: {1 - high:.1%} to {1 - low:.1%} of the accuracy is lost."
    if low > 1:
        return f"{text}: better than the model on these documents."
    return f"{text}: no loss is shown{f', and one of more than {1 - low:.1%} is unlikely' if low < 1 else ''}."


def no_winner(goal: Goal) -> str:
    """What stands where a winner's name would."""
    return {"not shown": "none shown to be faster", "not measured": "not measured"}.get(goal.state, "none")


def winning_figure(goal: Goal) -> str:
    """The winner's (or the nearest recipe's) figure beside the model's."""
    figures = goal.figures
    if figures is None or figures.candidate is None or figures.baseline is None:
        return "none"
    base, own, ratio = figures.baseline, figures.candidate, figures.ratio
    if ratio is None:
        return f"{in_bytes(own)} instead of {in_bytes(base)} ({own / base:.0%})"
    likely = f", likely {ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}" if ratio.interval else ""
    unit = "ms TPOT" if goal.goal == "latency" else "tokens/s"
    return (
        f"{own:.1f} instead of {base:.1f} {unit} at concurrency {goal.concurrency}: "
        f"{ratio.value:.2f} times as fast{likely} ({measured_in(ratio)})"
    )


def accuracy(scored: list[Scored]) -> Table:
    """One row for each recipe and task, the mean, and the noise floor."""
    header = ["recipe", "task", "documents", "metric", "model", "checkpoint", "difference", "p", "recovery (95%)"]
    chance = _has(scored, "above_chance")
    header += (["above chance"] if chance else []) + ["flips", "KL"]
    header += ["perplexity ratio"] if _has(scored, "perplexity_ratio") else []
    rows = []
    for name, score in _with_suites(scored):
        rows += [[name, *_task(task), *_paired(task, chance)] for task in score.tasks]
        mean = score.mean
        if mean.tasks:
            sides = [_number(mean.baseline), _number(mean.candidate)]
            label = f"mean of {mean.tasks} tasks"
            rows.append([name, label, "", "", *sides, *_together(score.together), *_paired(score.overall, chance)])
        floors = {"in other batches": score.noise_floor, "transformers against vLLM": score.backend_floor}
        rows += [
            [name, f"noise floor: the model against itself, {how}", *[""] * 6, *_paired(floor, chance)]
            for how, floor in floors.items()
            if floor
        ]
    return Table(header, [row[: len(header)] for row in rows], 2)


def _with_suites(scored: list[Scored]) -> list[Scored]:
    """The suite is named beside the recipe where there are several."""
    several = len({score.suite for _, score in scored}) > 1
    return [(f"{name} ({score.suite})" if several else name, score) for name, score in scored]


def _has(scored: list[Scored], figure: str) -> bool:
    """Whether any task has this figure of Paired."""
    return any(getattr(task, figure).value is not None for _, score in scored for task in score.tasks)


def _task(task: Task) -> list[str]:
    part = f" ({task.counting:.0%} counts)" if task.counting and task.counting < 1 else ""
    label = task.task + (" (no signal)" if task.no_signal else part)
    change, chance = _difference(task)
    if task.significant is False:
        change += _not_shown(task.smallest_loss)
    sides = [_number(task.baseline), _number(task.candidate)]
    return [label, str(task.documents or ""), _metric(task), *sides, change, chance]


def _together(row: Together) -> list[str]:
    """The same of all tasks that count."""
    change, chance = _difference(row)
    if row.p_value is not None and row.p_value >= SIGNIFICANCE:
        change += _not_shown(row.smallest_loss)
    return [change, chance]


def _not_shown(smallest: float | None) -> str:
    """What is said of a difference that may be none: how large a loss these documents would show."""
    return ", not shown" + ("" if smallest is None else f": a loss of {smallest:.3f} would be")


def _metric(task: Task) -> str:
    """The metric, with the filter that the answers went through and lm-eval's own unit where it is another one."""
    filtered = f" ({task.filter})" if task.filter else ""
    return f"{task.metric or ''}{filtered}{f' / {task.out_of}' if task.out_of != 1 else ''}"


def _difference(row: Task | Together) -> list[str]:
    """The difference with its interval, and the p-value."""
    return [interval(row.difference, "{:+.3f}"), "" if row.p_value is None else f"{row.p_value:.2g}"]


def _paired(row: Paired | Task, chance: bool) -> list[str]:
    """Recovery, that above chance if there is a column for it, flips, KL and perplexity ratio with their intervals."""
    small = row.kl.value is not None and 0 < row.kl.value < 0.001  # of log-likelihoods per character
    return [
        interval(row.recovery),
        *([interval(row.above_chance)] if chance else []),
        interval(row.flips, "{:.1%}"),
        interval(row.kl, "{:.2g}" if small else "{:.4f}"),
        interval(row.perplexity_ratio),
    ]


def differences(scored: list[Scored]) -> Table:
    """What, besides the model, was not the same on both sides."""
    rows = [
        [name, item.task, item.what, str(item.documents or "all"), item.baseline, item.candidate]
        for name, score in _with_suites(scored)
        for item in score.differences
    ]
    return Table(["recipe", "task", "not the same", "documents", "model", "checkpoint"], rows, 6)


def left_out(scored: list[Scored]) -> Table:
    """Tasks that are not compared, each with the reason."""
    rows = [[name, item.task, item.reason] for name, score in _with_suites(scored) for item in score.left_out]
    return Table(["recipe", "task", "left out because"], rows, 3)


def gates(scored: list[Scored]) -> Table:
    """How every gate was decided."""
    rows = [
        [name, gate.gate, *_decided(gate, score.rules)] for name, score in _with_suites(scored) for gate in score.gates
    ]
    return Table(["recipe", "gate", "figure", "interval", "documents", "decision"], rows, 6)


def _decided(gate: Gate, rules: int) -> list[str]:
    documents = str(gate.documents or "")
    decision = f"{gate.decision}: {gate.reason}" if gate.reason else gate.decision
    decision += " (by older rules)" if rules < RULES else ""
    if gate.interval is None or gate.value is None:
        return ["none", "none", documents, decision]
    low, high = gate.interval
    confidence = f" at {gate.confidence:.4g}" if gate.confidence else ""
    return [f"{gate.value:.4g}", f"{low:.4g} to {high:.4g}{confidence}", documents, decision]


def served(measured: list[Measured]) -> Table:
    """Whether each recipe's engine computes what was scored: mean log-likelihoods of a fixed text, nats a token."""
    header = ["recipe", "verdict", "likely cause", "tokens", "scored", "served", "difference (95%)", "bound"]
    header += ["mean |difference|", "the model's difference"]
    rows = []
    for name, speed in measured:
        comparison = speed.served
        if comparison is None or speed.weights == "dummy":
            continue
        row = [name, comparison.verdict or "not known", comparison.cause or comparison.reason or ""]
        own, base = comparison.sides.get("candidate"), comparison.sides.get("baseline")
        if own:
            difference = Figure(value=own.difference, interval=own.interval)
            row += [str(own.tokens), _number(own.scored), _number(own.served), interval(difference, "{:+.4f}")]
        else:
            row += ["unknown", "none", "none", "none"]
        row += [_number(comparison.bound), _number(own.per_token if own else None)]
        rows.append([*row, "none" if base is None or base.difference is None else f"{base.difference:+.4f}"])
    return Table(header, rows, 3)


def size(report: Report) -> Table:
    """What each checkpoint takes and took; the KV cache's capacity where a server told it."""
    header = ["recipe", "weights", "of the model's", "bits per weight", "quantized layers", "one scale per"]
    header += ["calibration tokens", "made in"]
    caches = {recipe.name: _kv_caches(recipe) for recipe in report.recipes}
    some_known = any(own != NONE for own, _ in caches.values())
    rows = []
    for recipe in report.recipes:
        made = recipe.size
        tokens = _count(made.calibration_tokens) if made.calibrated or recipe.adopted else "none needed"
        bits = "unknown" if made.bits_per_weight is None else f"{made.bits_per_weight:.2f}"
        unknown = "elsewhere" if recipe.adopted else "unknown"
        seconds = unknown if made.seconds is None else f"{made.seconds:.0f} s"
        row = [recipe.name, in_bytes(made.checkpoint_bytes), _share(made.ratio), bits]
        row += [_count(made.quantized_layers), made.scales or "unknown", tokens, seconds]
        rows.append([*row, *(caches[recipe.name] if some_known else [])])
    return Table([*header, *(["KV cache", "model's KV cache"] if some_known else [])], rows)


def _kv_caches(recipe: Recipe) -> tuple[str, str]:
    """What the checkpoint's server and the model's hold."""
    measured = recipe.throughput
    if measured is None:
        return NONE, NONE
    shared = ", of half the memory" if measured.pairing == TOGETHER and measured.machine.gpus else ""
    sides = [_kv(server) for server in (measured.servers.candidate, measured.servers.baseline)]
    own, base = (f"{side}{shared}" if side != NONE else side for side in sides)
    return own, base


def _kv(server: Server) -> str:
    if server.kv_cache_tokens is not None:
        return f"{server.kv_cache_tokens:,.0f} tokens"
    return NONE if server.kv_cache_gib is None else f"{server.kv_cache_gib} GiB"


def speed(measured: list[Measured]) -> Table:
    """One row for each recipe and strength of load."""
    header = ["recipe", "workload", "load", "model tokens/s", "checkpoint tokens/s", "speed-up", "verdict"]
    header += ["model TTFT ms", "TTFT ms", "model TPOT ms", "TPOT ms", "TTFT p99 ms", "TPOT p99 ms"]
    rows = []
    for name, result in measured:
        for point in result.points:
            base, own = point.baseline, point.candidate
            row = [name, result.workload_name, point.load]
            row += [_middle(base, "output_tokens_s"), _middle(own, "output_tokens_s")]
            row += [_speedup(point), _verdict(point, result)]
            row += [_middle(side, metric) for metric in ("ttft_ms", "tpot_ms") for side in (base, own)]
            rows.append([*row, _middle(own, "ttft_p99_ms"), _middle(own, "tpot_p99_ms")])
    return Table(header, rows, 2)


def _middle(side: dict[str, Spread] | None, metric: str) -> str:
    value = side[metric].value if side else None
    return NONE if value is None else f"{value:.1f}"


def _speedup(point: Point) -> str:
    ratio = point.ratio(point.compared)
    return NONE if ratio is None else times(ratio)


def _verdict(point: Point, result: Speed) -> str:
    words = [point.verdict or "no baseline"]
    doubtful = [mark for mark in marks(result, point) if mark not in words[0]]
    named = any(" to the " in said and " failed" in said for said in (words[0], *doubtful))
    words += [f"{point.failed_requests} requests failed"] if point.failed_requests and not named else []
    words += [f"not to be trusted: {mark}" for mark in doubtful]
    words += ["another kernel than planned"] if any(use.others for use in result.kernels) else []
    return "; ".join([*words, *(["dummy weights"] if result.weights == "dummy" else [])])


def compared_speeds(report: Report) -> list[Measured]:
    """Of every recipe what was measured under the workload that is compared."""
    return [(recipe.name, recipe.throughput) for recipe in report.recipes if recipe.throughput]


def all_speeds(report: Report) -> list[Measured]:
    """Of every recipe all that was measured in vLLM, the workload that is compared first."""
    return _in_turns((recipe.name, recipe.speeds) for recipe in report.recipes)


def all_scores(report: Report) -> list[Scored]:
    """Of every recipe every suite that was scored, the one that is compared first."""
    return _in_turns((recipe.name, recipe.scores) for recipe in report.recipes)


def _in_turns(by_recipe: Iterable[tuple[str, Sequence[T]]]) -> list[tuple[str, T]]:
    """The first of every recipe, then the second ones, and so on."""
    recipes = list(by_recipe)
    most = max((len(results) for _, results in recipes), default=0)
    return [(name, results[turn]) for turn in range(most) for name, results in recipes if turn < len(results)]


def online_speeds(report: Report) -> list[Measured]:
    """Of each method by which vLLM quantizes the model while it loads."""
    return [(one.name, one.throughput) for one in report.online if one.throughput]


def online_scores(report: Report) -> list[Scored]:
    return [(one.name, one.accuracy) for one in report.online if one.accuracy]


def with_dummy_weights(dummy: list[Dummy]) -> list[Measured]:
    return [(entry.name, entry.throughput) for entry in dummy]


# How the figures of each kind of change are written; the other kinds are bytes and text.
_MOVED_FORMS = {
    "recovery": "{:.3f}",
    "kl": "{:.4f}",
    "flips": "{:.1%}",
    "perplexity_ratio": "{:.4f}",
    "times": "{:.2f}",
}


def moved(changes: Moved) -> Table:
    """Everything that moved or could not be compared, then how many figures stayed within noise."""
    loud = [row for row in changes.rows if row.verdict not in ("within noise", "unchanged")]
    rows = [[row.recipe, row.figure, *_old_and_new(row), row.verdict] for row in loud]
    rows += [[name, "recipe", "not there", "added", "new"] for name in changes.added]
    rows += [[name, "recipe", "there", "not there", "gone"] for name in changes.removed]
    if changes.other_model:
        rows.append(["all", "model", "another model", "this model", "not compared: another model"])
    else:
        still = len(changes.rows) - len(loud)
        rows.append(["all", f"{still} other figures", "", "", "within noise or unchanged"])
    return Table(["recipe", "figure", "before", "now", "verdict"], rows, 5)


def _old_and_new(change: Change) -> list[str]:
    texts = []
    for value in (change.old, change.new):
        if isinstance(value, Figure):
            texts.append(interval(value, _MOVED_FORMS[change.kind]))
        else:
            texts.append(value if isinstance(value, str) else in_bytes(value))
    return texts


def answers(measured: list[Measured]) -> Table:
    rows = []
    for name, speed in measured:
        for answer in speed.answers:
            texts = (answer.question, answer.baseline or "not asked", answer.candidate or "not asked")
            rows.append([name, *(" ".join(text.split()) for text in texts)])
    return Table(["recipe", "question", "the model's answer", "the checkpoint's answer"], rows, 4)


def layers(report: Report) -> Table:
    """The error that each recipe adds: its mean over the layers and the worst layer."""
    rows = []
    for recipe in report.recipes:
        if recipe.layers:
            errors = recipe.layers.errors
            worst = max(range(len(errors)), key=errors.__getitem__)
            rows.append([recipe.name, f"{sum(errors) / len(errors):.4f}", f"{errors[worst]:.4f}", str(worst)])
    return Table(["recipe", "mean error", "greatest error", "in layer"], rows)


def missing(report: Report) -> Table:
    """What this report does not show, why, and the command that makes it."""
    rows = []
    for recipe in report.recipes:
        stages = {
            "accuracy": ("accuracy", f"quantpress evaluate {recipe.name}"),
            "throughput": ("throughput", f"quantpress bench {recipe.name}"),
            "layers": ("error by layer", "quantpress report --layer-errors"),
            "other engines": ("other engines", f"quantpress recertify FOLDER/{recipe.name} --vllm OTHER --fresh"),
        }
        for stage, reason in recipe.missing.items():
            what, command = stages[stage]
            rows.append([recipe.name, what, reason, command])
        if recipe.throughput and _kv(recipe.throughput.servers.candidate) == NONE:
            why = "the server's log was not read for it"
            rows.append([recipe.name, "KV capacity", why, f"quantpress bench {recipe.name} --fresh"])
    gone = {entry.recipe: f"quantize did not finish; see {entry.log}" for entry in report.unfinished}
    absent = [*gone.items(), *((entry.recipe, entry.reason) for entry in report.left_out)]
    rows += [[name, "everything", why, f"quantpress quantize {name}"] for name, why in absent]
    return Table(["recipe", "what", "why", "command that makes it"], rows, 4)


def origins(report: Report) -> Table:
    """What each recipe was made of and on."""
    rows = []
    for recipe in report.recipes:
        versions = ", ".join(f"{name} {version}" for name, version in recipe.versions.items())
        vllm = recipe.throughput.vllm if recipe.throughput else None
        versions += f", vLLM {vllm}" if vllm else ""
        where = f"made elsewhere, adopted from {recipe.adopted.source}" if recipe.adopted else _machine(recipe.machine)
        rows.append([recipe.name, recipe.created, recipe.digest[:12], where, versions])
    return Table(["recipe", "made", "digest", "on", "versions"], rows, 5)


def _machine(machine: Machine) -> str:
    return ", ".join([*machine.gpus, machine.processor, f"{machine.cores} cores", f"{machine.memory_gb} GB"])


def commands(report: Report) -> Table:
    """For each figure the command that repeats it: ours, then the tools' own."""
    rows = []
    for recipe in report.recipes:
        name, model = recipe.name, report.model.source
        made = f"adopt {recipe.adopted.source} --as {name}" if recipe.adopted else f"quantize {name}"
        rows.append([name, "size", f"quantpress {made} --model {model}"])
        for score in recipe.scores:
            rows.append([name, "accuracy", f"quantpress evaluate {name} {_as_scored(score)} --model {model}"])
            by_hand = {f"accuracy by hand, {_role(side)}": text for side, text in score.commands.items()}
            rows += [[name, what, text] for what, text in by_hand.items() if text]
        for result in recipe.speeds:
            paired = "" if result.pairing == ATTACHED else f" --pairing {result.pairing}"
            asked = f"--workload {result.workload_name} --model {model}{paired}{_engine(result)}"
            rows.append([name, "speed", f"quantpress bench {name} {asked} --fresh"])
            by_hand = {f"server by hand, {_role(side)}": text for side, text in result.commands.servers.items()}
            rows += [[name, what, text] for what, text in by_hand.items() if text]
            for load in result.commands.load:
                rows.append([name, f"load by hand, {_role(load.side)}, {load.load}", load.command])
    for one in report.online:
        asked = f"{report.recipes[0].name} --online {one.method} --model {model}"
        if one.accuracy:
            beside = report.recipes[0].scores
            known = next((score for score in beside if score.suite == one.accuracy.suite), None)
            how = _as_scored(known) if known else f"--suite {one.accuracy.suite}"
            rows.append([one.name, "accuracy", f"quantpress evaluate {asked} {how}"])
        if one.throughput:
            workload = f"--workload {one.throughput.workload_name}{_engine(one.throughput)}"
            rows.append([one.name, "speed", f"quantpress bench {asked} {workload} --fresh"])
    return Table(["recipe", "figure", "command"], rows, 3)


def _as_scored(score: Score) -> str:
    """An evaluation that scores the same documents in the same way and decides the same gates, as options."""
    options = [f"--suite {score.suite}"]
    options += [f"--limit {score.limit}"] if score.limit else []
    # The usual one is another on a machine with GPUs than on one without.
    options += [f"--backend {score.backend}"] if score.backend else []
    options += ["--count-no-signal"] if score.counts_no_signal else []
    options += ["--noise-floor"] if score.noise_floor else []
    options += [f"--gate {shlex.quote(gate.gate)}" for gate in score.gates]
    return " ".join(options) + _settings(_by_field(score.engine))  # none of which is as usual


def _by_field(arguments: dict[str, Any]) -> dict[str, Any]:
    """vLLM's arguments as the engine's settings have them: under fields of their own, or among the extra ones."""
    fields = {name: name.replace("-", "_") for name in arguments}
    own = {field: arguments[name] for name, field in fields.items() if field in ENGINE_FIELDS}
    extra = {name: arguments[name] for name, field in fields.items() if field not in ENGINE_FIELDS}
    return own | ({"extra_args": extra} if extra else {})


# The fields of quantpress_serve's Engine, but for context and memory, which change no score.
ENGINE_FIELDS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "kv_cache_dtype",
    "quantization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
)
_USUAL: tuple[Any, ...] = (None, "auto", 1, False, {})  # values of engine settings that say nothing


def _engine(result: Speed) -> str:
    """The engine that a result was measured with as options: what is not left to quantpress or vLLM."""
    named = result.workload.get("engine") or {}
    return _settings({key: value for key, value in named.items() if _tells(key, value)})


def _tells(key: str, value: Any) -> bool:
    """Whether a setting says anything. Eager is auto: false is a choice."""
    return value is True or value not in _USUAL or (key == "enforce_eager" and value is False)


def _settings(named: dict[str, Any]) -> str:
    return "".join(f" --engine {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in named.items())


def _role(side: str) -> str:
    again = {AGAIN: "model again (noise floor)", OTHER_BACKEND: "model by the other backend (noise floor)"}
    return {"baseline": "model", "candidate": "checkpoint", **again}.get(side, side)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _share(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.0%}"
