"""What moved since an older report, beyond noise: `quantpress report --against OLD/report.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpress.artifact.throughput import MIN_PAIRS
from quantpress.errors import InputError, StageError
from quantpress.report.facts.collect import SCHEMA_VERSION
from quantpress.report.facts.comparable import point_at, scores, speeds, where
from quantpress.report.facts.fields import Data, get
from quantpress.report.formats import in_bytes, interval
from quantpress.runtime import atomic

RULE = (
    "Moved: the two 95% intervals (for TPOT and TTFT: the ranges of the pairs) do not overlap. This is stricter than a "
    "test: a small true change can stay unseen. Sizes are exact. Speed is compared as the ratio to the unquantized "
    "model that was served beside it, so that two days of one machine can be compared. Figures of another model, "
    "suite, workload or machine are not compared."
)
_ACCURACY = {"recovery": "{:.3f}", "kl": "{:.4f}", "flips": "{:.1%}", "perplexity_ratio": "{:.4f}"}
_BETTER = {"recovery": 1, "kl": -1, "flips": -1, "perplexity_ratio": -1}


def read(path: Path) -> Data:
    """An older report.json. Raises InputError if it is none."""
    path = path / "report.json" if path.is_dir() else path
    hint = "name a report.json that quantpress report wrote"
    try:
        found = atomic.read_json(path)
    except StageError as error:
        raise InputError(error.message, hint=hint) from error
    if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION or "recipes" not in found:
        raise InputError(f"{path} is not a report of schema_version {SCHEMA_VERSION}", hint=hint)
    return found


def compare(old: Data, new: Data, name: str) -> Data:
    """Every figure that both reports have, and whether it moved: better, worse, within noise, or not compared."""
    before = {recipe["name"]: recipe for recipe in old["recipes"]}
    now = {recipe["name"]: recipe for recipe in new["recipes"]}
    rows = []
    for recipe in now.keys() & before.keys():
        rows += [{"recipe": recipe, **row} for row in _recipe(before[recipe], now[recipe])]
    other = get(old, "model", "digest") != new["model"]["digest"]
    return {
        "against": name,
        "rule": RULE,
        "other_model": other,
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "headline": {"old": get(old, "decision", "headline"), "new": new["decision"]["headline"]},
        "rows": [] if other else sorted(rows, key=lambda row: (row["recipe"], row["figure"])),
    }


def _recipe(old: Data, new: Data) -> list[Data]:
    return [_size(old, new), _gates(old, new), *_accuracy(old, new), *_speed(old, new)]


def _row(figure: str, old: str, new: str, verdict: str) -> Data:
    return {"figure": figure, "old": old, "new": new, "verdict": verdict}


def _size(old: Data, new: Data) -> Data:
    before, after = old["size"]["checkpoint_bytes"], new["size"]["checkpoint_bytes"]
    verdict = "unchanged" if before == after else "smaller" if after < before else "larger"
    return _row("size", in_bytes(before), in_bytes(after), verdict)


def _gates(old: Data, new: Data) -> Data:
    before, after = _decided(old), _decided(new)
    return _row("gates", before, after, "unchanged" if before == after else "changed")


def _decided(recipe: Data) -> str:
    decided = [f"{gate['gate']} {gate['decision']}" for result in scores(recipe) for gate in result["gates"]]
    return ", ".join(decided) or "none"


def _accuracy(old: Data, new: Data) -> list[Data]:
    after = new["accuracy"]
    before = next((one for one in scores(old) if after and one["suite"] == after["suite"]), old["accuracy"])
    if not before or not after:
        return [_row("accuracy", _there(before), _there(after), "not compared")] if before or after else []
    if any(before[key] != after[key] for key in ("suite", "documents", "backend")):
        return [_row("accuracy", _scored(before), _scored(after), "not compared: scored otherwise")]
    rows = [_paired("overall", before["overall"], after["overall"])]
    tasks = {task["task"]: task for task in before["tasks"]}
    rows += [_paired(task["task"], tasks[task["task"]], task) for task in after["tasks"] if task["task"] in tasks]
    return [row for some in rows for row in some]


def _scored(accuracy: Data) -> str:
    return f"{accuracy['suite']}, {accuracy['documents']} documents, {accuracy['backend']}"


def _served(speed: Data) -> str:
    return f"{get(speed, 'workload', 'name')} on {where(speed)}, vLLM {speed['vllm']}"


def _paired(label: str, old: Data, new: Data) -> list[Data]:
    rows = []
    for name, form in _ACCURACY.items():
        before, after = old[name], new[name]
        if before["value"] is not None and after["value"] is not None:
            verdict = _verdict(before, after, _BETTER[name])
            rows.append(
                _row(f"{label}: {name.replace('_', ' ')}", interval(before, form), interval(after, form), verdict)
            )
    return rows


def _verdict(old: Data, new: Data, sign: int) -> str:
    if old == new:
        return "unchanged"
    if not old["interval"] or not new["interval"]:
        return "not compared: no interval"
    if new["interval"][0] > old["interval"][1]:
        return "better" if sign > 0 else "worse"
    if new["interval"][1] < old["interval"][0]:
        return "worse" if sign > 0 else "better"
    return "within noise"


def _there(result: Any) -> str:
    return "measured" if result else "not measured"


def _speed(old: Data, new: Data) -> list[Data]:
    after = new["throughput"]
    before = next((one for one in speeds(old) if after and one["workload"] == after["workload"]), old["throughput"])
    if not before or not after:
        return [_row("speed", _there(before), _there(after), "not compared")] if before or after else []
    if before["workload"] != after["workload"] or where(before) != where(after):
        return [_row("speed", _served(before), _served(after), "not compared: measured otherwise")]
    changed = _served(before) != _served(after)
    rows = [_row("served by", _served(before), _served(after), "changed")] if changed else []
    for point in [point for point in after["points"] if point["concurrency"] is not None]:
        earlier = point_at(before, point["concurrency"])
        for metric, words in {"output_tokens_s": "throughput", "tpot_ms": "TPOT", "ttft_ms": "TTFT"}.items():
            rows += _ratio(f"{words} at {point['concurrency']}", metric, (earlier, before), (point, after))
    return rows


def _ratio(label: str, metric: str, old: tuple[Data | None, Data], new: tuple[Data, Data]) -> list[Data]:
    earlier, now = (get(point, "ratios", metric, default={"value": None}) for point, _ in (old, new))
    if earlier["value"] is None or now["value"] is None:
        return []
    doubtful = [point["untrustworthy"] or whole["untrustworthy"] for point, whole in (old, new) if point]
    few = min(earlier["pairs"], now["pairs"]) < MIN_PAIRS
    verdict = _verdict(earlier, now, 1)
    if verdict in ("better", "worse") and (few or any(doubtful)):
        verdict = "not compared: too few pairs" if few else "not compared: marked as not to be trusted"
    return [_row(label, interval(earlier, "{:.2f}"), interval(now, "{:.2f}"), verdict)]
