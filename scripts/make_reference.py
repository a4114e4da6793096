"""Fills the generated parts of docs/reference/ from schemas, command line, table of hardware and what is shipped.

python scripts/make_reference.py            # writes
python scripts/make_reference.py --check    # exit code 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from quantpress.cli import main as cli
from quantpress.language import shipped
from quantpress.plan import fused, hardware
from quantpress.plan.resolve import scheme_of
from quantpress.recipe import modifiers
from quantpress.recipe.loading import load_recipe
from quantpress.recipe.modifiers import Modifier, Quantizes, SchemeArgs
from quantpress.recipe.presets import SCHEMES
from quantpress.recipe.recipe import Recipe
from quantpress.runtime import cpu
from quantpress.statistics import power
from quantpress.statistics.power import Assumed
from quantpress.sweep.file import Cluster, Exclusion, Sweep
from quantpress_evaluate import foresight, suite
from quantpress_evaluate.suite import load_suite
from quantpress_serve.workload import engines, workload
from quantpress_serve.workload.engine import Engine
from quantpress_serve.workload.workload import load_workload

# Without this machine's own CPU: the documents are the same wherever they are made.
_TARGETS = (*hardware.GPUS, *cpu.KINDS)
REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def fields(model: type[BaseModel], without: type[BaseModel] | None = None) -> str:
    skipped = set(without.model_fields) if without else set()
    properties = model.model_json_schema()["properties"]
    names = [name for name in model.model_fields if name not in skipped]
    rows = [[f"`{name}`", _type(properties[name]), _default(model, name), _about(model, name)] for name in names]
    return table(["field", "values", "default", "meaning"], rows)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return "a scheme" if len(values) > 12 else ", ".join(f"`{value}`" for value in values)
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object":
        return "mapping"
    limits = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "true, false"}[schema["type"]]
    return " ".join([kind, *limits])


def _default(model: type[BaseModel], name: str) -> str:
    info = model.model_fields[name]
    if info.is_required():
        return "required"
    if info.default is None or isinstance(info.default, BaseModel):
        return ""
    shown = str(info.default).lower() if isinstance(info.default, bool) else str(info.default).replace(chr(39), "")
    return f"`{shown}`"


def _about(model: type[BaseModel], name: str) -> str:
    return model.model_fields[name].description or ""


def _modifier(name: str) -> str:
    model = modifiers_by_name()[name]
    about = " ".join((model.__doc__ or "").split())
    own = [field for field in model.model_fields if field not in Quantizes.model_fields]
    shared = issubclass(model, Quantizes)
    text = f"### `{name}`\n\n{about}{' Takes what every modifier that quantizes takes.' if shared else ''}\n\n"
    return text + (fields(model, Quantizes if shared else None) + "\n" if own else "")


def modifiers_by_name() -> dict[str, type[BaseModel]]:
    classes = (
        modifiers.SmoothQuant,
        modifiers.SpinQuant,
        modifiers.Quip,
        modifiers.SparseGpt,
        modifiers.Wanda,
        modifiers.Reap,
        modifiers.Gptq,
        modifiers.Awq,
        modifiers.AutoRound,
        modifiers.Rtn,
    )
    return dict(zip(Modifier.model_fields, classes, strict=True))


def _shipped() -> str:
    rows = []
    for name in shipped.names("recipes"):
        loaded = load_recipe(name)
        steps = ", ".join(modifier.name for modifier in loaded.modifiers)
        data = "yes" if loaded.needs_data else "none"
        rows.append([f"`{name}`", loaded.description, steps, data, ", ".join(_targets(loaded)) or "-"])
    return table(["recipe", "what for", "modifiers", "data", "served as it says on"], rows)


def _targets(loaded: Recipe) -> list[str]:
    """Where everything runs as the recipe says; group sizes do not matter here."""
    kinds: set[str] = set()
    for modifier in loaded.modifiers:
        if isinstance(modifier.body, Quantizes):
            kinds |= {hardware.kind_of(scheme_of(group, None)) for group in modifier.body.all_groups}
            kinds |= {hardware.KV_CACHE} if modifier.body.kv_cache else set()
    return [name for name in _TARGETS if all(hardware.cell(kind, name).support == "full" for kind in kinds)]


def _hardware() -> str:
    words = {"full": "", "fallback": "*fallback:* ", "inexact": "**inexact:** ", "no": "**no:** "}
    rows = []
    for kind in hardware.TABLE:
        cells = [hardware.cell(kind, name) for name in _TARGETS]
        if kind != hardware.UNSERVED:
            rows.append([kind, *(f"{words[cell.support]}{cell.kernel}" for cell in cells)])
    return table(["kind", *_TARGETS], rows)


def _described(header: list[str], loaded: list[Any]) -> str:
    return table(header, [[f"`{one.name}`", one.description] for one in loaded])


def _suites() -> str:
    return _described(["suite", "what it scores"], [load_suite(name)[0] for name in shipped.names("suites")])


# Documents of the splits that lm-eval scores, as they are on the hub.
_SIZES = {
    "boolq": 3270,
    "piqa": 1838,
    "hellaswag": 10_042,
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "winogrande": 1267,
    "openbookqa": 500,
    "gsm8k": 1319,
}
_FLIPS = (0.01, 0.05, 0.1)


def _power() -> str:
    """What a lossless checkpoint can be shown to keep, by suite."""
    rows = []
    for name in shipped.names("suites"):
        loaded, path = load_suite(name)
        tasks = [task for task in loaded.tasks if "perplexity" not in task.metric]
        if not tasks:
            continue
        counts = [_documents(task, loaded, path) for task in tasks]
        tell = power.effective([task.weight for task in tasks], counts)
        shown = [f"`recovery>={_down(power.recovery_shown(tell, Assumed(flips=flips)))}`" for flips in _FLIPS]
        rows.append([f"`{name}`", f"{sum(counts):,}", *shown])
    header = ["suite", "documents", *(f"{flips:.0%} of the answers flip" for flips in _FLIPS)]
    return table(header, rows)


def _documents(task: suite.Task, of_suite: suite.Suite, path: Path) -> int:
    number = sum(1 for _ in suite.documents_of(path.parent / task.data)) if task.data else _SIZES[task.task]
    return min(number, task.limit or of_suite.limit or number)


def _down(limit: float) -> str:
    return f"{math.floor(limit * 1000) / 1000:g}"


def _needs() -> str:
    """How many documents a gate needs."""
    rows = []
    for limit in (0.9, 0.95, 0.97, 0.98, 0.99, 0.995):
        needs = [power.of_recovery(limit, Assumed(flips=flips)).documents for flips in _FLIPS]
        rows.append([f"`recovery>={limit:g}`", *(foresight.rounded(number or 0) for number in needs)])
    return table(["gate", *(f"{flips:.0%} of the answers flip" for flips in _FLIPS)], rows)


def _workloads() -> str:
    return _described(["workload", "what it loads"], [load_workload(name) for name in shipped.names("workloads")])


def _engines() -> str:
    return _described(["engine", "how vLLM runs"], [engines.load_file(name) for name in shipped.names("engines")])


def _commands() -> str:
    """The help of each command, as wide as the documents."""
    os.environ["COLUMNS"] = "120"
    parser = cli.build_parser()
    texts = [parser.format_help()]
    for command in _below(parser):
        texts += [part.format_help() for part in (_below(command) or [command])]
    return "\n".join(f"```text\n{text}```\n" for text in texts)


def _below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return list(actions[0].choices.values()) if actions else []


def _fused() -> str:
    """What is run as one in three architectures or more."""
    table_of = fused.known()
    found: dict[tuple[str, ...], list[str]] = {}
    for name, packing in table_of.items():
        for parts in {pack.of for pack in packing.packed}:
            found.setdefault(parts, []).append(name)
    rows = [
        [", ".join(f"`{part}`" for part in parts), str(len(names)), ", ".join(f"`{name}`" for name in names[:3])]
        for parts, names in sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        if len(names) > 2
    ]
    return table(["layers that vLLM runs as one", "architectures", "such as"], rows)


PARTS = {
    "commands": _commands,
    "suites": _suites,
    "power": _power,
    "needs": _needs,
    "suite": lambda: fields(suite.Suite),
    "task": lambda: fields(suite.Task),
    "workloads": _workloads,
    "workload": lambda: fields(workload.Workload),
    "range": lambda: fields(workload.Range),
    "prompts": lambda: fields(workload.Prompts),
    "goals": lambda: fields(workload.Goals),
    "engines": _engines,
    "engine": lambda: fields(Engine),
    "sweep": lambda: fields(Sweep),
    "exclusion": lambda: fields(Exclusion),
    "cluster": lambda: fields(Cluster),
    "file": lambda: fields(Recipe),
    "quantizes": lambda: fields(Quantizes),
    "arguments": lambda: fields(modifiers.QuantArgs),
    "kv_cache": lambda: fields(modifiers.KvCache),
    "group": lambda: fields(modifiers.Group, SchemeArgs),
    "mapping": lambda: fields(modifiers.AwqMapping),
    "modifiers": lambda: "\n".join(_modifier(name).rstrip("\n") + "\n" for name in Modifier.model_fields),
    "schemes": lambda: ", ".join(f"`{name}`" for name in SCHEMES) + "\n",
    "shipped": _shipped,
    "hardware": _hardware,
    "fused": _fused,
}


def filled(text: str) -> str:
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n{match[3]}", text)


if __name__ == "__main__":
    stale = []
    for document in sorted(REFERENCE.glob("*.md")):
        before = document.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            stale.append(str(document))
            if "--check" not in sys.argv[1:]:
                document.write_text(after, encoding="utf-8")
    if "--check" in sys.argv[1:] and stale:
        sys.exit(f"not up to date: {', '.join(stale)}; run {Path(__file__).name}")
