"""The report's tables, made once for all views: a header, rows of plain text, and how many columns are words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantpress.report.facts.comparable import point_at, scores, speeds
from quantpress.report.facts.decide import doubts, marks
from quantpress.report.facts.fields import Data, get
from quantpress.report.facts.speed import level
from quantpress.report.formats import NONE, in_bytes, interval


@dataclass(frozen=True)
class Table:
    """The first `words` columns hold words, the rest figures."""

    header: list[str]
    rows: list[list[str]]
    words: int = 1


def scoreboard(data: Data) -> Table:
    """One row a recipe, the best first: everything that decides."""
    decision, load = data["decision"], data["decision"]["load"]
    header = ["#", "recipe", "best for", "gate", "recovery (95%)", "size", "TPOT", "tokens/s"]
    if load:
        header[-2:] = [
            f"TPOT, {load['least']} user{'s' if load['least'] != 1 else ''}",
            f"tokens/s, {load['most']} users",
        ]
    rows = []
    for recipe in data["recipes"]:
        name, size = recipe["name"], recipe["size"]
        best = ", ".join(goal["goal"] for goal in decision["goals"] if goal["winner"] == name)
        row = [str(recipe["number"]), name, best, decision["gate_states"][name]]
        row.append(kept(recipe).replace(" to ", "–") + (" ↓" if loses(recipe) else ""))
        row.append(f"{in_bytes(size['checkpoint_bytes'])} ({share(size['ratio'])})")
        rows.append([*row, *_compared(recipe, load)])
    return Table(header, rows, 4)


def _compared(recipe: Data, load: Data | None) -> list[str]:
    """TPOT and tokens/s under the workload that is compared; figures of another one do not belong into its columns."""
    if load is None or recipe["name"] not in load["recipes"]:
        return ["other workload" if recipe["throughput"] else NONE] * 2
    return [times(recipe, load["least"], "tpot_ms"), times(recipe, load["most"], "output_tokens_s")]


def kept(recipe: Data) -> str:
    """Recovery, or the ratio of perplexities where the suite has nothing else."""
    overall = get(recipe["accuracy"], "overall")
    if get(overall, "recovery", "value") is None and get(overall, "perplexity_ratio", "value") is not None:
        return f"perplexity × {interval(overall['perplexity_ratio'])}"
    return interval(get(overall, "recovery"))


def loses(recipe: Data) -> bool:
    """Whether the whole interval of what `kept` shows lies on the side of a loss."""
    overall = get(recipe["accuracy"], "overall")
    if get(overall, "recovery", "value") is not None:
        edges = get(overall, "recovery", "interval")
        return bool(edges and edges[1] < 1)
    edges = get(overall, "perplexity_ratio", "interval")
    return bool(edges and edges[0] > 1)


def times(recipe: Data, concurrency: int, metric: str) -> str:
    """How many times better than the model, with the range of the pairs."""
    point = point_at(recipe["throughput"], concurrency)
    ratio = point["ratios"][metric] if point else None
    if not point or not ratio or ratio["value"] is None:
        return NONE
    low, high = ratio["interval"]
    slower = high < 1 and not marks(recipe["throughput"], point)  # that is shown, too
    doubted = not slower and doubts(recipe, point["concurrency"], metric)
    return f"{ratio['value']:.2f}× ({low:.2f}–{high:.2f}){' ?' if doubted else ''}"


def goals(data: Data) -> Table:
    rows = []
    for goal in data["decision"]["goals"]:
        rows.append([goal["goal"], goal["winner"] or answer(goal), measured(goal), goal["reason"]])
    return Table(["for", "recipe", "figure", "how sure"], rows, 4)


def loss(recipe: Data) -> str:
    """What a recipe costs in accuracy, in words."""
    recovery = get(recipe["accuracy"], "overall", "recovery")
    if get(recovery, "value") is None:
        if get(recipe["accuracy"], "overall", "perplexity_ratio", "value") is not None:
            return f"Accuracy: {kept(recipe)} times the model's."
        return "Accuracy: not measured." if recipe["accuracy"] is None else "Accuracy: no task carries a signal."
    text = f"Recovery {interval(recovery)}"
    if recovery["interval"] is None:
        return f"{text}."
    low, high = recovery["interval"]
    if high < 1:
        return f"{text}: {1 - high:.1%} to {1 - low:.1%} of the accuracy is lost."
    if low > 1:
        return f"{text}: better than the model on these documents."
    return f"{text}: no loss is shown{f', and one of more than {1 - low:.1%} is unlikely' if low < 1 else ''}."


def answer(goal: Data) -> str:
    """What stands where a winner's name would."""
    return {"not shown": "none shown to be faster", "not measured": "not measured"}.get(goal["state"], "none")


