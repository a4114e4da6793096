"""The throughput matrix of one machine: every recipe against the unquantized model, as docs/benchmarks/<device>.md.

    make gpu-report                                    bf16, fp8-dynamic, gptq-w4a16 and w8a8-dynamic, embedded model
    make gpu-report MODEL=/models/llama-8b WEIGHTS=dummy    on its shapes alone: config.json is enough

Each row is a `quantpress bench`; the unquantized model (bf16) is the other half of each. A recipe that this machine
does not serve is named with the reason. The same on a CPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from quantpress import __version__, report
from quantpress.artifact.throughput import Throughput
from quantpress.errors import slug
from quantpress.model import source as models
from quantpress.report.facts.data import load_in_words
from quantpress.report.views import markdown
from quantpress.runtime import atomic, environment
from timing import complaint

RECIPES = ["fp8-dynamic", "gptq-w4a16", "w8a8-dynamic"]


def bench(recipe: str, workload: str, args: argparse.Namespace) -> tuple[list[str], dict[str, Any] | str]:
    """The command of one row, and its result or what quantpress said instead."""
    command = ["quantpress", "bench", recipe, "--workload", workload, "--model", args.model, "--weights", args.weights]
    command += ["--out", str(args.out), *[word for item in args.set for word in ("--set", item)]]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(done.stderr)
    if done.returncode == 0:
        return command, dict(json.loads(done.stdout))
    return command, complaint(done)


def driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip()


def servers(results: dict[str, dict[str, Any]]) -> str:
    """What each server told while it started."""
    header = ["recipe", "side", "start s", "load s", "weights GiB", "KV cache GiB", "KV cache tokens"]
    names = ("startup_s", "load_s", "weights_gib", "kv_cache_gib", "kv_cache_tokens")
    rows = [
        [name, role, *("not told" if about.get(key) is None else str(about[key]) for key in names)]
        for name, result in results.items()
        for role, about in result["servers"].items()
    ]
    return markdown.table(header, rows, 2)


def latencies(results: dict[str, dict[str, Any]]) -> str:
    header = [
        "recipe",
        "load",
        "side",
        *(f"{kind} {name} ms" for name in ("TTFT", "TPOT", "ITL", "E2EL") for kind in ("p50", "p99")),
    ]
    header += ["goodput/s"]
    rows = []
    for name, result in results.items():
        for row in result["summary"]:
            for role in ("baseline", "candidate"):
                own = row.get(role) or {}
                keys = [f"{kind}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for kind in ("p50", "p99")]
                shown = [f"{own[key]:.1f}" if key in own else "-" for key in (*keys, "request_goodput")]
                rows.append([name, load_in_words(row.get("concurrency"), row.get("request_rate")), role, *shown])
    return markdown.table(header, rows, 3)


def _typed(results: dict[str, dict[str, Any]]) -> dict[str, Throughput]:
    return {name: Throughput.read(result, Path("throughput.json")) for name, result in results.items()}


def page(device: str, args: argparse.Namespace, found: dict[str, Any], commands: list[list[str]]) -> str:
    results = {name: result for name, result in found.items() if isinstance(result, dict)}
    refused = {name: result for name, result in found.items() if isinstance(result, str)}
    machine = environment.machine().dump()
    about = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    about += f"; {', '.join(machine['gpus'])}, driver {driver()}" if machine["gpus"] else "; no GPU"
    vllm = next(iter(results.values()))["vllm"]["version"] if results else "not asked"
    weights = (
        "**dummy** weights (shapes and schemes are real, numbers random)" if args.weights == "dummy" else "real weights"
    )
    parts = [
        f"# Throughput on {device}",
        f"{about}. vLLM {vllm}, quantpress {__version__}, Python {machine['python']}, {time.strftime('%Y-%m-%d')}. "
        f"Model {models.EMBEDDED_NAME if args.model == models.EMBEDDED else Path(args.model).name}, {weights}.",
        report.throughput_section(_typed(results)) if results else "Nothing could be measured.",
        *[f"**{name} was not measured**: {reason}" for name, reason in refused.items()],
        *(["## Latency", latencies(results), "## Servers", servers(results)] if results else []),
        "## Commands",
        "```\n" + "\n".join(f".venv/bin/{shlex.join(command)}" for command in commands) + "\n```",
        *[f"{name}, server by hand: `{result['servers']['candidate']['command']}`" for name, result in results.items()],
        *[f"{name}, load by hand: `{result['cells'][0]['command']}`" for name, result in results.items()],
    ]
    here = f"{Path.cwd()}/"  # whoever repeats a command does so in a clone of their own
    return "\n\n".join(parts).replace(here, "") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--weights", choices=("real", "dummy"), default="real")
    parser.add_argument("--workload", action="append", help="several are allowed (chat)")
    parser.add_argument("--out", type=Path, default=Path("artifacts"))
    parser.add_argument("--docs", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception ends the bench that is under way, too
    gpus = environment.gpus()
    device = gpus[0].partition(",")[0] if gpus else environment.machine().processor
    found, commands = {}, []
    for workload in args.workload or ["chat"]:
        for recipe in args.recipes:
            command, result = bench(recipe, workload, args)
            found[f"{recipe} ({Path(workload).stem})" if len(args.workload or []) > 1 else recipe] = result
            commands.append(command)
    path = args.docs / f"{slug(device)}.md"
    atomic.write_text(path, page(device, args, found, commands))
    print(path)


if __name__ == "__main__":
    main()
