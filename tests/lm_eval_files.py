"""Files as lm-eval 0.4.13's EvaluationTracker writes them: samples, and the results beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TIME = "2026-01-01T00-00-00.000001"
Row = dict[str, Any]


def choice(number: int, right: bool, shots: int = 0, **changes: Any) -> Row:
    """One document of a task with two choices."""
    target = number % 2
    chosen = target if right else 1 - target
    prompt = "Example: water is wet.\n" * shots + f"Question {number}?\nAnswer:"
    row = {
        "doc_id": number,
        "doc": {"q": number},
        "target": str(target),
        "arguments": {f"gen_args_{n}": {"arg_0": prompt, "arg_1": f" choice {n}"} for n in range(2)},
        "resps": [[["-1.0", "False"]], [["-2.0", "False"]]],
        "filtered_resps": [["-1.0" if n == chosen else "-2.0", "False"] for n in range(2)],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}-{shots}",
        "target_hash": f"t{target}",
        "acc": float(right),
    }
    return row | changes


def choices(rights: str, **changes: Any) -> list[Row]:
    """A document a letter: `r` right, `w` wrong."""
    return [choice(number, letter == "r", **changes) for number, letter in enumerate(rights)]


def generated(
    number: int, text: str, right: bool, name: str = "strict-match", until: str = "\n", **changes: Any
) -> Row:
    """One document of a task in which text is generated, through one of its filters."""
    row = {
        "doc_id": number,
        "target": "7",
        "arguments": {"gen_args_0": {"arg_0": f"Q{number}", "arg_1": {"until": [until], "do_sample": False}}},
        "filtered_resps": [text],
        "filter": name,
        "metrics": ["exact_match"],
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}",
        "target_hash": "t",
        "exact_match": float(right),
    }
    return row | changes


def without(rows: Iterable[Row], *names: str) -> list[Row]:
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def write_run(
    folder: Path,
    tasks: dict[str, list[Row]],
    model: str = "some/model",
    time: str = TIME,
    results: dict[str, Any] | None = None,
) -> Path:
    """One run below `folder`; `results` are laid over what its results file says (None: there is none)."""
    own = folder / model.replace("/", "__")
    own.mkdir(parents=True, exist_ok=True)
    for task, rows in tasks.items():
        path = own / f"samples_{task}_{time}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if results is not None:
        (own / f"results_{time}.json").write_text(json.dumps(told(tasks, model) | results))
    return folder


def told(tasks: Iterable[str], model: str = "some/model") -> dict[str, Any]:
    """What lm-eval says of a run."""
    return {
        "configs": {
            task: {
                "task": task,
                "output_type": "multiple_choice",
                "repeats": 1,
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                "metadata": {"version": 1.0, "pretrained": model},
            }
            for task in tasks
        },
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {"acc": True} for task in tasks},
        "config": {"model": "hf", "model_args": f"pretrained={model}", "gen_kwargs": None, "batch_size": 16},
        "model_name": model,
        "system_instruction": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
    }