def measured(goal: Data) -> str:
    """The winner's (or the nearest recipe's) figure beside the model's."""
    figures = goal["figures"]
    if not figures or figures["candidate"] is None:
        return "none"
    if goal["goal"] == "memory":
        base, own = figures["baseline"], figures["candidate"]
        return f"{in_bytes(own)} instead of {in_bytes(base)} ({own / base:.0%})"
    ratio = figures["ratio"]
    low, high = ratio["interval"]
    unit = "ms TPOT" if goal["goal"] == "latency" else "tokens/s"
    return (
        f"{figures['candidate']:.1f} instead of {figures['baseline']:.1f} {unit} at concurrency {goal['concurrency']}: "
        f"{ratio['value']:.2f} times as fast, measured in {ratio['pairs']} pairs ({low:.2f} to {high:.2f})"
    )


def accuracy(scored: list[tuple[str, Data]]) -> Table:
    """One row for each recipe and task, the mean, and the noise floor."""
    header = ["recipe", "task", "documents", "metric", "model", "checkpoint", "difference", "p", "recovery (95%)"]
    header += ["flips", "KL"] + (["perplexity ratio"] if _has_perplexity(scored) else [])
    rows = []
    for name, result in _with_suites(scored):
        rows += [[name, *_task(row), *_paired(row)] for row in result["tasks"]]
        mean = result["mean"]
        if mean["tasks"]:
            sides = [_number(mean[side]) for side in ("baseline", "candidate")]
            label = f"mean of {mean['tasks']} tasks"
            rows.append([name, label, "", "", *sides, *_change(result["together"]), *_paired(result["overall"])])
        if floor := result["noise_floor"]:
            rows.append([name, "noise floor: the model against itself", *[""] * 6, *_paired(floor)])
    return Table(header, [row[: len(header)] for row in rows], 2)


def _with_suites(scored: list[tuple[str, Data]]) -> list[tuple[str, Data]]:
    """The suite is named beside the recipe where there are several."""
    several = len({result["suite"] for _, result in scored}) > 1
    return [(f"{name} ({result['suite']})" if several else name, result) for name, result in scored]


def _has_perplexity(scored: list[tuple[str, Data]]) -> bool:
    return any(task["perplexity_ratio"]["value"] is not None for _, result in scored for task in result["tasks"])


def _task(row: Data) -> list[str]:
    label = f"{row['task']} (no signal)" if row["no_signal"] else row["task"]
    change, chance = _change(row)
    if row["significant"] is False:
        change += ", within chance"
    sides = [_number(row[side]) for side in ("baseline", "candidate")]
    return [label, str(row["documents"] or ""), str(row["metric"] or ""), *sides, change, chance]


def _change(row: Data) -> list[str]:
    """The difference with its interval, and the p-value."""
    change = "none" if row["difference"]["value"] is None else f"{row['difference']['value']:+.3f}"
    if row["difference"]["interval"]:
        low, high = row["difference"]["interval"]
        change += f" ({low:+.3f} to {high:+.3f})"
    return [change, "" if row["p_value"] is None else f"{row['p_value']:.2g}"]


def _paired(row: Data) -> list[str]:
    """Recovery, flips, KL and perplexity ratio with their intervals."""
    return [
        interval(row["recovery"]),
        interval(row["flips"], "{:.1%}"),
        interval(row["kl"], "{:.4f}"),
        interval(row["perplexity_ratio"]),
    ]


def gates(scored: list[tuple[str, Data]]) -> Table:
    """How every gate was decided."""
    rows = [[name, gate["gate"], *_decided(gate)] for name, result in _with_suites(scored) for gate in result["gates"]]
    return Table(["recipe", "gate", "figure", "interval", "documents", "decision"], rows, 6)


def _decided(gate: Data) -> list[str]:
    documents = str(gate["documents"] or "")
    if gate["interval"] is None or gate["value"] is None:
        return ["none", "none", documents, gate["decision"]]
    low, high = gate["interval"]
    confidence = f" at {gate['confidence']:.4g}" if gate["confidence"] else ""
    return [f"{gate['value']:.4g}", f"{low:.4g} to {high:.4g}{confidence}", documents, gate["decision"]]


def served(data: Data) -> Table:
    """Whether each recipe's engine computes what was scored: mean log-likelihoods of a fixed text, nats a token."""
    header = ["recipe", "verdict", "likely cause", "tokens", "scored", "served", "difference (95%)", "bound"]
    header += ["mean |difference|", "the model's difference"]
    rows = []
    for recipe in data["recipes"]:
        found = get(recipe["throughput"], "served")
        if found is None or get(recipe["throughput"], "weights") == "dummy":
            continue
        own, base = (get(found, "sides", side, default={}) for side in ("candidate", "baseline"))
        why = get(found, "cause") or get(found, "reason") or ""
        row = [recipe["name"], get(found, "verdict") or "not known", why, _count(get(own, "tokens"))]
        row += [_number(get(own, name)) for name in ("scored", "served")]
        row += [interval({"value": get(own, "difference"), "interval": get(own, "interval")}, "{:+.4f}")]
        row += [_number(get(found, "bound")), _number(get(own, "per_token"))]
        rows.append([*row, "none" if get(base, "difference") is None else f"{base['difference']:+.4f}"])
    return Table(header, rows, 3)


