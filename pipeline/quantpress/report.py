"""report.md: what a person reads, made from the stages' JSON alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantpress import files
from quantpress.console import Console
from quantpress.errors import InputError, StageError
from quantpress.manifest import artifacts_of, readable

Results = dict[str, Any]
PROVENANCE = "## How these figures were made"


def collect(folder: Path, model_digest: str, console: Console) -> dict[str, Results]:
    """Manifest, accuracy and throughput of every artifact made from this very model below its folder, by recipe.

    Raises InputError if there is none.
    """
    found = {}
    for artifact in artifacts_of(folder):
        try:
            with readable(artifact.folder):
                record = artifact.finished()
                made_from = record["model"]["digest"]
        except StageError as error:
            console.warn(f"{error.message}; it is left out of the report")
            continue
        if made_from != model_digest:
            console.warn(f"{artifact.folder} was made from another model of this name; it is left out of the report")
            continue
        found[artifact.name] = {
            "manifest": record,
            "accuracy": artifact.result("accuracy"),
            "throughput": artifact.result("throughput"),
        }
    if not found:
        raise InputError(f"{folder} holds no artifact to report on", hint="quantpress quantize RECIPE first")
    return found


def write(folder: Path, text: str) -> Path:
    files.write_text(folder / "report.md", text)
    return folder / "report.md"


def table(header: list[str], rows: Iterable[list[str]], text_columns: int = 1) -> str:
    """A Markdown table; the first `text_columns` columns are aligned left, the rest are figures."""
    rule = ["---" if number < text_columns else "---:" for number in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render(model: dict[str, Any], found: dict[str, Results]) -> str:
    """The whole report as Markdown."""
    accuracy = {name: results["accuracy"] for name, results in found.items() if results["accuracy"]}
    throughput = {name: results["throughput"] for name, results in found.items() if results["throughput"]}
    parts = [f"# {model['name']}: compressed for vLLM", *_notes(model), "## Size", size_table(found)]
    parts += ["## Accuracy", accuracy_section(accuracy) if accuracy else "Not measured: `quantpress evaluate RECIPE`."]
    parts += ["## Speed in vLLM"]
    parts += [throughput_section(throughput) if throughput else "Not measured: `quantpress bench RECIPE`."]
    parts += ["## Answers", answers(throughput)] if throughput else []
    parts += [PROVENANCE, provenance(model, found)]
    return "\n\n".join(parts) + "\n"


def _notes(model: dict[str, Any]) -> list[str]:
    return [f"> **About this model:** {note}" for note in model["notes"]]


def size_table(found: dict[str, Results]) -> str:
    header = ["recipe", "weights", "of the model's", "quantized layers", "one scale per", "calibration tokens", "time"]
    rows = []
    for name, results in found.items():
        made = results["manifest"]
        before, after = made["bytes"]["model"], made["bytes"]["checkpoint"]
        tokens = made["calibration"]["tokens"] if made["calibration"] else "none needed"
        group = made["scales"]
        size = [f"{after / 1e6:.0f} MB", f"{after / before:.0%}"]
        rows.append([name, *size, str(made["quantized_layers"]), group, str(tokens), f"{made['seconds']:.0f} s"])
    warnings = [f"- **{name}**: {text}" for name, results in found.items() for text in results["manifest"]["warnings"]]
    return "\n".join([table(header, rows), "", *warnings]).strip()


def accuracy_section(accuracy: dict[str, Any]) -> str:
    text = (
        "Accuracy of the unquantized model, of the checkpoint, and the difference on the same documents. "
        "`p` is the exact McNemar test: above 0.05 the difference is within what chance does. "
        "*No signal*: the unquantized model itself is not better than guessing there, so the task says nothing "
        "about the recipe, and it does not count towards the mean. With many rows a few small p come by chance alone: "
        "at 0.05, one in twenty. *Recovery* is the checkpoint's accuracy over the model's, with its 95% interval "
        "(paired bootstrap over documents); KL is the mean divergence of the choice probabilities from the model's. "
        "The *noise floor*, where it was measured (`--noise-floor`), is how far the model is from itself when it is "
        "scored in batches of another size: less than that means nothing. "
    )
    text += f"Scored by {'; '.join(_backends(accuracy))}."
    return f"{text}\n\n{accuracy_table(accuracy)}\n\n{gates_section(accuracy)}".strip()


def _backends(accuracy: dict[str, Any]) -> list[str]:
    """What computed the likelihoods, and for which recipes."""
    recipes: dict[str, list[str]] = {}
    for name, result in accuracy.items():
        recipes.setdefault(result["settings"]["backend"], []).append(name)
    words = {"hf": "transformers", "vllm": "vLLM, the engine that serves"}
    if len(recipes) == 1:
        return [words.get(next(iter(recipes)), "?")]
    return [f"{words.get(backend, backend)} ({', '.join(names)})" for backend, names in recipes.items()]


def gates_section(accuracy: dict[str, Any]) -> str:
    """How every gate was decided; nothing where there are none."""
    header = ["recipe", "gate", "figure", "interval", "documents", "decision"]
    rows = []
    for name, result in accuracy.items():
        for gate in result["gates"]:
            known = gate["interval"] is not None
            interval = f"{gate['interval'][0]:.4g} to {gate['interval'][1]:.4g}" if known else "none"
            interval += f" at {gate['confidence']:.4g}" if known else ""
            figure = f"{gate['figure']:.4g}" if known else "none"
            rows.append(
                [name, f"`{gate['gate']}`", figure, interval, str(gate["documents"]), f"**{gate['decision']}**"]
            )
    return f"### Gates\n\n{table(header, rows, len(header))}" if rows else ""


def accuracy_table(accuracy: dict[str, Any]) -> str:
    """One row for each recipe and task."""
    header = ["recipe", "task", "documents", "metric", "model", "checkpoint", "difference", "p", "recovery"]
    header += ["answers flipped", "KL"]
    rows = []
    for name, result in accuracy.items():
        for task, row in result["tasks"].items():
            label = f"{task} (*no signal*)" if row["no_signal"] else task
            rows.append([name, label, str(row["documents"]), row["metric"], *_both(row), *_recovered(row)])
        mean = result["mean"]
        if not mean["tasks"]:
            continue
        values = [f"**{mean['baseline']:.3f}**", f"**{mean['candidate']:.3f}**"]
        label = f"**mean** of {mean['tasks']} tasks"
        difference = f"**{mean['candidate'] - mean['baseline']:+.3f}**"
        rows.append([name, label, "", "", *values, difference, "", *_recovered(result["overall"])])
        if floor := result.get("noise_floor"):
            rows.append([name, "noise floor: the model against itself", *[""] * 6, *_recovered(floor)])
    return table(header, rows, text_columns=2)


def _both(row: dict[str, Any]) -> list[str]:
    """A task's metric for model and checkpoint, the difference and its p-value; perplexities have a ratio instead."""
    values = [f"{row['baseline']:.3f}", f"{row['candidate']:.3f}"]
    if row["p_value"] is None:
        ratio, interval = row["perplexity_ratio"], row["perplexity_ratio_interval"]
        return [*values, f"× {ratio:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""), ""]
    difference = f"{row['difference']:+.3f}" + ("" if row["significant"] else " (within chance)")
    return [*values, difference, f"{row['p_value']:.2g}"]


def _recovered(row: dict[str, Any]) -> list[str]:
    """Recovery with its interval, flipped answers, KL."""
    recovery = "none"
    if row["recovery_interval"] is not None:
        low, high = row["recovery_interval"]
        recovery = f"{row['recovery']:.3f} ({low:.3f} to {high:.3f})"
    return [
        recovery,
        f"{row['flips']:.1%}" if row["flips"] is not None else "",
        f"{row['kl']:.4f}" if row["kl"] is not None else "",
    ]


def throughput_section(throughput: dict[str, Any]) -> str:
    text = (
        f"Served on {'; '.join(sorted({_where(result) for result in throughput.values()}))}. Model and checkpoint were "
        "up at the same time and loaded in turns; each figure is the median over rounds. *Speed-up* is the geometric "
        "mean of the ratios of output tokens/s pair by pair, with its 95% interval (Student's t on their logarithms). "
        "It is called faster or slower only if the whole interval is more than 3% away from 1, with three pairs or "
        "more; *untrustworthy* says why no speed-up is called at all."
    )
    said = "\n".join(
        f"- **{name}**: {note}" for name, result in throughput.items() for note in throughput_notes(result)
    )
    return f"{text}\n\n{throughput_table(throughput)}\n\n{said}".strip()


def throughput_notes(result: dict[str, Any]) -> list[str]:
    """What a person must know of a throughput result beside its figures."""
    notes = []
    if not result.get("complete", True):
        notes.append(f"incomplete: {result['ended']}")
    if enough := result.get("saturated"):
        left_out = ", ".join(map(str, enough["left_out"])) or "nothing"
        notes.append(
            f"saturated at concurrency {enough['concurrency']} ({enough['gained']:+.1%} output tokens/s over the step "
            f"before); left out: {left_out}"
        )
    if result["workload"].get("prefix_caching"):
        notes.append("prefix caching was on, as the workload asks")
    verdicts = ("slower", "no difference shown")
    none = [load_of(cell) for cell in result["summary"] if cell.get("verdict") in verdicts]
    if none and min(result.get("weight_bits") or [16]) < 8 and not result["machine"]["gpus"]:
        notes.append(
            f"no speed-up ({', '.join(none)}): on a CPU, vLLM unpacks weights of fewer than 8 bits to 16 while it "
            "multiplies; what reading fewer bytes saves is spent on that. On this machine the scheme saves memory only"
        )
    return notes


def dummy_section(folder: Path) -> str:
    """Speed measured on shapes alone (`bench --weights dummy`) below a model's folder; empty where there is none."""
    found = {path.parent.name: files.read_json(path) for path in sorted(folder.glob("dummy/*/throughput.json"))}
    if not found:
        return ""
    with readable(folder / "dummy"):
        text = throughput_section(found)
    about = "weights: **dummy**. Shapes and schemes are the model's and the recipe's, the numbers in them are random."
    return f"\n## Speed with dummy weights\n\n{about} {text}\n"


def _where(result: dict[str, Any]) -> str:
    if any(server["startup_s"] is None for server in result["servers"].values()):
        urls = ", ".join(server["command"] for server in result["servers"].values())
        return f"servers that someone else runs {urls}, whose hardware and settings are not known here"
    machine = result["machine"]
    return f"{', '.join(machine['gpus']) or machine['processor']}, {machine['cores']} cores"


def throughput_table(throughput: dict[str, Any]) -> str:
    """One row for each recipe and concurrency."""
    header = ["recipe", "workload", "load", "model tokens/s", "checkpoint tokens/s", "speed-up", "verdict"]
    header += ["TTFT ms (model)", "TTFT ms", "TPOT ms (model)", "TPOT ms"]
    rows = []
    for name, result in throughput.items():
        for cell in result["summary"]:
            base, own = cell.get("baseline"), cell["candidate"]
            ratios = cell.get("ratios")
            speedup = _speedup(cell["speedup"], cell.get("interval"), ratios) if ratios else "not measured"
            row = [name, result["workload"]["name"], load_of(cell), _figure(base, "output_throughput")]
            failed = f"; {cell['failed_requests']} requests failed" if cell["failed_requests"] and not ratios else ""
            row += [_figure(own, "output_throughput"), speedup, cell.get("verdict", "no baseline") + failed]
            for metric in ("median_ttft_ms", "median_tpot_ms"):
                row += [_figure(base, metric), _figure(own, metric)]
            rows.append(row)
    return table(header, rows, text_columns=2)


def load_of(cell: dict[str, Any]) -> str:
    """How strong the load of a row was."""
    if cell["concurrency"] is not None:
        return f"{cell['concurrency']} at once"
    return f"{cell['request_rate']:g} requests/s"


def _speedup(mean: float, interval: list[float] | None, ratios: list[float]) -> str:
    # Student's t on two pairs spans orders of magnitude, and no verdict rests on it.
    certain = f"{interval[0]:.2f} to {interval[1]:.2f}, " if interval and len(ratios) > 2 else ""
    return f"{mean:.2f} ({certain}{len(ratios)} pairs)"


def _figure(figures: dict[str, float] | None, name: str) -> str:
    return f"{figures[name]:.1f}" if figures and name in figures else "not measured"


def answers(throughput: dict[str, Any]) -> str:
    header = ["recipe", "question", "the model's answer", "the checkpoint's answer"]
    rows = []
    for name, result in throughput.items():
        own = result["answers"]["candidate"]
        base = result["answers"].get("baseline", {"answer": "not asked"})
        rows.append([name, own["question"], _cell(base["answer"]), _cell(own["answer"])])
    return table(header, rows, text_columns=4)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def provenance(model: dict[str, Any], found: dict[str, Results]) -> str:
    lines = [f"- model: {model['source']}, digest `{model['digest'][:12]}`"]
    for name, results in found.items():
        made = results["manifest"]
        versions = ", ".join(f"{key} {value}" for key, value in made["inputs"]["versions"].items())
        lines.append(f"- {name}: made {made['created']}, digest `{made['digest'][:12]}`, {versions}")
        if accuracy := results["accuracy"]:
            lines.append(f"  - accuracy by hand: `{accuracy['runs']['candidate']['command']}`")
        if throughput := results["throughput"]:
            lines.append(f"  - server by hand: `{throughput['servers']['candidate']['command']}`")
            lines.append(f"  - load by hand: `{throughput['cells'][0]['command']}`")
            lines.append(f"  - vLLM {throughput['vllm']['version']}")
    return "\n".join(lines)