def size(data: Data) -> Table:
    """What each checkpoint takes and took; the KV cache's capacity where a server told it."""
    header = ["recipe", "weights", "of the model's", "bits per weight", "quantized layers", "one scale per"]
    header += ["calibration tokens", "made in"]
    kept = any(_kv(recipe, "candidate") != NONE for recipe in data["recipes"])
    rows = []
    for recipe in data["recipes"]:
        made = recipe["size"]
        tokens = _count(made["calibration_tokens"]) if made["calibrated"] else "none needed"
        bits = "unknown" if made["bits_per_weight"] is None else f"{made['bits_per_weight']:.2f}"
        seconds = "unknown" if made["seconds"] is None else f"{made['seconds']:.0f} s"
        row = [recipe["name"], in_bytes(made["checkpoint_bytes"]), share(made["ratio"]), bits]
        row += [_count(made["quantized_layers"]), str(made["scales"] or "unknown"), tokens, seconds]
        rows.append(row + [_kv(recipe, side) for side in ("candidate", "baseline") if kept])
    return Table([*header, *(["KV cache", "model's KV cache"] if kept else [])], rows)


def _kv(recipe: Data, side: str) -> str:
    server = get(recipe["throughput"], "servers", side)
    if (tokens := get(server, "kv_cache_tokens")) is not None:
        return f"{tokens:,.0f} tokens"
    gib = get(server, "kv_cache_gib")
    return NONE if gib is None else f"{gib} GiB"


def speed(measured: list[tuple[str, Data]]) -> Table:
    """One row for each recipe and concurrency."""
    header = ["recipe", "workload", "load", "model tokens/s", "checkpoint tokens/s", "speed-up", "verdict"]
    header += ["model TTFT ms", "TTFT ms", "model TPOT ms", "TPOT ms", "TTFT p99 ms", "TPOT p99 ms"]
    rows = []
    for name, result in measured:
        for point in result["points"]:
            sides = point["baseline"], point["candidate"]
            row = [name, str(get(result, "workload", "name")), level(point)]
            row += [_side(side, "output_tokens_s") for side in sides] + [_speedup(point), _verdict(point, result)]
            row += [_side(side, metric) for metric in ("ttft_ms", "tpot_ms") for side in sides]
            rows.append(row + [_side(point["candidate"], metric) for metric in ("ttft_p99_ms", "tpot_p99_ms")])
    return Table(header, rows, 2)


def all_speeds(data: Data) -> list[tuple[str, Data]]:
    """Of every recipe all that was measured in vLLM, the workload that is compared first."""
    return _in_turns([(recipe["name"], speeds(recipe)) for recipe in data["recipes"]])


def all_scores(data: Data) -> list[tuple[str, Data]]:
    """Of every recipe every suite that was scored, the one that is compared first."""
    return _in_turns([(recipe["name"], scores(recipe)) for recipe in data["recipes"]])


def _in_turns(found: list[tuple[str, list[Data]]]) -> list[tuple[str, Data]]:
    most = max((len(each) for _, each in found), default=0)
    return [(name, each[number]) for number in range(most) for name, each in found if number < len(each)]


def _side(figures: Data | None, metric: str) -> str:
    value = get(figures, metric, "value")
    return NONE if value is None else f"{value:.1f}"


def _speedup(point: Data) -> str:
    ratio = get(point, "ratios", point["compared"], default={"value": None})
    if ratio["value"] is None:
        return NONE
    low, high = ratio["interval"]
    return f"{ratio['value']:.2f} ({low:.2f} to {high:.2f}, {ratio['pairs']} pairs)"


def _verdict(point: Data, result: Data) -> str:
    words = [point["verdict"] or "no baseline"]
    words += [f"{point['failed_requests']} requests failed"] if point["failed_requests"] else []
    words += [f"not to be trusted: {mark}" for mark in marks(result, point) if mark not in words[0]]
    return "; ".join([*words, *(["dummy weights"] if result["weights"] == "dummy" else [])])


def moved(changes: Data) -> Table:
    """Everything that moved or could not be compared, then how many figures stayed within noise."""
    quiet = ("within noise", "unchanged")
    loud = [row for row in changes["rows"] if row["verdict"] not in quiet]
    rows = [[row["recipe"], row["figure"], row["old"], row["new"], row["verdict"]] for row in loud]
    rows += [[name, "recipe", "not there", "added", "new"] for name in changes["added"]]
    rows += [[name, "recipe", "there", "not there", "gone"] for name in changes["removed"]]
    still = len(changes["rows"]) - len(loud)
    if changes["other_model"]:
        rows.append(["all", "model", "another model", "this model", "not compared: another model"])
    else:
        rows.append(["all", f"{still} other figures", "", "", "within noise or unchanged"])
    return Table(["recipe", "figure", "before", "now", "verdict"], rows, 5)


def answers(data: Data) -> Table:
    rows = []
    for recipe in data["recipes"]:
        for one in get(recipe["throughput"], "answers", default=[]):
            sides = [one["baseline"] or "not asked", one["candidate"] or "not asked"]
            rows.append([recipe["name"], *(" ".join(str(text).split()) for text in (one["question"], *sides))])
    return Table(["recipe", "question", "the model's answer", "the checkpoint's answer"], rows, 4)


def layers(data: Data) -> Table:
    """The error that each recipe adds: its mean over the layers and the worst layer."""
    rows = []
    for recipe in data["recipes"]:
        if recipe["layers"]:
            errors = recipe["layers"]["errors"]
            worst = max(range(len(errors)), key=errors.__getitem__)
            rows.append([recipe["name"], f"{sum(errors) / len(errors):.4f}", f"{errors[worst]:.4f}", str(worst)])
    return Table(["recipe", "mean error", "greatest error", "in layer"], rows)


def missing(data: Data) -> Table:
    """What this report does not show, why, and the command that makes it."""
    stages = {
        "accuracy": "quantpress evaluate",
        "throughput": "quantpress bench",
        "layers": "quantpress report --layer-errors",
    }
    rows = []
    for recipe in data["recipes"]:
        for stage, reason in recipe["missing"].items():
            command = stages[stage] + ("" if stage == "layers" else f" {recipe['name']}")
            rows.append([recipe["name"], {"layers": "error by layer"}.get(stage, stage), reason, command])
        if recipe["throughput"] and _kv(recipe, "candidate") == NONE:
            rows.append(
                [
                    recipe["name"],
                    "KV capacity",
                    "the server's log was not read for it",
                    f"quantpress bench {recipe['name']} --fresh",
                ]
            )
    for one in data["unfinished"]:
        rows.append(
            [
                one["recipe"],
                "everything",
                f"`quantize` did not finish; see {one['log']}",
                f"quantpress quantize {one['recipe']}",
            ]
        )
    for one in data["left_out"]:
        rows.append([one["recipe"], "everything", one["reason"], f"quantpress quantize {one['recipe']}"])
    return Table(["recipe", "what", "why", "command that makes it"], rows, 4)


def origins(data: Data) -> Table:
    """What each recipe was made of and on."""
    rows = []
    for recipe in data["recipes"]:
        versions = ", ".join(f"{name} {version}" for name, version in recipe["versions"].items())
        vllm = get(recipe["throughput"], "vllm")
        versions += f", vLLM {vllm}" if vllm else ""
        rows.append([recipe["name"], recipe["created"], recipe["digest"][:12], _machine(recipe["machine"]), versions])
    return Table(["recipe", "made", "digest", "on", "versions"], rows, 5)


def _machine(machine: Data) -> str:
    parts = [
        *get(machine, "gpus", default=[]),
        str(get(machine, "processor", default="unknown")),
        f"{get(machine, 'cores')} cores",
    ]
    return ", ".join([*parts, f"{get(machine, 'memory_gb')} GB"])


def commands(data: Data) -> Table:
    """For each figure the command that repeats it: ours, then the tools' own."""
    rows = []
    model = data["model"]["source"]
    for recipe in data["recipes"]:
        name = recipe["name"]
        rows.append([name, "size", f"quantpress quantize {name} --model {model}"])
        for scored in scores(recipe):
            rows.append([name, "accuracy", f"quantpress evaluate {name} --suite {scored['suite']} --model {model}"])
            rows += [
                [name, f"accuracy by hand, {_role(side)}", text] for side, text in scored["commands"].items() if text
            ]
        for measured in speeds(recipe):
            workload = get(measured, "workload", "name")
            rows.append([name, "speed", f"quantpress bench {name} --workload {workload} --model {model} --fresh"])
            servers, load = measured["commands"]["servers"], measured["commands"]["load"]
            rows += [[name, f"server by hand, {_role(side)}", text] for side, text in servers.items() if text]
            rows += [[name, f"load by hand, {_role(one['side'])}, {one['load']}", one["command"]] for one in load]
    return Table(["recipe", "figure", "command"], rows, 3)


def _role(side: str) -> str:
    return {"baseline": "model", "candidate": "checkpoint", "again": "model again (noise floor)"}.get(side, side)


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.3f}"


def _count(value: Any) -> str:
    return "unknown" if value is None else str(value)


def share(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.0%}"
